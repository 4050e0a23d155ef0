/**
 * Credentials of a registry: answers `WWW-Authenticate` challenges (basic and bearer) and renews tokens before they
 * end and whenever the registry says 401 (kata-contract 3.6).
 */
import type { RegistryConfig } from '../config/config.ts';
import type { Secret } from '../config/secret.ts';
import { storageError } from '../errors.ts';
import { type HttpAnswer, type HttpClient, targetOf } from '../http/http.ts';
import { checkStatus } from '../http/http-blob.ts';
import { discard, readText } from '../http/http-body.ts';

const CLIENT_ID = 'nydus-registry-client';
/** Lifetime of a token whose answer names none. */
const TOKEN_SECONDS_DEFAULT = 600;
/** A token is renewed this long before its end, plus up to as much again at random. */
const RENEW_BEFORE_MS = 20_000;
/** After a failure, while the token is still good. */
const RENEW_PAUSE_MS = 1_000;

/** Longest wait for a token server, whatever the configuration's time-outs. */
const TOKEN_DEADLINE_MS = 15_000;

interface Token {
  header: string;
  /** When to ask for the next one, and when the registry stops taking this one; Infinity = as long as it takes it. */
  renewAtMs: number;
  endsAtMs: number;
}

export interface Challenge {
  scheme: 'basic' | 'bearer';
  parameters: Map<string, string>;
}

const forEver = (header: string): Token => ({ header, renewAtMs: Infinity, endsAtMs: Infinity });

export class RegistryAuth {
  private token: Token | null = null;
  /** The credentials that `token` was got with. */
  private auth: Secret;
  private renewing: Promise<void> | null = null;
  /** Method that worked for a token server, by host. */
  private readonly methods = new Map<string, 'POST' | 'GET'>();
  private lastBearer: Challenge | null = null;

  /** @param config its `auth` may be replaced at any time and then counts from the next request */
  constructor(
    private readonly config: RegistryConfig,
    private readonly client: HttpClient,
    private readonly now: () => number = Date.now,
  ) {
    this.auth = config.auth;
    if (!config.registryToken.isEmpty) this.token = forEver(`Bearer ${config.registryToken.reveal()}`);
  }

  /** The Authorization header for the next request, or null for none; a token that ends soon is renewed meanwhile. */
  async header(signal: AbortSignal): Promise<string | null> {
    if (this.auth !== this.config.auth) this.forget();
    const { token, lastBearer } = this;
    if (token !== null && lastBearer !== null && this.now() >= token.renewAtMs) {
      const renewing = this.renew(lastBearer);
      if (this.now() >= token.endsAtMs) await untilAborted(renewing, signal);
      else {
        // The token server may have a bad moment; the token is still good.
        renewing.catch(() => {
          token.renewAtMs = this.now() + RENEW_PAUSE_MS;
        });
      }
    }
    return this.token?.header ?? null;
  }

  /**
   * Gets credentials for the challenge of a 401 to a request made with `used`.
   * @returns false when there is nothing (new) to answer with
   */
  async answer(challengeText: string | undefined, used: string | null, signal: AbortSignal): Promise<boolean> {
    const named = parseChallenge(challengeText);
    if (named === null) return false;
    // Another request has renewed meanwhile.
    if (this.token !== null && this.token.header !== used) return true;
    // Harbor answers an old bearer token with a basic challenge.
    const challenge = used?.startsWith('Bearer ') ? (this.lastBearer ?? named) : named;
    if (challenge.scheme === 'bearer') {
      await untilAborted(this.renew(challenge), signal);
      return true;
    }
    const basic = `Basic ${this.config.auth.reveal()}`;
    if (this.config.auth.isEmpty || used === basic) return false;
    this.token = forEver(basic);
    return true;
  }

  private forget(): void {
    this.auth = this.config.auth;
    this.token = null;
    this.renewing = null;
  }

  /** One request for all who need a token; it outlives those who give up waiting. */
  private renew(challenge: Challenge): Promise<void> {
    this.lastBearer = challenge;
    const { auth } = this;
    this.renewing ??= this.requestToken(challenge, AbortSignal.timeout(TOKEN_DEADLINE_MS))
      .then((token) => {
        if (auth === this.auth) this.token = token;
      })
      .finally(() => {
        if (auth === this.auth) this.renewing = null;
      });
    return this.renewing;
  }

