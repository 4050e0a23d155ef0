/**
 * Blobs in an OCI registry: `<scheme>://<host>/v2/<repo>/blobs/sha256:<blob id>` (kata-contract 3.6).
 *
 * A registry may send readers elsewhere (object store, CDN). The target is remembered per blob and gets the range but
 * never the registry's credentials; when it refuses (its signature has run out) the registry is asked again.
 */
import type { Logger } from '../../common/log.ts';
import type { Backend } from '../backend.ts';
import type { RegistryConfig } from '../config.ts';
import { storageError } from '../errors.ts';
import { discard, type HttpAnswer, type HttpClient, targetOf } from '../http.ts';
import { checkStatus, contentLength, rangeHeader, readRange } from '../http-blob.ts';
import { RegistryAuth } from './registry-auth.ts';

/** Redirects followed from one request to the next. */
const REDIRECTS_MAX = 4;
/** 401 answers to one request: without credentials, then with old ones. */
const CHALLENGES_MAX = 2;

interface Located {
  url: URL;
  answer: HttpAnswer;
}

export function openRegistry(config: RegistryConfig, client: HttpClient, log: Logger): Backend {
  const auth = new RegistryAuth(config, client);
  const redirects = new Map<string, URL>();
  let { scheme } = config;
  const urlOf = (blobId: string) => new URL(`${scheme}://${config.host}/v2/${config.repo}/blobs/sha256:${blobId}`);

  type Headers = Record<string, string>;

  async function request(
    method: 'GET' | 'HEAD',
    blobId: string,
    headers: Headers,
    signal: AbortSignal,
  ): Promise<Located> {
    const known = redirects.get(blobId);
    if (known !== undefined) {
      const answer = await client.send({ method, url: known, headers }, signal);
      if (answer.status !== 401 && answer.status !== 403) return { url: known, answer };
      discard(answer);
      redirects.delete(blobId);
    }
    const first = await askRegistry(method, blobId, headers, signal);
    return isRedirect(first.answer) ? follow(method, blobId, headers, first, signal) : first;
  }

  async function askRegistry(method: 'GET' | 'HEAD', blobId: string, headers: Headers, signal: AbortSignal) {
    for (let challenges = 0; ; challenges++) {
      const authorization = await auth.header(signal);
      const withAuth = authorization === null ? headers : { ...headers, authorization };
      const located = await sendWithFallback(method, blobId, withAuth, signal);
      if (located.answer.status !== 401 || challenges >= CHALLENGES_MAX) return located;
      const challenge = located.answer.headers['www-authenticate'];
      discard(located.answer);
      if (!(await auth.answer(challenge, authorization, signal))) {
        throw storageError('HTTP_AUTH', {
          target: targetOf(located.url),
          status: 401,
          why: config.auth.isEmpty ? 'no credentials configured' : 'credentials not accepted',
        });
      }
    }
  }

  /** With `skip_verify`, a registry that does not speak TLS is asked in plain HTTP from then on. */
  async function sendWithFallback(method: 'GET' | 'HEAD', blobId: string, headers: Headers, signal: AbortSignal) {
    const url = urlOf(blobId);
    try {
      return { url, answer: await client.send({ method, url, headers }, signal) };
    } catch (error) {
      const isConnect = (error as { code?: unknown }).code === 'HTTP_CONNECT';
      if (scheme !== 'https' || !config.skipVerify || !isConnect) throw error;
      const plain = new URL(url.href.replace(/^https/, 'http'));
      const answer = await client.send({ method, url: plain, headers }, signal);
      scheme = 'http';
      log.warn(`registry ${config.host} does not speak TLS: using http`);
      return { url: plain, answer };
    }
  }

  async function follow(method: 'GET' | 'HEAD', blobId: string, headers: Headers, from: Located, signal: AbortSignal) {
    let { url, answer } = from;
    for (let hops = 0; isRedirect(answer); hops++) {
      discard(answer);
      if (hops >= REDIRECTS_MAX) throw storageError('HTTP_BODY', { target: targetOf(url), rule: 'too many redirects' });
      url = redirectTarget(url, answer.headers.location);
      answer = await client.send({ method, url, headers }, signal);
    }
    if (answer.status < 400) redirects.set(blobId, url);
    return { url, answer };
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

  return {
    kind: 'registry',
    where: `${config.host}/${config.repo}`,
    async read(blobId, offset, bytes, signal, sink) {
      const { url, answer } = await request('GET', blobId, { range: rangeHeader(offset, bytes) }, signal);
      return readRange(client, blobId, url, answer, { offset, bytes, sink }, signal);
    },
    async size(blobId, signal) {
      const { url, answer } = await request('HEAD', blobId, {}, signal);
      checkStatus(blobId, url, answer);
      discard(answer);
      return contentLength(url, answer);
    },
    close: () => client.close(),
  };
}

function isRedirect(answer: HttpAnswer): boolean {
  return answer.status >= 300 && answer.status < 400 && answer.status !== 304;
}
