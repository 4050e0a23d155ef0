/**
 * Reading and writing on descriptors, straight between files and raw addresses.
 *
 * Every function returns a count (or 0) or -errno, retries EINTR and refuses numbers that are not whole.
 */
import { errno } from './errno.ts';
import { bind, bindOptional, interrupted, result, whole } from './libc.ts';

const cPread = bind('pread', 'i64', ['int', 'ptr', 'size', 'i64']);
const cPwrite = bind('pwrite', 'i64', ['int', 'ptr', 'size', 'i64']);
const cRead = bind('read', 'i64', ['int', 'ptr', 'size']);
const cWrite = bind('write', 'i64', ['int', 'ptr', 'size']);
const cWritev = bind('writev', 'i64', ['int', 'ptr', 'int']);
const cPreadv2 = bind('preadv2', 'i64', ['int', 'ptr', 'int', 'i64', 'int']);
const cPwritev2 = bind('pwritev2', 'i64', ['int', 'ptr', 'int', 'i64', 'int']);
const cFsync = bind('fsync', 'int', ['int']);
const cFdatasync = bind('fdatasync', 'int', ['int']);
const cSyncfs = bind('syncfs', 'int', ['int']);
const cFallocate = bind('fallocate', 'int', ['int', 'int', 'i64', 'i64']);
const cFtruncate = bind('ftruncate', 'int', ['int', 'i64']);
const cLseek = bind('lseek', 'i64', ['int', 'i64', 'int']);
const cCopyFileRange = bindOptional('copy_file_range', 'i64', ['int', 'ptr', 'int', 'ptr', 'size', 'uint']);
const cClose = bind('close', 'int', ['int']);
const cFcntl = bind('fcntl', 'int', ['int', 'int', 'i64']);
const cMemcpy = bind('memcpy', 'ptr', ['ptr', 'ptr', 'size']);
const cMemset = bind('memset', 'ptr', ['ptr', 'int', 'size']);

/** preadv2/pwritev2 flags. */
export const RWF_NOWAIT = 8;
export const RWF_APPEND = 16;

/** iovecs one call takes (UIO_MAXIOV of the kernel). */
export const IOVECS_MAX = 1024;

export const SEEK = { SET: 0, CUR: 1, END: 2, DATA: 3, HOLE: 4 } as const;

/** fallocate modes the kernel lets a FUSE client pass. */
export const FALLOC = { KEEP_SIZE: 1, PUNCH_HOLE: 2, ZERO_RANGE: 0x10 } as const;

/** Reads up to `bytes` at file offset `offset` into `address`. */
export function pread(fd: number, address: number, bytes: number, offset: number): number {
  if (!whole(address) || !whole(bytes) || !whole(offset)) return -errno.EINVAL;
  let n: number;
  do n = cPread(fd, address, bytes, offset);
  while (interrupted(n));
  return result(n);
}

/** Writes up to `bytes` from `address` at file offset `offset`. */
export function pwrite(fd: number, address: number, bytes: number, offset: number): number {
  if (!whole(address) || !whole(bytes) || !whole(offset)) return -errno.EINVAL;
  let n: number;
  do n = cPwrite(fd, address, bytes, offset);
  while (interrupted(n));
  return result(n);
}

/** read(2) at the descriptor's own position (eventfds, pipes, /dev/fuse). */
export function read(fd: number, address: number, bytes: number): number {
  if (!whole(address) || !whole(bytes)) return -errno.EINVAL;
  let n: number;
  do n = cRead(fd, address, bytes);
  while (interrupted(n));
  return result(n);
}

/** write(2) at the descriptor's own position. */
export function write(fd: number, address: number, bytes: number): number {
  if (!whole(address) || !whole(bytes)) return -errno.EINVAL;
  let n: number;
  do n = cWrite(fd, address, bytes);
  while (interrupted(n));
  return result(n);
}

/** writev(2) of `count` struct iovec at `iovecs`. */
export function writev(fd: number, iovecs: number, count: number): number {
  if (!whole(iovecs) || !whole(count) || count > IOVECS_MAX) return -errno.EINVAL;
  let n: number;
  do n = cWritev(fd, iovecs, count);
  while (interrupted(n));
  return result(n);
}

