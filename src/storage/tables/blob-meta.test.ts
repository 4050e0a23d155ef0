import assert from 'node:assert/strict';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fdCount } from '../../common/descriptors.testing.ts';
import { freshDir } from '../cache/cache.testing.ts';
import { CODECS } from '../codecs/codecs.ts';
import { blobBytes, blobTable, expectedChunks, makeBlob } from '../fixtures.testing.ts';
import type { BlobInfo } from '../types.ts';
import { CHUNK_INFO_V2_BYTES, encodeCctHeader, encodeChunkInfo, FEATURE } from './blob-layout.ts';
import { BlobMeta } from './blob-meta.ts';

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
  const before = fdCount();
  const meta = await BlobMeta.open(info, path, reader(blobBytes(info.id)).read);
  assert.equal(meta.chunk(0).compressedOffset, 0);
  meta.close();
  assert.equal(fdCount(), before);
});

describe('a table of many megabytes', () => {
  const features = FEATURE.ALIGNED | FEATURE.CAP_TAR_TOC | FEATURE.CHUNK_INFO_V2;
  const chunkCount = 400_000;
  const table = Buffer.alloc(chunkCount * CHUNK_INFO_V2_BYTES);
  for (let i = 0; i < chunkCount; i++) {
    const place = { compressedOffset: i, compressedSize: 1, uncompressedOffset: i * 4096, uncompressedSize: 1 };
    encodeChunkInfo(table, i * CHUNK_INFO_V2_BYTES, features, { ...place, flags: 0, low: 0, high: 0 });
  }
  /** A blob of the table alone. */
  function made(stored: Buffer, compressor: number): { info: BlobInfo; file: Buffer } {
    const sizes = { ciOffset: chunkCount, ciCompressedSize: stored.length, ciUncompressedSize: table.length };
    const context = { contextOffset: 0, contextSize: 0, contextCount: 0 };
    const header = encodeCctHeader({ features, ciCompressor: compressor, chunkCount, ...sizes, ...context });
    const file = Buffer.concat([Buffer.alloc(chunkCount), stored, header]);
    const [plain] = blobTable('v6-zstd-blake3');
    const counts = { chunkCount, compressedSize: file.length, uncompressedSize: chunkCount * 4096 };
    return { info: { ...plain, ...counts, ...sizes, features, ciCompressor: compressor }, file };
  }
  const zstd = CODECS.zstd.compress(table);

  for (const [name, stored, compressor] of [
    ['zstd', zstd, CODECS.zstd.id],
    ['raw', table, CODECS.none.id],
  ] as const) {
    test(`${name}: comes in ranges, and goes to the file in pieces`, async () => {
      const { info, file } = made(stored, compressor);
      const path = join(freshDir(), 'meta');
      let largest = 0;
      const meta = await BlobMeta.open(info, path, async (offset, bytes) => {
        largest = Math.max(largest, bytes);
        return file.subarray(offset, offset + bytes);
      });
      assert.ok(largest <= 4 << 20, `a request of ${largest} bytes`);
      for (let i = 0; i < chunkCount; i += 997) assert.equal(meta.chunk(i).uncompressedOffset, i * 4096);
      meta.close();
      assert.ok(readFileSync(path).subarray(0, table.length).equals(table));
    });
  }

  test('that gives more, less, or nothing, is refused, and leaves no file', async () => {
    const bad: [Buffer, RegExp][] = [
      [CODECS.zstd.compress(Buffer.concat([table, Buffer.alloc(1)])), /longer than that/],
      [CODECS.zstd.compress(table.subarray(1)), /got 9599999 bytes/],
      [zstd.subarray(0, -3), /got \d+ bytes/],
      [Buffer.concat([zstd, Buffer.alloc(5)]), /after the frame/],
      [Buffer.alloc(1000, 7), /zstd/],
    ];
    for (const [stored, say] of bad) {
      const { info, file } = made(stored, CODECS.zstd.id);
      const dir = freshDir();
      await assert.rejects(BlobMeta.open(info, join(dir, 'meta'), reader(file).read), say);
      assert.deepEqual(readdirSync(dir), []);
    }
  });
});
