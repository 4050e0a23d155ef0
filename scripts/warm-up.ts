/**
 * What the daemon of a pod does first, once, for `build.mjs`: V8's code cache then holds what it needs. An image is mounted
 * from a registry on the command line and by the API, listed and read, on demand and after prefetch.
 *
 *     node warm-up.cjs NYDUS-IMAGE NYDUSD…      NYDUSD: program of the daemon and what goes before its own arguments
 *
 * Needs neither root nor /dev/fuse: this process is the guest.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { FuseClient, readArgs } from '../src/virtiofs/testing/fuse-client.ts';

const START_MS_MAX = 10_000;
const PREFETCH_MS = 300;
const FILES = 60;

/** A registry, in a thread: the guest below waits without an event loop. */
const SERVER = `
const { createServer } = require('node:http');
const { parentPort, workerData } = require('node:worker_threads');
const { readFileSync } = require('node:fs');
createServer((call, reply) => {
  const bytes = readFileSync(workerData + '/' + call.url.split('sha256:')[1]);
  const [, from, to] = /^bytes=(\\d+)-(\\d+)$/.exec(call.headers.range ?? '').map(Number);
  const part = bytes.subarray(from, to + 1);
  reply.writeHead(206, { 'content-length': part.length, 'content-range': 'bytes ' + from + '-' + to + '/' + bytes.length });
  reply.end(part);
}).listen(0, '127.0.0.1', function () { parentPort.postMessage(this.address().port); });`;

function makeTree(root: string): void {
  for (let i = 0; i < FILES; i++) {
    const dir = join(root, `d${i % 3}`);
    mkdirSync(dir, { recursive: true });
    // Some smaller than a page, some of several chunks.
    writeFileSync(
      join(dir, `f${i}`),
      Array.from({ length: 10 * (i + 1) ** 2 }, (_, line) => `${i} ${line * i}\n`).join(''),
    );
  }
  writeFileSync(join(root, 'large'), Buffer.alloc(5 << 20, 'large '));
  symlinkSync('large', join(root, 'link'));
}

function configOf(port: number, workDir: string, prefetch: boolean): string {
  mkdirSync(workDir);
  const backend = { type: 'registry', config: { scheme: 'http', host: `127.0.0.1:${port}`, repo: 'r' } };
  return JSON.stringify({
    device: { backend, cache: { type: 'blobcache', config: { work_dir: workDir } } },
    mode: 'direct',
    digest_validate: true,
    amplify_io: 1 << 20,
    fs_prefetch: { enable: prefetch, prefetch_all: prefetch },
  });
}

function readSome(client: FuseClient, at: string): void {
  const nodeid = client.walk(`${at}/d1`);
  client.call('OPENDIR', Buffer.alloc(8), { nodeid, replyBytes: 16 });
  for (const op of ['READDIRPLUS', 'READDIR'] as const)
    client.call(op, readArgs(0n, 0, 4096), { nodeid, replyBytes: 4096 });
  client.call('RELEASEDIR', Buffer.alloc(24), { nodeid });
  client.getattr(nodeid);
  client.lookup(nodeid, 'absent');
  client.call('READLINK', Buffer.alloc(0), { nodeid: client.walk(`${at}/link`), replyBytes: 4096 });
  for (let i = 0; i < FILES; i += 2) client.readFile(`${at}/d${i % 3}/f${i}`);
  client.readFile(`${at}/large`);
}

function ask(socketPath: string, method: string, path: string, body = ''): Promise<void> {
  return new Promise((resolve, reject) => {
    const call = request({ socketPath, method, path }, (answer) => answer.resume().on('end', resolve));
    call.on('error', reject).end(body);
  });
}

async function main([builder, program, ...before]: string[]): Promise<void> {
  if (builder === undefined || program === undefined) throw new Error('usage: warm-up.cjs NYDUS-IMAGE NYDUSD…');
  const dir = mkdtempSync(join(tmpdir(), 'nydusd-warm-up-'));
  let daemon: ChildProcess | null = null;
  // What the build sends when this takes too long.
  process.once('SIGTERM', () => {
    daemon?.kill('SIGKILL');
    process.exit(1);
  });
  const at = (name: string) => join(dir, name);
  try {
    makeTree(at('tree'));
    mkdirSync(at('blobs'));
    execFileSync(builder, ['create', '--bootstrap', at('boot'), '--blob-dir', at('blobs'), at('tree')], {
      stdio: 'ignore',
    });
    const server = new Worker(SERVER, { eval: true, workerData: at('blobs') });
    const port = await new Promise<number>((resolve) => server.once('message', resolve));
    writeFileSync(at('config'), configOf(port, at('cache-a'), false));
    const args = [
      'virtiofs',
      '--sock',
      at('fs'),
      '--apisock',
      at('api'),
      '--bootstrap',
      at('boot'),
      '--config',
      at('config'),
    ];
    daemon = spawn(program, [...before, ...args], { stdio: ['ignore', 'ignore', 'inherit'] });
    const ended = once(daemon, 'exit');
    for (const until = Date.now() + START_MS_MAX; !existsSync(at('api')) && Date.now() < until; ) await sleep(5);
    const client = new FuseClient(at('fs'));
    client.init();
    readSome(client, '');
    await ask(at('api'), 'GET', '/api/v1/daemon');
    const mount = { fs_type: 'rafs', source: at('boot'), config: configOf(port, at('cache-b'), true) };
    await ask(at('api'), 'POST', '/api/v1/mount?mountpoint=/b', JSON.stringify(mount));
    readSome(client, '/b');
    await sleep(PREFETCH_MS);
    client.close();
    daemon.kill('SIGTERM');
    await ended;
    await server.terminate();
  } finally {
    daemon?.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  }
}

main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${error instanceof Error ? error.stack : error}\n`);
  process.exitCode = 1;
});
