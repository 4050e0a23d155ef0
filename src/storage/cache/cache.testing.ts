/** Cache directories, configurations and a counting blob server for the tests of the store. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { parseConfig, type StorageConfig } from '../config/config.ts';
import { BLOBS_DIR, type ExpectedChunk } from '../fixtures.testing.ts';
import type { BlobHandle } from '../types.ts';
import { SpillView } from './spill-bits.ts';

const root = mkdtempSync(join(tmpdir(), 'storage-'));
after(() => rmSync(root, { recursive: true, force: true }));
let directories = 0;

/** An empty directory that goes away with the test file. */
export function freshDir(): string {
  const dir = join(root, `${directories++}`);
  mkdirSync(dir);
  return dir;
}

/** Why a test that mounts file systems cannot run: that needs root and a kernel that lets us. */
export function mountMissing(): string | null {
  if (process.getuid?.() !== 0) return 'mounting needs root';
  const dir = freshDir();
  try {
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', dir], { stdio: 'ignore' });
    execFileSync('umount', [dir]);
    return null;
  } catch {
    return 'mount is not permitted here';
  }
}

export function localConfig(workDir: string, blobsDir = BLOBS_DIR, more: object = {}): StorageConfig {
  return config({ type: 'localfs', config: { dir: blobsDir } }, workDir, more);
}

/** Blobs at `<url>/<path>/<id>`. */
export function httpConfig(workDir: string, url: string, path: string, more: object = {}): StorageConfig {
  return config({ type: 'http-proxy', config: { addr: url, path, timeout: 3 } }, workDir, more);
}

function config(backend: object, workDir: string, more: object): StorageConfig {
  const cache = { type: 'blobcache', config: { work_dir: workDir } };
  return parseConfig(JSON.stringify({ device: { backend, cache }, mode: 'direct', ...more }));
}

export function isReady(handle: BlobHandle, index: number): boolean {
  return (new Uint8Array(handle.ready)[index >> 3] & (0x80 >> (index & 7))) !== 0;
}

/** The chunk's bit is set and its bytes are in the cache file. */
export function assertCached(handle: BlobHandle, chunk: ExpectedChunk): void {
  assert.ok(isReady(handle, chunk.index), `chunk ${chunk.index} ready`);
  const bytes = Buffer.alloc(chunk.bytes.length);
  readSync(handle.dataFd, bytes, 0, bytes.length, chunk.uncompressedOffset);
  assert.ok(bytes.equals(chunk.bytes), `chunk ${chunk.index}`);
}

/** The device thread would find the chunk, with its bytes, out of the cache or in memory. */
export function assertServed(handle: BlobHandle, chunk: ExpectedChunk): void {
  if (isReady(handle, chunk.index)) {
    assertCached(handle, chunk);
    return;
  }
  const spill = new SpillView(handle.spill);
  assert.ok(spill.has(chunk.index), `chunk ${chunk.index} in memory`);
  const bytes = Buffer.alloc(chunk.bytes.length);
  readSync(spill.fd, bytes, 0, bytes.length, chunk.uncompressedOffset);
  assert.ok(bytes.equals(chunk.bytes), `chunk ${chunk.index}`);
}

export interface Served {
  path: string;
  first: number;
  last: number;
}

export interface BlobServer {
  url: string;
  served: Served[];
  /** Replaced by tests: gets every request after it was counted; `send` answers properly. */
  onRequest: (send: () => void, response: ServerResponse, served: Served) => void;
  close(): void;
}

/** Serves blobs by the last part of the path, with ranges, and notes who asked for what. */
export async function startBlobServer(blobs: ReadonlyMap<string, Buffer>): Promise<BlobServer> {
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    const path = request.url ?? '';
    const blob = blobs.get(path.split('/').pop() ?? '');
    const match = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
    if (blob === undefined || match === null) return void response.writeHead(404).end();
    const served = { path, first: Number(match[1]), last: Number(match[2]) };
    started.served.push(served);
    const send = () => {
      response.writeHead(206, { 'content-range': `bytes ${served.first}-${served.last}/${blob.length}` });
      response.end(blob.subarray(served.first, served.last + 1));
    };
    started.onRequest(send, response, served);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const started: BlobServer = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    served: [],
    onRequest: (send) => send(),
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
  return started;
}
