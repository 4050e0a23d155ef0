/**
 * HTTP/1.1 over a Unix socket (kata-contract 4.1). All time-outs are off and nothing limits the number of connections:
 * clients keep idle connections as their sign of life and take a hang-up for our death (5.6, section 11).
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { codeOf } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import { daemonError } from '../daemon/errors.ts';
import { readBody } from './body.ts';
import { badRequest, noRoute, toHttp, type Wrapper } from './errors.ts';
import { type Answer, ROUTES, type Route, type Routed } from './routes.ts';

/** Clients that come at once; the kernel cuts it to net.core.somaxconn. Node's own 511 makes the next one's connect fail. */
const BACKLOG = 65_535;

/** `createServer` has no option for it: answer a client that has shut down its sending side. */
interface HalfOpen {
  httpAllowHalfOpen: boolean;
}

const HEADERS = { Server: 'Nydus API', 'Content-Type': 'application/json' } as const;

export class ApiServer {
  private readonly http: Server & Partial<HalfOpen>;
  /** Connection → its last request: what is pipelined behind a mount finds it made (RFC 9112, 9.3.2). */
  private readonly lastOf = new WeakMap<Socket, Promise<void>>();

  constructor(
    private readonly target: Routed,
    private readonly log: Logger,
  ) {
    this.http = createServer(
      {
        keepAliveTimeout: 0,
        headersTimeout: 0,
        requestTimeout: 0,
        requireHostHeader: false,
        connectionsCheckingInterval: 2 ** 31 - 1,
      },
      (request, response) => this.queue(request, response),
    );
    this.http.timeout = 0;
    this.http.httpAllowHalfOpen = true;
    // Left to Node, one ends without a word and the other without JSON.
    this.http.on('connect', (_request, socket: Socket) => this.refuse(new Error('CONNECT'), socket));
    this.http.on('checkExpectation', (request, response) => this.queue(request, response));
    this.http.on('clientError', (error, socket: Socket) => this.refuse(error, socket));
  }

  /** Binds and listens; the file appears when requests can be answered. @throws AppError SOCKET_BIND */
  listen(path: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.http.once('error', (error) => reject(daemonError('SOCKET_BIND', { path, reason: codeOf(error) }, error)));
      this.http.listen({ path, backlog: BACKLOG }, () => {
        this.http.removeAllListeners('error');
        this.http.on('error', (error) => this.log.error(`API socket ${path}: ${error.message}`));
        resolve();
      });
    });
  }

  /** Takes no new connections and removes the socket file. Open ones end with the process, in one step. */
  async stop(): Promise<void> {
    this.http.close();
  }

  private queue(request: IncomingMessage, response: ServerResponse): void {
    const before = this.lastOf.get(request.socket);
    const serve = () => this.serve(request, response);
    this.lastOf.set(request.socket, before === undefined ? serve() : before.then(serve, serve));
  }

  private async serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const method = request.method ?? '';
    let wrapper: Wrapper = 'Configure';
    let answer: Answer;
    try {
      // First of all: a body left unread would be taken for the next request, and cost the connection.
      const body = await readBody(request);
      const url = parseTarget(request.url ?? '/');
      const methods = ROUTES[url.pathname];
      if (methods === undefined) throw noRoute();
      const route: Route | undefined = Object.hasOwn(methods, method)
        ? methods[method as keyof typeof methods]
        : undefined;
      if (route === undefined) throw badRequest();
      wrapper = route.wrapper;
      if (body.length > 0 !== route.body) throw badRequest();
      answer = await route.run(this.target, { query: url.searchParams, body });
    } catch (error) {
      const { status, message } = toHttp(wrapper, error);
      answer = { status, body: { code: 'UNDEFINED', message } };
      this.log.warn(`API: ${method} ${request.url} answered ${status}: ${message}`);
    }
    send(request, response, answer);
    this.log.debug(`API: ${method} ${request.url} answered ${answer.status}`);
    if (answer.afterwards !== undefined) whenLeft(request.socket, response, answer.afterwards);
  }

  /** Something that is no HTTP. */
  private refuse(error: NodeJS.ErrnoException, socket: Socket): void {
    if (error.code === 'ECONNRESET' || !socket.writable) return void socket.destroy();
    const status = error.code === 'HPE_HEADER_OVERFLOW' ? '431 Request Header Fields Too Large' : '400 Bad Request';
    const body = JSON.stringify({ code: 'UNDEFINED', message: 'BadRequest' });
    this.log.warn(`API: not HTTP (${error.code ?? error.message}), connection closed`);
    socket.end(
      `HTTP/1.1 ${status}\r\nServer: Nydus API\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
    );
  }
}

/** Origin form, and absolute form as some clients send it. `//x` is a path here, not a host. */
function parseTarget(target: string): URL {
  try {
    return target.startsWith('/') ? new URL(`http://unix${target}`) : new URL(target);
  } catch {
    throw badRequest();
  }
}

/** A response whose connection is gone, or goes before its turn, has no `close` of its own. */
function whenLeft(socket: Socket, response: ServerResponse, then: () => void): void {
  response.once('close', then);
  if (socket.destroyed) then();
  else socket.once('close', then);
}

function send(request: IncomingMessage, response: ServerResponse, answer: Answer): void {
  const headers = request.complete ? HEADERS : { ...HEADERS, Connection: 'close' };
  if (answer.text !== undefined) {
    const { type, content } = answer.text;
    const length = Buffer.byteLength(content);
    response.writeHead(answer.status, { ...headers, 'Content-Type': type, 'Content-Length': length }).end(content);
    return;
  }
  if (answer.body === undefined) {
    response.writeHead(answer.status, headers).end();
    return;
  }
  const text = JSON.stringify(answer.body);
  response.writeHead(answer.status, { ...headers, 'Content-Length': Buffer.byteLength(text) }).end(text);
}
