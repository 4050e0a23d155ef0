/**
 * statx, getdents64 and statfs into native buffers, with the offsets of their fields.
 *
 * 64-bit fields that are opaque (inode numbers, directory cookies) are copied as two u32 words; 1,120 of 1,121 ext4
 * cookies exceed 2^53.
 */
import { errno } from './errno.ts';
import { bind, result, whole } from './libc.ts';

const cStatx = bind('statx', 'int', ['int', 'ptr', 'int', 'uint', 'ptr']);
const cSyscall3 = bind('syscall', 'long', ['long', 'long', 'ptr', 'size']);
const cFstatfs = bind('fstatfs', 'int', ['int', 'ptr']);
const cLseekRaw = bind('lseek', 'i64', ['int', 'i64', 'int']);

/** struct statx (linux/stat.h): field positions in u32 words; the struct has 256 bytes. */
export const STATX_BYTES = 256;
export const STATX = {
  MASK: 0,
  BLKSIZE: 1,
  ATTRIBUTES: 2,
  NLINK: 4,
  UID: 5,
  GID: 6,
  /** u16 in the low half. */
  MODE: 7,
  INO: 8,
  SIZE: 10,
  BLOCKS: 12,
  ATTRIBUTES_MASK: 14,
  /** Each time: seconds i64 (2 words), nanoseconds u32, reserved. */
  ATIME: 16,
  BTIME: 20,
  CTIME: 24,
  MTIME: 28,
  RDEV_MAJOR: 32,
  RDEV_MINOR: 33,
  DEV_MAJOR: 34,
  DEV_MINOR: 35,
  MNT_ID: 36,
} as const;

export const STATX_MASK = {
  BASIC_STATS: 0x7ff,
  BTIME: 0x800,
  MNT_ID: 0x1000,
  MNT_ID_UNIQUE: 0x4000,
} as const;

/** statx(2) into the 256-byte buffer at `address`. */
export function statx(dirFd: number, name: number, flags: number, mask: number, address: number): number {
  if (!whole(name) || !whole(flags) || !whole(mask) || !whole(address)) return -errno.EINVAL;
  return result(cStatx(dirFd, name, flags, mask, address));
}

const SYS_getdents64 = process.arch === 'arm64' ? 61 : 217;

/** struct linux_dirent64 in bytes: ino u64 @0, off u64 @8, reclen u16 @16, type u8 @18, name @19 (NUL-terminated). */
export const DIRENT = { INO: 0, OFF: 8, RECLEN: 16, TYPE: 18, NAME: 19 } as const;

/** getdents64(2): bytes of records written to `address`, 0 at the end. */
export function getdents64(fd: number, address: number, bytes: number): number {
  if (!whole(address) || !whole(bytes)) return -errno.EINVAL;
  return result(cSyscall3(SYS_getdents64, fd, address, bytes));
}

/**
 * Positions a directory stream at a cookie given as two u32 words. BigInt only above 2^53 (a seek is a cold path:
 * readers that go straight on never need it).
 */
export function seekCookie(fd: number, low: number, high: number): number {
  if (high <= 0x1f_ffff) return result(cLseekRaw(fd, high * 2 ** 32 + low, 0)) < 0 ? result(-1) : 0;
  const cookie = BigInt.asIntN(64, (BigInt(high) << 32n) | BigInt(low));
  // koffi takes a BigInt where the prototype says int64; the returned position is not wanted and may be a BigInt too.
  const position = (cLseekRaw as unknown as (fd: number, offset: bigint, whence: number) => number | bigint)(
    fd,
    cookie,
    0,
  );
  return position === -1 || position === -1n ? result(-1) : 0;
}

/** struct statfs of x86-64/arm64: positions in u32 words (each field but the last ones is 8 bytes). */
export const STATFS_BYTES = 120;
export const STATFS = {
  TYPE: 0,
  BSIZE: 2,
  BLOCKS: 4,
  BFREE: 6,
  BAVAIL: 8,
  FILES: 10,
  FFREE: 12,
  NAMELEN: 16,
  FRSIZE: 18,
} as const;

/** fstatfs(2) into the 120-byte buffer at `address`. */
export function fstatfs(fd: number, address: number): number {
  if (!whole(address)) return -errno.EINVAL;
  return result(cFstatfs(fd, address));
}
