import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SILENT } from '../common/log.ts';
import { BLOB, BLOB_ID, backendSuite, NEVER } from './backend.suite.ts';
import { type Backend, checkBackend, checkBlobId, openBackend } from './backend.ts';
import { parseConfig } from './config/config.ts';
import { type AuthMode, registryMissing, startRegistry, type TestRegistry } from './registry.testing.ts';

const root = mkdtempSync(join(tmpdir(), 'backend-'));
const REPO = 'library/app';

function open(type: string, config: object): Promise<Backend> {
  return openBackend(backendConfig(type, config), SILENT);
}

function backendConfig(type: string, config: object) {
  return parseConfig(JSON.stringify({ device: { backend: { type, config } }, mode: 'direct' })).backend;
}

/** Serves BLOB at /some/where/<id> with ranges, as a plain web server does. */
function rangeServer(): Server {
  return createServer((request, response) => {
    if (request.url !== `/some/where/${BLOB_ID}`) return void response.writeHead(404).end();
    const match = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
    if (match === null)
      return void response
        .writeHead(200, { 'content-length': BLOB.length })
        .end(request.method === 'HEAD' ? undefined : BLOB);
    const [first, last] = [Number(match[1]), Math.min(Number(match[2]), BLOB.length - 1)];
    if (first > last) return void response.writeHead(416).end();
    response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${BLOB.length}` });
    response.end(BLOB.subarray(first, last + 1));
  });
}

const registries: Partial<Record<AuthMode, TestRegistry>> = {};
const web = rangeServer();
const unix = rangeServer();
const socketPath = join(root, 'web.sock');
const skipRegistry = registryMissing();

before(async () => {
  mkdirSync(join(root, 'main'));
  mkdirSync(join(root, 'other'));
  writeFileSync(join(root, 'other', BLOB_ID), BLOB);
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve));
  await new Promise<void>((resolve) => unix.listen(socketPath, resolve));
  if (skipRegistry !== null) return;
  for (const mode of ['none', 'basic', 'token'] as const) {
    const dir = join(root, mode);
    mkdirSync(dir);
    registries[mode] = await startRegistry(dir, mode, REPO, new Map([[BLOB_ID, BLOB]]));
  }
});

after(async () => {
  for (const registry of Object.values(registries)) await registry.close();
  for (const server of [web, unix]) {
    server.closeAllConnections();
    server.close();
  }
  rmSync(root, { recursive: true });
});

const registryConfig = (mode: AuthMode, more: object = {}) => ({
  scheme: 'http',
  host: registries[mode]?.host,
  repo: REPO,
  auth: registries[mode]?.auth,
  ...more,
});

backendSuite('localfs, alternative directory', null, () =>
  open('localfs', { dir: join(root, 'main'), alt_dirs: [join(root, 'nowhere'), join(root, 'other')] }),
);
backendSuite('http-proxy over TCP', null, () =>
  open('http-proxy', { addr: `http://127.0.0.1:${(web.address() as AddressInfo).port}`, path: '/some/where' }),
);
backendSuite('http-proxy over a socket', null, () => open('http-proxy', { addr: socketPath, path: 'some/where/' }));
for (const mode of ['none', 'basic', 'token'] as const) {
  backendSuite(`registry, auth ${mode}`, skipRegistry, () => open('registry', registryConfig(mode)));
}

describe('registry credentials', { skip: skipRegistry ?? false }, () => {
  test('one token serves many requests, asked for by GET when POST is refused', async () => {
    const registry = registries.token;
    assert.ok(registry);
    registry.tokens.length = 0;
    const backend = await open('registry', registryConfig('token'));
    await Promise.all(Array.from({ length: 20 }, (_, i) => backend.read(BLOB_ID, i, 1, NEVER)));
    for (let i = 0; i < 5; i++) await backend.read(BLOB_ID, i, 1, NEVER);
    assert.ok(registry.tokens.length >= 1 && registry.tokens.length <= 2, `${registry.tokens.length} tokens`);
    backend.close();
  });
  test('a token that has run out is renewed', async () => {
    const registry = registries.token;
    assert.ok(registry);
    registry.setTokenSeconds(2);
    registry.tokens.length = 0;
    const backend = await open('registry', registryConfig('token'));
    await backend.read(BLOB_ID, 0, 1, NEVER);
    await new Promise((resolve) => setTimeout(resolve, 1200));
    await backend.read(BLOB_ID, 0, 1, NEVER);
    assert.equal(registry.tokens.length, 2);
    registry.setTokenSeconds(600);
    backend.close();
  });
  test('wrong and missing credentials are HTTP_AUTH, and are not shown', async () => {
    const wrong = Buffer.from('reader:hunter2').toString('base64');
    for (const mode of ['basic', 'token'] as const) {
      for (const auth of [wrong, '']) {
        const backend = await open('registry', registryConfig(mode, { auth }));
        await assert.rejects(backend.read(BLOB_ID, 0, 1, NEVER), (error: Error & { code: string }) => {
          assert.equal(error.code, 'HTTP_AUTH');
          assert.ok(!error.message.includes(wrong) && !error.message.includes('hunter2'));
          return true;
        });
        backend.close();
      }
    }
  });
  test('registry_token is used as it is', async () => {
    const backend = await open('registry', registryConfig('basic', { auth: '', registry_token: 'no-good' }));
    await assert.rejects(backend.read(BLOB_ID, 0, 1, NEVER), { code: 'HTTP_AUTH' });
    backend.close();
  });
});

test('localfs: one named file for every id', async () => {
  const backend = await open('localfs', { blob_file: join(root, 'other', BLOB_ID) });
  assert.ok((await backend.read('anything', 5, 3, NEVER)).equals(BLOB.subarray(5, 8)));
  backend.close();
});

test('localfs: directories that cannot be looked into are passed over, and named when no other has the blob', async () => {
  const dirs = { dir: join(root, 'main', 'file'), alt_dirs: ['d'.repeat(300), join(root, 'other')] };
  writeFileSync(dirs.dir, '');
  const backend = await open('localfs', dirs);
  assert.deepEqual(await backend.read(BLOB_ID, 0, 9, NEVER), BLOB.subarray(0, 9));
  await assert.rejects(backend.read('absent', 0, 9, NEVER), { code: 'BLOB_READ', message: /ENOTDIR/ });
  backend.close();
});

test('localfs: a blob that appears after a failure is found', async () => {
  const backend = await open('localfs', { dir: join(root, 'main') });
  const id = 'a'.repeat(64);
  await assert.rejects(backend.read(id, 0, 1, NEVER), { code: 'BLOB_NOT_FOUND' });
  writeFileSync(join(root, 'main', id), 'x');
  assert.equal((await backend.read(id, 0, 1, NEVER)).toString(), 'x');
  backend.close();
});

test('localfs: a directory that hangs keeps neither readers nor the last threads of the pool', async () => {
  // Opening a pipe waits for its other end, as opening a file of a dead server does for the server.
  const ids = Array.from({ length: 8 }, (_, i) => `${i}`.repeat(64));
  const pipes = ids.map((id) => join(root, 'main', id));
  execFileSync('mkfifo', pipes);
  const backend = await open('localfs', { dir: join(root, 'main') });
  const reading = new AbortController();
  const reads = ids.map((id) => backend.read(id, 0, 1, reading.signal));
  try {
    const other = await open('localfs', { dir: join(root, 'other') });
    assert.deepEqual(await other.read(BLOB_ID, 0, 3, AbortSignal.timeout(10_000)), BLOB.subarray(0, 3));
    other.close();
    reading.abort(new Error('too late'));
    for (const read of reads) await assert.rejects(read, /too late/);
  } finally {
    const ends = pipes.map((pipe) => openSync(pipe, 'r+'));
    // Every opening ends now; no pipe can be read at an offset.
    await Promise.allSettled(ids.map((id) => backend.read(id, 0, 1, NEVER)));
    backend.close();
    for (const end of ends) closeSync(end);
  }
});

test('files of this machine are looked for at mount', () => {
  const notPem = join(root, 'main', 'note.txt');
  writeFileSync(notPem, 'hello');
  const addr = 'http://127.0.0.1:1';
  const cases: [string, object, RegExp][] = [
    ['localdisk', { device_path: join(root, 'nowhere') }, /device_path: cannot be read: ENOENT/],
    ['http-proxy', { addr: join(root, 'nowhere.sock') }, /addr: cannot be read: ENOENT/],
    ['http-proxy', { addr, ca_cert_files: [join(root, 'nowhere')] }, /ca_cert_files: cannot be read: ENOENT/],
    ['http-proxy', { addr, ca_cert_files: [notPem] }, /ca_cert_files: is no PEM file/],
  ];
  for (const [type, config, message] of cases) {
    assert.throws(() => checkBackend(backendConfig(type, config)), { code: 'CONFIG', message });
  }
});

test('blob ids that are no plain names are refused', () => {
  for (const id of ['', '.', '..', '../x', 'a/b', 'a\\b', 'a\0b', 'a?b', 'a#b', 'a%2fb', 'a b', 'x'.repeat(201)]) {
    assert.throws(() => checkBlobId(id), { code: 'CONFIG' }, JSON.stringify(id));
  }
  checkBlobId(BLOB_ID);
  checkBlobId('Vendor-Blob_1.0');
});
