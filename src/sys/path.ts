/**
 * The *at calls: everything that takes a directory descriptor and one name.
 *
 * Names are raw addresses of C strings (never decoded: a name that is not UTF-8 is as good as any). All return 0 or a
 * descriptor, or -errno.
 */
import { errno } from './errno.ts';
import { bind, interrupted, result, whole } from './libc.ts';
import { NativeMemory, pathAddress } from './native-memory.ts';

const cOpenat = bind('openat', 'int', ['int', 'ptr', 'int', 'uint']);
const cSyscall4 = bind('syscall', 'long', ['long', 'long', 'ptr', 'ptr', 'size']);
const cUnlinkat = bind('unlinkat', 'int', ['int', 'ptr', 'int']);
const cMkdirat = bind('mkdirat', 'int', ['int', 'ptr', 'uint']);
const cMknodat = bind('mknodat', 'int', ['int', 'ptr', 'uint', 'u64']);
const cSymlinkat = bind('symlinkat', 'int', ['ptr', 'int', 'ptr']);
const cLinkat = bind('linkat', 'int', ['int', 'ptr', 'int', 'ptr', 'int']);
const cRenameat2 = bind('renameat2', 'int', ['int', 'ptr', 'int', 'ptr', 'uint']);
const cReadlinkat = bind('readlinkat', 'i64', ['int', 'ptr', 'ptr', 'size']);
const cFchmod = bind('fchmod', 'int', ['int', 'uint']);
const cFchmodat = bind('fchmodat', 'int', ['int', 'ptr', 'uint', 'int']);
const cFchownat = bind('fchownat', 'int', ['int', 'ptr', 'uint', 'uint', 'int']);
const cUtimensat = bind('utimensat', 'int', ['int', 'ptr', 'ptr', 'int']);
const cFutimens = bind('futimens', 'int', ['int', 'ptr']);
const cUmask = bind('umask', 'uint', ['uint']);
const cUnshare = bind('unshare', 'int', ['int']);
const cTruncate = bind('truncate', 'int', ['ptr', 'i64']);

/** open(2) flags, x86-64 values (arm64 differs in O_DIRECTORY, O_NOFOLLOW, O_DIRECT: see `arch.ts` when it is supported). */
export const O = {
  RDONLY: 0,
  WRONLY: 1,
  RDWR: 2,
  ACCMODE: 3,
  CREAT: 0o100,
  EXCL: 0o200,
  NOCTTY: 0o400,
  TRUNC: 0o1000,
  APPEND: 0o2000,
  NONBLOCK: 0o4000,
  DSYNC: 0o10000,
  DIRECT: 0o40000,
  DIRECTORY: 0o200000,
  NOFOLLOW: 0o400000,
  NOATIME: 0o1000000,
  CLOEXEC: 0o2000000,
  SYNC: 0o4010000,
  PATH: 0o10000000,
  TMPFILE: 0o20200000,
} as const;

export const AT = {
  FDCWD: -100,
  SYMLINK_NOFOLLOW: 0x100,
  REMOVEDIR: 0x200,
  SYMLINK_FOLLOW: 0x400,
  NO_AUTOMOUNT: 0x800,
  EMPTY_PATH: 0x1000,
} as const;

/** openat2(2) resolution limits (linux/openat2.h). */
export const RESOLVE = { NO_XDEV: 1, NO_MAGICLINKS: 2, NO_SYMLINKS: 4, BENEATH: 8, IN_ROOT: 16 } as const;

export const RENAME = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 } as const;

const SYS_openat2 = 437;
const OPEN_HOW_BYTES = 24;

const how = new NativeMemory(4096);
const empty = how.address + OPEN_HOW_BYTES; // a NUL: the empty path of *_EMPTY_PATH calls

/** Address of an empty C string, for AT.EMPTY_PATH calls. */
export const EMPTY_NAME = empty;

/** openat2(2): opens `name` below `dirFd` within the `resolve` limits. `mode` counts only with O.CREAT or O.TMPFILE. */
export function openat2(dirFd: number, name: number, flags: number, mode: number, resolve: number): number {
  if (!whole(name) || !whole(flags) || !whole(mode) || !whole(resolve)) return -errno.EINVAL;
  how.u32[0] = flags;
  how.u32[1] = 0;
  how.u32[2] = mode;
  how.u32[3] = 0;
  how.u32[4] = resolve;
  how.u32[5] = 0;
  let fd: number;
  do fd = cSyscall4(SYS_openat2, dirFd, name, how.address, OPEN_HOW_BYTES);
  while (interrupted(fd));
  return result(fd);
}

