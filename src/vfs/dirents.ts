/**
 * Directory records of a member, rewritten in the reply where the union has to: counted, their inode numbers mixed,
 * time-outs in a root cut, names covered by a nested mount taken out.
 *
 * Only replies of READDIR and READDIRPLUS that a member has just written are walked; their lengths are still bounded
 * by the body, since a member is code of ours but no reason to run away.
 */
import { Request } from '../fuse/request.ts';
import { ATTR, DIRENT_BYTES, DIRENT_OUT, ENTRY_OUT, ENTRY_OUT_BYTES } from '../fuse/wire/layout.ts';
import { direntBytes } from '../fuse/wire/out.ts';
import { cutEntryValid } from './corrections.ts';
import type { Mounted } from './mounts.ts';
import { ROOT_LOCAL } from './node-ids.ts';
import type { PseudoTree } from './pseudo-tree.ts';

const BODY_BYTES = Request.BODY_WORD * 4;
const DOT = 0x2e;

/** Cookie of the last record the last `rewrite` saw, also of one it took out. */
export const last = { low: 0, high: 0 };

/**
 * Walks `bytes` of records of `mounted` in the reply.
 * @param plus direntplus records: each with a nodeid is counted as a lookup
 * @param mix XORed into the upper words of inode numbers; 0 = leave them
 * @param over slot of the pseudo directory whose children cover names here; -1 = none
 * @returns the bytes left
 */
export function rewrite(
  request: Request,
  bytes: number,
  mounted: Mounted,
  plus: boolean,
  mix: number,
  tree: PseudoTree,
  over: number,
): number {
  const { u32, u8 } = request.reply;
  const head = plus ? ENTRY_OUT_BYTES : 0;
  const isRoot = request.nodeLow === ROOT_LOCAL;
  const end = BODY_BYTES + bytes;
  let to = BODY_BYTES;
  let from = BODY_BYTES;
  while (from + head + DIRENT_BYTES <= end) {
    const dirent = (from + head) >> 2;
    const nameBytes = u32[dirent + DIRENT_OUT.NAMELEN];
    const name = from + head + DIRENT_BYTES;
    const record = head + direntBytes(nameBytes);
    if (nameBytes > end - name || record > end - from) break;
    last.low = u32[dirent + DIRENT_OUT.OFF];
    last.high = u32[dirent + DIRENT_OUT.OFF + 1];
    const counts = plus && (u32[from >> 2] | u32[(from >> 2) + 1]) !== 0 && !isDots(u8, name, nameBytes);
    if (over >= 0 && tree.child(over, u8, name, nameBytes) >= 0) {
      if (counts) mounted.fs.forget(u32[from >> 2], u32[(from >> 2) + 1], 1);
    } else {
      if (counts) mounted.addLookups(1);
      if (plus && isRoot) cutEntryValid(u32, from >> 2);
      if (mix !== 0) {
        u32[dirent + DIRENT_OUT.INO + 1] ^= mix;
        if (plus) u32[(from >> 2) + ENTRY_OUT.ATTR + ATTR.INO + 1] ^= mix;
      }
      if (to !== from) u8.copyWithin(to, from, from + record);
      to += record;
    }
    from += record;
  }
  return to - BODY_BYTES;
}

/** "." and ".." are never looked up: the guest takes no reference from their records (protocols 4.11). */
function isDots(u8: Uint8Array, at: number, bytes: number): boolean {
  return u8[at] === DOT && (bytes === 1 || (bytes === 2 && u8[at + 1] === DOT));
}
