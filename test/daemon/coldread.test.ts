/** A cold read of one file of a 500 MB image fetches that file, the metadata, and less than 1 MiB more. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { FaultServer } from './fault-server.ts';
import { NYDUSD, Nydusd } from './nydusd.ts';

const ROOT = fs.mkdtempSync(path.join(tmpdir(), 'coldread-'));
const FILES = 1000;
const FILE_BYTES = 512 * 1024;
const MIB = 1024 * 1024;

after(() => fs.rmSync(ROOT, { recursive: true, force: true }));

/** 500 MB in 1,000 files that compress to about half. */
function makeTree(root: string): void {
  const block = Buffer.alloc(FILE_BYTES);
  for (let i = 0; i < FILES; i++) {
    const dir = path.join(root, String(i % 20));
    if (i < 20) fs.mkdirSync(dir, { recursive: true });
    randomFillSync(block, 0, FILE_BYTES / 2);
    block.fill(`file ${i} `, FILE_BYTES / 2);
    fs.writeFileSync(path.join(dir, `f${i}`), block);
  }
}

test('one file of a 500 MB image', async () => {
  const source = path.join(ROOT, 'src');
  makeTree(source);
  const bootstrap = path.join(ROOT, 'boot');
  const blobs = path.join(ROOT, 'blobs');
  fs.mkdirSync(blobs);
  execFileSync(path.join(path.dirname(NYDUSD), 'nydus-image'), ['create', '-B', bootstrap, '-D', blobs, source]);
  const blobBytes = fs.statSync(path.join(blobs, fs.readdirSync(blobs)[0]!)).size;
  assert.ok(blobBytes > 200 * MIB, `${blobBytes}`);
  const server = await FaultServer.start(blobs);
  const cache = path.join(ROOT, 'cache');
  fs.mkdirSync(cache);
  const config = {
    device: {
      backend: { type: 'registry', config: { scheme: 'http', host: server.host, repo: 'r' } },
      cache: { type: 'blobcache', config: { work_dir: cache } },
    },
    mode: 'direct',
    digest_validate: false,
  };
  const body = { fs_type: 'rafs', source: bootstrap, config: JSON.stringify(config) };
  const daemons: Nydusd[] = [];
  const readOne = async (): Promise<{ requests: number; bytes: number }> => {
    const daemon = await Nydusd.start();
    daemons.push(daemon);
    assert.equal((await daemon.mount('/i', body)).status, 204);
    const client = new FuseClient(daemon.sock);
    client.init();
    await server.mode('ok');
    const file = path.join('7', 'f507');
    assert.ok(client.readFile(`/i/${file}`).equals(fs.readFileSync(path.join(source, file))));
    client.close();
    return server.mode('ok');
  };
  try {
    const first = await readOne();
    // What the file itself costs compressed is at most its size; the chunk table of 1,000 chunks has 24 KB.
    const extra = first.bytes - FILE_BYTES / 2;
    assert.ok(extra < MIB, `${first.bytes} bytes in ${first.requests} requests for a file of ${FILE_BYTES}`);
    assert.deepEqual(await readOne(), { requests: 0, bytes: 0, ranges: [] }, 'a second daemon on the same cache');
  } finally {
    for (const daemon of daemons) daemon.kill();
    server.stop();
  }
});
