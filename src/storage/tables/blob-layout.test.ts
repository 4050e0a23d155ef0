import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { describe, test } from 'node:test';
import { CODECS, compressorOf } from '../codecs/codecs.ts';
import { crc32c, DIGESTS } from '../codecs/digests.ts';
import { blobBytes, blobTable, chunkDigests } from '../fixtures.testing.ts';
import {
  align4096,
  CCT_HEADER_BYTES,
  CHUNK_FLAG,
  type ChunkInfo,
  checkFeatures,
  chunkDataBytes,
  chunkInfoBytes,
  decodeCctHeader,
  decodeChunkInfo,
  encodeCctHeader,
  encodeChunkInfo,
  FEATURE,
} from './blob-layout.ts';

const NATIVE = [
  'v6-zstd-blake3',
  'v6-none-sha256-4k',
  'v6-lz4_block-blake3-4k',
  'v6-zstd-sha256-4k',
  'v6-toc',
  'tar-v6',
  'targz-v6',
  'merged-v6',
  'v6-dict',
  'v6-2.2',
];

for (const name of NATIVE) {
  test(`${name}: header, chunk infos and digests of the real blobs agree`, () => {
    for (const info of blobTable(name)) {
      const file = blobBytes(info.id);
      const tableEnd = info.ciOffset + info.ciCompressedSize;
      const header = file.subarray(tableEnd, tableEnd + CCT_HEADER_BYTES);
      const decoded = decodeCctHeader(header);
      assert.ok(decoded);
      assert.equal(decoded.chunkCount, info.chunkCount);
      assert.equal(decoded.ciOffset, info.ciOffset);
      assert.deepEqual(encodeCctHeader(decoded), header);
      const stored = file.subarray(info.ciOffset, tableEnd);
      const compressor = compressorOf(decoded.ciCompressor) ?? 'none';
      const table = CODECS[compressor].decompress(stored, info.ciUncompressedSize);
      const entryBytes = chunkInfoBytes(info.features);
      assert.equal(table.length, entryBytes * info.chunkCount);
      const digests = chunkDigests(name, info.index);
      for (let i = 0; i < info.chunkCount; i++) {
        const chunk = decodeChunkInfo(table, i * entryBytes, info.features);
        assert.ok(chunk.compressedOffset + chunk.compressedSize <= chunkDataBytes(info));
        const again = Buffer.alloc(entryBytes);
        encodeChunkInfo(again, 0, info.features, chunk);
        assert.deepEqual(again, table.subarray(i * entryBytes, (i + 1) * entryBytes));
        const raw = file.subarray(chunk.compressedOffset, chunk.compressedOffset + chunk.compressedSize);
        const codec = CODECS[chunk.flags & CHUNK_FLAG.COMPRESSED ? info.compressor : 'none'];
        const bytes = codec.decompress(raw, chunk.uncompressedSize);
        const digest = digests(i);
        // A dictionary blob has chunks this image does not use.
        if (digest !== null) assert.deepEqual(DIGESTS[info.digester].digest(bytes), digest);
        if (chunk.flags & CHUNK_FLAG.HAS_CRC32) assert.equal(crc32c(bytes), chunk.low);
      }
      assert.equal(align4096(info.uncompressedSize), info.uncompressedSize);
    }
  });
}

test('an all-default header has the published digest', () => {
  const header = encodeCctHeader({
    features: 0,
    ciCompressor: 3,
    chunkCount: 0,
    ciOffset: 0,
    ciCompressedSize: 0,
    ciUncompressedSize: 0,
    contextOffset: 0,
    contextSize: 0,
    contextCount: 0,
  });
  assert.equal(
    createHash('sha256').update(header).digest('hex'),
    'f56a1129d3df9fc7d60b26dbf495a60bda3dfc265f4f37854e4a36b826b660fc',
  );
});

test('the worked example of rafs-format 12', () => {
  const bytes = Buffer.alloc(16);
  const chunk: ChunkInfo = {
    compressedOffset: 4828,
    compressedSize: 2974,
    uncompressedOffset: 0x5000,
    uncompressedSize: 13400,
    flags: CHUNK_FLAG.COMPRESSED,
    low: 0,
    high: 0,
  };
  encodeChunkInfo(bytes, 0, 0, chunk);
  assert.equal(bytes.readBigUInt64LE(0), 0x0345700000005000n);
  assert.equal(bytes.readBigUInt64LE(8), 0x00b9d000000012dcn);
  assert.deepEqual(decodeChunkInfo(bytes, 0, 0), chunk);
});

describe('chunk info limits', () => {
  const most: ChunkInfo = {
    compressedOffset: 2 ** 40 - 1,
    compressedSize: 0x100_0000,
    uncompressedOffset: 2 ** 44 - 4096,
    uncompressedSize: 0x100_0000,
    flags: 0,
    low: 0,
    high: 0,
  };
  test('V1 holds the largest values', () => {
    const bytes = Buffer.alloc(16);
    encodeChunkInfo(bytes, 0, 0, most);
    assert.deepEqual(decodeChunkInfo(bytes, 0, 0), most);
  });
  test('V2 holds the largest values', () => {
    const bytes = Buffer.alloc(24);
    const chunk = { ...most, compressedSize: 0xff_ffff, flags: 0x1f, low: 0xffff_ffff, high: 0xffff_fffe };
    encodeChunkInfo(bytes, 0, FEATURE.CHUNK_INFO_V2, chunk);
    assert.deepEqual(decodeChunkInfo(bytes, 0, FEATURE.CHUNK_INFO_V2), chunk);
  });
  for (const wrong of [
    { compressedOffset: 2 ** 40 },
    { compressedOffset: Number.NaN },
    { compressedSize: 0x100_0001 },
    { uncompressedOffset: 4095 },
    { uncompressedOffset: 2 ** 44 },
    { uncompressedSize: 0 },
  ]) {
    test(`refuses ${JSON.stringify(wrong)}`, () => {
      for (const features of [0, FEATURE.CHUNK_INFO_V2]) {
        assert.throws(() => encodeChunkInfo(Buffer.alloc(24), 0, features, { ...most, ...wrong }), RangeError);
      }
    });
  }
});

test('headers with a wrong magic, length or number above 2^53 are none', () => {
  const good = encodeCctHeader({
    features: 1,
    ciCompressor: 0,
    chunkCount: 1,
    ciOffset: 7,
    ciCompressedSize: 16,
    ciUncompressedSize: 16,
    contextOffset: 0,
    contextSize: 0,
    contextCount: 0,
  });
  assert.ok(decodeCctHeader(good));
  for (const at of [0, 4095, 23]) {
    const bad = Buffer.from(good);
    bad[at] ^= 0xff;
    assert.equal(decodeCctHeader(bad), null);
  }
  assert.equal(decodeCctHeader(good.subarray(1)), null);
});

test('features nobody knows are refused, compatible ones ignored', () => {
  for (const features of [0x1000, 0x8000, 0x8c, 0x101]) {
    assert.throws(() => checkFeatures('x', features), { code: 'BLOB_META' });
  }
  checkFeatures('x', 0x0fff_0000 | 0x7000_0021);
});
