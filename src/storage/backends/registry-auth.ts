/**
 * Credentials of a registry: answers `WWW-Authenticate` challenges (basic and bearer) and renews tokens before they
 * end and whenever the registry says 401 (kata-contract 3.6).
 */
import type { RegistryConfig } from '../config.ts';
import { storageError } from '../errors.ts';
import { discard, type HttpAnswer, type HttpClient, readText, targetOf } from '../http.ts';
import { checkStatus } from '../http-blob.ts';

const CLIENT_ID = 'nydus-registry-client';
/** Lifetime of a token whose answer names none. */
const TOKEN_SECONDS_DEFAULT = 600;
/** A token is renewed this long before its end, plus up to as much again at random. */
const RENEW_BEFORE_MS = 20_000;

interface Token {
  header: string;
  /** 0 = for as long as the registry takes it. */
  renewAtMs: number;
}

export interface Challenge {
  scheme: 'basic' | 'bearer';
  parameters: Map<string, string>;
}

export class RegistryAuth {
  private token: Token | null = null;
  private renewing: Promise<void> | null = null;
  /** Method that worked for a token server, by host. */
  private readonly methods = new Map<string, 'POST' | 'GET'>();
  private lastChallenge: Challenge | null = null;

  constructor(
    private readonly config: RegistryConfig,
    private readonly client: HttpClient,
    private readonly now: () => number = Date.now,
  ) {
    if (!config.registryToken.isEmpty) this.token = { header: `Bearer ${config.registryToken.reveal()}`, renewAtMs: 0 };
  }

  /** The Authorization header for the next request, or null for none; asks for a new token when the old one ends. */
  async header(signal: AbortSignal): Promise<string | null> {
    const { token } = this;
    if (token !== null && token.renewAtMs !== 0 && this.now() >= token.renewAtMs && this.lastChallenge !== null) {
      await this.renew(this.lastChallenge, signal);
    }
    return this.token?.header ?? null;
  }

  /**
   * Gets credentials for the challenge of a 401 to a request made with `used`.
   * @returns false when there is nothing (new) to answer with
   */
  async answer(challengeText: string | undefined, used: string | null, signal: AbortSignal): Promise<boolean> {
    const challenge = parseChallenge(challengeText);
    if (challenge === null) return false;
    // Another request has renewed meanwhile.
    if (this.token !== null && this.token.header !== used) return true;
    if (challenge.scheme === 'basic') {
      if (this.config.auth.isEmpty || used !== null) return false;
      this.token = { header: `Basic ${this.config.auth.reveal()}`, renewAtMs: 0 };
      return true;
    }
    await this.renew(challenge, signal);
    return true;
  }

  private renew(challenge: Challenge, signal: AbortSignal): Promise<void> {
    this.lastChallenge = challenge;
    this.renewing ??= this.requestToken(challenge, signal)
      .then((token) => {
        this.token = token;
      })
      .finally(() => {
        this.renewing = null;
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
    checkStatus('token', url, answer);
    const token = this.parseToken(url, await readText(this.client, url, answer, signal));
    this.methods.set(url.host, method);
    return token;
  }

  private ask(method: 'POST' | 'GET', url: URL, form: URLSearchParams, signal: AbortSignal): Promise<HttpAnswer> {
    const headers: Record<string, string> = {};
    if (!this.config.auth.isEmpty) headers['authorization'] = `Basic ${this.config.auth.reveal()}`;
    if (method === 'POST') {
      headers['content-type'] = 'application/x-www-form-urlencoded';
      return this.client.send({ method, url, headers, body: form.toString() }, signal);
    }
    const withQuery = new URL(url);
    for (const [name, value] of form) withQuery.searchParams.set(name, value);
    return this.client.send({ method, url: withQuery, headers }, signal);
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
    return { header: `Bearer ${value}`, renewAtMs: this.now() + lifeMs - early };
  }

  private refused(status: number, why: string): Error {
    return storageError('HTTP_AUTH', { target: this.config.host, status, why });
  }
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
