/**
 * Locks on byte ranges of files that belong to the open file description (OFD locks), and dup3.
 *
 * Unlike classic POSIX locks they are not lost when another descriptor of the same file is closed, exclude two
 * descriptions of one process from each other, and vanish with the last descriptor: with the process, however it dies.
 * Results are 0 or -errno.
 */
import { errno } from './errno.ts';
import { bind, interrupted, result, whole } from './libc.ts';
import { NativeMemory } from './native-memory.ts';

const cFcntl = bind('fcntl', 'int', ['int', 'int', 'ptr']);
const cDup3 = bind('dup3', 'int', ['int', 'int', 'int']);

const F_OFD_SETLK = 37;
const F_WRLCK = 1;
const F_UNLCK = 2;
const O_CLOEXEC = 0x8_0000;

/** struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid (must be 0 for OFD locks). */
const FLOCK = { type: 0, whence: 2, start: 8, length: 16, pid: 24, bytes: 32 } as const;

let scratch: NativeMemory | null = null;

function flock(fd: number, command: number, type: number, offset: number, bytes: number): number {
  if (!whole(fd) || !whole(offset) || !whole(bytes) || bytes === 0 || !whole(offset + bytes)) return -errno.EINVAL;
  scratch ??= new NativeMemory(FLOCK.bytes);
  const { view } = scratch;
  view.setInt16(FLOCK.type, type, true);
  view.setInt16(FLOCK.whence, 0, true);
  view.setUint32(FLOCK.start, offset % 2 ** 32, true);
  view.setUint32(FLOCK.start + 4, Math.floor(offset / 2 ** 32), true);
  view.setUint32(FLOCK.length, bytes % 2 ** 32, true);
  view.setUint32(FLOCK.length + 4, Math.floor(bytes / 2 ** 32), true);
  view.setInt32(FLOCK.pid, 0, true);
  let n: number;
  do n = cFcntl(fd, command, scratch.address);
  while (interrupted(n));
  return result(n);
}

/** Takes the exclusive lock on [offset, offset+bytes) if nobody else holds a part of it; else -EAGAIN at once. */
export function tryLock(fd: number, offset: number, bytes: number): number {
  return flock(fd, F_OFD_SETLK, F_WRLCK, offset, bytes);
}

/** Gives the range back; what was not locked stays so. */
export function unlock(fd: number, offset: number, bytes: number): number {
  return flock(fd, F_OFD_SETLK, F_UNLCK, offset, bytes);
}

/** Makes `to` name the file that `from` names, in one step for all threads; close-on-exec. The descriptor or -errno. */
export function dupOver(from: number, to: number): number {
  if (!whole(from) || !whole(to)) return -errno.EINVAL;
  let n: number;
  do n = cDup3(from, to, O_CLOEXEC);
  while (interrupted(n));
  return result(n);
}
