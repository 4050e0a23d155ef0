/** A cache directory within its limits: the longest unused blobs go, none that is open, and no read fails. */
import assert from 'node:assert/strict';
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  renameSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { SILENT } from '../../common/log.ts';
import { type ExpectedChunk, type MadeBlob, makeBlob, wantAll } from '../fixtures.testing.ts';
import { BlobStore } from '../store.ts';
import { assertServed, freshDir, localConfig } from './cache.testing.ts';
import { readCacheDir } from './cache-dir.ts';
import { evictBlob, isBlobInUse } from './cache-evict.ts';
import { makeRoom } from './cache-keeper.ts';
import { type CacheLimits, MARKS_DEFAULT, pressureOf, type Usage } from './cache-limits.ts';

const CHUNK_BYTES = 64 << 10;
const CHUNKS = 16;
const BLOB_BYTES = CHUNKS * CHUNK_BYTES;

/** Blobs of a megabyte each, and a directory that serves them. */
function makeBlobs(count: number): { blobs: MadeBlob[]; dir: string; chunksOf: (blob: number) => ExpectedChunk[] } {
  const dir = freshDir();
  const contents = Array.from({ length: count }, (_, b) =>
    Array.from({ length: CHUNKS }, (_, i) => Buffer.alloc(CHUNK_BYTES, `blob ${b} chunk ${i}`)),
  );
  const blobs = contents.map((chunks) => makeBlob(chunks, { compressor: 'none', crc: true }));
  for (const { info, file } of blobs) writeFileSync(join(dir, info.id), file);
  const chunksOf = (blob: number) =>
    contents[blob].map((bytes, index) => {
      const uncompressedOffset = index * CHUNK_BYTES;
      return { index, uncompressedOffset, compressedOffset: uncompressedOffset, compressedSize: CHUNK_BYTES, bytes };
    });
  return { blobs, dir, chunksOf };
}

function limitedConfig(workDir: string, blobsDir: string, limits: object) {
  const backend = { type: 'localfs', config: { dir: blobsDir } };
  const cache = { type: 'blobcache', config: { work_dir: workDir, ...limits } };
  return localConfig(workDir, blobsDir, { device: { backend, cache } });
}

async function usedBytes(workDir: string): Promise<number> {
  return (await readCacheDir(workDir)).bytes;
}

function filesOf(workDir: string, blobId: string): string[] {
  const names = readdirSync(workDir, { recursive: true, encoding: 'utf8' });
  return names.filter((name) => basename(name).startsWith(blobId)).map((name) => join(workDir, name));
}

describe('under load', () => {
  test('a cache above its quota comes below run, without a failing read', async () => {
    const workDir = freshDir();
    const { blobs, dir, chunksOf } = makeBlobs(12);
    const fill = new BlobStore(SILENT);
    for (const [i, { info, digests }] of blobs.slice(0, 8).entries()) {
      await fill.fetch(fill.openBlob(info, digests, localConfig(workDir, dir)).handle, wantAll(chunksOf(i)));
    }
    await fill.close();
    const quotaBytes = 4 * BLOB_BYTES;
    assert.ok((await usedBytes(workDir)) > quotaBytes);
    const store = new BlobStore(SILENT);
    const config = limitedConfig(workDir, dir, { quota_bytes: quotaBytes, brun: 30, bcull: 20, bstop: 5 });
    for (const [i, { info, digests }] of blobs.slice(8).entries()) {
      const blob = store.openBlob(info, digests, config);
      for (const chunk of chunksOf(8 + i)) {
        await store.fetch(blob.handle, wantAll([chunk]));
        assertServed(blob, chunk);
        await sleep(5);
      }
      store.closeBlob(blob.handle);
    }
    for (let i = 0; i < 100 && (await usedBytes(workDir)) > quotaBytes * 0.7; i++) await sleep(50);
    assert.ok((await usedBytes(workDir)) <= quotaBytes * 0.7);
    await store.close();
  });

  test('past stop with every blob open: reads go on uncached, nothing open is removed', async () => {
    const workDir = freshDir();
    const { blobs, dir, chunksOf } = makeBlobs(4);
    const store = new BlobStore(SILENT);
    const quotaBytes = 2 * BLOB_BYTES;
    const config = limitedConfig(workDir, dir, { quota_bytes: quotaBytes });
    const opened = blobs.map(({ info, digests }) => store.openBlob(info, digests, config));
    for (const [i, blob] of opened.entries()) {
      for (const chunk of chunksOf(i)) {
        await store.fetch(blob.handle, wantAll([chunk]));
        assertServed(blob, chunk);
      }
      await sleep(20);
    }
    assert.ok(store.stats.chunksUncached > 0);
    assert.ok((await usedBytes(workDir)) <= quotaBytes * 1.1, `${await usedBytes(workDir)}`);
    for (const { info } of blobs) assert.ok(existsSync(join(workDir, `${info.id}.blob.data`)));
    await store.close();
  });
});

