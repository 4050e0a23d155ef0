/** What cases need beyond node:fs: errno assertions, and libc calls Node has no name for. */
import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { setEffectiveGid, setEffectiveUid } from '../../sys/credentials.ts';
import { errnoName } from '../../sys/errno.ts';
import { NativeMemory } from '../../sys/native-memory.ts';
import { AT, mknodat, renameat2, utimensat } from '../../sys/path.ts';
import { DIRENT, getdents64, seekCookie } from '../../sys/stat.ts';
import { getxattr, listxattr, removexattr, setxattr } from '../../sys/xattr.ts';

const memory = new NativeMemory(256 * 1024);
const FIRST = 0;
const SECOND = 8192;
const THIRD = 16_384;
const BULK = 65_536;

/** Runs `call` and demands that it fails with the errno `code` ('ENOENT'). */
export function fails(code: string, call: () => unknown): void {
  assert.throws(call, (error: NodeJS.ErrnoException) => {
    if (error.code !== code) assert.fail(`wanted ${code}, got ${error.message}`);
    return true;
  });
}

/** Opens `path`, and closes it whatever `use` does. */
export function withFile(path: string, flags: number | string, use: (fd: number) => void): void {
  const fd = openSync(path, flags);
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
}

/** Turns -errno into an Error with `code`, as node:fs throws it. */
function checked(result: number, call: string): number {
  if (result >= 0) return result;
  throw Object.assign(new Error(`${errnoName(result)}: ${call}`), { code: errnoName(result) });
}

export function rename2(from: string, to: string, flags: number): void {
  const oldName = memory.putText(FIRST, from);
  const newName = memory.putText(SECOND, to);
  checked(renameat2(AT.FDCWD, oldName, AT.FDCWD, newName, flags), 'renameat2');
}

export function mknod(path: string, mode: number, major = 0, minor = 0): void {
  checked(mknodat(AT.FDCWD, memory.putText(FIRST, path), mode, major, minor), 'mknodat');
}

/** Nanoseconds of utimensat that mean "now" and "leave it". */
export const UTIME = { NOW: 0x3fff_ffff, OMIT: 0x3fff_fffe } as const;

/** utimensat: seconds and nanoseconds of atime, then of mtime. */
export function utimens(path: string, atime: [number, number], mtime: [number, number], noFollow = false): void {
  const words = memory.u32;
  [atime, mtime].forEach(([seconds, nanoseconds], i) => {
    words[SECOND / 4 + i * 4] = seconds;
    words[SECOND / 4 + i * 4 + 1] = seconds < 0 ? 0xffff_ffff : 0;
    words[SECOND / 4 + i * 4 + 2] = nanoseconds;
    words[SECOND / 4 + i * 4 + 3] = 0;
  });
  const name = memory.putText(FIRST, path);
  checked(utimensat(AT.FDCWD, name, memory.address + SECOND, noFollow ? AT.SYMLINK_NOFOLLOW : 0), 'utimensat');
}

export function setAttribute(path: string, name: string, value: string | Uint8Array, flags = 0): void {
  const bytes = Buffer.from(value);
  memory.u8.set(bytes, BULK);
  const [p, n] = [memory.putText(FIRST, path), memory.putText(THIRD, name)];
  checked(setxattr(p, n, memory.address + BULK, bytes.length, flags), 'setxattr');
}

export function getAttribute(path: string, name: string, size = 65_536): Buffer {
  const [p, n] = [memory.putText(FIRST, path), memory.putText(THIRD, name)];
  const bytes = checked(getxattr(p, n, memory.address + BULK, size), 'getxattr');
  return Buffer.from(memory.u8.slice(BULK, BULK + (size === 0 ? 0 : bytes)));
}

export function attributeSize(path: string, name: string): number {
  const [p, n] = [memory.putText(FIRST, path), memory.putText(THIRD, name)];
  return checked(getxattr(p, n, memory.address + BULK, 0), 'getxattr');
}

/** Names of the attributes, without those the system adds. */
export function attributes(path: string): string[] {
  const bytes = checked(listxattr(memory.putText(FIRST, path), memory.address + BULK, 65_536), 'listxattr');
  const text = Buffer.from(memory.u8.slice(BULK, BULK + bytes)).toString();
  return text
    .split('\0')
    .filter((n) => n !== '' && !n.startsWith('security.'))
    .sort();
}

export function removeAttribute(path: string, name: string): void {
  checked(removexattr(memory.putText(FIRST, path), memory.putText(THIRD, name)), 'removexattr');
}

/** An open directory stream, read by getdents64 in small steps. */
export class Stream {
  readonly fd: number;

  constructor(path: string) {
    this.fd = openSync(path, 'r');
  }

  /** Next entries with the cookie after each; empty at the end. */
  read(bytes: number): { name: string; low: number; high: number }[] {
    const got = checked(getdents64(this.fd, memory.address + BULK, bytes), 'getdents64');
    const found: { name: string; low: number; high: number }[] = [];
    for (let at = BULK; at < BULK + got; at += memory.view.getUint16(at + DIRENT.RECLEN, true)) {
      const name = at + DIRENT.NAME;
      const [low, high] = [memory.u32[(at + DIRENT.OFF) / 4], memory.u32[(at + DIRENT.OFF) / 4 + 1]];
      found.push({ name: Buffer.from(memory.u8.slice(name, memory.u8.indexOf(0, name))).toString(), low, high });
    }
    return found;
  }

  seek(low: number, high: number): void {
    checked(seekCookie(this.fd, low, high), 'lseek');
  }

  close(): void {
    closeSync(this.fd);
  }
}

/** Runs `call` as another user (this thread only), then is root again. */
export function asUser(uid: number, gid: number, call: () => void): void {
  checked(setEffectiveGid(gid), 'setegid');
  checked(setEffectiveUid(uid), 'seteuid');
  try {
    call();
  } finally {
    checked(setEffectiveUid(0), 'seteuid');
    checked(setEffectiveGid(0), 'setegid');
  }
}
