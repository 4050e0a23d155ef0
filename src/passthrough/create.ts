/** Everything that changes a directory: made as the caller, looked up without trusting the name twice. */
import type { CreateArgs, LinkArgs, MkdirArgs, MknodArgs, NameArgs, RenameArgs, SymlinkArgs } from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { INIT2, S } from '../fuse/flags.ts';
import { type Name, Request } from '../fuse/request.ts';
import { ENTRY_OUT_BYTES, OPEN_OUT_BYTES } from '../fuse/wire/layout.ts';
import { errno } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import {
  AT,
  EMPTY_NAME,
  fchownat,
  linkat,
  mkdirat,
  mknodat,
  O,
  RENAME,
  renameat2,
  symlinkat,
  unlinkat,
} from '../sys/path.ts';
import { STATX } from '../sys/stat.ts';
import { setxattr } from '../sys/xattr.ts';
import { NO_ID } from './credentials.ts';
import { openFlags, openInode, putOpened } from './data.ts';
import { KIND } from './handles.ts';
import { putEntry } from './lookup.ts';
import { fdName, fdPath } from './proc-path.ts';
import type { Share } from './share.ts';

const PERMISSIONS = 0o7777;
/** A name that appears and vanishes between our two calls is somebody's loop: give up then. */
const CREATE_ATTEMPTS_MAX = 8;
const RENAME_FLAGS = RENAME.NOREPLACE | RENAME.EXCHANGE | RENAME.WHITEOUT;

/** Slot of the request's directory when something may be made in it and the reply has room; or -errno. */
function directory(share: Share, request: Request, replyBytes: number): number {
  if (share.options.readOnly) return -errno.EROFS;
  if (!share.fits(request, replyBytes)) return -errno.EIO;
  return share.inodes.slotOf(request.nodeLow);
}

/** As `directory`, for what will be a new inode: one that could not be shown must not be made. */
function directoryOfNew(share: Share, request: Request): number {
  const dir = directory(share, request, ENTRY_OUT_BYTES);
  return dir < 0 || (share.budget.room(1) && share.inodes.room(1)) ? dir : -errno.ENFILE;
}

export function mknod(share: Share, request: Request, args: MknodArgs): Result {
  const type = args.mode & S.IFMT || S.IFREG;
  if (type === S.IFDIR || type === S.IFLNK) return -errno.EINVAL;
  const dir = directoryOfNew(share, request);
  if (dir < 0) return dir;
  const mode = type | (args.mode & PERMISSIONS);
  const entered = share.credentials.enter(request, args.umask);
  if (entered < 0) return entered;
  const done = mknodat(share.inodes.fd(dir), args.name.address, mode, args.rdevMajor, args.rdevMinor);
  share.credentials.leave();
  return done < 0 ? done : created(share, request, dir, args.name, type);
}

export function mkdir(share: Share, request: Request, args: MkdirArgs): Result {
  const dir = directoryOfNew(share, request);
  if (dir < 0) return dir;
  const entered = share.credentials.enter(request, args.umask);
  if (entered < 0) return entered;
  const done = mkdirat(share.inodes.fd(dir), args.name.address, args.mode & PERMISSIONS);
  share.credentials.leave();
  return done < 0 ? done : created(share, request, dir, args.name, S.IFDIR);
}

export function symlink(share: Share, request: Request, args: SymlinkArgs): Result {
  const dir = directoryOfNew(share, request);
  if (dir < 0) return dir;
  const entered = share.credentials.enter(request, 0);
  if (entered < 0) return entered;
  const done = symlinkat(args.target.address, share.inodes.fd(dir), args.name.address);
  share.credentials.leave();
  return done < 0 ? done : created(share, request, dir, args.name, S.IFLNK);
}

/** entry_out of what was just made under `name`. Somebody on the host may have replaced it: another type is not handed out. */
function created(share: Share, request: Request, dir: number, name: Name, type: number): Result {
  const slot = share.resolve(share.inodes.fd(dir), name.address);
  if (slot < 0) return slot;
  if (share.inodes.type(slot) !== type) {
    share.inodes.dropIfUncounted(slot);
    return -errno.EIO;
  }
  const labelled = label(share, request, slot);
  if (labelled < 0) {
    share.inodes.dropIfUncounted(slot);
    unlinkat(share.inodes.fd(dir), name.address, type === S.IFDIR ? AT.REMOVEDIR : 0);
    return labelled;
  }
  putEntry(share, request, Request.BODY_WORD, slot, share.inodes.mount(dir));
  return ENTRY_OUT_BYTES;
}

/** Sets the security context that came with a create. Without one of them the object must not exist, so failure undoes it. */
function label(share: Share, request: Request, slot: number): number {
  if (request.contextBytes === 0 || (request.negotiated.flags2 & INIT2.SECURITY_CTX) === 0) return 0;
  const path = fdPath(share.inodes.fd(slot));
  return setxattr(path, request.contextName.address, request.contextAddress, request.contextBytes, 0);
}

/**
 * O_EXCL first, whatever the guest asked: so what is opened with the caller's rights is always new. The inode comes from
 * the new descriptor; the name could mean another file by now. A file that is there already is opened as OPEN does it.
 */
