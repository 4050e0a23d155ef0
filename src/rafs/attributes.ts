/** fuse_attr of an image's inode (rafs-format 10, "Attributes reported"). */
import { S } from '../fuse/flags.ts';
import { putAttr } from '../fuse/wire/out.ts';
import type { InodeRecord, Metadata } from './metadata.ts';

/** A year: nothing in an image ever changes, and mount points are looked up through the union's own short time-outs. */
export const VALID_MS = 365 * 24 * 3600 * 1000;

/** Shown where the image's ids mean nothing: the daemon's own (0.3). */
const OWN_UID = process.geteuid?.() ?? 0;
const OWN_GID = process.getegid?.() ?? 0;

/** Writes the attributes of `inode` at word `at`; the caller's `words` are the reply's. */
export function copyAttributes(metadata: Metadata, inode: InodeRecord, words: Uint32Array, at: number): void {
  const type = inode.mode & S.IFMT;
  putAttr(
    words,
    at,
    inode.node,
    0,
    inode.size,
    inode.sectors,
    inode.mtime,
    inode.mtimeNs,
    inode.mode,
    inode.nlink,
    metadata.explicitIds ? inode.uid : OWN_UID,
    metadata.explicitIds ? inode.gid : OWN_GID,
    // Stored in the very encoding that the wire has.
    type === S.IFCHR || type === S.IFBLK ? inode.u : 0,
    0,
  );
}
