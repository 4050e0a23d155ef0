/** Real bootstraps decode, pass every check, and encode to the bytes they came from; one wrong field is named. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { FIXTURES } from '../../storage/fixtures.testing.ts';
import { blobIdLegal } from '../blob-id.ts';
import { CHUNK_ENTRY, CHUNK_ENTRY_BYTES, decodeChunkEntry, encodeChunkEntry, newChunkEntry } from '../chunk-entry.ts';
import { chunkSizeLegal, compressorOf, digesterOf, FLAG, flagsAccepted, singleAlgorithms } from '../flags.ts';
import {
  BLOB,
  checkBlobEntry,
  checkDeviceSlot,
  decodeBlobEntry,
  decodeDeviceSlot,
  encodeBlobEntry,
  encodeDeviceSlot,
} from './blob-table-layout.ts';
import {
  BLOB_ENTRY_BYTES,
  checkExtSuperblock,
  checkSuperblock,
  DEVICE_SLOT_BYTES,
  DEVICE_SLOT_OFFSET,
  decodeExtSuperblock,
  decodeSuperblock,
  EXT,
  EXT_SUPERBLOCK_BYTES,
  EXT_SUPERBLOCK_OFFSET,
  encodeExtSuperblock,
  encodeSuperblock,
  SB,
  SUPERBLOCK_BYTES,
  SUPERBLOCK_OFFSET,
} from './layout.ts';

const NAMES = [
  'v6-zstd-blake3',
  'v6-none-sha256-4k',
  'v6-lz4_block-blake3-4k',
  'v6-toc',
  'v6-dict',
  'v6-batch',
  'v6-encrypt',
  'tar-v6',
  'tarfs-v6',
  'zran-v6',
  'merged-v6',
  'v6-2.2',
];

function bootstrap(name: string): { bytes: Buffer; view: DataView } {
  const bytes = readFileSync(join(FIXTURES, 'images/boot', `${name}.boot`));
  return { bytes, view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length) };
}

/** What `encode` writes into zeroed memory. */
function encoded(size: number, encode: (bytes: Buffer, view: DataView) => void): Buffer {
  const bytes = Buffer.alloc(size);
  encode(bytes, new DataView(bytes.buffer, bytes.byteOffset, size));
  return bytes;
}

for (const name of NAMES) {
  test(`${name}: everything image-wide`, () => {
    const { bytes, view } = bootstrap(name);
    const sb = decodeSuperblock(view, SUPERBLOCK_OFFSET);
    const ext = decodeExtSuperblock(view, EXT_SUPERBLOCK_OFFSET);
    assert.equal(checkSuperblock(view, SUPERBLOCK_OFFSET, bytes.length), null);
    assert.equal(checkExtSuperblock(view, EXT_SUPERBLOCK_OFFSET, sb, bytes.length), null);
    assert.deepEqual(
      encoded(SUPERBLOCK_BYTES, (_, out) => encodeSuperblock(out, 0, sb)),
      bytes.subarray(SUPERBLOCK_OFFSET, SUPERBLOCK_OFFSET + SUPERBLOCK_BYTES),
    );
    assert.deepEqual(
      encoded(EXT_SUPERBLOCK_BYTES, (_, out) => encodeExtSuperblock(out, 0, ext)),
      bytes.subarray(EXT_SUPERBLOCK_OFFSET, EXT_SUPERBLOCK_OFFSET + EXT_SUPERBLOCK_BYTES),
    );
    for (let i = 0; i < sb.extraDevices; i++) {
      const at = ext.blobTableOffset + i * BLOB_ENTRY_BYTES;
      const slotAt = DEVICE_SLOT_OFFSET + i * DEVICE_SLOT_BYTES;
      assert.equal(checkBlobEntry(bytes, at, i, ext.chunkSize), null);
      const blob = decodeBlobEntry(bytes, at);
      const slot = decodeDeviceSlot(bytes, slotAt);
      assert.equal(checkDeviceSlot(slot, blob, sb.blockBits), null);
      assert.deepEqual(
        encoded(BLOB_ENTRY_BYTES, (out) => encodeBlobEntry(out, 0, blob)),
        bytes.subarray(at, at + BLOB_ENTRY_BYTES),
      );
      assert.deepEqual(
        encoded(DEVICE_SLOT_BYTES, (out) => encodeDeviceSlot(out, 0, slot)),
        bytes.subarray(slotAt, slotAt + DEVICE_SLOT_BYTES),
      );
    }
  });

  test(`${name}: the chunk table`, () => {
    const { bytes, view } = bootstrap(name);
    const { chunkTableOffset, chunkTableSize } = decodeExtSuperblock(view, EXT_SUPERBLOCK_OFFSET);
    const chunk = newChunkEntry();
    for (let at = chunkTableOffset; at < chunkTableOffset + chunkTableSize; at += CHUNK_ENTRY_BYTES) {
      decodeChunkEntry(view, at, chunk);
      const again = encoded(CHUNK_ENTRY_BYTES, (_, out) => encodeChunkEntry(out, 0, chunk));
      assert.deepEqual(
        again.subarray(CHUNK_ENTRY.BLOB_INDEX),
        bytes.subarray(at + CHUNK_ENTRY.BLOB_INDEX, at + CHUNK_ENTRY_BYTES),
      );
    }
  });
}

