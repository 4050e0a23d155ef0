/**
 * RAFS v6 inodes and what follows them, as data (rafs-format 2.6-2.11): compact and extended inodes, inline xattrs,
 * chunk indexes, directory entries. No I/O; decoders fill records that callers reuse.
 *
 *   inode 32 or 64 B | xattrs | inline tail (directories, symlinks) or, 8-aligned, the chunk-index array (files)
 */
import { putI64, timeSeconds, u64 } from '../../common/u64.ts';
import type { Broken } from '../broken.ts';

export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;

// ---- inodes (2.7)

/** A nid counts these units from the metadata area's start. */
export const NID_UNIT_BYTES = 32;
export const INODE_COMPACT_BYTES = 32;
export const INODE_EXTENDED_BYTES = 64;
export const FORMAT_EXTENDED = 1;
/** Bits 1..3 of the format word. */
export const LAYOUT = { FLAT_PLAIN: 0, FLAT_INLINE: 2, CHUNK_BASED: 4 } as const;
const FORMAT_KNOWN = 0x0f;
export const SYMLINK_BYTES_MAX = 4096;

export const COMPACT = {
  FORMAT: 0,
  XATTR_ICOUNT: 2,
  MODE: 4,
  NLINK: 6,
  SIZE: 8,
  U: 16,
  INO: 20,
  UID: 24,
  GID: 26,
} as const;
export const EXTENDED = {
  FORMAT: 0,
  XATTR_ICOUNT: 2,
  MODE: 4,
  SIZE: 8,
  U: 16,
  INO: 20,
  UID: 24,
  GID: 28,
  MTIME: 32,
  MTIME_NS: 40,
  NLINK: 44,
} as const;

export interface Inode {
  /** 32 or 64. */
  bytes: number;
  /** One of `LAYOUT`, or an unknown number that `checkInode` refuses. */
  layout: number;
  /** Bytes of the inline xattr area behind the inode, 0 = none. */
  xattrBytes: number;
  mode: number;
  /** -1 above 2^53-1. */
  size: number;
  /** First data block, device number, or chunk format, by type. */
  u: number;
  /** Sequential number the builder gave; not what users see (2.6). */
  ino: number;
  uid: number;
  gid: number;
  /** Seconds since 1970, may be negative; 0 where the image holds no safe integer. */
  mtime: number;
  mtimeNs: number;
  nlink: number;
}

export function newInode(): Inode {
  return {
    bytes: 0,
    layout: 0,
    xattrBytes: 0,
    mode: 0,
    size: 0,
    u: 0,
    ino: 0,
    uid: 0,
    gid: 0,
    mtime: 0,
    mtimeNs: 0,
    nlink: 0,
  };
}

/** Bytes of the inode record that begins with `format`. */
export function inodeBytes(format: number): number {
  return (format & FORMAT_EXTENDED) !== 0 ? INODE_EXTENDED_BYTES : INODE_COMPACT_BYTES;
}

/** Decodes either form; 64 bytes must be readable at `at` when the format says extended. */
export function decodeInode(view: DataView, at: number, out: Inode): void {
  const format = view.getUint16(at, true);
  out.bytes = inodeBytes(format);
  out.layout = format >>> 1;
  out.xattrBytes = xattrAreaBytes(view.getUint16(at + EXTENDED.XATTR_ICOUNT, true));
  out.mode = view.getUint16(at + EXTENDED.MODE, true);
  out.u = view.getUint32(at + EXTENDED.U, true);
  out.ino = view.getUint32(at + EXTENDED.INO, true);
  if (out.bytes === INODE_EXTENDED_BYTES) {
    out.size = u64(view, at + EXTENDED.SIZE);
    out.uid = view.getUint32(at + EXTENDED.UID, true);
    out.gid = view.getUint32(at + EXTENDED.GID, true);
    out.mtime = timeSeconds(view, at + EXTENDED.MTIME);
    out.mtimeNs = view.getUint32(at + EXTENDED.MTIME_NS, true);
    out.nlink = view.getUint32(at + EXTENDED.NLINK, true);
  } else {
    out.size = view.getUint32(at + COMPACT.SIZE, true);
    out.uid = view.getUint16(at + COMPACT.UID, true);
    out.gid = view.getUint16(at + COMPACT.GID, true);
    out.mtime = 0;
    out.mtimeNs = 0;
    out.nlink = view.getUint16(at + COMPACT.NLINK, true);
  }
}

