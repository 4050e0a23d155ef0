/**
 * Kata's HTTP requests byte for byte, in the two forms that reach the daemon (kata-contract 1.5, 11): Go's net/http with
 * raw query values and a connection for each call, runtime-rs's hyper with percent-encoded ones over one connection.
 */
import { connect, type Socket } from 'node:net';

export type Runtime = 'go' | 'rs';

/** The total time-out of both clients. */
const ANSWER_MS_MAX = 30_000;

export interface Answer {
  status: number;
  body: string;
}

/** Bytes of one request. `query` is the mount point. */
export function requestBytes(
  runtime: Runtime,
  method: string,
  sock: string,
  query: string | null,
  body: string | null,
): Buffer {
  const path = query === null ? '/api/v1/daemon' : `/api/v1/mount?mountpoint=${encoded(runtime, query)}`;
  const length = Buffer.byteLength(body ?? '');
  const head =
    runtime === 'go'
      ? [
          `${method} ${path} HTTP/1.1`,
          'Host: unix',
          'User-Agent: Go-http-client/1.1',
          ...(body === null ? [] : [`Content-Length: ${length}`, 'Content-Type: application/json']),
          'Accept-Encoding: gzip',
        ]
      : [
          `${method} ${path} HTTP/1.1`,
          'content-type: application/json',
          // hyperlocal puts the path of the socket into the host, in hexadecimal.
          `host: ${Buffer.from(sock).toString('hex')}`,
          ...(method === 'GET' ? [] : [`content-length: ${length}`]),
        ];
  return Buffer.from(`${head.join('\r\n')}\r\n\r\n${body ?? ''}`);
}

function encoded(runtime: Runtime, query: string): string {
  return runtime === 'go'
    ? query
    : encodeURIComponent(query).replace(/[!'()*]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** A client of the API as the runtime has it. */
export class KataClient {
  private shared: Socket | null = null;
  /** Go's transports keep theirs idle. */
  private readonly idle: Socket[] = [];

  constructor(
    private readonly runtime: Runtime,
    private readonly sock: string,
  ) {}

  /** @throws Error when there is no answer; a refusal is an answer */
  async send(method: 'GET' | 'POST' | 'DELETE', query: string | null, body: object | null): Promise<Answer> {
    const text = body === null ? null : JSON.stringify(body);
    const socket = await this.connection();
    return exchange(socket, requestBytes(this.runtime, method, this.sock, query, text));
  }

  close(): void {
    for (const socket of [...this.idle, ...(this.shared === null ? [] : [this.shared])]) socket.destroy();
  }

  private async connection(): Promise<Socket> {
    if (this.shared !== null) return this.shared;
    const socket = await new Promise<Socket>((resolve, reject) => {
      const made = connect(this.sock);
      made.once('connect', () => resolve(made));
      made.once('error', reject);
    });
    if (this.runtime === 'rs') this.shared = socket;
    else this.idle.push(socket);
    return socket;
  }
}

function exchange(socket: Socket, request: Buffer): Promise<Answer> {
  return new Promise((resolve, reject) => {
    let text = '';
    const finish = (done: () => void) => {
      clearTimeout(timer);
      socket.removeAllListeners();
      socket.on('error', () => {});
      done();
    };
    const timer = setTimeout(() => finish(() => reject(new Error('no answer within 30 s'))), ANSWER_MS_MAX);
    socket.on('error', (error) => finish(() => reject(error)));
    socket.on('end', () => finish(() => reject(new Error('the daemon hung up'))));
    socket.on('data', (part) => {
      text += part.toString('latin1');
      const answer = parse(text);
      if (answer !== null) finish(() => resolve(answer));
    });
    socket.write(request);
  });
}

/** A whole answer, or null while bytes are missing. */
function parse(text: string): Answer | null {
  const end = text.indexOf('\r\n\r\n');
  if (end < 0) return null;
  const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(text)?.[1]);
  const length = Number(/^content-length: (\d+)\r?$/im.exec(text.slice(0, end + 2))?.[1] ?? 0);
  const body = text.slice(end + 4);
  return body.length < length ? null : { status, body: Buffer.from(body, 'latin1').toString('utf8') };
}
