/** Blobs that are not what the image says, and a map cut under an open blob: an error for the read or the right bytes. */
import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { SILENT } from '../common/log.ts';
import { assertCached, freshDir, localConfig } from './cache/cache.testing.ts';
import { blobBytes, blobTable, chunkDigests, expectedChunks, wantAll } from './fixtures.testing.ts';
import { DEMAND_POLICY } from './retry.ts';
import { BlobStore } from './store.ts';

const NAME = 'v6-zstd-blake3';
const [INFO] = blobTable(NAME);
const [OTHER] = blobTable('v6-none-blake3-4k');
const CHUNKS = expectedChunks(INFO);
const WHOLE = blobBytes(INFO.id);
const LAST = CHUNKS[CHUNKS.length - 1];

/** One try: what a bad blob does to a read is the same the second time. */
const store = new BlobStore(SILENT, { ...DEMAND_POLICY, attempts: 1 });
after(() => store.close());

function opened(blob: Buffer | null, workDir = freshDir()) {
  const dir = freshDir();
  const replace = (bytes: Buffer) => writeFileSync(join(dir, INFO.id), bytes);
  if (blob !== null) replace(blob);
  const config = localConfig(workDir, dir, { digest_validate: true, amplify_io: 0 });
  return { blob: store.openBlob(INFO, chunkDigests(NAME, 0), config), replace, workDir };
}

describe('a blob that is', () => {
  const bad: [string, Buffer | null][] = [
    ['missing', null],
    ['empty', Buffer.alloc(0)],
    ['shorter', WHOLE.subarray(0, WHOLE.length >> 1)],
    ["another image's", blobBytes(OTHER.id)],
    ['zeros', Buffer.alloc(WHOLE.length)],
  ];
  for (const [what, bytes] of bad) {
    test(`${what}: an error for the read, and the right bytes once it is mended`, async () => {
      const { blob, replace } = opened(bytes);
      await assert.rejects(store.fetch(blob.handle, wantAll([LAST])));
      replace(WHOLE);
      await store.fetch(blob.handle, wantAll([LAST]));
      assertCached(blob, LAST);
    });
  }
  test('longer: served', async () => {
    const { blob } = opened(Buffer.concat([WHOLE, Buffer.alloc(100_000, 1)]));
    await store.fetch(blob.handle, wantAll([LAST]));
    assertCached(blob, LAST);
  });
});

for (const bytes of [0, 100, 4096]) {
  test(`a map cut to ${bytes} bytes under an open blob: what is read is right, before and after`, async () => {
    const { blob, workDir } = opened(WHOLE);
    await store.fetch(blob.handle, wantAll(CHUNKS.slice(0, 20)));
    truncateSync(join(workDir, `${INFO.id}.blob.data.chunk_map`), bytes);
    await store.fetch(blob.handle, wantAll(CHUNKS.slice(10, 40)));
    for (const chunk of CHUNKS.slice(0, 40)) assertCached(blob, chunk);
    const late = opened(WHOLE, workDir);
    await store.fetch(late.blob.handle, wantAll(CHUNKS.slice(0, 60)));
    for (const chunk of CHUNKS.slice(0, 60)) assertCached(late.blob, chunk);
  });
}
