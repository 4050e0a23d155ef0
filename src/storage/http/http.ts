/**
 * HTTP for backends, one hop: keep-alive connections, a named time-out per phase. What may be done with the body of an
 * answer is in `http-body.ts`, who is asked in `http-route.ts`.
 *
 * Node's own client: on Node 20.20 importing undici holds the main thread for 84 ms and costs 19 MB of RSS (of a
 * budget of 72), `node:http` and `node:https` 3 ms and 1 MB each. They are loaded here, the second with the first https URL.
 */
import type { Agent, ClientRequest, IncomingMessage } from 'node:http';
import type { AgentOptions } from 'node:https';
import { createRequire } from 'node:module';
import type { Socket } from 'node:net';
import { storageError } from '../errors.ts';
import { trusting } from './http-trust.ts';
import type { ForwardProxy, Tls } from './http-tunnel.ts';

/** Longest pause between two pieces of a body. */
export const BODY_TIMEOUT_MS = 5_000;
/** An idle connection is kept this long. */
const KEEP_ALIVE_MS = 15_000;
/** Connections to one server: demand reads of many guests' processes at once, yet polite to a registry. */
const CONNECTIONS_MAX = 16;
/** Connections kept while nothing is asked. */
const KEPT_MAX = 4;

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
  /** Not read yet; one of the functions of `http-body.ts` consumes it. */
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
  const http = await import('node:http');
  const { proxy } = options;
  const pool = {
    keepAlive: true,
    keepAliveMsecs: KEEP_ALIVE_MS,
    maxSockets: CONNECTIONS_MAX,
    maxFreeSockets: KEPT_MAX,
  };
  const openTunnel = proxy === null ? null : (await import('./http-tunnel.ts')).openTunnelAgent;
  const makeTunnel = (tls: Tls) => openTunnel?.(proxy!, pool, tls, options.connectTimeoutMs) ?? null;
  return new NodeClient(options, { http, plain: new http.Agent(pool), secure: new Secure(options, pool, makeTunnel) });
}

/** Node's modules and the connections of one client. */
interface Means {
  http: typeof import('node:http');
  plain: Agent;
  secure: Secure;
}

/** Who speaks TLS, and how. */
interface MadeSecure {
  https: typeof import('node:https');
  agent: Agent;
  /** Through the proxy, where there is one. */
  tunnel: Agent | null;
}

const require = createRequire(import.meta.url);

/** TLS: most blobs behind a proxy of the host never need it. */
class Secure {
  private made: MadeSecure | null = null;

  constructor(
    private readonly options: HttpOptions,
    private readonly pool: AgentOptions,
    private readonly makeTunnel: (tls: Tls) => Agent | null,
  ) {}

  get(): MadeSecure {
    if (this.made === null) {
      const https = require('node:https') as typeof import('node:https');
      const { skipVerify, ca } = this.options;
      const tls = skipVerify ? { rejectUnauthorized: false } : { secureContext: trusting(ca) };
      this.made = { https, agent: new https.Agent({ ...this.pool, ...tls }), tunnel: this.makeTunnel(tls) };
    }
    return this.made;
  }

  destroy(): void {
    this.made?.agent.destroy();
    this.made?.tunnel?.destroy();
  }
}

class NodeClient implements HttpClient {
  readonly bodyTimeoutMs: number;
  /** Connections that have served a request; `reusedSocket` of Node leaves out requests that waited for one. */
  private readonly used = new WeakSet<Socket>();

  constructor(
    private readonly options: HttpOptions,
    private readonly means: Means,
  ) {
    this.bodyTimeoutMs = options.bodyTimeoutMs;
  }

  async send(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer> {
    // A kept connection may have been closed by the server just now, and so may all of them: no failure of the server.
    for (let kept = 0; ; kept++) {
      try {
        return await this.once(request, signal);
      } catch (error) {
        if (!(error instanceof ConnectionLost)) throw error;
        if (!error.isKept || kept === KEPT_MAX) throw error.why;
      }
    }
  }

  private once(request: HttpRequest, signal: AbortSignal): Promise<HttpAnswer> {
    const { proxy, connectTimeoutMs, headersTimeoutMs } = this.options;
    const target = proxy === null ? targetOf(request.url) : `${targetOf(request.url)} by proxy ${proxy.url.host}`;
    return new Promise((resolve, reject) => {
      const outgoing = this.outgoing(request, signal);
      const phase = new PhaseTimer(target, (error) => outgoing.destroy(error));
      phase.start('connect', connectTimeoutMs);
      const sent = () => phase.start('headers', headersTimeoutMs);
      let isKept = false;
      outgoing.on('socket', (socket) => {
        isKept = this.used.has(socket);
        this.used.add(socket);
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
      // Of a change of protocol (101) that nobody asked for there is no other sign. Behind an answer or an error it says nothing.
      outgoing.on('close', () => {
        phase.stop();
        reject(signal.aborted ? signal.reason : connectError(target, new Error('closed without an answer')));
      });
      outgoing.end(request.body);
    });
  }

  /** What to ask whom: the server itself, or the proxy by absolute URL or through a tunnel. */
  private outgoing(request: HttpRequest, signal: AbortSignal): ClientRequest {
    const { proxy, socketPath } = this.options;
    const { http, plain, secure } = this.means;
    const { method, headers } = request;
    const url = proxy?.useHttp === true ? new URL(request.url.href.replace(/^https:/, 'http:')) : request.url;
    const isHttps = url.protocol === 'https:';
    if (proxy === null || isHttps) {
      const socket = socketPath === null ? {} : { socketPath };
      const options = { method, headers, signal, ...socket };
      if (!isHttps) return http.request(url, { ...options, agent: plain });
      const { https, agent, tunnel } = secure.get();
      return https.request(url, { ...options, agent: tunnel ?? agent });
    }
    const options = {
      method,
      headers: { ...headers, host: url.host, ...proxy.headers },
      path: url.href,
      signal,
    };
    if (proxy.url.protocol !== 'https:') return http.request(proxy.url, { ...options, agent: plain });
    const { https, agent } = secure.get();
    return https.request(proxy.url, { ...options, agent });
  }

  close(): void {
    this.means.plain.destroy();
    this.means.secure.destroy();
  }
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
export class PhaseTimer {
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

  /** The phase goes on, and has all its time again. */
  goesOn(): void {
    this.timer?.refresh();
  }

  stop(): void {
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
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
