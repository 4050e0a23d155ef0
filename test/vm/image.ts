/** Builds an image with our own builder and serves its blobs over HTTP, counting what is fetched. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync } from 'node:fs';
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { built } from './daemon.ts';
import { vmError } from './errors.ts';
import { spawnServer, Tail } from './process.ts';

export interface Image {
  bootstrap: string;
  blobDir: string;
}

export type Compressor = 'none' | 'lz4_block' | 'zstd';

const BUILD_TIMEOUT_MS = 180_000;

/** Runs `nydus-image create` over `source`. @throws VM_COMMAND with what the builder said. */
export function buildImage(source: string, workDir: string, compressor: Compressor, args: string[] = []): Image {
  const blobDir = join(workDir, 'blobs');
  const bootstrap = join(workDir, 'image.boot');
  mkdirSync(blobDir, { recursive: true });
  const format = ['-t', 'directory', '--fs-version', '6', '--compressor', compressor];
  const output = ['--bootstrap', bootstrap, '--blob-dir', blobDir, '--output-json', join(workDir, 'report.json')];
  const words = ['create', ...format, ...output, ...args, source];
  const done = spawnSync(built('nydus-image'), words, { encoding: 'utf8', timeout: BUILD_TIMEOUT_MS });
  if (done.error !== undefined || done.status !== 0) {
    const text = done.error === undefined ? `${done.stdout}${done.stderr}` : done.error.message;
    throw vmError('VM_COMMAND', { command: `nydus-image ${words.join(' ')}`, status: done.status, output: text });
  }
  assert.ok(existsSync(bootstrap), 'the builder ended well but wrote no bootstrap');
  return { bootstrap, blobDir };
}

/** Name of the repository blobs are served under; any single path segment does. */
export const REPO = 'demo';

/** `bin/nydus-backend-proxy` with a counter in front of it: clients talk to the counter. */
export class BlobServer {
  /** Blob requests answered, and body bytes sent, since the start or the last `reset`. */
  requests = 0;
  sentBytes = 0;
  /** A dead registry: takes requests, never answers. */
  isDead = false;

  private constructor(
    private readonly front: Server,
    private readonly stopProxy: () => void,
  ) {}

  static async start(blobDir: string): Promise<BlobServer> {
    const port = await freePort();
    const env = ['ROCKET_ADDRESS=127.0.0.1', `ROCKET_PORT=${port}`];
    const child = spawnServer('env', [...env, built('nydus-backend-proxy'), '--blobsdir', blobDir]);
    const tail = new Tail().watch(child.stdout!).watch(child.stderr!);
    const front = createServer();
    const server = new BlobServer(front, () => child.kill('SIGKILL'));
    front.on('request', (call, reply) => server.#forward(port, call, reply));
    await new Promise<void>((resolve) => front.listen(0, '127.0.0.1', resolve));
    for (let round = 0; !(await answers(port)); round++) {
      if (round > 200 || child.exitCode !== null) {
        server.stop();
        throw vmError('VM_DAEMON', { what: 'nydus-backend-proxy does not listen', log: tail.text });
      }
      await sleep(25);
    }
    return server;
  }

  get host(): string {
    return `127.0.0.1:${(this.front.address() as AddressInfo).port}`;
  }

  reset(): void {
    this.requests = 0;
    this.sentBytes = 0;
  }

  stop(): void {
    this.front.close();
    this.front.closeAllConnections();
    this.stopProxy();
  }

  #forward(port: number, call: IncomingMessage, reply: ServerResponse): void {
    if (this.isDead) return;
    const options = { host: '127.0.0.1', port, method: call.method, path: call.url, headers: call.headers };
    const onward = httpRequest(options, (response) => {
      this.requests++;
      reply.writeHead(response.statusCode ?? 502, response.headers);
      response.on('data', (chunk: Buffer) => {
        this.sentBytes += chunk.length;
      });
      response.pipe(reply);
    });
    onward.on('error', () => reply.destroy());
    call.pipe(onward);
  }
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** True when something speaks HTTP there, whatever it says. */
async function answers(port: number): Promise<boolean> {
  return await new Promise((resolve) => {
    const call = httpRequest({ host: '127.0.0.1', port, path: '/', timeout: 1000 }, (response) => {
      response.resume();
      resolve(true);
    });
    call.on('timeout', () => call.destroy());
    call.on('error', () => resolve(false));
    call.end();
  });
}