/** Always the extended form: the compact one loses mtime and cuts ids (2.7). `bytes` is ignored. */
export function encodeInode(view: DataView, at: number, inode: Inode): void {
  view.setUint16(at + EXTENDED.FORMAT, (inode.layout << 1) | FORMAT_EXTENDED, true);
  view.setUint16(at + EXTENDED.XATTR_ICOUNT, xattrIcount(inode.xattrBytes), true);
  view.setUint16(at + EXTENDED.MODE, inode.mode, true);
  putI64(view, at + EXTENDED.SIZE, inode.size);
  view.setUint32(at + EXTENDED.U, inode.u, true);
  view.setUint32(at + EXTENDED.INO, inode.ino, true);
  view.setUint32(at + EXTENDED.UID, inode.uid, true);
  view.setUint32(at + EXTENDED.GID, inode.gid, true);
  putI64(view, at + EXTENDED.MTIME, inode.mtime);
  view.setUint32(at + EXTENDED.MTIME_NS, inode.mtimeNs, true);
  view.setUint32(at + EXTENDED.NLINK, inode.nlink, true);
}

/** 9, items 18 and 19, as far as the record alone tells; `format` is its first u16. */
export function checkInode(inode: Inode, format: number): Broken {
  if ((format & ~FORMAT_KNOWN) !== 0) return `inode: format 0x${format.toString(16)}`;
  const type = inode.mode & S_IFMT;
  const file = type === S_IFREG;
  if (
    inode.layout !== LAYOUT.FLAT_PLAIN &&
    inode.layout !== LAYOUT.FLAT_INLINE &&
    inode.layout !== LAYOUT.CHUNK_BASED
  ) {
    return `inode: layout ${inode.layout}`;
  }
  if (inode.nlink === 0) return 'inode: nlink 0';
  if (inode.size < 0) return 'inode: size';
  if (inode.layout === LAYOUT.CHUNK_BASED && !file) return 'inode: chunk layout on something that is no file';
  if (file && inode.size !== 0 && inode.layout !== LAYOUT.CHUNK_BASED) return 'inode: file without chunks';
  if (type === S_IFLNK && (inode.size === 0 || inode.size > SYMLINK_BYTES_MAX)) return 'inode: symlink size';
  if (type === S_IFDIR && inode.size === 0) return 'inode: empty directory without . and ..';
  if (type === S_IFCHR || type === S_IFBLK || type === S_IFIFO || type === S_IFSOCK) {
    return inode.size === 0 ? null : 'inode: special file with a size';
  }
  return file || type === S_IFDIR || type === S_IFLNK ? null : 'inode: mode';
}

/** Device number as 2.7 packs it: minor bits 0..7 and 20..31, major bits 8..19. */
export function packDevice(major: number, minor: number): number {
  return ((minor & 0xff) | (major << 8) | ((minor & ~0xff) << 12)) >>> 0;
}

// ---- inline xattrs (2.11)

export const XATTR_HEADER_BYTES = 12;
export const XATTR_ENTRY_BYTES = 4;
/** Builder limit; the stored size field is a u16. */
export const XATTR_VALUE_BYTES_MAX = 65535;
export const XATTR_NAME_BYTES_MAX = 255;
/** icount is a u16. */
export const XATTR_AREA_BYTES_MAX = XATTR_HEADER_BYTES + (0xffff - 1) * 4;

