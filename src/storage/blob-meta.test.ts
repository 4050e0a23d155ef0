import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BlobMeta } from './blob-meta.ts';
import { freshDir } from './cache.testing.ts';
import { blobBytes, blobTable, expectedChunks, makeBlob } from './fixtures.testing.ts';
import type { BlobInfo } from './types.ts';

function reader(file: Buffer): { read: (offset: number, bytes: number) => Promise<Buffer>; calls: () => number } {
  let calls = 0;
  return {
    read: async (offset, bytes) => {
      calls++;
      return file.subarray(offset, offset + bytes);
    },
    calls: () => calls,
  };
}

for (const name of ['v6-zstd-blake3', 'v6-none-blake3-4k', 'v6-lz4_block-blake3-4k', 'v6-toc', 'v6-2.2']) {
  test(`${name}: one read, then the file in the shape of rafs-format 6.3`, async () => {
    const [info] = blobTable(name);
    const path = join(freshDir(), 'meta');
    const source = reader(blobBytes(info.id));
    const meta = await BlobMeta.open(info, path, source.read);
    for (const chunk of expectedChunks(info)) {
      const entry = meta.chunk(chunk.index);
      assert.equal(entry.uncompressedOffset, chunk.uncompressedOffset);
      assert.equal(entry.uncompressedSize, chunk.bytes.length);
      assert.equal(entry.compressedOffset, chunk.compressedOffset);
      assert.equal(entry.compressedSize, chunk.compressedSize);
    }
    meta.close();
    assert.equal(statSync(path).size, Math.ceil(info.ciUncompressedSize / 4096) * 4096 + 4096);
    const header = info.ciOffset + info.ciCompressedSize;
    assert.ok(
      readFileSync(path)
        .subarray(-4096)
        .equals(blobBytes(info.id).subarray(header, header + 4096)),
    );
    (await BlobMeta.open(info, path, source.read)).close();
    assert.equal(source.calls(), 1);
  });
}

test('a table of many pages, read in any order, beyond what is kept', async () => {
  const count = 40_000;
  const made = makeBlob(
    Array.from({ length: count }, (_, i) => Buffer.from([i & 0xff])),
    { compressor: 'none', crc: false },
  );
  const meta = await BlobMeta.open(made.info, join(freshDir(), 'meta'), reader(made.file).read);
  for (let i = 0; i < count; i++) {
    const index = (i * 7919) % count;
    const entry = meta.chunk(index);
    assert.equal(entry.compressedOffset, index);
    assert.equal(entry.uncompressedOffset, index * 4096);
  }
  meta.close();
});

test('a cached table of another blob is not believed', async () => {
  const first = makeBlob([Buffer.from('one'), Buffer.from('two')], { compressor: 'none', crc: true });
  const second = makeBlob([Buffer.from('three'), Buffer.from('four')], { compressor: 'none', crc: true });
  const dir = freshDir();
  (await BlobMeta.open(first.info, join(dir, 'first'), reader(first.file).read)).close();
  copyFileSync(join(dir, 'first'), join(dir, 'second'));
  const source = reader(second.file);
  const meta = await BlobMeta.open(second.info, join(dir, 'second'), source.read);
  assert.equal(source.calls(), 1);
  assert.equal(meta.chunk(0).uncompressedSize, 5);
  meta.close();
});

test('random damage to a compressed table is an error or a valid table, never a crash', async () => {
  const [info] = blobTable('v6-zstd-blake3');
  const good = blobBytes(info.id);
  const end = info.ciOffset + info.ciCompressedSize + 4096;
  for (let round = 0; round < 200; round++) {
    const file = Buffer.from(good);
    file[info.ciOffset + ((round * 7919) % (end - info.ciOffset))] ^= 1 << (round % 8);
    try {
      (await BlobMeta.open(info, join(freshDir(), 'meta'), reader(file).read)).close();
    } catch (error) {
      assert.ok(['BLOB_META', 'DECODE'].includes((error as { code: string }).code), String(error));
    }
  }
});

test('no table in the image, or one in a compressor nobody knows', async () => {
  const [info] = blobTable('v6-zstd-blake3');
  const refused: Partial<BlobInfo>[] = [{ ciCompressedSize: 0 }, { ciUncompressedSize: 0 }, { ciCompressor: 9 }];
  for (const change of refused) {
    const opening = BlobMeta.open({ ...info, ...change }, join(freshDir(), 'meta'), reader(blobBytes(info.id)).read);
    await assert.rejects(opening, { code: 'BLOB_META' });
  }
});

test('a table that cannot be moved to its place serves this process, and leaves no descriptor behind', async () => {
  const [info] = blobTable('v6-zstd-blake3');
  const path = join(freshDir(), 'meta');
  mkdirSync(path);
  const before = readdirSync('/proc/self/fd').length;
  const meta = await BlobMeta.open(info, path, reader(blobBytes(info.id)).read);
  assert.equal(meta.chunk(0).compressedOffset, 0);
  meta.close();
  assert.equal(readdirSync('/proc/self/fd').length, before);
});
