/** Attributes: from statx to the wire, GETATTR, SETATTR, ACCESS, STATFS. */
import type { AccessArgs, GetattrArgs, SetattrArgs } from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { FATTR, INIT, S } from '../fuse/flags.ts';
import { Request } from '../fuse/request.ts';
import { ATTR, ATTR_OUT, ATTR_OUT_BYTES, STATFS_OUT, STATFS_OUT_BYTES } from '../fuse/wire/layout.ts';
import { encodeRdev, putAttrHead } from '../fuse/wire/out.ts';
import { errno } from '../sys/errno.ts';
import { ftruncate } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { AT, EMPTY_NAME, fchmod, fchmodat, fchownat, futimens, truncate, utimensat } from '../sys/path.ts';
import { fstatfs, STATFS, STATFS_BYTES, STATX } from '../sys/stat.ts';
import { KIND } from './handles.ts';
import { ROOT_ID } from './inodes.ts';
import { fdName, fdPath } from './proc-path.ts';
import type { Share } from './share.ts';

const NSEC_MAX = 999_999_999;
const UTIME_NOW = 0x3fff_ffff;
const UTIME_OMIT = 0x3fff_fffe;
const MODE_BITS = 0o7777;

/** Two struct timespec for utimensat, then a struct statfs. */
const scratch = new NativeMemory(4096);
const STATFS_AT = 64;
const TIMESPEC_WORDS = 4;
if (STATFS_AT + STATFS_BYTES > scratch.bytes) throw new RangeError('attribute scratch is too small');

/** Writes fuse_attr at word `at` from the statx result in `share.stat`. `flags` are ATTR_* bits. */
export function putAttrOfStat(share: Share, request: Request, at: number, flags: number): void {
  const stat = share.stat.u32;
  const out = request.reply.u32;
  for (let i = 0; i < 2; i++) {
    out[at + ATTR.INO + i] = stat[STATX.INO + i];
    out[at + ATTR.SIZE + i] = stat[STATX.SIZE + i];
    out[at + ATTR.BLOCKS + i] = stat[STATX.BLOCKS + i];
    out[at + ATTR.ATIME + i] = stat[STATX.ATIME + i];
    out[at + ATTR.MTIME + i] = stat[STATX.MTIME + i];
    out[at + ATTR.CTIME + i] = stat[STATX.CTIME + i];
  }
  out[at + ATTR.INO + 1] = shownInoHigh(
    share,
    request,
    stat[STATX.DEV_MAJOR],
    stat[STATX.DEV_MINOR],
    out[at + ATTR.INO + 1],
  );
  out[at + ATTR.ATIMENSEC] = stat[STATX.ATIME + 2];
  out[at + ATTR.MTIMENSEC] = stat[STATX.MTIME + 2];
  out[at + ATTR.CTIMENSEC] = stat[STATX.CTIME + 2];
  out[at + ATTR.MODE] = stat[STATX.MODE] & 0xffff;
  out[at + ATTR.NLINK] = stat[STATX.NLINK];
  out[at + ATTR.UID] = stat[STATX.UID];
  out[at + ATTR.GID] = stat[STATX.GID];
  out[at + ATTR.RDEV] = encodeRdev(stat[STATX.RDEV_MAJOR], stat[STATX.RDEV_MINOR]);
  out[at + ATTR.BLKSIZE] = stat[STATX.BLKSIZE];
  out[at + ATTR.FLAGS] = flags;
}

/**
 * Upper word of the inode number as the guest sees it. Where it cannot tell host devices apart by st_dev (no SUBMOUNTS),
 * the device is mixed in, or tar and rsync would take two files of different host mounts for hard links of one.
 */
