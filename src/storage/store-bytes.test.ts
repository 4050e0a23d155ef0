/** Blobs whose bytes or chunk tables are wrong: nothing wrong is served or cached, and nothing wrong is remembered. */
import assert from 'node:assert/strict';
import { readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { type Logger, SILENT } from '../common/log.ts';
import { errno } from '../sys/errno.ts';
import { assertCached, freshDir, isReady, localConfig } from './cache/cache.testing.ts';
import { errnoOf } from './errors.ts';
import { blobBytes, blobTable, chunkDigests, expectedChunks, makeBlob, wantAll } from './fixtures.testing.ts';
import { BlobStore } from './store.ts';
import type { BlobInfo } from './types.ts';

const NAME = 'v6-none-blake3-4k';
const [INFO] = blobTable(NAME);
const CHUNKS = expectedChunks(INFO);
const DIGESTS = chunkDigests(NAME, 0);
/** Only what is wanted, so that requests can be counted. */
const EXACT = { amplify_io: 0 };

const stores: BlobStore[] = [];
after(() => Promise.all(stores.map((store) => store.close())));

function newStore(log: Logger = SILENT): BlobStore {
  const store = new BlobStore(log);
  stores.push(store);
  return store;
}

/** A directory of blobs with one byte of chunk `index` flipped; `repair` puts the right file there. */
function damagedBlobs(info: BlobInfo, file: Buffer, at: number): { dir: string; repair: () => void } {
  const dir = freshDir();
  const damaged = Buffer.from(file);
  damaged[at] ^= 0x10;
  writeFileSync(join(dir, info.id), damaged);
  return { dir, repair: () => writeFileSync(join(dir, info.id), file) };
}

describe('wrong bytes', () => {
  test('a flipped byte of a raw chunk: DIGEST after four tries, not cached, read again when repaired', async () => {
    const { dir, repair } = damagedBlobs(INFO, blobBytes(INFO.id), CHUNKS[3].compressedOffset + 5);
    const store = newStore();
    const config = localConfig(freshDir(), dir, { ...EXACT, digest_validate: true });
    const handle = store.openBlob(INFO, DIGESTS, config);
    await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[3]])), (error) => {
      assert.equal((error as { code: string }).code, 'DIGEST');
      assert.equal(errnoOf(error), errno.EIO);
      return true;
    });
    assert.equal(store.stats.requests, 5, 'table, chunk, chunk three times again');
    assert.ok(!isReady(handle, 3));
    await store.fetch(handle.handle, wantAll([CHUNKS[2], CHUNKS[4]]));
    assertCached(handle, CHUNKS[2]);
    repair();
    await store.fetch(handle.handle, wantAll([CHUNKS[3]]));
    assertCached(handle, CHUNKS[3]);
  });
  test('one bad chunk of a merged range fails alone', async () => {
    const { dir } = damagedBlobs(INFO, blobBytes(INFO.id), CHUNKS[3].compressedOffset + 5);
    const store = newStore();
    const handle = store.openBlob(INFO, DIGESTS, localConfig(freshDir(), dir, { digest_validate: true }));
    await assert.rejects(store.fetch(handle.handle, wantAll(CHUNKS.slice(0, 8))), { code: 'DIGEST' });
    for (const index of [0, 1, 2, 4, 5, 6, 7]) {
      await store.fetch(handle.handle, wantAll([CHUNKS[index]]));
      assertCached(handle, CHUNKS[index]);
    }
    assert.ok(!isReady(handle, 3));
  });
  for (const name of ['v6-zstd-blake3', 'v6-lz4_block-sha256-4k']) {
    test(`${name}: every 10th chunk flipped, nothing wrong is ever served`, async () => {
      const [info] = blobTable(name);
      const chunks = expectedChunks(info).filter(({ index }) => chunkDigests(name, 0)(index) !== null);
      const file = Buffer.from(blobBytes(info.id));
      const bad = chunks.filter((_, i) => i % 10 === 0);
      for (const chunk of bad) file[chunk.compressedOffset + (chunk.compressedSize >> 1)] ^= 1;
      const dir = freshDir();
      writeFileSync(join(dir, info.id), file);
      const store = newStore();
      const config = localConfig(freshDir(), dir, { digest_validate: true });
      const handle = store.openBlob(info, chunkDigests(name, 0), config);
      const results = await Promise.allSettled(chunks.map((chunk) => store.fetch(handle.handle, wantAll([chunk]))));
      let rejected = 0;
      results.forEach(({ status }, i) => {
        // A flipped match offset of a repetitive lz4 chunk may decode to the right bytes: then serving them is right.
        if (status === 'fulfilled') assertCached(handle, chunks[i]);
        else rejected++;
        if (status === 'rejected') assert.ok(bad.includes(chunks[i]));
      });
      assert.ok(rejected >= bad.length * 0.8, `${rejected} of ${bad.length}`);
    });
  }
  test('a CRC in the table is checked with validation off, too', async () => {
    const made = makeBlob([Buffer.alloc(5000, 'a'), Buffer.alloc(9000, 'b')], { compressor: 'none', crc: true });
    const { dir } = damagedBlobs(made.info, made.file, 100);
    const store = newStore();
    const handle = store.openBlob(made.info, () => null, localConfig(freshDir(), dir));
    const [first, second] = expectedChunks(made.info, made.file);
    await assert.rejects(store.fetch(handle.handle, wantAll([first])), { code: 'DIGEST', message: /CRC-32C/ });
    await store.fetch(handle.handle, wantAll([second]));
    assertCached(handle, second);
  });
  test('validation on and no digest anywhere is an error', async () => {
    const store = newStore();
    const handle = store.openBlob(INFO, () => null, localConfig(freshDir(), undefined, { digest_validate: true }));
    await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[0]])), { code: 'CHUNK', message: /no digest/ });
  });
  test('16 MiB chunks, all compressors', async () => {
    for (const compressor of ['none', 'lz4_block', 'zstd'] as const) {
      // V2 entries hold stored sizes below 16 MiB only, so a raw chunk cannot have all of it.
      const longest = compressor === 'none' ? (1 << 24) - 1 : 1 << 24;
      const contents = [Buffer.alloc(longest, 'some text '), Buffer.from('x')];
      const made = makeBlob(contents, { compressor, crc: true });
      const dir = freshDir();
      writeFileSync(join(dir, made.info.id), made.file);
      const store = newStore();
      const handle = store.openBlob(made.info, made.digests, localConfig(freshDir(), dir, { digest_validate: true }));
      const chunks = expectedChunks(made.info, made.file);
      await store.fetch(handle.handle, wantAll(chunks));
      for (const chunk of chunks) assertCached(handle, chunk);
    }
  });
});

