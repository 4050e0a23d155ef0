/** Mounts come and go at one path while a guest holds files open there (A15): never another image's bytes. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { errno } from '../../src/sys/errno.ts';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { localfsConfig, NYDUSD, Nydusd } from './nydusd.ts';

const ROOT = fs.mkdtempSync(path.join(tmpdir(), 'mounts-'));
const IMAGES = 7;
const CYCLES = 300;

interface Image {
  bootstrap: string;
  blobs: string;
  content: Buffer;
}
const images: Image[] = [];

before(() => {
  for (let i = 0; i < IMAGES; i++) {
    const source = path.join(ROOT, `src-${i}`);
    const blobs = path.join(ROOT, `blobs-${i}`);
    fs.mkdirSync(source);
    fs.mkdirSync(blobs);
    const content = Buffer.from(`image ${i} `.repeat(1000 + i));
    fs.writeFileSync(path.join(source, 'f'), content);
    const bootstrap = path.join(ROOT, `${i}.boot`);
    execFileSync(path.join(path.dirname(NYDUSD), 'nydus-image'), [
      ...['create', '--bootstrap', bootstrap, '--blob-dir', blobs, source],
    ]);
    images.push({ bootstrap, blobs, content });
  }
});
after(() => fs.rmSync(ROOT, { recursive: true, force: true }));

const descriptors = (daemon: Nydusd): number => fs.readdirSync(`/proc/${daemon.pid}/fd`).length;

test(`A15: ${CYCLES} mount and umount cycles with different content at one path`, async () => {
  const daemon = await Nydusd.start();
  const client = new FuseClient(daemon.sock);
  client.init();
  const cache = path.join(ROOT, 'cache');
  fs.mkdirSync(cache);
  let old: { node: bigint; fh: bigint; content: Buffer } | null = null;
  let atStart = 0;
  let stale = 0;
  try {
    for (let cycle = 0; cycle < CYCLES; cycle++) {
      const image = images[cycle % IMAGES]!;
      const body = {
        fs_type: 'rafs',
        source: image.bootstrap,
        config: JSON.stringify(localfsConfig(image.blobs, cache)),
      };
      assert.equal((await daemon.mount('/rafs/p/lowerdir', body)).status, 204);
      const node = client.walk('/rafs/p/lowerdir/f');
      const fh = client.open(node) as bigint;
      const fresh = client.read(node, fh, 0, 20_000);
      assert.equal(fresh.error, 0);
      assert.deepEqual(fresh.body, image.content, `cycle ${cycle} shows another image`);
      if (old !== null) {
        const late: { error: number; body: Buffer } = client.read(old.node, old.fh, 0, 20_000);
        if (late.error === 0)
          assert.deepEqual(late.body, old.content, `cycle ${cycle}: an old handle shows other bytes`);
        else assert.equal(late.error, -errno.ESTALE);
        if (late.error !== 0) stale++;
        assert.notEqual(old.node, node, 'a node number is used again');
        client.forget(old.node, 1n);
      }
      old = { node, fh, content: image.content };
      assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/rafs/p/lowerdir')).status, 204);
      assert.equal(client.lookup(1n, 'rafs'), -errno.ENOENT, 'the pseudo directory is gone with its last mount');
      if (cycle === 20) atStart = descriptors(daemon);
    }
    assert.ok(stale > 0, 'umounted handles are stale');
    assert.ok(descriptors(daemon) <= atStart + 2, `descriptors ${atStart} -> ${descriptors(daemon)}`);
  } finally {
    client.close();
    daemon.kill();
  }
});

test('remount: open files keep their bytes, new lookups see the new image', async () => {
  const daemon = await Nydusd.start();
  const client = new FuseClient(daemon.sock);
  client.init();
  const cache = path.join(ROOT, 'cache2');
  fs.mkdirSync(cache);
  const bodyOf = (image: Image): object => ({
    fs_type: 'rafs',
    source: image.bootstrap,
    config: JSON.stringify(localfsConfig(image.blobs, cache)),
  });
  try {
    assert.equal((await daemon.mount('/r', bodyOf(images[0]!))).status, 204);
    const node = client.walk('/r/f');
    const fh = client.open(node) as bigint;
    const put = await daemon.request('PUT', '/api/v1/mount?mountpoint=/r', JSON.stringify(bodyOf(images[1]!)));
    assert.equal(put.status, 204, put.text);
    assert.deepEqual(client.readFile('/r/f'), images[1]!.content);
    assert.deepEqual(client.read(node, fh, 0, 20_000).body, images[0]!.content);
  } finally {
    client.close();
    daemon.kill();
  }
});