/** Position = name index; the ACL names are whole, their suffix is empty. Index 5 (lustre) is not supported. */
export const XATTR_PREFIXES: readonly (string | null)[] = [
  null,
  'user.',
  'system.posix_acl_access',
  'system.posix_acl_default',
  'trusted.',
  null,
  'security.',
];

export function xattrAreaBytes(icount: number): number {
  return icount === 0 ? 0 : XATTR_HEADER_BYTES + (icount - 1) * 4;
}

export function xattrIcount(areaBytes: number): number {
  return areaBytes === 0 ? 0 : (areaBytes - XATTR_HEADER_BYTES) / 4 + 1;
}

// ---- chunk format and index (2.8)

export const CHUNK_FORMAT_INDEXES = 0x20;
export const CHUNK_FORMAT_BITS = 0x1f;
export const CHUNK_INDEX_BYTES = 8;
export const CHUNK_INDEX = { CI_LOW: 0, DEVICE: 2, CI_HIGH: 3, BLKADDR: 4 } as const;

/** Low bits of `u` for chunks of 2^chunkBits bytes. */
export function chunkFormat(chunkBits: number, blockBits: number): number {
  return CHUNK_FORMAT_INDEXES | (chunkBits - blockBits);
}

/** Offset of the index array of an inode at `inodeOffset` (absolute, so that alignment counts from the file's start). */
export function chunkIndexOffset(inodeOffset: number, bytes: number, xattrBytes: number): number {
  return Math.ceil((inodeOffset + bytes + xattrBytes) / 8) * 8;
}

/** `device` is the blob index + 1. */
export function encodeChunkIndex(view: DataView, at: number, device: number, ciIndex: number, blkaddr: number): void {
  view.setUint16(at + CHUNK_INDEX.CI_LOW, ciIndex & 0xffff, true);
  view.setUint8(at + CHUNK_INDEX.DEVICE, device);
  view.setUint8(at + CHUNK_INDEX.CI_HIGH, ciIndex >>> 16);
  view.setUint32(at + CHUNK_INDEX.BLKADDR, blkaddr, true);
}

/** Position in the blob's chunk-info array; device and block address are plain fields at `CHUNK_INDEX`. */
export function ciIndexAt(view: DataView, at: number): number {
  return view.getUint16(at + CHUNK_INDEX.CI_LOW, true) | (view.getUint8(at + CHUNK_INDEX.CI_HIGH) << 16);
}

// ---- directory entries (2.9)

export const DIRENT_BYTES = 12;
export const DIRENT = { NID: 0, NAMEOFF: 8, TYPE: 10 } as const;
export const DIRENT_TYPE = {
  UNKNOWN: 0,
  REGULAR: 1,
  DIRECTORY: 2,
  CHAR: 3,
  BLOCK: 4,
  FIFO: 5,
  SOCKET: 6,
  SYMLINK: 7,
} as const;

/** Directory-entry type of a mode; UNKNOWN for a mode that `checkInode` refuses. */
export function direntType(mode: number): number {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return DIRENT_TYPE.REGULAR;
    case S_IFDIR:
      return DIRENT_TYPE.DIRECTORY;
    case S_IFCHR:
      return DIRENT_TYPE.CHAR;
    case S_IFBLK:
      return DIRENT_TYPE.BLOCK;
    case S_IFIFO:
      return DIRENT_TYPE.FIFO;
    case S_IFSOCK:
      return DIRENT_TYPE.SOCKET;
    case S_IFLNK:
      return DIRENT_TYPE.SYMLINK;
    default:
      return DIRENT_TYPE.UNKNOWN;
  }
}

export function encodeDirent(view: DataView, at: number, nid: number, nameoff: number, type: number): void {
  view.setUint32(at + DIRENT.NID, nid % 2 ** 32, true);
  view.setUint32(at + DIRENT.NID + 4, Math.floor(nid / 2 ** 32), true);
  view.setUint16(at + DIRENT.NAMEOFF, nameoff, true);
  view.setUint8(at + DIRENT.TYPE, type);
}
