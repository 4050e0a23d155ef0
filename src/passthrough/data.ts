/** File contents: OPEN, READ, WRITE, and what else works on an open file. */
import type {
  CopyFileRangeArgs,
  FallocateArgs,
  FlushArgs,
  FsyncArgs,
  LseekArgs,
  OpenArgs,
  ReadArgs,
  ReleaseArgs,
  WriteArgs,
} from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { FOPEN, INIT, S, WRITE_FLAG } from '../fuse/flags.ts';
import { PARKED, RESUME, Request } from '../fuse/request.ts';
import { readInto, writeFrom } from '../fuse/segments.ts';
import { LSEEK_OUT_BYTES, OPEN_OUT, OPEN_OUT_BYTES } from '../fuse/wire/layout.ts';
import { putU64 } from '../fuse/wire/out.ts';
import { errno } from '../sys/errno.ts';
import {
  close,
  dupCloexec,
  FALLOC,
  RWF_APPEND,
  RWF_NOWAIT,
  SEEK,
  copyFileRange as sysCopyFileRange,
  fallocate as sysFallocate,
  fsync as sysFsync,
  lseek as sysLseek,
  syncfs as sysSyncfs,
} from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { O } from '../sys/path.ts';
import { KIND } from './handles.ts';
import { ROOT_ID } from './inodes.ts';
import { MOUNT_FLAG } from './mounts.ts';
import type { Share } from './share.ts';

/** Flags of a guest's open that reach the host's; all others mean something to the guest kernel only. */
const OPEN_FLAGS_KEPT = O.ACCMODE | O.TRUNC | O.DSYNC | O.SYNC;
/** One COPY_FILE_RANGE moves at most this much, about 1 ms of the thread; the guest asks again for the rest. */
const COPY_STEP_BYTES = 4 * 1024 * 1024;
const FALLOC_MODES = FALLOC.KEEP_SIZE | FALLOC.PUNCH_HOLE | FALLOC.ZERO_RANGE;

/** The two offsets of copy_file_range. */
const offsets = new NativeMemory(4096);

/**
 * Host flags for a guest's open flags, or -errno. O_APPEND is left out: every write says whether it appends, and pages
 * written back must not. With a writeback cache the guest reads around what it writes.
 */
export function openFlags(share: Share, request: Request, flags: number): number {
  if ((flags & O.ACCMODE) === O.ACCMODE) return -errno.EINVAL;
  let kept = flags & OPEN_FLAGS_KEPT;
  if (share.options.allowDirectIo) kept |= flags & O.DIRECT;
  if (share.options.preserveNoatime) kept |= flags & O.NOATIME;
  if ((flags & O.ACCMODE) === O.WRONLY && (request.negotiated.flags & INIT.WRITEBACK_CACHE) !== 0)
    kept = (kept & ~O.ACCMODE) | O.RDWR;
  if (share.options.readOnly && ((kept & O.ACCMODE) !== O.RDONLY || (kept & O.TRUNC) !== 0)) return -errno.EROFS;
  return kept;
}

/** Takes over `fd` as an open file or directory of inode `slot` and writes open_out at word `at`. 0, or -ENFILE with `fd` closed. */
export function putOpened(share: Share, request: Request, at: number, slot: number, fd: number, kind: number): number {
  const mount = share.inodes.mount(slot);
  const handle = share.handles.add(fd, share.inodes.id(slot), kind, mount);
  if (handle < 0) return handle;
  const out = request.reply.u32;
  let flags = kind === KIND.FILE ? share.rule.fileFlags : share.rule.dirFlags;
  if (kind === KIND.FILE && share.mounts.has(mount, MOUNT_FLAG.NO_FLUSH)) flags |= FOPEN.NOFLUSH;
  out[at + OPEN_OUT.FH] = handle;
  out[at + OPEN_OUT.FH + 1] = share.handles.generation(handle);
  out[at + OPEN_OUT.OPEN_FLAGS] = flags;
  out[at + OPEN_OUT.BACKING_ID] = 0;
  return 0;
}