/** Copies a good bootstrap, lets `damage` change it, and answers what the checks say. */
function verdict(damage: (view: DataView, blobTable: number) => void): string | null {
  const { bytes, view } = bootstrap('v6-zstd-blake3');
  damage(view, 4096);
  const sb = decodeSuperblock(view, SUPERBLOCK_OFFSET);
  return (
    checkSuperblock(view, SUPERBLOCK_OFFSET, bytes.length) ??
    checkExtSuperblock(view, EXT_SUPERBLOCK_OFFSET, sb, bytes.length) ??
    checkBlobEntry(bytes, 4096, 0, decodeExtSuperblock(view, EXT_SUPERBLOCK_OFFSET).chunkSize) ??
    checkDeviceSlot(decodeDeviceSlot(bytes, DEVICE_SLOT_OFFSET), decodeBlobEntry(bytes, 4096), sb.blockBits)
  );
}

describe('one wrong field', () => {
  const sb = SUPERBLOCK_OFFSET;
  const ext = EXT_SUPERBLOCK_OFFSET;
  const u16 = (at: number, value: number) => (view: DataView) => view.setUint16(at, value, true);
  const u32 = (at: number, value: number) => (view: DataView) => view.setUint32(at, value, true);
  const cases: [rule: RegExp, damage: (view: DataView) => void][] = [
    [/magic/, u32(sb + SB.MAGIC, 1)],
    [/plain EROFS/, u32(sb + SB.COMPAT, 0)],
    [/checksum/, u32(sb + SB.CHECKSUM, 1)],
    [/block bits 13/, (view) => view.setUint8(sb + SB.BLOCK_BITS, 13)],
    [/incompatible/, u32(sb + SB.INCOMPAT, 0x0d)],
    [/shared xattrs/, u32(sb + SB.XATTR_BLKADDR, 1)],
    [/device slot 12/, u16(sb + SB.DEVICE_SLOT, 12)],
    [/255 devices/, u16(sb + SB.EXTRA_DEVICES, 255)],
    [/no inodes/, u32(sb + SB.INOS, 0)],
    [/root inode outside/, u32(sb + SB.META_BLKADDR, 0xffff_ffff)],
    [/unknown flags/, u32(ext + EXT.FLAGS + 4, 1)],
    [/unknown flags/, u32(ext + EXT.FLAGS, 0x1000 | FLAG.COMPRESSION_ZSTD | FLAG.HASH_BLAKE3)],
    [/exactly one/, u32(ext + EXT.FLAGS, FLAG.COMPRESSION_ZSTD | FLAG.COMPRESSION_NONE | FLAG.HASH_BLAKE3)],
    [/chunk size 4097/, u32(ext + EXT.CHUNK_SIZE, 4097)],
    [/blob table size/, u32(ext + EXT.BLOB_TABLE_SIZE, 512)],
    [/outside the file/, u32(ext + EXT.CHUNK_TABLE_OFFSET + 4, 0x20_0000)],
    [/outside the file/, u32(ext + EXT.CHUNK_TABLE_OFFSET, 0x7fff_f000)],
    [/chunk table size/, u32(ext + EXT.CHUNK_TABLE_SIZE, 81)],
    [/overlap/, u32(ext + EXT.CHUNK_TABLE_OFFSET, 4096)],
    [/not aligned/, u32(ext + EXT.CHUNK_TABLE_OFFSET, 90_113 - 4096)],
    [/unknown algorithm/, u32(4096 + BLOB.COMPRESSOR, 4)],
    [/index 1/, u32(4096 + BLOB.INDEX, 1)],
    [/chunk size 8192/, u32(4096 + BLOB.CHUNK_SIZE, 8192)],
    [/chunks/, u32(4096 + BLOB.CHUNK_COUNT, 0x100_0001)],
    [/features 0x40001001/, u32(4096 + BLOB.FEATURES, 0x4000_1001)],
    [/aligned or tarfs/, u32(4096 + BLOB.FEATURES, 0x4000_0000)],
    [/cipher/, u32(4096 + BLOB.CIPHER, 1)],
    [/CI size against count/, u32(4096 + BLOB.CI_UNCOMPRESSED_SIZE, 6960)],
    [/CI table outside/, u32(4096 + BLOB.CI_OFFSET, 1_306_065)],
    [/CI size/, u32(4096 + BLOB.CI_OFFSET + 4, 0xffff_ffff)],
    [/id/, (view) => view.setUint8(4096 + BLOB.ID, 0x2f)],
    [/differs from the blob table/, (view) => view.setUint8(DEVICE_SLOT_OFFSET, 0x61)],
    [/larger than its blob/, u32(DEVICE_SLOT_OFFSET + 64, 2747)],
    [/no blocks/, u32(DEVICE_SLOT_OFFSET + 64, 0)],
  ];
  for (const [rule, damage] of cases) {
    test(String(rule), () => assert.match(verdict(damage) ?? 'accepted', rule));
  }
  test('and none', () =>
    assert.equal(
      verdict(() => {}),
      null,
    ));
});