describe('eviction', () => {
  const filled = async () => {
    const workDir = freshDir();
    const { blobs, dir, chunksOf } = makeBlobs(3);
    const store = new BlobStore(SILENT);
    for (const [i, { info, digests }] of blobs.entries()) {
      await store.fetch(store.openBlob(info, digests, localConfig(workDir, dir)).handle, wantAll(chunksOf(i)));
    }
    await store.close();
    return { workDir, dir, blobs, ids: blobs.map(({ info }) => info.id), chunksOf };
  };
  const quotaOf = (quotaBytes: number): CacheLimits => ({
    quotaBytes,
    quota: MARKS_DEFAULT,
    blocks: null,
    inodes: null,
  });

  test('all files of the longest unused go, and only they', async () => {
    const { workDir, ids } = await filled();
    for (const [i, id] of [ids[1], ids[2], ids[0]].entries()) {
      const at = new Date(Date.now() - (3 - i) * 60_000);
      for (const path of filesOf(workDir, id)) utimesSync(path, at, at);
    }
    const limits = quotaOf(2.5 * BLOB_BYTES);
    const dry = await makeRoom(workDir, limits, await readCacheDir(workDir), true);
    assert.deepEqual(dry.blobIds, [ids[1]]);
    assert.ok(filesOf(workDir, ids[1]).length > 0);
    const freed = await makeRoom(workDir, limits, await readCacheDir(workDir));
    assert.deepEqual(freed.blobIds, [ids[1]]);
    assert.deepEqual(filesOf(workDir, ids[1]), []);
    assert.equal((await readCacheDir(workDir)).blobs.length, 2);
  });

  for (const file of ['.blob.data', '.blob.data.chunk_map']) {
    test(`not while somebody has ${file} open`, async () => {
      const { workDir, ids } = await filled();
      const fd = openSync(join(workDir, ids[0] + file), 'r');
      assert.equal(isBlobInUse(workDir, ids[0]), true);
      assert.equal(evictBlob(workDir, ids[0]), false);
      assert.ok(existsSync(join(workDir, `${ids[0]}.blob.data.chunk_map`)));
      closeSync(fd);
      assert.equal(evictBlob(workDir, ids[0]), true);
      assert.deepEqual(filesOf(workDir, ids[0]), []);
    });
  }

  test('a blob whose data is a symbolic link is passed over; those behind it go', async () => {
    const { workDir, ids } = await filled();
    const data = join(workDir, `${ids[0]}.blob.data`);
    renameSync(data, join(workDir, 'elsewhere'));
    symlinkSync('elsewhere', data);
    const freed = await makeRoom(workDir, quotaOf(1), await readCacheDir(workDir));
    assert.deepEqual(freed.blobIds.sort(), ids.slice(1).sort());
    assert.ok(existsSync(join(workDir, 'elsewhere')));
  });

  test('a blob that was evicted is fetched again when it is opened', async () => {
    const { workDir, dir, blobs, chunksOf } = await filled();
    for (const { info } of blobs) {
      assert.ok(evictBlob(workDir, info.id));
      assert.deepEqual(filesOf(workDir, info.id), []);
    }
    const store = new BlobStore(SILENT);
    const blob = store.openBlob(blobs[0].info, blobs[0].digests, localConfig(workDir, dir));
    await store.fetch(blob.handle, wantAll(chunksOf(0)));
    for (const chunk of chunksOf(0)) assertServed(blob, chunk);
    await store.close();
  });

  test('temporary files of dead processes are leftovers, those of others are not', async () => {
    const { workDir, ids } = await filled();
    const old = new Date(Date.now() - 3_600_000);
    const dead = `${ids[0]}.blob.data.${2 ** 22 + 1}.0.tmp`;
    for (const name of [dead, `${ids[0]}.blob.data.${process.pid}.0.tmp`, 'somebody.else']) {
      writeFileSync(join(workDir, name), 'x');
      utimesSync(join(workDir, name), old, old);
    }
    writeFileSync(join(workDir, `${ids[0]}.blob.meta.${2 ** 22 + 1}.1.tmp`), 'young');
    const { leftovers } = await readCacheDir(workDir);
    assert.deepEqual(
      leftovers.map(({ name }) => name),
      [dead],
    );
  });
});

test('limits: the worst of quota, blocks and inodes counts', () => {
  const marks = { run: 30, cull: 20, stop: 10 };
  const limits: CacheLimits = { quotaBytes: 1000, quota: marks, blocks: marks, inodes: marks };
  const usage = (usedBytes: number, blocks: number, inodes: number): Usage => ({
    usedBytes,
    blocks: { free: blocks, all: 100 },
    inodes: { free: inodes, all: 100 },
  });
  assert.equal(pressureOf(limits, usage(700, 30, 30)), 'ok');
  assert.equal(pressureOf(limits, usage(701, 30, 30)), 'full');
  assert.equal(pressureOf(limits, usage(801, 30, 30)), 'cull');
  assert.equal(pressureOf(limits, usage(901, 30, 30)), 'stop');
  assert.equal(pressureOf(limits, usage(0, 19, 30)), 'cull');
  assert.equal(pressureOf(limits, usage(0, 100, 9)), 'stop');
  assert.equal(pressureOf({ ...limits, quotaBytes: 0, blocks: null }, usage(5000, 0, 50)), 'ok');
  assert.equal(pressureOf(limits, { ...usage(0, 50, 0), inodes: { free: 0, all: 0 } }), 'ok', 'no inodes are counted');
});
