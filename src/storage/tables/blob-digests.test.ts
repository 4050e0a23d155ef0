/** Images whose bootstrap leaves the digests to the blob: table of contents and part `blob.digest`. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { SILENT } from '../../common/log.ts';
import { assertCached, freshDir, localConfig } from '../cache/cache.testing.ts';
import { blobBytes, blobTable, chunkDigests, expectedChunks, wantAll } from '../fixtures.testing.ts';
import { BlobStore } from '../store.ts';
import { fetchBlobDigests } from './blob-digests.ts';

const store = new BlobStore(SILENT);
after(() => store.close());

for (const name of ['v6-toc', 'v6-2.2']) {
  const [info] = blobTable(name);
  const chunks = expectedChunks(info);
  test(`${name}: the blob's digests are those of the bootstrap`, async () => {
    const file = blobBytes(info.id);
    const digests = await fetchBlobDigests(info, async (offset, bytes) => file.subarray(offset, offset + bytes));
    const inBootstrap = chunkDigests(name, 0);
    for (let i = 0; i < info.chunkCount; i++) assert.deepEqual(Buffer.from(digests(i) ?? []), inBootstrap(i));
    assert.equal(digests(info.chunkCount), null);
  });
  test(`${name}: chunks are verified by them when the image has none`, async () => {
    const config = localConfig(freshDir(), undefined, { digest_validate: true });
    const handle = store.openBlob(info, () => null, config);
    await store.fetch(handle.handle, wantAll(chunks));
    for (const chunk of chunks) assertCached(handle, chunk);
  });
  test(`${name}: a flipped chunk is not served`, async () => {
    const file = blobBytes(info.id);
    file[chunks[1].compressedOffset + 3] ^= 1;
    const dir = freshDir();
    writeFileSync(join(dir, info.id), file);
    const handle = store.openBlob(info, () => null, localConfig(freshDir(), dir, { digest_validate: true }));
    await assert.rejects(store.fetch(handle.handle, wantAll([chunks[1]])), /DECODE|DIGEST/);
    await store.fetch(handle.handle, wantAll([chunks[0]]));
    assertCached(handle, chunks[0]);
  });
}

describe('tables of contents that cannot be (rafs-format 9, item 34)', () => {
  const [info] = blobTable('v6-toc');
  const good = blobBytes(info.id);
  const tocAt = good.length - info.tocSize;
  /** Entry of blob.digest: behind image.blob, blob.meta and blob.meta.header. */
  const entryAt = tocAt + 3 * 128;
  const cases: [string, (file: Buffer) => void, { tocDigest: null } | object, RegExp][] = [
    ['damaged', (file) => file.writeUInt8(file[tocAt + 90] ^ 1, tocAt + 90), {}, /its digest is another one/],
    ['no such part', (file) => file.write('x', entryAt + 8), { tocDigest: null }, /no part blob.digest/],
    ['another count', (file) => file.writeUInt8(1, entryAt + 72), { tocDigest: null }, /bytes of digests for/],
    ['outside', (file) => file.writeUInt32LE(1 << 30, entryAt + 60), { tocDigest: null }, /outside the blob/],
    ['unknown flags', (file) => file.writeUInt8(3, entryAt), { tocDigest: null }, /flags 3/],
    [
      'part damaged',
      (file) => file.writeUInt8(file[entryAt + 24] ^ 1, entryAt + 24),
      { tocDigest: null },
      /another digest/,
    ],
    ['size 0x20000', () => {}, { tocSize: 0x2_0000 }, /size 131072/],
  ];
  for (const [id, damage, change, message] of cases) {
    test(id, async () => {
      const file = Buffer.from(good);
      damage(file);
      const read = async (offset: number, bytes: number) => file.subarray(offset, offset + bytes);
      await assert.rejects(fetchBlobDigests({ ...info, ...change }, read), { code: 'TOC', message });
    });
  }
});
