/**
 * An open v6 bootstrap as the readers of this folder see it: validated geometry, and pages through the cache.
 */
import { errno } from '../../sys/errno.ts';
import { PAGE_BITS, PAGE_BYTES, type PageCache } from '../page-cache.ts';
import { INODE_EXTENDED_BYTES, XATTR_AREA_BYTES_MAX } from './inode-layout.ts';
import type { Geometry } from './superblock.ts';

export class V6Image {
  readonly metaOffset: number;
  readonly fileBytes: number;
  readonly chunkSize: number;
  /** Rule broken by what the last -EIO came from. */
  broken = '';
  /** Inodes that cross a page border are put together here. */
  readonly inodeScratch = new DataView(new ArrayBuffer(INODE_EXTENDED_BYTES));
  private areaScratch: Uint8Array | null = null;
  private readonly file: number;

  constructor(
    readonly cache: PageCache,
    fd: number,
    readonly geometry: Geometry,
  ) {
    this.file = cache.add(fd);
    this.metaOffset = geometry.metaOffset;
    this.fileBytes = geometry.fileBytes;
    this.chunkSize = geometry.chunkSize;
  }

  /**
   * Byte index in `cache.memory` of file byte `offset`, valid to the end of its page and until the next call; -EIO when
   * the page is not there. The caller has checked `offset` against `fileBytes`.
   */
  locate(offset: number): number {
    const slot = this.cache.page(this.file, offset >>> PAGE_BITS);
    if (slot < 0) {
      return slot === -errno.EIO ? this.refuse('file shorter than at mount') : this.refuse('read error');
    }
    return (slot << PAGE_BITS) | (offset & (PAGE_BYTES - 1));
  }

  /** Copies file bytes [offset, offset + bytes) across pages; 0 or -EIO. */
  copy(offset: number, bytes: number, to: Uint8Array): number {
    const source = this.cache.memory.u8;
    let done = 0;
    while (done < bytes) {
      const at = this.locate(offset + done);
      if (at < 0) return at;
      let take = PAGE_BYTES - (at & (PAGE_BYTES - 1));
      if (take > bytes - done) take = bytes - done;
      for (let i = 0; i < take; i++) to[done + i] = source[at + i];
      done += take;
    }
    return 0;
  }

  /** Room for the largest xattr area, made when the first one that crosses a page is read. */
  xattrScratch(): Uint8Array {
    return (this.areaScratch ??= new Uint8Array(XATTR_AREA_BYTES_MAX));
  }

  /** Notes the broken rule; returns -EIO. */
  refuse(rule: string): number {
    this.broken = rule;
    return -errno.EIO;
  }

  close(): void {
    this.cache.drop(this.file);
  }
}