export function shownInoHigh(share: Share, request: Request, major: number, minor: number, inoHigh: number): number {
  if ((request.negotiated.flags & INIT.SUBMOUNTS) !== 0 && share.options.announceSubmounts) return inoHigh;
  const root = share.inodes.mount(share.inodes.slotOf(ROOT_ID));
  if (share.mounts.devMajor(root) === major && share.mounts.devMinor(root) === minor) return inoHigh;
  // 31 bits: ino stays positive where a guest program takes it for signed.
  return (inoHigh ^ (Math.imul((major << 20) ^ minor ^ (major >>> 12), 0x9e37_79b1) >>> 1)) >>> 0;
}

/** attr_out from the statx result in `share.stat`. */
function putAttrOut(share: Share, request: Request): Result {
  putAttrHead(request.reply.u32, Request.BODY_WORD, share.rule.attrValidMs);
  putAttrOfStat(share, request, Request.BODY_WORD + ATTR_OUT.ATTR, 0);
  return ATTR_OUT_BYTES;
}

export function getattr(share: Share, request: Request, args: GetattrArgs): Result {
  let fd: number;
  if (args.hasFh) {
    const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, KIND.FILE);
    if (handle < 0) return handle;
    fd = share.handles.fd(handle);
  } else {
    const slot = share.inodes.slotOf(request.nodeLow);
    if (slot < 0) return slot;
    fd = share.inodes.fd(slot);
  }
  const done = share.statFd(fd);
  return done < 0 ? done : putAttrOut(share, request);
}

/** Mode, owner, size, times, in this order (protocols 4.7); what came before a failure stays done, as with the host's calls. */
export function setattr(share: Share, request: Request, args: SetattrArgs): Result {
  if (share.options.readOnly) return -errno.EROFS;
  const slot = share.inodes.slotOf(request.nodeLow);
  if (slot < 0) return slot;
  const inodeFd = share.inodes.fd(slot);
  let handleFd = -1;
  if ((args.valid & FATTR.FH) !== 0) {
    const handle = share.handles.find(args.fhLow, args.fhHigh, request.nodeLow, KIND.FILE);
    if (handle < 0) return handle;
    handleFd = share.handles.fd(handle);
  }
  let done = 0;
  if ((args.valid & FATTR.MODE) !== 0) done = setMode(share, slot, handleFd, args.mode & MODE_BITS);
  if (done >= 0 && (args.valid & (FATTR.UID | FATTR.GID)) !== 0) {
    const uid = (args.valid & FATTR.UID) !== 0 ? args.uid : 0xffff_ffff;
    const gid = (args.valid & FATTR.GID) !== 0 ? args.gid : 0xffff_ffff;
    done = fchownat(inodeFd, EMPTY_NAME, uid, gid, AT.EMPTY_PATH | AT.SYMLINK_NOFOLLOW);
  }
  if (done >= 0 && (args.valid & FATTR.SIZE) !== 0) done = setSize(share, slot, handleFd, args);
  if (done >= 0 && (args.valid & (FATTR.ATIME | FATTR.MTIME)) !== 0) done = setTimes(share, inodeFd, handleFd, args);
  if (done >= 0) done = share.statFd(inodeFd);
  return done < 0 ? done : putAttrOut(share, request);
}

/** Linux has no mode of a link to change; following it would change the mode of a file anywhere on the host. */
function setMode(share: Share, slot: number, handleFd: number, mode: number): number {
  if (share.inodes.type(slot) === S.IFLNK) return -errno.EOPNOTSUPP;
  if (handleFd >= 0) return fchmod(handleFd, mode);
  return fchmodat(share.procFd, fdName(share.inodes.fd(slot)), mode);
}

function setSize(share: Share, slot: number, handleFd: number, args: SetattrArgs): number {
  const type = share.inodes.type(slot);
  if (type !== S.IFREG) return type === S.IFDIR ? -errno.EISDIR : -errno.EINVAL;
  const kill = (args.valid & FATTR.KILL_SUIDGID) !== 0;
  if (kill) share.credentials.dropFsetid();
  const done = handleFd >= 0 ? ftruncate(handleFd, args.size) : truncate(fdPath(share.inodes.fd(slot)), args.size);
  if (kill) share.credentials.restoreFsetid();
  return done;
}

