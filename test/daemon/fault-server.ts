/**
 * A registry that misbehaves on command, in a process of its own: tests that drive virtqueues block their event loop.
 *
 *     node --import tsx test/daemon/fault-server.ts DIR     prints its port; serves DIR/<id> as /v2/<repo>/blobs/sha256:<id>
 *     GET /control?mode=M                                   M: one of MODES; answers {requests, bytes} since the last call
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { createServer, get, type ServerResponse } from 'node:http';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const MODES = ['ok', '404', '500', 'short', 'garbage', 'hang', 'ignore-range', 'every-other-503'] as const;
export type Mode = (typeof MODES)[number];

export interface Counted {
  requests: number;
  bytes: number;
}

export class FaultServer {
  private constructor(
    private readonly child: ChildProcess,
    readonly port: number,
  ) {}

  static async start(dir: string): Promise<FaultServer> {
    const child = spawn(process.execPath, ['--import', 'tsx', fileURLToPath(import.meta.url), dir], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const port = await new Promise<number>((resolve, reject) => {
      child.stdout!.setEncoding('utf8').once('data', (text: string) => resolve(Number(text)));
      child.once('exit', () => reject(new Error('the fault server ended at once')));
    });
    return new FaultServer(child, port);
  }

  get host(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Changes the behaviour; counts since the last call. */
  mode(mode: Mode): Promise<Counted> {
    return new Promise((resolve, reject) => {
      get({ host: '127.0.0.1', port: this.port, path: `/control?mode=${mode}`, agent: false }, (response) => {
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

function serve(dir: string): void {
  let mode: Mode = 'ok';
  let counted: Counted = { requests: 0, bytes: 0 };
  const send = (reply: ServerResponse, status: number, headers: Record<string, string>, body: Buffer): void => {
    counted.bytes += body.length;
    reply.writeHead(status, headers).end(body);
  };
  const server = createServer((call, reply) => {
    const url = new URL(call.url ?? '/', 'http://x');
    if (url.pathname === '/control') {
      mode = (url.searchParams.get('mode') ?? 'ok') as Mode;
      reply.end(JSON.stringify(counted));
      counted = { requests: 0, bytes: 0 };
      return;
    }
    if (url.pathname === '/v2/') return void reply.end('{}');
    counted.requests++;
    const path = join(dir, basename(url.pathname).replace('sha256:', ''));
    const sizeBytes = statSync(path).size;
    if (mode === '404' || mode === '500') return send(reply, Number(mode), {}, Buffer.from('no\n'));
    if (mode === 'every-other-503' && counted.requests % 2 === 1) return send(reply, 503, {}, Buffer.alloc(0));
    if (mode === 'hang') return;
    const range = /^bytes=(\d+)-(\d+)$/.exec(call.headers.range ?? '');
    if (call.method === 'HEAD') return void reply.writeHead(200, { 'content-length': `${sizeBytes}` }).end();
    if (range === null || mode === 'ignore-range') return send(reply, 200, {}, readFileSync(path));
    const from = Number(range[1]);
    const to = Math.min(Number(range[2]), sizeBytes - 1);
    const body = Buffer.alloc(to - from + 1);
    const fd = openSync(path, 'r');
    readSync(fd, body, 0, body.length, from);
    closeSync(fd);
    if (mode === 'garbage') for (let i = 0; i < body.length; i++) body[i]! ^= 0x5a;
    const headers = { 'content-range': `bytes ${from}-${to}/${sizeBytes}`, 'content-length': `${body.length}` };
    if (mode === 'short') {
      reply.writeHead(206, headers);
      reply.write(body.subarray(0, body.length >> 1));
      setTimeout(() => reply.destroy(), 20);
      return;
    }
    send(reply, 206, headers, body);
  });
  server.listen(0, '127.0.0.1', () => console.log((server.address() as { port: number }).port));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) serve(process.argv[2]!);
