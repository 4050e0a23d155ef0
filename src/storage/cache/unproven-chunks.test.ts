/** What a cache file claims and nobody here has checked: chunks of other processes under validation, and of an earlier boot. */
import assert from 'node:assert/strict';
import {
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { SILENT } from '../../common/log.ts';
import { blobTable, chunkDigests, type ExpectedChunk, expectedChunks, wantAll } from '../fixtures.testing.ts';
import { BlobStore } from '../store.ts';
import type { ChunkDigests } from '../types.ts';
import { assertCached, freshDir, localConfig } from './cache.testing.ts';

const NAME = 'v6-zstd-blake3';
const [INFO] = blobTable(NAME);
const CHUNKS = expectedChunks(INFO);
const DIGESTS = chunkDigests(NAME, 0);
const CHECKED = { digest_validate: true };
const NO_DIGESTS: ChunkDigests = () => null;

const dataPath = (workDir: string) => join(workDir, `${INFO.id}.blob.data`);
const bootPath = (workDir: string) => join(workDir, 'nydusd-ts', `${INFO.id}.blob.boot`);

/** Reads all chunks through a store of its own, which must serve the right bytes. Its counters. */
async function readAll(workDir: string, more: object = {}, digests = DIGESTS, chunks = CHUNKS) {
  const store = new BlobStore(SILENT);
  const handle = store.openBlob(INFO, digests, localConfig(workDir, undefined, more));
  for (let i = 0; i < chunks.length; i += 20) await store.fetch(handle.handle, wantAll(chunks.slice(i, i + 20)));
  for (const chunk of chunks) assertCached(handle, chunk);
  const { stats } = store;
  await store.close();
  return stats;
}

function overwrite(workDir: string, chunk: ExpectedChunk, bytes: Buffer = Buffer.alloc(chunk.bytes.length)): void {
  const fd = openSync(dataPath(workDir), 'r+');
  writeSync(fd, bytes, 0, bytes.length, chunk.uncompressedOffset);
}

/** All data is gone, all bits are set. */
function zeroData(workDir: string): void {
  const fd = openSync(dataPath(workDir), 'r+');
  writeSync(fd, Buffer.alloc(fstatSync(fd).size), 0, undefined, 0);
}

function pretendOldBoot(workDir: string): void {
  const text = readFileSync(bootPath(workDir));
  text.write('0000', 'nydusd boot '.length, 'latin1');
  writeFileSync(bootPath(workDir), text);
}

describe('validation', () => {
  test('chunks of another process are checked and used; damaged ones are fetched again, once', async () => {
    const workDir = freshDir();
    await readAll(workDir);
    assert.equal((await readAll(workDir, CHECKED)).requests, 0);
    for (const index of [3, 4, 100]) overwrite(workDir, CHUNKS[index], Buffer.from('damaged'));
    const stats = await readAll(workDir, CHECKED);
    assert.equal(stats.badChunks, 3);
    assert.equal(stats.chunksFetched, 3);
    assert.equal(stats.chunksFromOthers, CHUNKS.length - 3);
    assert.equal((await readAll(workDir)).requests, 0, 'mended for everybody');
  });
  test('a damaged chunk that cannot be fetched is an error, and no process believes its bit any more', async () => {
    const workDir = freshDir();
    await readAll(workDir);
    overwrite(workDir, CHUNKS[7]);
    const cut = new BlobStore(SILENT);
    const nowhere = cut.openBlob(INFO, DIGESTS, localConfig(workDir, freshDir(), CHECKED));
    await assert.rejects(cut.fetch(nowhere.handle, wantAll([CHUNKS[7]])), { code: 'BLOB_NOT_FOUND' });
    await cut.fetch(nowhere.handle, wantAll([CHUNKS[8]]));
    await cut.close();
    const stats = await readAll(workDir);
    assert.equal(stats.chunksFetched, 1);
  });
  test('what others cached counts as cached, and is no reason to read ahead', async () => {
    const workDir = freshDir();
    const some = [CHUNKS[0], CHUNKS[30], CHUNKS[60]];
    await readAll(workDir, { amplify_io: 0 }, DIGESTS, some);
    const store = new BlobStore(SILENT);
    const { handle } = store.openBlob(INFO, DIGESTS, localConfig(workDir, undefined, CHECKED));
    assert.equal(store.chunksReady(handle), some.length);
    for (const chunk of some) await store.fetch(handle, wantAll([chunk]));
    assert.equal(store.chunksReady(handle), some.length);
    await store.close();
    assert.equal(store.stats.requests, 0);
  });
  test('chunks this process has put there are not checked again', async () => {
    const workDir = freshDir();
    const store = new BlobStore(SILENT);
    const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir, undefined, CHECKED));
    await store.fetch(handle.handle, wantAll(CHUNKS));
    await store.fetch(handle.handle, wantAll(CHUNKS));
    assert.equal(store.stats.chunksFromOthers, 0);
    await store.close();
  });
});

describe('power cut', () => {
  test('zeroed data under set bits and an old boot id: no wrong byte', async () => {
    const workDir = freshDir();
    await readAll(workDir);
    zeroData(workDir);
    pretendOldBoot(workDir);
    const stats = await readAll(workDir);
    assert.equal(stats.chunksFetched, CHUNKS.filter(({ bytes }) => bytes.some((byte) => byte !== 0)).length);
    assert.equal((await readAll(workDir)).requests, 0, 'what was fetched in this boot counts');
  });
  test('data that survived is checked and used, by one process for all', async () => {
    const workDir = freshDir();
    await readAll(workDir);
    pretendOldBoot(workDir);
    const stats = await readAll(workDir);
    assert.equal(stats.requests, 0);
    assert.equal(stats.chunksFromOthers, CHUNKS.length);
    assert.equal((await readAll(workDir)).chunksFromOthers, 0, 'counts without a check');
  });
  test('half checked when the next process comes: the rest still are suspects', async () => {
    const workDir = freshDir();
    await readAll(workDir);
    pretendOldBoot(workDir);
    await readAll(workDir, {}, DIGESTS, CHUNKS.slice(0, 200));
    zeroData(workDir);
    for (const chunk of CHUNKS.slice(0, 200)) overwrite(workDir, chunk, chunk.bytes);
    await readAll(workDir);
  });
  test('without digests everything is fetched again', async () => {
    const workDir = freshDir();
    await readAll(workDir, {}, NO_DIGESTS);
    zeroData(workDir);
    pretendOldBoot(workDir);
    const stats = await readAll(workDir, {}, NO_DIGESTS);
    assert.equal(stats.chunksFetched, CHUNKS.length);
    assert.equal((await readAll(workDir, {}, NO_DIGESTS)).requests, 0);
  });
  for (const [what, damage] of Object.entries({
    'no marker': (path: string) => unlinkSync(path),
    'an empty marker': (path: string) => writeFileSync(path, ''),
    'a marker cut in its bits': (path: string) =>
      writeFileSync(path, Buffer.concat([readFileSync(path), Buffer.alloc(3)])),
    'a marker of something else': (path: string) => writeFileSync(path, Buffer.alloc(5000, 0x41)),
  })) {
    test(`${what}: as an old boot`, async () => {
      const workDir = freshDir();
      await readAll(workDir);
      zeroData(workDir);
      damage(bootPath(workDir));
      await readAll(workDir);
      assert.ok(existsSync(bootPath(workDir)));
      assert.deepEqual(
        readdirSync(workDir).filter((name) => name.endsWith('.tmp')),
        [],
      );
    });
  }
});
