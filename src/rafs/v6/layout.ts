/**
 * RAFS v6 bootstrap, image-wide structures as data (rafs-format 2.1-2.3, 2.12). Device slots and the blob table
 * are in `blob-table-layout.ts`, inodes, directories and chunk indexes in `inode-layout.ts`, chunk entries in
 * `../chunk-entry.ts`. No I/O; every structure has its offsets, an encoder
 * for the builder, a decoder and a `check…` that names the broken rule.
 *
 *   0 zero | 1024 superblock | 1152 extended superblock | 1408 device slots | B blob table, prefetch table
 *   | M metadata (inodes, directories, chunk indexes) | T chunk table
 */
import { putU64, u64 } from '../../common/u64.ts';
import type { Broken } from '../broken.ts';
import { CHUNK_ENTRY_BYTES } from '../chunk-entry.ts';
import { chunkSizeLegal, FLAG, flagsAccepted, singleAlgorithms } from '../flags.ts';

export const BLOCK_BYTES = 4096;
export const BLOCK_BITS = 12;
/** Tarfs only. */
export const BLOCK_BITS_TARFS = 9;
/** Device ids are 8 bits and 0 is the bootstrap itself; writers stop one earlier. */
export const BLOBS_MAX = 254;
export const DEVICE_SLOT_OFFSET = 1408;
export const DEVICE_SLOT_BYTES = 128;
export const BLOB_ENTRY_BYTES = 256;
/** Prefetch table entries are u32 nids (2.12). */
export const PREFETCH_ENTRY_BYTES = 4;

// ---- EROFS superblock (2.2)

export const SUPERBLOCK_OFFSET = 1024;
export const SUPERBLOCK_BYTES = 128;
export const EROFS_MAGIC = 0xe0f5_e1e2;
export const COMPAT_RAFS_V6 = 0x4000_0000;
/** CHUNKED_FILE | DEVICE_TABLE. */
export const INCOMPAT = 0x0c;
export const ROOT_NID = 128;
export const SB = {
  MAGIC: 0,
  CHECKSUM: 4,
  COMPAT: 8,
  BLOCK_BITS: 12,
  EXTSLOTS: 13,
  ROOT_NID: 14,
  INOS: 16,
  BLOCKS: 36,
  META_BLKADDR: 40,
  XATTR_BLKADDR: 44,
  INCOMPAT: 80,
  UNION: 84,
  EXTRA_DEVICES: 86,
  DEVICE_SLOT: 88,
} as const;

export interface Superblock {
  blockBits: number;
  rootNid: number;
  /** Names in the image; -1 above 2^53-1. */
  inos: number;
  /** Never a bound: 4096 in old images (2.2). */
  blocks: number;
  metaBlkaddr: number;
  extraDevices: number;
}

/** `at` is the superblock itself (file offset 1024). */
export function encodeSuperblock(view: DataView, at: number, sb: Superblock): void {
  view.setUint32(at + SB.MAGIC, EROFS_MAGIC, true);
  view.setUint32(at + SB.COMPAT, COMPAT_RAFS_V6, true);
  view.setUint8(at + SB.BLOCK_BITS, sb.blockBits);
  view.setUint16(at + SB.ROOT_NID, sb.rootNid, true);
  putU64(view, at + SB.INOS, sb.inos);
  view.setUint32(at + SB.BLOCKS, sb.blocks, true);
  view.setUint32(at + SB.META_BLKADDR, sb.metaBlkaddr, true);
  view.setUint32(at + SB.INCOMPAT, INCOMPAT, true);
  view.setUint16(at + SB.EXTRA_DEVICES, sb.extraDevices, true);
  view.setUint16(at + SB.DEVICE_SLOT, DEVICE_SLOT_OFFSET / DEVICE_SLOT_BYTES, true);
}

export function decodeSuperblock(view: DataView, at: number): Superblock {
  return {
    blockBits: view.getUint8(at + SB.BLOCK_BITS),
    rootNid: view.getUint16(at + SB.ROOT_NID, true),
    inos: u64(view, at + SB.INOS),
    blocks: view.getUint32(at + SB.BLOCKS, true),
    metaBlkaddr: view.getUint32(at + SB.META_BLKADDR, true),
    extraDevices: view.getUint16(at + SB.EXTRA_DEVICES, true),
  };
}

/** 9, item 13, as far as the 128 bytes and the file's length tell. */
export function checkSuperblock(view: DataView, at: number, fileBytes: number): Broken {
  const sb = decodeSuperblock(view, at);
  if (view.getUint32(at + SB.MAGIC, true) !== EROFS_MAGIC) return 'superblock: magic';
  if ((view.getUint32(at + SB.COMPAT, true) & COMPAT_RAFS_V6) === 0) return 'superblock: plain EROFS, not RAFS v6';
  if (view.getUint32(at + SB.CHECKSUM, true) !== 0) return 'superblock: checksum not 0';
  if (sb.blockBits !== BLOCK_BITS && sb.blockBits !== BLOCK_BITS_TARFS) return `superblock: block bits ${sb.blockBits}`;
  if (view.getUint8(at + SB.EXTSLOTS) !== 0) return 'superblock: extslots';
  if (view.getUint32(at + SB.INCOMPAT, true) !== INCOMPAT) return 'superblock: incompatible features';
  if (view.getUint16(at + SB.UNION, true) !== 0) return 'superblock: compression algorithms';
  if (view.getUint32(at + SB.XATTR_BLKADDR, true) !== 0) return 'superblock: shared xattrs';
  const slot = view.getUint16(at + SB.DEVICE_SLOT, true);
  if (slot !== DEVICE_SLOT_OFFSET / DEVICE_SLOT_BYTES) return `superblock: device slot ${slot}`;
  if (sb.extraDevices > BLOBS_MAX) return `superblock: ${sb.extraDevices} devices`;
  if (sb.inos <= 0) return 'superblock: no inodes';
  const root = sb.metaBlkaddr * 2 ** sb.blockBits + sb.rootNid * 32;
  if (root + 32 > fileBytes) return 'superblock: root inode outside the file';
  return null;
}

