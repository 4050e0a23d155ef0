/**
 * Extended attributes, by the /proc name of the inode's descriptor: works on files, directories, links and devices
 * alike, and opens none of them. Overlayfs in the guest needs `trusted.*`, which the host gives to CAP_SYS_ADMIN.
 */
import type { GetxattrArgs, ListxattrArgs, NameArgs, SetxattrArgs } from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { INIT } from '../fuse/flags.ts';
import { type Name, Request } from '../fuse/request.ts';
import { GETXATTR_OUT_BYTES, OUT_HEADER_BYTES } from '../fuse/wire/layout.ts';
import { errno } from '../sys/errno.ts';
import {
  getxattr as sysGet,
  listxattr as sysList,
  removexattr as sysRemove,
  setxattr as sysSet,
  XATTR_CREATE,
  XATTR_LIST_BYTES_MAX,
  XATTR_REPLACE,
  XATTR_VALUE_BYTES_MAX,
} from '../sys/xattr.ts';
import { fdPath } from './proc-path.ts';
import type { Share } from './share.ts';

const ACL_PREFIX = Buffer.from('system.posix_acl_');

function startsWithAcl(bytes: Uint8Array, at: number, nameBytes: number): boolean {
  if (nameBytes < ACL_PREFIX.length) return false;
  for (let i = 0; i < ACL_PREFIX.length; i++) if (bytes[at + i] !== ACL_PREFIX[i]) return false;
  return true;
}

/** A guest that did not negotiate ACLs does not enforce them: it may neither see nor set any. */
function aclsHidden(request: Request): boolean {
  return (request.negotiated.flags & INIT.POSIX_ACL) === 0;
}

/** Slot of the inode whose attribute `name` may be touched, or -errno. */
function target(share: Share, request: Request, name: Name): number {
  if (!share.options.xattr) return -errno.EOPNOTSUPP;
  if (aclsHidden(request) && startsWithAcl(request.memory.u8, name.at, name.bytes)) return -errno.EOPNOTSUPP;
  return share.inodes.slotOf(request.nodeLow);
}

export function setxattr(share: Share, request: Request, args: SetxattrArgs): Result {
  if (share.options.readOnly) return -errno.EROFS;
  if ((args.flags & ~(XATTR_CREATE | XATTR_REPLACE)) !== 0) return -errno.EINVAL;
  const slot = target(share, request, args.name);
  if (slot < 0) return slot;
  if (args.killSgid) share.credentials.dropFsetid();
  const path = fdPath(share.inodes.fd(slot));
  const done = sysSet(path, args.name.address, args.valueAddress, args.valueBytes, args.flags);
  if (args.killSgid) share.credentials.restoreFsetid();
  return done;
}

export function getxattr(share: Share, request: Request, args: GetxattrArgs): Result {
  const slot = target(share, request, args.name);
  if (slot < 0) return slot;
  const space = Math.min(args.size, XATTR_VALUE_BYTES_MAX);
  const n = sysGet(fdPath(share.inodes.fd(slot)), args.name.address, request.bodyAddress, space);
  return n < 0 || args.size > 0 ? n : putSize(request, n);
}

export function listxattr(share: Share, request: Request, args: ListxattrArgs): Result {
  if (!share.options.xattr) return -errno.EOPNOTSUPP;
  const slot = share.inodes.slotOf(request.nodeLow);
  if (slot < 0) return slot;
  const path = fdPath(share.inodes.fd(slot));
  if (args.size === 0) {
    const n = sysList(path, request.bodyAddress, 0);
    return n < 0 ? n : putSize(request, n);
  }
  const space = Math.min(args.size, XATTR_LIST_BYTES_MAX);
  const n = sysList(path, request.bodyAddress, space);
  return n > 0 && aclsHidden(request) ? withoutAcls(request.reply.u8, OUT_HEADER_BYTES, n) : n;
}

/** Takes ACL names out of the list of `bytes` at `from`, in place. Returns what is left. */
function withoutAcls(list: Uint8Array, from: number, bytes: number): number {
  let to = from;
  let at = from;
  const end = from + bytes;
  while (at < end) {
    let stop = at;
    while (stop < end && list[stop] !== 0) stop++;
    const next = stop < end ? stop + 1 : end;
    if (startsWithAcl(list, at, stop - at)) at = next;
    else while (at < next) list[to++] = list[at++];
  }
  return to - from;
}

export function removexattr(share: Share, request: Request, args: NameArgs): Result {
  if (share.options.readOnly) return -errno.EROFS;
  const slot = target(share, request, args.name);
  if (slot < 0) return slot;
  return sysRemove(fdPath(share.inodes.fd(slot)), args.name.address);
}

/** getxattr_out. */
function putSize(request: Request, bytes: number): Result {
  request.reply.u32[Request.BODY_WORD] = bytes;
  request.reply.u32[Request.BODY_WORD + 1] = 0;
  return GETXATTR_OUT_BYTES;
}
