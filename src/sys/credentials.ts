/**
 * Per-thread credentials by raw system call. The libc functions change all threads of the process; these change only
 * the calling one, which is how a file is created as the guest's user.
 *
 * Effective ids only: the saved ids stay 0, so `actAs(0, 0)` comes back. Leaving uid 0 drops the effective
 * capabilities, returning to it restores them (capabilities(7)).
 */
import { bind, result } from './libc.ts';

const ARM = process.arch === 'arm64';
const SYS_setresuid = ARM ? 147 : 117;
const SYS_setresgid = ARM ? 149 : 119;
const SYS_setgroups = ARM ? 159 : 116;
const SYS_capget = ARM ? 90 : 125;
const SYS_capset = ARM ? 91 : 126;

const cSyscall3 = bind('syscall', 'long', ['long', 'u64', 'u64', 'u64']);
const cSyscallPtr = bind('syscall', 'long', ['long', 'ptr', 'ptr']);
const cGeteuid = bind('geteuid', 'uint', []);

/** "unchanged" in setresuid and setresgid. */
const KEEP = 0xffff_ffff;

/** Sets the effective uid of this thread; 0 or -errno. */
export function setEffectiveUid(uid: number): number {
  return result(cSyscall3(SYS_setresuid, KEEP, uid >>> 0, KEEP));
}

/** Sets the effective gid of this thread. */
export function setEffectiveGid(gid: number): number {
  return result(cSyscall3(SYS_setresgid, KEEP, gid >>> 0, KEEP));
}

/** Supplementary groups of this thread: `count` gids (u32) at `address`. */
export function setGroups(count: number, address: number): number {
  return result(cSyscall3(SYS_setgroups, count, address, 0));
}

export function effectiveUid(): number {
  return cGeteuid();
}

/** capget(2)/capset(2) with version 3 header and data at raw addresses. */
export function capget(header: number, data: number): number {
  return result(cSyscallPtr(SYS_capget, header, data));
}

export function capset(header: number, data: number): number {
  return result(cSyscallPtr(SYS_capset, header, data));
}
