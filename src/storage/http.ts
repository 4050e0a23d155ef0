/**
 * HTTP for backends: keep-alive connections, a named time-out per phase, and bodies that are either exactly what was
 * asked for or an error.
 *
 * Node's own client: on Node 20.20 importing undici holds the main thread for 84 ms and costs 19 MB of RSS (of a
 * budget of 72), `node:http` and `node:https` 3 ms and 2 MB. They are imported here with the first HTTP backend.
 */
import type { ClientRequest, IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';
import type { SecureContext } from 'node:tls';
import type { Sink } from './backend.ts';
import { storageError } from './errors.ts';
import type { ForwardProxy } from './http-tunnel.ts';

/** Longest pause between two pieces of a body. */
export const BODY_TIMEOUT_MS = 5_000;
/** An idle connection is kept this long. */
const KEEP_ALIVE_MS = 15_000;
/** Connections to one server: demand reads of many guests' processes at once, yet polite to a registry. */
const CONNECTIONS_MAX = 16;
/** Connections kept while nothing is asked. */
const KEPT_MAX = 4;
/** Bodies that are not blob data (tokens, error texts) end here. */
const TEXT_BODY_BYTES_MAX = 1 << 20;
/** A new connection costs about what reading this much does. */
const DISCARDED_BYTES_MAX = 64 << 10;

export interface HttpOptions {
  skipVerify: boolean;
  /** PEM texts of additional certificate authorities. */
  ca: string[];
  connectTimeoutMs: number;
  headersTimeoutMs: number;
  bodyTimeoutMs: number;
  /** UNIX socket to connect to instead of the URL's host, or null. */
  socketPath: string | null;
  /** Every request goes to this one, or null. */
  proxy: ForwardProxy | null;
}

export interface HttpRequest {
  /** Who may be asked: see `http-route.ts`. */
  purpose: 'blob' | 'redirected' | 'token' | 'ping';
  method: 'GET' | 'HEAD' | 'POST';
  url: URL;
  headers: Record<string, string>;
  body?: string;
}

export interface HttpAnswer {
  status: number;
  headers: IncomingMessage['headers'];
  /** Not read yet; one of the functions below consumes it. */
  body: IncomingMessage;
  /** Who answered: the URL of the request, or the one of a mirror. */
  url: URL;
  /** Told how the body of a blob ended: true for whole. */
  ended?: (isWhole: boolean) => void;
}

export interface HttpClient {
  /** Sends and waits for the headers. @throws HTTP_CONNECT, HTTP_TIMEOUT, or the signal's reason */
  send(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer>;
  close(): void;
  /** See `Backend.doubt`. */
  doubt?(): void;
  readonly bodyTimeoutMs: number;
}

/** Opens a client. Modules are loaded here, so that a daemon without HTTP backend never pays for them. */
export async function openHttpClient(options: HttpOptions): Promise<HttpClient> {
  const [http, https] = await Promise.all([import('node:http'), import('node:https')]);
  const shared = {
    keepAlive: true,
    keepAliveMsecs: KEEP_ALIVE_MS,
    maxSockets: CONNECTIONS_MAX,
    maxFreeSockets: KEPT_MAX,
  };
  const { proxy } = options;
  const tls = { rejectUnauthorized: !options.skipVerify, ...(await extraAuthorities(options.ca)) };
  const plain = new http.Agent(shared);
  const secure = new https.Agent({ ...shared, ...tls });
  const tunnel =
    proxy === null ? null : (await import('./http-tunnel.ts')).openTunnelAgent(proxy, shared, tls, options);

  /** Connections that have served a request; `reusedSocket` of Node leaves out requests that waited for one. */
  const used = new WeakSet<Socket>();

  /** What to ask whom: the server itself, or the proxy by absolute URL or through a tunnel. */
  function outgoingOf(request: HttpRequest, signal: AbortSignal): ClientRequest {
    const { method, headers } = request;
    const url = proxy?.useHttp === true ? new URL(request.url.href.replace(/^https:/, 'http:')) : request.url;
    const isHttps = url.protocol === 'https:';
    if (proxy === null || isHttps) {
      const agent = isHttps ? (tunnel ?? secure) : plain;
      const socket = options.socketPath === null ? {} : { socketPath: options.socketPath };
      return (isHttps ? https : http).request(url, { method, headers, agent, signal, ...socket });
    }
    const isSecureHop = proxy.url.protocol === 'https:';
    return (isSecureHop ? https : http).request(proxy.url, {
      method,
      headers: { ...headers, host: url.host, ...proxy.headers },
      path: url.href,
      agent: isSecureHop ? secure : plain,
      signal,
    });
  }

  function once(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer> {
    const target = proxy === null ? targetOf(request.url) : `${targetOf(request.url)} by proxy ${proxy.url.host}`;
    return new Promise((resolve, reject) => {
      const outgoing = outgoingOf(request, signal);
      const phase = new PhaseTimer(target, (error) => outgoing.destroy(error));
      phase.start('connect', options.connectTimeoutMs);
      const sent = () => phase.start('headers', options.headersTimeoutMs);
      let isKept = false;
      outgoing.on('socket', (socket) => {
        isKept = used.has(socket);
        used.add(socket);
        if (isKept) sent();
        else socket.once('encrypted' in socket ? 'secureConnect' : 'connect', sent);
      });
      outgoing.on('response', (body) => {
        phase.stop();
        // A connection that breaks before anybody reads must not become an uncaught event; readers still see it.
        body.on('error', () => {});
        resolve({ status: body.statusCode ?? 0, headers: body.headers, body, url: request.url });
      });
      outgoing.on('error', (error) => {
        phase.stop();
        if (signal.aborted) reject(signal.reason);
        else if ('facts' in error) reject(error);
        else reject(new ConnectionLost(isKept, connectError(target, error)));
      });
      outgoing.end(request.body);
    });
  }

  return {
    bodyTimeoutMs: options.bodyTimeoutMs,
    async send(request, signal) {
      // A kept connection may have been closed by the server just now, and so may all of them: no failure of the server.
      for (let kept = 0; ; kept++) {
        try {
          return await once(request, signal);
        } catch (error) {
          if (!(error instanceof ConnectionLost)) throw error;
          if (!error.isKept || kept === KEPT_MAX) throw error.why;
        }
      }
    },
    close() {
      plain.destroy();
      secure.destroy();
      tunnel?.destroy();
    },
  };
}

/** Our authorities beside the well-known ones: redirects lead from a private registry to public object stores. */
async function extraAuthorities(ca: string[]): Promise<{ secureContext?: SecureContext }> {
  if (ca.length === 0) return {};
  const { createSecureContext, rootCertificates } = await import('node:tls');
  return { secureContext: createSecureContext({ ca: [...rootCertificates, ...ca] }) };
}

class ConnectionLost extends Error {
  constructor(
    /** On a connection that was kept from an earlier request. */
    readonly isKept: boolean,
    readonly why: Error,
  ) {
    super(why.message);
  }
}

/** One timer for the phases of a request; 0 ms = no limit. */
class PhaseTimer {
  private timer: NodeJS.Timeout | null = null;

  constructor(
    private readonly target: string,
    private readonly expire: (error: Error) => void,
  ) {}

  start(phase: 'connect' | 'headers' | 'body', timeoutMs: number): void {
    this.stop();
    if (timeoutMs === 0) return;
    const fire = () => this.expire(storageError('HTTP_TIMEOUT', { target: this.target, phase, timeoutMs }));
    this.timer = setTimeout(fire, timeoutMs);
  }

  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
  }

  refresh(): void {
    this.timer?.refresh();
  }
}

function connectError(target: string, error: Error): Error {
  const code = (error as NodeJS.ErrnoException).code;
  return storageError('HTTP_CONNECT', { target, why: code ?? error.message }, error);
}

/** Host and path for messages; queries of redirect targets are credentials. */
export function targetOf(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname}`;
}

/**
 * Reads `wantedBytes` of a body after dropping its first `skipBytes`. `isWhole` says that the body must end there; else
 * the rest is cut off with its connection.
 * @throws HTTP_BODY when it is shorter (or longer, with `isWhole`), HTTP_TIMEOUT when it stalls
 */
export async function readBody(
  client: HttpClient,
  answer: HttpAnswer,
  span: { skipBytes: number; wantedBytes: number; isWhole: boolean; sink?: Sink | undefined },
  signal: AbortSignal,
): Promise<Buffer> {
  const { body, url } = answer;
  const target = targetOf(url);
  const out = span.sink?.buffer ?? Buffer.allocUnsafeSlow(span.wantedBytes);
  let seen = 0;
  const timer = new PhaseTimer(target, (error) => body.destroy(error));
  timer.start('body', client.bodyTimeoutMs);
  const abort = () => body.destroy(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    for await (const piece of body as AsyncIterable<Buffer>) {
      timer.refresh();
      const from = Math.max(0, span.skipBytes - seen);
      if (from < piece.length) piece.copy(out, Math.max(0, seen - span.skipBytes), from);
      seen += piece.length;
      const held = span.sink?.arrived(Math.min(span.wantedBytes, Math.max(0, seen - span.skipBytes)));
      if (held !== undefined) {
        timer.stop();
        await held;
        timer.start('body', client.bodyTimeoutMs);
      }
      if (seen >= span.skipBytes + span.wantedBytes && !span.isWhole) break; // leaving the loop destroys the body
      if (seen > span.skipBytes + span.wantedBytes) break;
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (error instanceof Error && 'facts' in error) throw error;
    throw storageError('HTTP_BODY', { target, rule: `connection lost after ${seen} bytes` }, error);
  } finally {
    timer.stop();
    signal.removeEventListener('abort', abort);
  }
  const end = span.skipBytes + span.wantedBytes;
  if (seen < end) throw storageError('HTTP_BODY', { target, rule: `${seen} of ${end} bytes` });
  if (span.isWhole && seen > end) throw storageError('HTTP_BODY', { target, rule: `more than ${end} bytes` });
  return out;
}

/** Reads a small text body. */
export async function readText(client: HttpClient, answer: HttpAnswer, signal: AbortSignal): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  const target = targetOf(answer.url);
  const timer = new PhaseTimer(target, (error) => answer.body.destroy(error));
  timer.start('body', client.bodyTimeoutMs);
  const abort = () => answer.body.destroy(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  try {
    for await (const piece of answer.body as AsyncIterable<Buffer>) {
      timer.refresh();
      pieces.push(piece);
      if ((bytes += piece.length) > TEXT_BODY_BYTES_MAX) {
        throw storageError('HTTP_BODY', {
          target,
          rule: `text longer than ${TEXT_BODY_BYTES_MAX} bytes`,
        });
      }
    }
  } finally {
    timer.stop();
    signal.removeEventListener('abort', abort);
  }
  return Buffer.concat(pieces).toString('utf8');
}

/** Done with an answer: a small body is read to its end, which keeps the connection; anything else is cut off. */
export function discard(answer: HttpAnswer): void {
  const length = Number(answer.headers['content-length'] ?? Number.NaN);
  if (length <= DISCARDED_BYTES_MAX || answer.body.complete) answer.body.resume();
  else answer.body.destroy();
}