// ---- extended superblock (2.3)

export const EXT_SUPERBLOCK_OFFSET = 1152;
export const EXT_SUPERBLOCK_BYTES = 256;
export const EXT = {
  FLAGS: 0,
  BLOB_TABLE_OFFSET: 8,
  BLOB_TABLE_SIZE: 16,
  CHUNK_SIZE: 20,
  CHUNK_TABLE_OFFSET: 24,
  CHUNK_TABLE_SIZE: 32,
  PREFETCH_OFFSET: 40,
  PREFETCH_SIZE: 48,
} as const;

export interface ExtSuperblock {
  /** Low u32 of the flag word, all defined bits (`FLAG`). */
  flags: number;
  blobTableOffset: number;
  blobTableSize: number;
  chunkSize: number;
  chunkTableOffset: number;
  chunkTableSize: number;
  prefetchOffset: number;
  /** Bytes; 0 when the offset is 0 (legacy, 2.3). */
  prefetchSize: number;
}

export function encodeExtSuperblock(view: DataView, at: number, ext: ExtSuperblock): void {
  view.setUint32(at + EXT.FLAGS, ext.flags, true);
  putU64(view, at + EXT.BLOB_TABLE_OFFSET, ext.blobTableOffset);
  view.setUint32(at + EXT.BLOB_TABLE_SIZE, ext.blobTableSize, true);
  view.setUint32(at + EXT.CHUNK_SIZE, ext.chunkSize, true);
  putU64(view, at + EXT.CHUNK_TABLE_OFFSET, ext.chunkTableOffset);
  putU64(view, at + EXT.CHUNK_TABLE_SIZE, ext.chunkTableSize);
  putU64(view, at + EXT.PREFETCH_OFFSET, ext.prefetchOffset);
  view.setUint32(at + EXT.PREFETCH_SIZE, ext.prefetchSize, true);
}

export function decodeExtSuperblock(view: DataView, at: number): ExtSuperblock {
  const prefetchOffset = u64(view, at + EXT.PREFETCH_OFFSET);
  return {
    flags: view.getUint32(at + EXT.FLAGS, true),
    blobTableOffset: u64(view, at + EXT.BLOB_TABLE_OFFSET),
    blobTableSize: view.getUint32(at + EXT.BLOB_TABLE_SIZE, true),
    chunkSize: view.getUint32(at + EXT.CHUNK_SIZE, true),
    chunkTableOffset: u64(view, at + EXT.CHUNK_TABLE_OFFSET),
    chunkTableSize: u64(view, at + EXT.CHUNK_TABLE_SIZE),
    prefetchOffset,
    prefetchSize: prefetchOffset === 0 ? 0 : view.getUint32(at + EXT.PREFETCH_SIZE, true),
  };
}

/** 9, items 14 and 15: tables are aligned, inside the file and do not overlap. */
export function checkExtSuperblock(view: DataView, at: number, sb: Superblock, fileBytes: number): Broken {
  const ext = decodeExtSuperblock(view, at);
  if (!flagsAccepted(ext.flags, view.getUint32(at + EXT.FLAGS + 4, true))) return 'extended superblock: unknown flags';
  if (!singleAlgorithms(ext.flags)) return 'extended superblock: not exactly one compressor and one digest';
  if (!chunkSizeLegal(ext.chunkSize)) return `extended superblock: chunk size ${ext.chunkSize}`;
  const tarfs = (ext.flags & FLAG.TARFS_MODE) !== 0;
  if (tarfs !== (sb.blockBits === BLOCK_BITS_TARFS)) return 'extended superblock: tarfs flag against block size';
  if (ext.blobTableSize !== sb.extraDevices * BLOB_ENTRY_BYTES) return 'extended superblock: blob table size';
  if (ext.chunkTableSize < 0 || ext.chunkTableSize % CHUNK_ENTRY_BYTES !== 0)
    return 'extended superblock: chunk table size';
  if (ext.prefetchSize % 4 !== 0) return 'extended superblock: prefetch table size';
  const tables = [
    [0, DEVICE_SLOT_OFFSET + sb.extraDevices * DEVICE_SLOT_BYTES],
    [ext.blobTableOffset, ext.blobTableSize],
    [ext.chunkTableOffset, ext.chunkTableSize],
    [ext.prefetchOffset, ext.prefetchSize],
  ].filter(([, size]) => size > 0);
  if (tables.some(([offset, size]) => offset < 0 || offset + size > fileBytes)) {
    return 'extended superblock: table outside the file';
  }
  if (ext.blobTableOffset % BLOCK_BYTES !== 0 || ext.chunkTableOffset % BLOCK_BYTES !== 0) {
    return 'extended superblock: table not aligned';
  }
  tables.sort((a, b) => a[0] - b[0]);
  const overlap = tables.some(([offset], i) => i > 0 && tables[i - 1][0] + tables[i - 1][1] > offset);
  return overlap ? 'extended superblock: tables overlap' : null;
}
