/**
 * A registry that misbehaves on command, in a process of its own: tests that drive virtqueues block their event loop.
 *
 *     node --import tsx test/daemon/fault-server.ts DIR     prints its ports; serves DIR/<id> as /v2/<repo>/blobs/sha256:<id>
 *     GET /?mode=M[&from=N][&until=N][&blob=ID] on the second port   M: a Mode; answers Counted since the last call
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { createServer, get, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * `refused` accepts no connection (with a window it is a reset); `short` promises the whole range and ends early, `short-true` says that it is shorter; `shifted` are other bytes under
 * the right headers; `stall` stops in the middle, `half-closed` ends its direction without an answer.
 */
export const FAULTS = [
  '401',
  '404',
  '429',
  '500',
  '503',
  'short',
  'short-true',
  'reset',
  'stall',
  'half-closed',
  'garbage',
  'shifted',
  'slow',
  'hang',
  'ignore-range',
  'refused',
] as const;
type Fault = (typeof FAULTS)[number];
/** `every-other-F`: the first request after the change of mode meets F, the next does not, and so on. */
export type Mode = 'ok' | Fault | `every-other-${Fault}`;

export interface Counted {
  requests: number;
  bytes: number;
  /** First and last byte of the ranges answered with good bytes. */
  ranges: [number, number][];
}

/** Requests that meet the fault: those of this blob that begin at an offset in [from, until). The others are answered well. */
export interface Window {
  blob?: string;
  from?: number;
  until?: number;
}

const SLOW_MS = 150;
const RETRY_AFTER_S = 1;

export class FaultServer {
  private constructor(
    private readonly child: ChildProcess,
    readonly port: number,
    private readonly controlPort: number,
  ) {}

  static async start(dir: string): Promise<FaultServer> {
    const child = spawn(process.execPath, ['--import', 'tsx', fileURLToPath(import.meta.url), dir], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const [port, controlPort] = await new Promise<number[]>((resolve, reject) => {
      child.stdout!.setEncoding('utf8').once('data', (text: string) => resolve(text.split(' ').map(Number)));
      child.once('exit', () => reject(new Error('the fault server ended at once')));
    });
    return new FaultServer(child, port!, controlPort!);
  }

  get host(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Changes the behaviour, of requests in `window`; counts since the last call. */
  mode(mode: Mode, window: Window = {}): Promise<Counted> {
    const query = new URLSearchParams({ mode });
    for (const [name, value] of Object.entries(window)) query.set(name, `${value}`);
    return new Promise((resolve, reject) => {
      get({ host: '127.0.0.1', port: this.controlPort, path: `/?${query}`, agent: false }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (part: string) => {
          text += part;
        });
        response.on('end', () => resolve(JSON.parse(text) as Counted));
      }).on('error', reject);
    });
  }

  stop(): void {
    this.child.kill('SIGKILL');
  }
}

const EVERYTHING: Required<Window> = { blob: '', from: 0, until: Number.MAX_SAFE_INTEGER };

const zero = (): Counted => ({ requests: 0, bytes: 0, ranges: [] });

/** The blob, and what is asked of it. */
interface Asked {
  path: string;
  sizeBytes: number;
  range: { from: number; to: number } | null;
}

class FaultyRegistry {
  private mode: Mode = 'ok';
  private window: Required<Window> = EVERYTHING;
  private sinceChange = 0;
  private counted = zero();

  /** @param listen whether connections are accepted */
  constructor(
    private readonly dir: string,
    private readonly listen: (isOn: boolean) => Promise<void>,
  ) {}

  answer(call: IncomingMessage, reply: ServerResponse): void {
    const url = new URL(call.url ?? '/', 'http://x');
    if (url.pathname === '/token') return void reply.end(JSON.stringify({ token: 't', expires_in: 300 }));
    if (url.pathname === '/v2/') return void reply.end('{}');
    this.counted.requests++;
    const blob = basename(url.pathname).replace('sha256:', '');
    const path = join(this.dir, blob);
    const sizeBytes = statSync(path).size;
    const range = /^bytes=(\d+)-(\d+)$/.exec(call.headers.range ?? '');
    const asked: Asked = {
      path,
      sizeBytes,
      range: range === null ? null : { from: Number(range[1]), to: Math.min(Number(range[2]), sizeBytes - 1) },
    };
    const fault = this.faultOf(blob, asked.range?.from ?? 0);
    if (call.method === 'HEAD' && fault === 'ok') {
      return void reply.writeHead(200, { 'content-length': `${sizeBytes}` }).end();
    }
    this.fail(fault, asked, call, reply);
  }

