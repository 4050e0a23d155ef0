import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { SILENT } from '../common/log.ts';
import { assertCached, freshDir, localConfig } from './cache/cache.testing.ts';
import { BLOBS_DIR, blobTable, chunkDigests, expectedChunks, makeBlob, wantAll } from './fixtures.testing.ts';
import { BlobStore } from './store.ts';

const IMAGES = [
  'v6-zstd-blake3',
  'v6-none-blake3-4k',
  'v6-none-sha256-4k',
  'v6-lz4_block-blake3-4k',
  'v6-lz4_block-sha256-4k',
  'v6-zstd-blake3-4k',
  'v6-zstd-sha256-4k',
  'v6-toc',
  'tar-v6',
  'targz-v6',
  'v6-dict',
  'merged-v6',
  'v6-2.2',
];

for (const name of IMAGES) {
  describe(`image ${name}`, () => {
    for (const validate of [false, true]) {
      test(`every chunk, validation ${validate ? 'on' : 'off'}`, async () => {
        const store = new BlobStore(SILENT);
        const config = localConfig(freshDir(), BLOBS_DIR, { digest_validate: validate });
        for (const info of blobTable(name)) {
          const used = expectedChunks(info).filter(({ index }) => chunkDigests(name, info.index)(index) !== null);
          const handle = store.openBlob(info, chunkDigests(name, info.index), config);
          await store.fetch(handle.handle, wantAll(used));
          for (const chunk of used) assertCached(handle, chunk);
        }
        await store.close();
      });
    }
    test('chunk by chunk, and again from the cache without a request', async () => {
      const workDir = freshDir();
      for (const isFirst of [true, false]) {
        const store = new BlobStore(SILENT);
        for (const info of blobTable(name)) {
          const handle = store.openBlob(info, () => null, localConfig(workDir, BLOBS_DIR, { amplify_io: 0 }));
          const chunks = expectedChunks(info);
          for (const chunk of chunks.slice(0, 40)) {
            await store.fetch(handle.handle, wantAll([chunk]));
            assertCached(handle, chunk);
          }
        }
        assert.equal(store.stats.requests > 0, isFirst);
        await store.close();
      }
    });
  });
}

test('amplify_io says how much comes with a chunk', async () => {
  const made = makeBlob(
    Array.from({ length: 96 }, (_, i) => Buffer.alloc(64 << 10, i)),
    { compressor: 'none', crc: true },
  );
  const dir = freshDir();
  writeFileSync(join(dir, made.info.id), made.file);
  for (const [amplify, chunks] of [
    [0, 1],
    [256 << 10, 4],
    [1 << 20, 13],
    [4 << 20, 64],
  ] as const) {
    const store = new BlobStore(SILENT);
    const config = localConfig(freshDir(), dir, { amplify_io: amplify });
    const { handle } = store.openBlob(made.info, made.digests, config);
    await store.fetch(handle, wantAll(expectedChunks(made.info, made.file).slice(0, 1)));
    // The rest of the range comes behind the reader.
    const untilMs = performance.now() + 10_000;
    while (store.chunksReady(handle) < chunks && performance.now() < untilMs) await sleep(5);
    await store.close();
    assert.equal(store.stats.chunksFetched, chunks, `amplify_io ${amplify}`);
  }
});

test('a cache without indexed map keeps chunks for its own process, and leaves nothing but the chunk table', async () => {
  const workDir = freshDir();
  const [info] = blobTable(IMAGES[0]);
  const chunks = expectedChunks(info).slice(0, 20);
  for (let run = 0; run < 2; run++) {
    const store = new BlobStore(SILENT);
    const config = localConfig(workDir, BLOBS_DIR, { amplify_io: 0 });
    assert.ok(config.cache !== null);
    config.cache.isUnindexed = true;
    const handle = store.openBlob(info, chunkDigests(IMAGES[0], 0), config);
    await store.fetch(handle.handle, wantAll(chunks));
    for (const chunk of chunks) assertCached(handle, chunk);
    const { chunksFetched } = store.stats;
    await store.fetch(handle.handle, wantAll(chunks));
    assert.equal(store.stats.chunksFetched, chunksFetched);
    assert.ok(chunksFetched >= chunks.length);
    await store.close();
    assert.deepEqual(readdirSync(workDir), [`${info.id}.blob.meta`]);
  }
});