/** preadv2(2): `count` struct iovec at `iovecs`, at most IOVECS_MAX of them. */
export function preadv2(fd: number, iovecs: number, count: number, offset: number, flags: number): number {
  if (!whole(iovecs) || !whole(count) || count > IOVECS_MAX || !whole(offset) || !whole(flags)) return -errno.EINVAL;
  let n: number;
  do n = cPreadv2(fd, iovecs, count, offset, flags);
  while (interrupted(n));
  return result(n);
}

/** pwritev2(2), as preadv2. */
export function pwritev2(fd: number, iovecs: number, count: number, offset: number, flags: number): number {
  if (!whole(iovecs) || !whole(count) || count > IOVECS_MAX || !whole(offset) || !whole(flags)) return -errno.EINVAL;
  let n: number;
  do n = cPwritev2(fd, iovecs, count, offset, flags);
  while (interrupted(n));
  return result(n);
}

/** fsync(2), or fdatasync(2) when `dataOnly`. Blocks: callers on the device thread park the request instead. */
export function fsync(fd: number, dataOnly: boolean): number {
  let r: number;
  do r = dataOnly ? cFdatasync(fd) : cFsync(fd);
  while (interrupted(r));
  return result(r);
}

/** syncfs(2) of the file system `fd` lies on. */
export function syncfs(fd: number): number {
  return result(cSyncfs(fd));
}

export function fallocate(fd: number, mode: number, offset: number, bytes: number): number {
  if (!whole(mode) || !whole(offset) || !whole(bytes)) return -errno.EINVAL;
  let r: number;
  do r = cFallocate(fd, mode, offset, bytes);
  while (interrupted(r));
  return result(r);
}

export function ftruncate(fd: number, sizeBytes: number): number {
  if (!whole(sizeBytes)) return -errno.EINVAL;
  let r: number;
  do r = cFtruncate(fd, sizeBytes);
  while (interrupted(r));
  return result(r);
}

/** lseek(2); `whence` is one of SEEK. Directory cookies above 2^53 go through `seekCookie` in stat.ts. */
export function lseek(fd: number, offset: number, whence: number): number {
  if (!whole(offset) || !whole(whence)) return -errno.EINVAL;
  return result(cLseek(fd, offset, whence));
}

/** copy_file_range(2) with both offsets as addresses of an i64 each. EOPNOTSUPP where libc lacks it. */
export function copyFileRange(fdIn: number, offIn: number, fdOut: number, offOut: number, bytes: number): number {
  if (!whole(offIn) || !whole(offOut) || !whole(bytes)) return -errno.EINVAL;
  if (cCopyFileRange === null) return -errno.EOPNOTSUPP;
  let n: number;
  do n = cCopyFileRange(fdIn, offIn, fdOut, offOut, bytes, 0);
  while (interrupted(n));
  return result(n);
}

/** close(2). EINTR is not retried: on Linux the descriptor is gone either way. */
export function close(fd: number): number {
  if (!whole(fd)) return -errno.EBADF;
  return result(cClose(fd));
}

const F_DUPFD_CLOEXEC = 1030;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4000;

/** A close-on-exec duplicate of `fd`. */
export function dupCloexec(fd: number): number {
  return result(cFcntl(fd, F_DUPFD_CLOEXEC, 0));
}

/** File status flags (O_*) of `fd`; -EBADF tells a closed one. */
export function statusFlags(fd: number): number {
  return result(cFcntl(fd, F_GETFL, 0));
}

/** Sets or clears O_NONBLOCK. */
export function setNonBlocking(fd: number, on: boolean): number {
  const flags = statusFlags(fd);
  if (flags < 0) return flags;
  return result(cFcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK));
}

/** memcpy between native buffers: pays from about 2 KiB, below that a typed-array loop is faster than the 220 ns call. */
export function copyMemory(to: number, from: number, bytes: number): void {
  if (whole(to) && whole(from) && whole(bytes) && to !== 0 && from !== 0) cMemcpy(to, from, bytes);
}

/** Fills native memory with one byte value. */
export function fillMemory(address: number, value: number, bytes: number): void {
  if (whole(address) && whole(bytes) && address !== 0) cMemset(address, value & 0xff, bytes);
}
