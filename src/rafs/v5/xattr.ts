/** Xattrs of v5 inodes (rafs-format 1.7; check 9.9): u32 length, name, NUL, value, and the next pair at once. */
import { errno } from '../../sys/errno.ts';
import type { InodeRecord, Span, XattrCursor } from '../metadata.ts';
import { PAGE_BYTES } from '../page-cache.ts';
import type { V5Image } from './image.ts';
import { XATTR_HEADER_BYTES, XATTR_NAME_BYTES_MAX, XATTR_PAIR_HEADER_BYTES, XATTR_VALUE_BYTES_MAX } from './layout.ts';

/** Most areas that cross a page are smaller than one. */
const SCRATCH_BYTES_MIN = PAGE_BYTES;

export class Xattrs {
  private scratch = new Uint8Array(0);

  constructor(private readonly image: V5Image) {}

  /** Sets `into` to all pairs of the inode, copied together when they cross pages: 0 or -EIO. */
  area(inode: InodeRecord, into: Span): number {
    const bytes = inode.xattrBytes;
    into.bytes = 0;
    if (bytes === 0) return 0;
    const offset = inode.offset + inode.bytes + XATTR_HEADER_BYTES;
    if ((offset & (PAGE_BYTES - 1)) + bytes <= PAGE_BYTES) {
      into.u8 = this.image.cache.memory.u8;
      into.at = this.image.locate(offset);
      if (into.at < 0) return into.at;
    } else {
      if (this.scratch.length < bytes) this.scratch = new Uint8Array(Math.max(SCRATCH_BYTES_MIN, bytes));
      const copied = this.image.copy(offset, bytes, this.scratch, 0);
      if (copied < 0) return copied;
      into.u8 = this.scratch;
      into.at = 0;
    }
    into.bytes = bytes;
    return 0;
  }
}

export class V5XattrCursor implements XattrCursor {
  u8: Uint8Array = new Uint8Array(0);
  nameBytes = 0;
  valueAt = 0;
  valueBytes = 0;
  private nameAt = 0;
  private at = 0;
  private end = 0;

  start(area: Span): void {
    this.u8 = area.u8;
    this.at = area.at;
    this.end = area.at + area.bytes;
  }

  next(): number {
    const { u8, at, end } = this;
    if (at === end) return 0;
    if (at + XATTR_PAIR_HEADER_BYTES > end) return -errno.EIO;
    const bytes = (u8[at] | (u8[at + 1] << 8) | (u8[at + 2] << 16) | (u8[at + 3] << 24)) >>> 0;
    if (bytes === 0) return 0;
    this.nameAt = at + XATTR_PAIR_HEADER_BYTES;
    const stop = this.nameAt + bytes;
    if (stop > end) return -errno.EIO;
    let nul = this.nameAt;
    while (nul < stop && u8[nul] !== 0) nul++;
    this.nameBytes = nul - this.nameAt;
    this.valueAt = nul + 1;
    this.valueBytes = stop - this.valueAt;
    this.at = stop;
    const broken = this.nameBytes === 0 || this.nameBytes > XATTR_NAME_BYTES_MAX || this.valueBytes < 0;
    return broken || this.valueBytes > XATTR_VALUE_BYTES_MAX ? -errno.EIO : 1;
  }

  matches(name: Uint8Array, at: number, bytes: number): boolean {
    if (bytes !== this.nameBytes) return false;
    for (let i = 0; i < bytes; i++) if (this.u8[this.nameAt + i] !== name[at + i]) return false;
    return true;
  }

  copyName(to: Uint8Array, at: number): number {
    for (let i = 0; i < this.nameBytes; i++) to[at + i] = this.u8[this.nameAt + i];
    return this.nameBytes;
  }
}
