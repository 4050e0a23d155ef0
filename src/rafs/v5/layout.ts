/**
 * RAFS v5 as data (rafs-format 1.2-1.8): superblock, tables, inode records. Chunk entries are in `../chunk-entry.ts`.
 * No I/O.
 *
 *   superblock 8192 | inode table | prefetch table | blob table | extended blob table | inode records
 *                     u32: place of inode 1, 2, …
 *   record: 128 bytes | name | symlink target | u64 and xattr pairs | chunk entries, each part padded to 8
 */

export const RAFS_MAGIC = 0x5241_4653;
export const VERSION_V5 = 0x500;
export const SUPERBLOCK_BYTES = 8192;
/** Inode and table offsets count these units; everything is aligned to them. */
export const UNIT_BYTES = 8;

/** 1.2 */
export const SB = {
  MAGIC: 0,
  VERSION: 4,
  BYTES: 8,
  CHUNK_SIZE: 12,
  FLAGS: 16,
  INODES: 24,
  INODE_TABLE: 32,
  PREFETCH_TABLE: 40,
  BLOB_TABLE: 48,
  INODE_ENTRIES: 56,
  PREFETCH_ENTRIES: 60,
  BLOB_TABLE_BYTES: 64,
  EXTENDED_ENTRIES: 68,
  EXTENDED_TABLE: 72,
} as const;

export const TABLE_ENTRY_BYTES = 4;
/** Legal values of an inode table entry (1.3), in units: behind the superblock, below 4 GiB. */
export const RECORD_UNIT_MIN = SUPERBLOCK_BYTES / UNIT_BYTES + 1;
export const RECORD_UNIT_END = 2 ** 29;

/** Readahead offset and size in front of each id of the blob table (1.5). */
export const BLOB_RECORD_HEAD_BYTES = 8;
/** No builder comes near: layers are at most some hundred. Each blob costs descriptors. */
export const BLOBS_MAX = 1024;

/** 1.6 */
export const EXTENDED_ENTRY_BYTES = 64;
export const EXTENDED = { CHUNK_COUNT: 0, FEATURES: 4, UNCOMPRESSED_SIZE: 8, COMPRESSED_SIZE: 16 } as const;

/** 1.7 */
export const INODE_BYTES = 128;
export const INODE = {
  DIGEST: 0,
  PARENT: 32,
  INO: 40,
  UID: 48,
  GID: 52,
  MODE: 60,
  SIZE: 64,
  SECTORS: 72,
  FLAGS: 80,
  NLINK: 88,
  CHILD_INDEX: 92,
  CHILD_COUNT: 96,
  NAME_BYTES: 100,
  SYMLINK_BYTES: 102,
  RDEV: 104,
  MTIME_NS: 108,
  MTIME: 112,
} as const;
export const INODE_FLAG = { SYMLINK: 1, HARDLINK: 2, XATTR: 4, HAS_HOLE: 8 } as const;
/** PATH_MAX without its NUL. */
export const SYMLINK_BYTES_MAX = 4095;

/** u64 in front of the xattr pairs: their bytes, without padding. */
export const XATTR_HEADER_BYTES = 8;
/** u32 in front of each pair. */
export const XATTR_PAIR_HEADER_BYTES = 4;
/** The format allows 64 MiB. Linux lists 64 KiB of names at most, and v6 holds 262 KiB: this is four times that. */
export const XATTR_AREA_BYTES_MAX = 1024 * 1024;
export const XATTR_NAME_BYTES_MAX = 255;
export const XATTR_VALUE_BYTES_MAX = 65_536;

/** `bytes` with its padding. */
export function padded(bytes: number): number {
  return Math.ceil(bytes / UNIT_BYTES) * UNIT_BYTES;
}