describe('image and blob disagree', () => {
  const [chunk] = CHUNKS;
  const good = { chunkIndex: 0, uncompressedOffset: chunk.uncompressedOffset, bytes: chunk.bytes.length };
  for (const wrong of [
    { chunkIndex: INFO.chunkCount },
    { chunkIndex: -1 },
    { chunkIndex: Number.NaN },
    { uncompressedOffset: 4096 },
    { bytes: chunk.bytes.length + 1 },
  ]) {
    test(JSON.stringify(wrong), async () => {
      const store = newStore();
      const handle = store.openBlob(INFO, DIGESTS, localConfig(freshDir()));
      await assert.rejects(store.fetch(handle.handle, [{ ...good, ...wrong }]), { code: 'CHUNK' });
      await store.fetch(handle.handle, [good]);
    });
  }
});

describe('chunk tables that lie', () => {
  const made = makeBlob([Buffer.alloc(5000, 'a'), Buffer.alloc(9000, 'b')], { compressor: 'zstd', crc: true });
  const chunks = expectedChunks(made.info, made.file);
  const at = made.info.ciOffset;
  const headerAt = at + made.info.ciCompressedSize;
  const cases: Record<string, (file: Buffer) => void> = {
    'no magic': (file) => file.writeUInt8(0, headerAt),
    'another count': (file) => file.writeUInt32LE(3, headerAt + 12),
    'another offset': (file) => file.writeUInt32LE(1, headerAt + 16),
    'another compressor': (file) => file.writeUInt32LE(3, headerAt + 8),
    'chunks overlap': (file) => file.writeUInt32LE(0, at + 24),
    'chunk behind the blob': (file) => file.writeUInt32LE(1000, at + 24),
    'stored bytes behind the data': (file) => file.writeUInt32LE(1 << 20, at + 24 + 8),
    'no stored bytes': (file) => file.writeUInt32LE(file.readUInt32LE(at + 12) & 0xff, at + 12),
    'raw with two sizes': (file) => file.writeUInt8(0x10, at + 7),
    'zran flag': (file) => file.writeUInt8(0x13, at + 7),
    'CRC flag without CRC': (file) => file.writeUInt32LE(0, at + 16),
  };
  for (const [id, damage] of Object.entries(cases)) {
    test(id, async () => {
      const dir = freshDir();
      const workDir = freshDir();
      const file = Buffer.from(made.file);
      damage(file);
      writeFileSync(join(dir, made.info.id), file);
      const store = newStore();
      const handle = store.openBlob(made.info, made.digests, localConfig(workDir, dir));
      await assert.rejects(store.fetch(handle.handle, wantAll(chunks)), { code: 'BLOB_META' });
      // The next read asks the backend again.
      writeFileSync(join(dir, made.info.id), made.file);
      await store.fetch(handle.handle, wantAll(chunks));
      for (const chunk of chunks) assertCached(handle, chunk);
    });
  }
  test('a damaged blob.meta in the cache is fetched anew; a good one is used', async () => {
    const dir = freshDir();
    const workDir = freshDir();
    writeFileSync(join(dir, made.info.id), made.file);
    const path = join(workDir, `${made.info.id}.blob.meta`);
    for (const [damage, requests] of [
      [() => {}, 2],
      [() => truncateSync(path, 100), 2],
      [() => writeFileSync(path, Buffer.alloc(statSync(path).size)), 2],
      [() => {}, 1],
    ] as const) {
      damage();
      for (const suffix of ['.blob.data', '.blob.data.chunk_map'])
        rmSync(join(workDir, made.info.id + suffix), { force: true });
      const store = newStore();
      const handle = store.openBlob(made.info, made.digests, localConfig(workDir, dir));
      await store.fetch(handle.handle, wantAll(chunks));
      assert.equal(store.stats.requests, requests);
      await store.close();
    }
    const meta = readFileSync(path);
    assert.equal(meta.length, 4096 + 4096);
    assert.ok(meta.subarray(4096).equals(made.file.subarray(headerAt)));
  });
});