/** Opens a regular file's inode with flags of `openFlags`; set-ID bits fall when it is truncated and the guest says so. */
export function openInode(share: Share, slot: number, flags: number, killSuidgid: boolean): number {
  const kill = killSuidgid && (flags & O.TRUNC) !== 0;
  if (kill) share.credentials.dropFsetid();
  const fd = share.reopen(slot, flags);
  if (kill) share.credentials.restoreFsetid();
  return fd;
}

export function open(share: Share, request: Request, args: OpenArgs): Result {
  if (!share.fits(request, OPEN_OUT_BYTES)) return -errno.EIO;
  const slot = share.inodes.slotOf(request.nodeLow);
  if (slot < 0) return slot;
  const type = share.inodes.type(slot);
  if (type !== S.IFREG) return type === S.IFDIR ? -errno.EISDIR : -errno.EACCES;
  const flags = openFlags(share, request, args.flags);
  if (flags < 0) return flags;
  if (!share.budget.room(1) || !share.handles.room(1)) return -errno.ENFILE;
  const fd = openInode(share, slot, flags, args.killSuidgid);
  if (fd < 0) return fd;
  const done = putOpened(share, request, Request.BODY_WORD, slot, fd, KIND.FILE);
  return done < 0 ? done : OPEN_OUT_BYTES;
}

export function release(share: Share, request: Request, args: ReleaseArgs, kind: number): Result {
  const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, kind);
  if (handle < 0) return handle;
  return share.handles.remove(handle);
}

/**
 * First without waiting: what is in the page cache is answered at once. A short count from such a read may be the end of
 * the file or of what is cached, so it is asked again from there; the guest takes a short reply for the end of the file.
 */
export function read(share: Share, request: Request, args: ReadArgs): Result {
  const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, KIND.FILE);
  if (handle < 0) return handle;
  const { data } = request;
  const bytes = Math.min(args.size, data.bytes);
  const fd = share.handles.fd(handle);
  const mount = share.handles.mount(handle);
  if (share.mounts.has(mount, MOUNT_FLAG.IN_MEMORY)) return readInto(data, 0, bytes, fd, args.offset, 0);
  if (!share.mounts.has(mount, MOUNT_FLAG.NOWAIT_REFUSED)) {
    let done = 0;
    for (;;) {
      const n = readInto(data, done, bytes - done, fd, args.offset + done, RWF_NOWAIT);
      if (n === -errno.EAGAIN) break;
      if (n === -errno.EOPNOTSUPP) {
        share.mounts.remember(mount, MOUNT_FLAG.NOWAIT_REFUSED);
        break;
      }
      if (n < 0) return n;
      done += n;
      if (n === 0 || done === bytes) return done;
    }
  }
  return readLater(request, fd, bytes, args.offset);
}

/** Parks the read; where nobody can do it for us it blocks this thread. */
function readLater(request: Request, fd: number, bytes: number, offset: number): Result {
  const ticket = request.parking.park(RESUME.FINISH, true);
  if (ticket !== 0) {
    if (request.io.read(fd, request.data, bytes, offset, ticket) === 0) return PARKED;
    request.parking.unpark(ticket);
  }
  return readInto(request.data, 0, bytes, fd, offset, 0);
}

export function write(share: Share, request: Request, args: WriteArgs): Result {
  if (share.options.readOnly) return -errno.EROFS;
  const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, KIND.FILE);
  if (handle < 0) return handle;
  const appends = (args.flags & O.APPEND) !== 0 && (args.writeFlags & WRITE_FLAG.CACHE) === 0;
  const kill = (args.writeFlags & WRITE_FLAG.KILL_SUIDGID) !== 0;
  if (kill) share.credentials.dropFsetid();
  const n = writeFrom(request.data, 0, args.size, share.handles.fd(handle), args.offset, appends ? RWF_APPEND : 0);
  if (kill) share.credentials.restoreFsetid();
  return n;
}

/** close(2) of a duplicate makes a host file system that delays errors (NFS, FUSE) tell them. */
export function flush(share: Share, request: Request, args: FlushArgs): Result {
  const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, KIND.FILE);
  if (handle < 0) return handle;
  if (share.mounts.has(share.handles.mount(handle), MOUNT_FLAG.NO_FLUSH)) return 0;
  const copy = dupCloexec(share.handles.fd(handle));
  return copy < 0 ? copy : close(copy);
}

