/** Inline xattrs (rafs-format 2.11; check 9.24): finding the area, and stepping through its entries. */
import { errno } from '../../sys/errno.ts';
import type { InodeRecord, Span, XattrCursor } from '../metadata.ts';
import { PAGE_BYTES } from '../page-cache.ts';
import type { V6Image } from './image.ts';
import { XATTR_ENTRY_BYTES, XATTR_HEADER_BYTES, XATTR_PREFIXES } from './inode-layout.ts';

const SHARED_COUNT = 4;

/** Byte form of `XATTR_PREFIXES`; empty where a number has no meaning. */
const PREFIXES: readonly Uint8Array[] = XATTR_PREFIXES.map((prefix) => Buffer.from(prefix ?? ''));

/** Sets `into` to the inode's whole xattr area, copied together when it crosses pages: 0 or -EIO. */
export function xattrArea(image: V6Image, inode: InodeRecord, into: Span): number {
  into.bytes = 0;
  if (inode.xattrBytes === 0) return 0;
  const offset = inode.offset + inode.bytes;
  if ((offset & (PAGE_BYTES - 1)) + inode.xattrBytes > PAGE_BYTES) {
    const scratch = image.xattrScratch();
    const copied = image.copy(offset, inode.xattrBytes, scratch, 0);
    if (copied < 0) return copied;
    into.u8 = scratch;
    into.at = 0;
  } else {
    const at = image.locate(offset);
    if (at < 0) return at;
    into.u8 = image.cache.memory.u8;
    into.at = at;
  }
  if (into.u8[into.at + SHARED_COUNT] !== 0) return image.refuse('xattrs: shared ones');
  into.bytes = inode.xattrBytes;
  return 0;
}

/** Names of unknown kinds are skipped. */
export class V6XattrCursor implements XattrCursor {
  u8: Uint8Array = new Uint8Array(0);
  prefix: Uint8Array = PREFIXES[0];
  suffixAt = 0;
  suffixBytes = 0;
  valueAt = 0;
  valueBytes = 0;
  private at = 0;
  private end = 0;

  start(area: Span): void {
    this.u8 = area.u8;
    this.at = area.at + XATTR_HEADER_BYTES;
    this.end = area.at + area.bytes;
  }

  next(): number {
    const { u8, end } = this;
    // One word less than a header's room is padding; entries are 4-aligned.
    while (this.at + XATTR_ENTRY_BYTES <= end) {
      const at = this.at;
      this.suffixBytes = u8[at];
      const kind = u8[at + 1];
      this.valueBytes = u8[at + 2] | (u8[at + 3] << 8);
      this.suffixAt = at + XATTR_ENTRY_BYTES;
      this.valueAt = this.suffixAt + this.suffixBytes;
      const stop = this.valueAt + this.valueBytes;
      if (stop > end) return -errno.EIO;
      this.at = at + ((stop - at + 3) & ~3);
      if (kind >= PREFIXES.length || PREFIXES[kind].length === 0) continue;
      this.prefix = PREFIXES[kind];
      return 1;
    }
    return 0;
  }

  matches(name: Uint8Array, at: number, bytes: number): boolean {
    const { prefix, u8, suffixAt, suffixBytes } = this;
    if (prefix.length + suffixBytes !== bytes) return false;
    for (let i = 0; i < prefix.length; i++) if (prefix[i] !== name[at + i]) return false;
    const from = at + prefix.length;
    for (let i = 0; i < suffixBytes; i++) if (u8[suffixAt + i] !== name[from + i]) return false;
    return true;
  }

  get nameBytes(): number {
    return this.prefix.length + this.suffixBytes;
  }

  copyName(to: Uint8Array, at: number): number {
    for (let i = 0; i < this.prefix.length; i++) to[at + i] = this.prefix[i];
    const from = at + this.prefix.length;
    for (let i = 0; i < this.suffixBytes; i++) to[from + i] = this.u8[this.suffixAt + i];
    return this.nameBytes;
  }
}