  async control(url: URL, reply: ServerResponse): Promise<void> {
    const of = (name: keyof Window): string | null => url.searchParams.get(name);
    this.mode = (url.searchParams.get('mode') ?? 'ok') as Mode;
    const [from, until] = [Number(of('from') ?? EVERYTHING.from), Number(of('until') ?? EVERYTHING.until)];
    this.window = { blob: of('blob') ?? EVERYTHING.blob, from, until };
    this.sinceChange = 0;
    const isWindow = [...url.searchParams].length > 1;
    await this.listen(this.mode !== 'refused' || isWindow);
    reply.end(JSON.stringify(this.counted));
    this.counted = zero();
  }

  private faultOf(asked: string, offset: number): Fault | 'ok' {
    const { blob, from, until } = this.window;
    if ((blob !== '' && blob !== asked) || offset < from || offset >= until) return 'ok';
    const { mode } = this;
    const isEveryOther = mode.startsWith('every-other-');
    if (isEveryOther && this.sinceChange++ % 2 === 1) return 'ok';
    return (isEveryOther ? mode.slice('every-other-'.length) : mode) as Fault | 'ok';
  }

  private fail(fault: Fault | 'ok', asked: Asked, call: IncomingMessage, reply: ServerResponse): void {
    switch (fault) {
      case '401': {
        const challenge = `Bearer realm="http://${call.headers.host}/token",service="s"`;
        return void reply.writeHead(401, { 'www-authenticate': challenge }).end();
      }
      case '404':
      case '500':
      case '503':
        return void reply.writeHead(Number(fault)).end('no\n');
      case '429':
        return void reply.writeHead(429, { 'retry-after': `${RETRY_AFTER_S}` }).end();
      case 'hang':
        return;
      case 'refused':
      case 'reset':
        return void call.socket.resetAndDestroy();
      case 'half-closed':
        return void call.socket.end();
      case 'slow':
        return void setTimeout(() => this.good(asked, reply), SLOW_MS);
      case 'ignore-range':
        this.good({ ...asked, range: null }, reply);
        return;
      case 'ok':
        this.good(asked, reply);
        return;
      default:
        this.badBody(fault, asked, reply);
    }
  }

  private good(asked: Asked, reply: ServerResponse): void {
    const { from, to } = asked.range ?? { from: 0, to: asked.sizeBytes - 1 };
    const body = bytesOf(asked.path, from, to);
    this.counted.bytes += body.length;
    this.counted.ranges.push([from, to]);
    reply.writeHead(asked.range === null ? 200 : 206, headersOf(asked, from, to)).end(body);
  }

  private badBody(
    fault: 'short' | 'short-true' | 'stall' | 'garbage' | 'shifted',
    asked: Asked,
    reply: ServerResponse,
  ): void {
    const { from, to } = asked.range ?? { from: 0, to: asked.sizeBytes - 1 };
    const body = bytesOf(asked.path, from, to);
    const half = body.length >> 1;
    if (fault === 'short-true') {
      return void reply.writeHead(206, headersOf(asked, from, from + half - 1)).end(body.subarray(0, half));
    }
    reply.writeHead(206, headersOf(asked, from, to));
    if (fault === 'shifted') return void reply.end(bytesOf(asked.path, from + 1, to + 1));
    if (fault === 'garbage') return void reply.end(body.map((byte) => byte ^ 0x5a));
    reply.write(body.subarray(0, half));
    if (fault === 'short') setTimeout(() => reply.destroy(), 20);
  }
}

function headersOf({ range, sizeBytes }: Asked, from: number, to: number): Record<string, string> {
  const length = { 'content-length': `${to - from + 1}` };
  return range === null ? length : { ...length, 'content-range': `bytes ${from}-${to}/${sizeBytes}` };
}

/** Bytes from..to; zeros behind the end. */
function bytesOf(path: string, from: number, to: number): Buffer {
  const body = Buffer.alloc(to - from + 1);
  const fd = openSync(path, 'r');
  readSync(fd, body, 0, body.length, from);
  closeSync(fd);
  return body;
}

async function serve(dir: string): Promise<void> {
  const server = createServer((call, reply) => registry.answer(call, reply));
  const control = createServer((call, reply) => {
    void registry.control(new URL(call.url ?? '/', 'http://x'), reply);
  });
  const port = await listening(server, 0);
  const registry = new FaultyRegistry(dir, async (isOn) => {
    if (isOn === server.listening) return;
    if (isOn) await listening(server, port);
    else {
      server.close();
      server.closeAllConnections();
    }
  });
  console.log(`${port} ${await listening(control, 0)}`);
}

/** Listens on `port`, or on any; its number. */
async function listening(server: Server, port: number): Promise<number> {
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await serve(process.argv[2]!);
