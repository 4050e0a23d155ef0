/**
 * Blobs in an OCI registry: `<scheme>://<host>/v2/<repo>/blobs/sha256:<blob id>` (kata-contract 3.6).
 *
 * A registry may send readers elsewhere (object store, CDN). The target is remembered per blob and gets the range but
 * never the registry's credentials; when it refuses (its signature has run out), fails or lies the registry is asked again.
 */
import type { Logger } from '../../common/log.ts';
import type { Backend } from '../backend.ts';
import type { RegistryConfig } from '../config/config.ts';
import { storageError } from '../errors.ts';
import { type HttpAnswer, type HttpClient, targetOf } from '../http/http.ts';
import { discard } from '../http/http-body.ts';
import { type Headers, httpBackend, type Method } from './http-backend.ts';
import { RegistryAuth } from './registry-auth.ts';

/** Redirects followed from one request to the next. */
const REDIRECTS_MAX = 4;
/** 401 answers to one request: without credentials, then with old ones. */
const CHALLENGES_MAX = 2;
/** What servers that do speak TLS say to plain HTTP on their port. */
const STATUS_OF_TLS_SERVERS = 400;

export function openRegistry(config: RegistryConfig, client: HttpClient, log: Logger): Backend {
  const auth = new RegistryAuth(config, client);
  const redirects = new Map<string, URL>();
  let { scheme } = config;
  const urlOf = (blobId: string) => new URL(`${scheme}://${config.host}/v2/${config.repo}/blobs/sha256:${blobId}`);

  async function request(method: Method, blobId: string, headers: Headers, signal: AbortSignal): Promise<HttpAnswer> {
    const known = redirects.get(blobId);
    if (known !== undefined) {
      const answer = await askTarget(method, blobId, known, headers, signal);
      if (answer !== null) return answer;
    }
    const first = await askRegistry(method, blobId, headers, signal);
    return isRedirect(first) ? follow(method, blobId, headers, first, signal) : first;
  }

  /** Asks the place the registry named before; null when that does not give the blob any more. */
  async function askTarget(method: Method, blobId: string, url: URL, headers: Headers, signal: AbortSignal) {
    try {
      const answer = await client.send({ purpose: 'redirected', method, url, headers }, signal);
      // A place that sends on has moved: where to is the registry's to say, once more.
      const isLost = isGone(answer.status) || isRedirect(answer);
      if (isLost || answer.status >= 500) redirects.delete(blobId);
      if (!isLost) return watched(blobId, answer);
      discard(answer);
      return null;
    } catch (error) {
      // The next try asks the registry, which may name another place.
      if (!signal.aborted) redirects.delete(blobId);
      throw error;
    }
  }

  async function askRegistry(method: Method, blobId: string, headers: Headers, signal: AbortSignal) {
    for (let challenges = 0; ; challenges++) {
      const authorization = await auth.header(signal);
      const withAuth = authorization === null ? headers : { ...headers, authorization };
      const answer = await sendWithFallback(method, blobId, withAuth, signal);
      if (answer.status !== 401 || challenges >= CHALLENGES_MAX) return answer;
      const challenge = answer.headers['www-authenticate'];
      discard(answer);
      if (!(await auth.answer(challenge, authorization, signal))) {
        throw storageError('HTTP_AUTH', {
          target: targetOf(answer.url),
          status: 401,
          why: config.auth.isEmpty ? 'no credentials configured' : 'credentials not accepted',
        });
      }
    }
  }

  /** With `skip_verify`, a registry that does not speak TLS is asked in plain HTTP from then on. */
  async function sendWithFallback(method: Method, blobId: string, headers: Headers, signal: AbortSignal) {
    const url = urlOf(blobId);
    try {
      return await client.send({ purpose: 'blob', method, url, headers }, signal);
    } catch (error) {
      const isConnect = (error as { code?: unknown }).code === 'HTTP_CONNECT';
      if (scheme !== 'https' || !config.skipVerify || !isConnect) throw error;
      const plain = new URL(url.href.replace(/^https/, 'http'));
      const answer = await client.send({ purpose: 'blob', method, url: plain, headers }, signal);
      if (answer.status === STATUS_OF_TLS_SERVERS || leadsToTls(answer)) {
        discard(answer);
        throw error;
      }
      scheme = 'http';
      log.warn(`registry ${config.host} does not speak TLS: using http`);
      return answer;
    }
  }

  async function follow(method: Method, blobId: string, headers: Headers, from: HttpAnswer, signal: AbortSignal) {
    let answer = from;
    for (let hops = 0; isRedirect(answer); hops++) {
      discard(answer);
      if (hops >= REDIRECTS_MAX) {
        throw storageError('HTTP_BODY', { target: targetOf(answer.url), rule: 'too many redirects' });
      }
      const url = redirectTarget(answer.url, answer.headers.location);
      answer = await client.send({ purpose: 'redirected', method, url, headers }, signal);
    }
    if (answer.status < 400) redirects.set(blobId, answer.url);
    return watched(blobId, answer);
  }

  /** A place that gives something else than the blob is forgotten, too. */
  function watched(blobId: string, answer: HttpAnswer): HttpAnswer {
    const { ended } = answer;
    answer.ended = (isWhole) => {
      if (!isWhole) redirects.delete(blobId);
      ended?.(isWhole);
    };
    return answer;
  }

  function redirectTarget(from: URL, location: string | undefined): URL {
    if (location === undefined || !URL.canParse(location, from.href)) {
      throw storageError('HTTP_BODY', { target: targetOf(from), rule: 'redirect without a target' });
    }
    const to = new URL(location, from);
    if (config.blobUrlScheme !== '') to.protocol = `${config.blobUrlScheme}:`;
    if (config.blobRedirectedHost !== '') to.host = config.blobRedirectedHost;
    if (!/^https?:$/.test(to.protocol))
      throw storageError('HTTP_BODY', { target: targetOf(from), rule: 'redirect to no http' });
    return to;
  }

  const backend = httpBackend({ kind: 'registry', where: `${config.host}/${config.repo}` }, client, request);
  return {
    ...backend,
    doubt() {
      redirects.clear();
      backend.doubt?.();
    },
  };
}

/** A target that has expired, in the words of any object store; overload and bad ranges are not among them. */
function isGone(status: number): boolean {
  return status >= 400 && status < 500 && ![408, 416, 429].includes(status);
}

/** The server sends plain HTTP to its own TLS port: it speaks TLS, and had a bad moment. */
function leadsToTls(answer: HttpAnswer): boolean {
  const { location } = answer.headers;
  if (!isRedirect(answer) || location === undefined || !URL.canParse(location, answer.url.href)) return false;
  const { protocol, hostname } = new URL(location, answer.url);
  return protocol === 'https:' && hostname === answer.url.hostname;
}

function isRedirect(answer: HttpAnswer): boolean {
  return answer.status >= 300 && answer.status < 400 && answer.status !== 304;
}