test('flag words', () => {
  assert.equal(flagsAccepted(0xfc00_0000 | 0x3ff, 0), true);
  assert.equal(flagsAccepted(0x400, 0), false);
  assert.equal(compressorOf(FLAG.COMPRESSION_NONE | FLAG.COMPRESSION_ZSTD), 'none');
  assert.equal(compressorOf(0), 'lz4_block');
  assert.equal(digesterOf(FLAG.HASH_BLAKE3 | FLAG.HASH_SHA256), 'blake3');
  assert.equal(digesterOf(FLAG.HASH_SHA256), 'sha256');
  assert.equal(digesterOf(0), 'blake3');
  assert.equal(singleAlgorithms(FLAG.HASH_SHA256), false);
});

test('chunk sizes', () => {
  for (const size of [0x1000, 0x10_0000, 0x100_0000]) assert.equal(chunkSizeLegal(size), true);
  for (const size of [0, 0x800, 0x1001, 0x3000, 0x200_0000, Number.NaN, 4096.5])
    assert.equal(chunkSizeLegal(size), false);
});

test('blob ids are file names and nothing else', () => {
  for (const id of ['a', 'blob.1', 'x'.repeat(64)]) assert.equal(blobIdLegal(id), true);
  for (const id of ['', '.', '..', 'a/b', 'a\\b', 'a b', 'a\n', '\u00e9']) assert.equal(blobIdLegal(id), false);
});
