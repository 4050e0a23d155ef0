/**
 * A registry at some distance, in a thread of its own: a pause before each response, and one line with a bandwidth that all
 * connections share. Serves DIR/<id> as /v2/<repo>/blobs/sha256:<id> and counts what it was asked and what it sent.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';

export const LATENCY_MS = 5;
export const BYTES_PER_SECOND = 100e6;
/** What one connection sends before others have their turn; 1.3 ms of the line. */
const SLICE_BYTES = 128 << 10;

const REQUESTS = 0;
const BYTES = 1;

export interface Counted {
  requests: number;
  bytes: number;
}

export class BlobServer {
  private constructor(
    private readonly worker: Worker,
    readonly port: number,
    private readonly counters: Float64Array,
  ) {}

  /** @param program this module, bundled */
  static async start(program: string, dir: string): Promise<BlobServer> {
    const counters = new Float64Array(new SharedArrayBuffer(16));
    const worker = new Worker(program, { workerData: { dir, counters } });
    const port = await new Promise<number>((resolve, reject) => {
      worker.once('message', resolve);
      worker.once('error', reject);
    });
    return new BlobServer(worker, port, counters);
  }

  get backend(): object {
    return { type: 'registry', config: { scheme: 'http', host: `127.0.0.1:${this.port}`, repo: 'bench' } };
  }

  get counted(): Counted {
    return { requests: this.counters[REQUESTS], bytes: this.counters[BYTES] };
  }

  /** Counts from zero again. */
  reset(): void {
    this.counters.fill(0);
  }

  async stop(): Promise<void> {
    await this.worker.terminate();
  }
}

/** When the line is free again, in ms of `performance.now`. */
let lineFreeAt = 0;

/** Resolves when `bytes` more have gone through the line. */
async function throughLine(bytes: number): Promise<void> {
  lineFreeAt = Math.max(lineFreeAt, performance.now()) + (bytes / BYTES_PER_SECOND) * 1000;
  const waitMs = lineFreeAt - performance.now();
  if (waitMs >= 1) await sleep(waitMs);
}

async function answer(dir: string, counters: Float64Array, call: IncomingMessage, reply: ServerResponse) {
  const { pathname } = new URL(call.url ?? '/', 'http://x');
  counters[REQUESTS]++;
  await sleep(LATENCY_MS);
  if (!pathname.includes('/blobs/')) return void reply.end('{}');
  const fd = openSync(join(dir, basename(pathname).replace('sha256:', '')), 'r');
  try {
    const size = fstatSync(fd).size;
    const range = /^bytes=(\d+)-(\d*)$/.exec(call.headers.range ?? '');
    const from = range === null ? 0 : Number(range[1]);
    const end = range === null || range[2] === '' ? size : Math.min(Number(range[2]) + 1, size);
    const length = { 'content-length': end - from };
    if (range === null) reply.writeHead(200, length);
    else reply.writeHead(206, { ...length, 'content-range': `bytes ${from}-${end - 1}/${size}` });
    if (call.method === 'HEAD') return void reply.end();
    for (let at = from; at < end && !reply.destroyed; at += SLICE_BYTES) {
      const slice = Buffer.allocUnsafe(Math.min(SLICE_BYTES, end - at));
      readSync(fd, slice, 0, slice.length, at);
      await throughLine(slice.length);
      counters[BYTES] += slice.length;
      if (!reply.write(slice)) await new Promise<void>((resolve) => onceWritable(reply, resolve));
    }
    reply.end();
  } finally {
    closeSync(fd);
  }
}

function onceWritable(reply: ServerResponse, then: () => void): void {
  const ready = (): void => {
    reply.off('drain', ready).off('close', ready);
    then();
  };
  reply.on('drain', ready).on('close', ready);
}

function serve({ dir, counters }: { dir: string; counters: Float64Array }): void {
  const server = createServer((call, reply) => void answer(dir, counters, call, reply));
  server.listen(0, '127.0.0.1', () => parentPort?.postMessage((server.address() as AddressInfo).port));
}

if (!isMainThread && workerData?.counters !== undefined) serve(workerData);