export function create(share: Share, request: Request, args: CreateArgs): Result {
  const dir = directory(share, request, ENTRY_OUT_BYTES + OPEN_OUT_BYTES);
  if (dir < 0) return dir;
  const flags = openFlags(share, request, args.flags);
  if (flags < 0) return flags;
  if (!share.budget.room(2) || !share.handles.room(1) || !share.inodes.room(1)) return -errno.ENFILE;
  for (let attempt = 0; attempt < CREATE_ATTEMPTS_MAX; attempt++) {
    const fd = createNew(share, request, dir, args, flags);
    if (fd >= 0) return createdFile(share, request, dir, args.name, fd);
    if (fd !== -errno.EEXIST || (args.flags & O.EXCL) !== 0) return fd;
    const done = openExisting(share, request, dir, args, flags);
    if (done !== -errno.ENOENT) return done;
  }
  return -errno.EBUSY;
}

function createNew(share: Share, request: Request, dir: number, args: CreateArgs, flags: number): number {
  const entered = share.credentials.enter(request, args.umask);
  if (entered < 0) return entered;
  const how = (flags & ~O.TRUNC) | O.CREAT | O.EXCL;
  const fd = share.openBelow(share.inodes.fd(dir), args.name.address, how, args.mode & PERMISSIONS);
  share.credentials.leave();
  return fd;
}

function createdFile(share: Share, request: Request, dir: number, name: Name, fd: number): Result {
  const slot = share.adoptOpened(fd);
  let done = slot < 0 ? slot : label(share, request, slot);
  if (done < 0) {
    close(fd);
    unlinkat(share.inodes.fd(dir), name.address, 0);
  } else done = putOpened(share, request, Request.BODY_WORD + ENTRY_OUT_BYTES / 4, slot, fd, KIND.FILE);
  if (done < 0) {
    if (slot >= 0) share.inodes.dropIfUncounted(slot);
    return done;
  }
  putEntry(share, request, Request.BODY_WORD, slot, share.inodes.mount(dir));
  return ENTRY_OUT_BYTES + OPEN_OUT_BYTES;
}

/** A link or a device under that name is the guest's to look at again: ESTALE makes it walk the path once more. */
function openExisting(share: Share, request: Request, dir: number, args: CreateArgs, flags: number): Result {
  const slot = share.resolve(share.inodes.fd(dir), args.name.address);
  if (slot < 0) return slot;
  let done: number = -errno.ESTALE;
  if (share.inodes.type(slot) === S.IFREG) {
    const fd = openInode(share, slot, flags, args.killSuidgid);
    done = fd < 0 ? fd : putOpened(share, request, Request.BODY_WORD + ENTRY_OUT_BYTES / 4, slot, fd, KIND.FILE);
    if (done >= 0) done = share.statFd(share.inodes.fd(slot)); // O_TRUNC changed it
  }
  if (done < 0) {
    share.inodes.dropIfUncounted(slot);
    return done;
  }
  putEntry(share, request, Request.BODY_WORD, slot, share.inodes.mount(dir));
  return ENTRY_OUT_BYTES + OPEN_OUT_BYTES;
}

/** The link is made from the descriptor, so the entry is that inode, whatever the new name means by then. */
export function link(share: Share, request: Request, args: LinkArgs): Result {
  const dir = directory(share, request, ENTRY_OUT_BYTES);
  if (dir < 0) return dir;
  const slot = share.inodes.slotOf(args.oldLow);
  if (slot < 0) return slot;
  if (share.inodes.type(slot) === S.IFDIR) return -errno.EPERM;
  const source = fdName(share.inodes.fd(slot));
  let done = linkat(share.procFd, source, share.inodes.fd(dir), args.name.address, AT.SYMLINK_FOLLOW);
  if (done >= 0) done = share.statFd(share.inodes.fd(slot));
  if (done < 0) return done;
  putEntry(share, request, Request.BODY_WORD, slot, share.inodes.mount(dir));
  return ENTRY_OUT_BYTES;
}

export function remove(share: Share, request: Request, args: NameArgs, isDirectory: boolean): Result {
  const dir = directory(share, request, 0);
  if (dir < 0) return dir;
  return unlinkat(share.inodes.fd(dir), args.name.address, isDirectory ? AT.REMOVEDIR : 0);
}

export function rename(share: Share, request: Request, args: RenameArgs): Result {
  if ((args.flags & ~RENAME_FLAGS) !== 0) return -errno.EINVAL;
  const from = directory(share, request, 0);
  if (from < 0) return from;
  const to = share.inodes.slotOf(args.newDirLow);
  if (to < 0) return to;
  const oldDir = share.inodes.fd(from);
  const done = renameat2(oldDir, args.oldName.address, share.inodes.fd(to), args.newName.address, args.flags);
  if (done < 0 || (args.flags & RENAME.WHITEOUT) === 0) return done;
  return ownWhiteout(share, request, oldDir, args.oldName);
}

/** The whiteout left by a rename belongs to the caller like everything he makes; the rename itself needs the daemon's rights. */
function ownWhiteout(share: Share, request: Request, dirFd: number, name: Name): number {
  const { uid, gid } = request;
  if (!share.credentials.switches || uid === NO_ID || gid === NO_ID || (uid === 0 && gid === 0)) return 0;
  const fd = share.openBelow(dirFd, name.address, O.PATH, 0);
  if (fd < 0) return 0; // gone already: it was somebody's to take
  const stat = share.stat.u32;
  const isWhiteout =
    share.statFd(fd) === 0 &&
    (stat[STATX.MODE] & S.IFMT) === S.IFCHR &&
    stat[STATX.RDEV_MAJOR] === 0 &&
    stat[STATX.RDEV_MINOR] === 0;
  const done = isWhiteout ? fchownat(fd, EMPTY_NAME, uid, gid, AT.EMPTY_PATH | AT.SYMLINK_NOFOLLOW) : 0;
  close(fd);
  return done;
}