export function fsync(share: Share, request: Request, args: FsyncArgs, kind: number): Result {
  const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, kind);
  if (handle < 0) return handle;
  const fd = share.handles.fd(handle);
  const ticket = request.parking.park(RESUME.FINISH, false);
  if (ticket !== 0) {
    if (request.io.fsync(fd, args.dataOnly, ticket) === 0) return PARKED;
    request.parking.unpark(ticket);
  }
  return sysFsync(fd, args.dataOnly);
}

/** Syncs the host file system of the node: the guest asks once for each of its mounts, with that mount's root. */
export function syncfs(share: Share, request: Request): Result {
  let slot = share.inodes.slotOf(request.nodeLow);
  if (slot < 0) return slot;
  if (share.inodes.type(slot) !== S.IFDIR) slot = share.inodes.slotOf(ROOT_ID);
  const mount = share.inodes.mount(slot);
  let fd = share.mounts.syncFd(mount);
  if (fd < 0) {
    if (!share.budget.room(1)) return -errno.ENFILE;
    fd = share.reopen(slot, O.RDONLY | O.DIRECTORY);
    if (fd < 0) return fd;
    share.mounts.keepSyncFd(mount, fd);
  }
  const ticket = request.parking.park(RESUME.FINISH, false);
  if (ticket !== 0) {
    if (request.io.syncfs(fd, ticket) === 0) return PARKED;
    request.parking.unpark(ticket);
  }
  return sysSyncfs(fd);
}

export function fallocate(share: Share, request: Request, args: FallocateArgs): Result {
  if (share.options.readOnly) return -errno.EROFS;
  if ((args.mode & ~FALLOC_MODES) !== 0) return -errno.EOPNOTSUPP;
  const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, KIND.FILE);
  if (handle < 0) return handle;
  const kill = killsUnasked(request);
  if (kill) share.credentials.dropFsetid();
  const done = sysFallocate(share.handles.fd(handle), args.mode, args.offset, args.length);
  if (kill) share.credentials.restoreFsetid();
  return done;
}

/**
 * Whether set-ID bits fall with a change of contents whose request has no flag for it: the guest leaves them to us
 * (KILLPRIV_V2). Root keeps them, as locally; in an idmapped session nobody says who asks, and they fall.
 */
function killsUnasked(request: Request): boolean {
  return request.uid !== 0;
}

/** SEEK_DATA and SEEK_HOLE; the guest answers the others itself. */
export function lseek(share: Share, request: Request, args: LseekArgs): Result {
  if (args.whence !== SEEK.DATA && args.whence !== SEEK.HOLE) return -errno.EINVAL;
  const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, KIND.FILE);
  if (handle < 0) return handle;
  const position = sysLseek(share.handles.fd(handle), args.offset, args.whence);
  if (position < 0) return position;
  putU64(request.reply.u32, Request.BODY_WORD, position);
  return LSEEK_OUT_BYTES;
}

/** Returns the bytes copied, at most COPY_STEP_BYTES. */
export function copyFileRange(share: Share, request: Request, args: CopyFileRangeArgs): Result {
  if (share.options.readOnly) return -errno.EROFS;
  if (args.flagsLow !== 0) return -errno.EINVAL;
  const from = share.handles.find(args.fhInLow, args.fhInHigh, request.nodeLow, KIND.FILE);
  if (from < 0) return from;
  const to = share.handles.find(args.fhOutLow, args.fhOutHigh, args.nodeOutLow, KIND.FILE);
  if (to < 0) return to;
  putU64(offsets.u32, 0, args.offsetIn);
  putU64(offsets.u32, 2, args.offsetOut);
  const bytes = Math.min(args.length, COPY_STEP_BYTES);
  const { handles } = share;
  const kill = killsUnasked(request);
  if (kill) share.credentials.dropFsetid();
  const n = sysCopyFileRange(handles.fd(from), offsets.address, handles.fd(to), offsets.address + 8, bytes);
  if (kill) share.credentials.restoreFsetid();
  return n;
}
