/** Entries: from an inode to entry_out, LOOKUP, READLINK. */
import type { NameArgs } from '../fuse/args.ts';
import type { Result } from '../fuse/file-system.ts';
import { ATTR_SUBMOUNT, INIT, S } from '../fuse/flags.ts';
import { Request } from '../fuse/request.ts';
import { ENTRY_OUT, ENTRY_OUT_BYTES, SYMLINK_BYTES_MAX } from '../fuse/wire/layout.ts';
import { putEntryHead } from '../fuse/wire/out.ts';
import { errno } from '../sys/errno.ts';
import { EMPTY_NAME, readlinkat } from '../sys/path.ts';
import { putAttrOfStat } from './attr.ts';
import type { Share } from './share.ts';

/**
 * Counts a lookup of `slot` and writes its entry_out at word `at`, with the attributes in `share.stat`.
 * `parentMount` is the mount of the directory the name was found in.
 */
export function putEntry(share: Share, request: Request, at: number, slot: number, parentMount: number): void {
  share.inodes.count(slot);
  const { entryValidMs, attrValidMs } = share.rule;
  putEntryHead(request.reply.u32, at, share.inodes.id(slot), request.nodeHigh, entryValidMs, attrValidMs);
  putAttrOfStat(share, request, at + ENTRY_OUT.ATTR, submountFlag(share, request, slot, parentMount));
}

/**
 * A directory on another mount than its parent becomes a mount of its own in the guest. No reference beyond its lookups
 * is kept for it: that would pin a host mount which its owner wants to take away (kata-contract A14).
 */
function submountFlag(share: Share, request: Request, slot: number, parentMount: number): number {
  if (share.inodes.mount(slot) === parentMount || share.inodes.type(slot) !== S.IFDIR) return 0;
  return share.options.announceSubmounts && (request.negotiated.flags & INIT.SUBMOUNTS) !== 0 ? ATTR_SUBMOUNT : 0;
}

export function lookup(share: Share, request: Request, args: NameArgs): Result {
  if (!share.fits(request, ENTRY_OUT_BYTES)) return -errno.EIO;
  const dir = share.inodes.slotOf(request.nodeLow);
  if (dir < 0) return dir;
  const slot = share.resolve(share.inodes.fd(dir), args.name.address);
  if (slot < 0) return slot;
  putEntry(share, request, Request.BODY_WORD, slot, share.inodes.mount(dir));
  return ENTRY_OUT_BYTES;
}

export function readlink(share: Share, request: Request): Result {
  const slot = share.inodes.slotOf(request.nodeLow);
  if (slot < 0) return slot;
  if (share.inodes.type(slot) !== S.IFLNK) return -errno.EINVAL;
  const bytes = readlinkat(share.inodes.fd(slot), EMPTY_NAME, request.bodyAddress, SYMLINK_BYTES_MAX + 1);
  return bytes > SYMLINK_BYTES_MAX ? -errno.ENAMETOOLONG : bytes;
}