/** openat(2) without resolution limits: only for names the daemon made itself (/proc/self/fd/N, option paths). */
export function openat(dirFd: number, name: number, flags: number, mode: number): number {
  if (!whole(name) || !whole(flags) || !whole(mode)) return -errno.EINVAL;
  let fd: number;
  do fd = cOpenat(dirFd, name, flags, mode);
  while (interrupted(fd));
  return result(fd);
}

/** Opens a host path given as text or bytes (cold path). */
export function openPath(path: string | Uint8Array, flags: number, mode = 0): number {
  return openat(AT.FDCWD, pathAddress(path), flags, mode);
}

/** unlinkat(2); `flags` 0 or AT.REMOVEDIR. */
export function unlinkat(dirFd: number, name: number, flags: number): number {
  return result(cUnlinkat(dirFd, name, flags));
}

export function mkdirat(dirFd: number, name: number, mode: number): number {
  if (!whole(mode)) return -errno.EINVAL;
  return result(cMkdirat(dirFd, name, mode));
}

/** mknodat(2); `mode` with type bits, device number as major and minor. */
export function mknodat(dirFd: number, name: number, mode: number, major: number, minor: number): number {
  if (!whole(mode) || !whole(major) || !whole(minor)) return -errno.EINVAL;
  // glibc's 64-bit dev_t: majors 0..11 at bit 8, minors 0..7 at 0 and 8..31 at 20; higher majors at 32 are never used.
  const dev = (minor & 0xff) + (major & 0xfff) * 0x100 + (minor >>> 8) * 0x100000;
  return result(cMknodat(dirFd, name, mode, dev));
}

export function symlinkat(target: number, dirFd: number, name: number): number {
  return result(cSymlinkat(target, dirFd, name));
}

export function linkat(oldDirFd: number, oldName: number, newDirFd: number, newName: number, flags: number): number {
  return result(cLinkat(oldDirFd, oldName, newDirFd, newName, flags));
}

/** renameat2(2) with flags of RENAME. */
export function renameat2(oldDirFd: number, oldName: number, newDirFd: number, newName: number, flags: number): number {
  if (!whole(flags)) return -errno.EINVAL;
  return result(cRenameat2(oldDirFd, oldName, newDirFd, newName, flags));
}

/** readlinkat(2): bytes of the target written to `address`, no NUL. */
export function readlinkat(dirFd: number, name: number, address: number, bytes: number): number {
  if (!whole(address) || !whole(bytes)) return -errno.EINVAL;
  return result(cReadlinkat(dirFd, name, address, bytes));
}

export function fchmod(fd: number, mode: number): number {
  if (!whole(mode)) return -errno.EINVAL;
  return result(cFchmod(fd, mode));
}

/** fchmodat(2) following links: only for /proc/self/fd names. */
export function fchmodat(dirFd: number, name: number, mode: number): number {
  if (!whole(mode)) return -errno.EINVAL;
  return result(cFchmodat(dirFd, name, mode, 0));
}

/** fchownat(2); uid or gid 0xffffffff leaves that one unchanged. */
export function fchownat(dirFd: number, name: number, uid: number, gid: number, flags: number): number {
  if (!whole(uid) || !whole(gid)) return -errno.EINVAL;
  return result(cFchownat(dirFd, name, uid, gid, flags));
}

/** utimensat(2); `times` is the address of two struct timespec. */
export function utimensat(dirFd: number, name: number, times: number, flags: number): number {
  return result(cUtimensat(dirFd, name, times, flags));
}

export function futimens(fd: number, times: number): number {
  return result(cFutimens(fd, times));
}

/** truncate(2) following links: only for /proc/self/fd names. */
export function truncate(name: number, sizeBytes: number): number {
  if (!whole(sizeBytes)) return -errno.EINVAL;
  let r: number;
  do r = cTruncate(name, sizeBytes);
  while (interrupted(r));
  return result(r);
}

/** Process-wide umask; returns the old one. The daemon sets 0 at start. */
export function umask(mask: number): number {
  return cUmask(mask & 0o777);
}

const CLONE_FS = 0x200;

/** Gives the calling thread a umask and a working directory of its own (unshare(2) of CLONE_FS, needs no privilege). */
export function unshareFs(): number {
  return result(cUnshare(CLONE_FS));
}