  private async requestToken(challenge: Challenge, signal: AbortSignal): Promise<Token> {
    const realm = challenge.parameters.get('realm') ?? '';
    if (!URL.canParse(realm) || !/^https?:$/.test(new URL(realm).protocol)) {
      throw this.refused(0, 'its challenge names no token server');
    }
    const url = new URL(realm);
    const form = new URLSearchParams();
    for (const name of ['service', 'scope']) {
      const value = challenge.parameters.get(name);
      if (value !== undefined) form.set(name, value);
    }
    form.set('client_id', CLIENT_ID);
    const remembered = this.methods.get(url.host);
    let answer = await this.ask(remembered ?? 'POST', url, form, signal);
    let method = remembered ?? 'POST';
    if (remembered === undefined && answer.status !== 200) {
      discard(answer);
      method = 'GET';
      answer = await this.ask('GET', url, form, signal);
    }
    if (answer.status === 401 || answer.status === 403) {
      discard(answer);
      throw this.refused(answer.status, `token server ${url.host} takes no such credentials`);
    }
    checkStatus('token', answer);
    const token = this.parseToken(url, await readText(this.client, answer, signal));
    this.methods.set(url.host, method);
    return token;
  }

  private ask(method: 'POST' | 'GET', url: URL, form: URLSearchParams, signal: AbortSignal): Promise<HttpAnswer> {
    const headers: Record<string, string> = {};
    if (!this.config.auth.isEmpty) headers['authorization'] = `Basic ${this.config.auth.reveal()}`;
    if (method === 'POST') {
      headers['content-type'] = 'application/x-www-form-urlencoded';
      return this.client.send({ purpose: 'token', method, url, headers, body: form.toString() }, signal);
    }
    const withQuery = new URL(url);
    for (const [name, value] of form) withQuery.searchParams.set(name, value);
    return this.client.send({ purpose: 'token', method, url: withQuery, headers }, signal);
  }

  private parseToken(url: URL, text: string): Token {
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      throw storageError('HTTP_BODY', { target: targetOf(url), rule: 'token answer is not JSON' });
    }
    const fields = (parsed ?? {}) as Record<string, unknown>;
    const value = fields['token'] ?? fields['access_token'];
    // A header value: no line breaks, so that a token server cannot smuggle headers into registry requests.
    if (typeof value !== 'string' || !/^[\x21-\x7e]+$/.test(value)) {
      throw storageError('HTTP_BODY', { target: targetOf(url), rule: 'token answer without token' });
    }
    const seconds = Number(fields['expires_in'] ?? TOKEN_SECONDS_DEFAULT);
    const lifeMs = (Number.isFinite(seconds) && seconds > 0 ? seconds : TOKEN_SECONDS_DEFAULT) * 1000;
    const early = Math.min(lifeMs / 2, RENEW_BEFORE_MS * (1 + Math.random()));
    const endsAtMs = this.now() + lifeMs;
    return { header: `Bearer ${value}`, renewAtMs: endsAtMs - early, endsAtMs };
  }

  private refused(status: number, why: string): Error {
    return storageError('HTTP_AUTH', { target: this.config.host, status, why });
  }
}

/** What `work` gives, or the signal's reason when that comes first. */
function untilAborted(work: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

/** Parses a WWW-Authenticate header: the first Bearer or Basic challenge in it; null for anything else. */
export function parseChallenge(header: string | undefined): Challenge | null {
  const match = /(?:^|,\s*)(bearer|basic)(?:\s+(.*))?$/is.exec(header ?? '');
  if (match === null) return null;
  const parameters = new Map<string, string>();
  for (const [, name, quoted, bare] of (match[2] ?? '').matchAll(/([a-z_]+)=(?:"([^"]*)"|([^",\s]+))/gi)) {
    if (name !== undefined) parameters.set(name.toLowerCase(), quoted ?? bare ?? '');
  }
  return { scheme: match[1]?.toLowerCase() === 'basic' ? 'basic' : 'bearer', parameters };
}