function setTimes(share: Share, inodeFd: number, handleFd: number, args: SetattrArgs): number {
  const { valid } = args;
  const atime = putTime(0, valid & FATTR.ATIME, valid & FATTR.ATIME_NOW, args.atimeLow, args.atimeHigh, args.atimeNsec);
  const mtime = putTime(1, valid & FATTR.MTIME, valid & FATTR.MTIME_NOW, args.mtimeLow, args.mtimeHigh, args.mtimeNsec);
  if (!atime || !mtime) return -errno.EINVAL;
  if (handleFd >= 0) return futimens(handleFd, scratch.address);
  return utimensat(share.procFd, fdName(inodeFd), scratch.address, 0);
}

/** Writes timespec `index`. False for nanoseconds that are none: the kernel would take two of those values for NOW and OMIT. */
function putTime(index: number, set: number, now: number, low: number, high: number, nsec: number): boolean {
  const words = scratch.u32;
  const at = index * TIMESPEC_WORDS;
  words[at] = low;
  words[at + 1] = high;
  words[at + 3] = 0;
  if (set === 0) words[at + 2] = UTIME_OMIT;
  else if (now !== 0) words[at + 2] = UTIME_NOW;
  else if (nsec > NSEC_MAX) return false;
  else words[at + 2] = nsec;
  return true;
}

/** Mode bits only: a Linux virtio-fs mount decides by itself and never asks. */
export function access(share: Share, request: Request, args: AccessArgs): Result {
  if (args.mask > 7) return -errno.EINVAL;
  const slot = share.inodes.slotOf(request.nodeLow);
  if (slot < 0) return slot;
  const done = share.statFd(share.inodes.fd(slot));
  if (done < 0) return done;
  const stat = share.stat.u32;
  const mode = stat[STATX.MODE] & 0xffff;
  if ((args.mask & 2) !== 0 && share.options.readOnly) return -errno.EROFS;
  if (request.uid === 0) {
    const executable = (mode & 0o111) !== 0 || (mode & S.IFMT) === S.IFDIR;
    return (args.mask & 1) !== 0 && !executable ? -errno.EACCES : 0;
  }
  const shift = request.uid === stat[STATX.UID] ? 6 : request.gid === stat[STATX.GID] ? 3 : 0;
  return (args.mask & ~(mode >>> shift) & 7) === 0 ? 0 : -errno.EACCES;
}

export function statfs(share: Share, request: Request): Result {
  const slot = share.inodes.slotOf(request.nodeLow);
  if (slot < 0) return slot;
  const done = fstatfs(share.inodes.fd(slot), scratch.address + STATFS_AT);
  if (done < 0) return done;
  const words = scratch.u32;
  const from = STATFS_AT / 4;
  const out = request.reply.u32;
  const at = Request.BODY_WORD;
  for (let i = 0; i < STATFS_OUT_BYTES / 4; i++) out[at + i] = 0;
  for (let i = 0; i < 2; i++) {
    out[at + STATFS_OUT.BLOCKS + i] = words[from + STATFS.BLOCKS + i];
    out[at + STATFS_OUT.BFREE + i] = words[from + STATFS.BFREE + i];
    out[at + STATFS_OUT.BAVAIL + i] = words[from + STATFS.BAVAIL + i];
    out[at + STATFS_OUT.FILES + i] = words[from + STATFS.FILES + i];
    out[at + STATFS_OUT.FFREE + i] = words[from + STATFS.FFREE + i];
  }
  out[at + STATFS_OUT.BSIZE] = words[from + STATFS.BSIZE];
  out[at + STATFS_OUT.NAMELEN] = words[from + STATFS.NAMELEN];
  out[at + STATFS_OUT.FRSIZE] = words[from + STATFS.FRSIZE];
  return STATFS_OUT_BYTES;
}
