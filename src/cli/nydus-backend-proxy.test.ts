import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { createBlobServer, main } from './nydus-backend-proxy.ts';

const root = mkdtempSync(join(tmpdir(), 'proxy-'));
const dir = join(root, 'blobs');
const HEX = 'ab'.repeat(32);
const BLOB = Buffer.from(Array.from({ length: 100_000 }, (_, i) => i % 251));
const server = createBlobServer(dir);
let base = '';
let port = 0;

before(async () => {
  mkdirSync(dir);
  writeFileSync(join(dir, HEX), BLOB);
  writeFileSync(join(dir, 'image.boot'), 'boot');
  writeFileSync(join(dir, 'empty'), '');
  writeFileSync(join(root, 'secret'), 'secret');
  symlinkSync('../secret', join(dir, 'link'));
  symlinkSync('../secret', join(dir, 'cd'.repeat(32)));
  mkdirSync(join(dir, 'directory'));
  writeFileSync(join(dir, 'directory', 'inner'), 'inner');
  execFileSync('mkfifo', [join(dir, 'fifo')]);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  port = (server.address() as AddressInfo).port;
  base = `http://127.0.0.1:${port}`;
});
after(() => {
  server.close();
  server.closeAllConnections();
  rmSync(root, { recursive: true });
});

const blobUrl = () => `${base}/v2/repo/blobs/sha256:${HEX}`;

test('HEAD tells the length, GET gives the blob', async () => {
  const head = await fetch(blobUrl(), { method: 'HEAD' });
  assert.equal(head.status, 200);
  assert.equal(head.headers.get('content-length'), String(BLOB.length));
  assert.equal(head.headers.get('docker-content-digest'), `sha256:${HEX}`);
  const whole = await fetch(blobUrl());
  assert.equal(whole.status, 200);
  assert.deepEqual(Buffer.from(await whole.arrayBuffer()), BLOB);
});

describe('ranges', () => {
  for (const [header, first, last] of [
    ['bytes=0-0', 0, 0],
    ['bytes=10-19', 10, 19],
    ['bytes=99990-', 99_990, 99_999],
    ['bytes=99990-1000000', 99_990, 99_999],
    ['bytes=-5', 99_995, 99_999],
    ['bytes=-1000000', 0, 99_999],
    ['bytes=1-2,5-6', 1, 2],
    ['bytes=7-18446744073709551615', 7, 99_999],
    ['Bytes=3-4', 3, 4],
  ] as const) {
    test(header, async () => {
      const answer = await fetch(blobUrl(), { headers: { range: header } });
      assert.equal(answer.status, 206);
      assert.equal(answer.headers.get('content-range'), `bytes ${first}-${last}/${BLOB.length}`);
      assert.deepEqual(Buffer.from(await answer.arrayBuffer()), BLOB.subarray(first, last + 1));
    });
  }
  for (const header of ['bytes=100000-', 'bytes=5-4', 'bytes=-0', 'bytes=-', 'bytes=x-y', 'lines=1-2']) {
    test(`${header} is outside`, async () => {
      const answer = await fetch(blobUrl(), { headers: { range: header } });
      assert.equal(answer.status, 416);
      assert.equal(answer.headers.get('content-range'), `bytes */${BLOB.length}`);
    });
  }
});

test('repositories may be deep, and plain files are served by name', async () => {
  const deep = await fetch(`${base}/v2/library/team/app/blobs/sha256:${HEX}`, { method: 'HEAD' });
  assert.equal(deep.status, 200);
  assert.equal(await (await fetch(`${base}/image.boot`)).text(), 'boot');
  assert.equal(await (await fetch(`${base}/empty`)).text(), '');
});

test('a blob that appears later is found', async () => {
  const later = 'ef'.repeat(32);
  assert.equal((await fetch(`${base}/v2/r/blobs/sha256:${later}`)).status, 404);
  writeFileSync(join(dir, later), 'x');
  assert.equal((await fetch(`${base}/v2/r/blobs/sha256:${later}`)).status, 200);
});

test('another algorithm is a bad request, a digest that no blob has is not found', async () => {
  for (const [id, status] of [
    [HEX, 400],
    [`md5:${HEX}`, 400],
    ['sha256:..', 404],
    ['sha256:', 404],
    ['sha256:deadbeef', 404],
    [`sha256:${HEX.slice(1)}`, 404],
  ] as const) {
    assert.equal((await fetch(`${base}/v2/r/blobs/${id}`)).status, status, id);
  }
});

test('HEAD has no ranges: it tells the length of the blob', async () => {
  for (const range of ['bytes=10-19', 'bytes=100000-']) {
    const head = await fetch(blobUrl(), { method: 'HEAD', headers: { range } });
    assert.deepEqual([head.status, head.headers.get('content-length')], [200, String(BLOB.length)]);
  }
});

/** fetch normalises paths, attackers do not. */
function rawStatus(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () =>
      socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`),
    );
    let text = '';
    socket.on('data', (data) => (text += data));
    socket.on('end', () => resolve(Number(text.split(' ')[1])));
    socket.on('error', reject);
  });
}

describe('nothing outside the directory', () => {
  for (const path of [
    '/../secret',
    '/%2e%2e/secret',
    '/..%2fsecret',
    '/%2e%2e%2fsecret',
    '/..',
    '/.',
    '/',
    '//etc/passwd',
    '/%2fetc%2fpasswd',
    '/v2/r/blobs/..',
    '/v2/r/blobs/sha256:../../secret',
    '/v2/r/blobs/%2e%2e%2fsecret',
    '/link',
    `/v2/r/blobs/sha256:${'cd'.repeat(32)}`,
    '/directory',
    '/directory/inner',
    '/fifo',
    '/image.boot%00',
    '/%ff',
    `/${'n'.repeat(300)}`,
  ]) {
    test(path.slice(0, 60), async () => {
      assert.ok([400, 404].includes(await rawStatus(path)), path);
    });
  }
});

test('other methods are refused', async () => {
  assert.equal((await fetch(blobUrl(), { method: 'PUT', body: 'x' })).status, 405);
});

test('a usage error is exit code 2, a missing directory 1', async () => {
  assert.equal(await main([]), 2);
  assert.equal(await main(['--no-such-option']), 2);
  assert.equal(await main(['-b', join(root, 'nowhere')]), 1);
});
