/** A bootstrap of known length, read through the page cache: what the images of all versions are built on. */
import { errno } from '../sys/errno.ts';
import { PAGE_BITS, PAGE_BYTES, type PageCache } from './page-cache.ts';

export class PagedFile {
  /** Rule broken by what the last -EIO came from. */
  broken = '';
  /** File offset of what was looked at last. */
  lastOffset = 0;
  private readonly file: number;

  /** @param fileBytes the length that everything was and will be checked against */
  constructor(
    readonly cache: PageCache,
    fd: number,
    readonly fileBytes: number,
  ) {
    this.file = cache.add(fd, fileBytes);
  }

  /**
   * Byte index in `cache.memory` of file byte `offset`, valid to the end of its page and until the next call; -EIO when
   * the page is not there. The caller has checked `offset` against `fileBytes`.
   */
  locate(offset: number): number {
    this.lastOffset = offset;
    const slot = this.cache.page(this.file, offset >>> PAGE_BITS);
    if (slot < 0) {
      return slot === -errno.EIO ? this.refuse('file shorter than at mount') : this.refuse('read error');
    }
    return (slot << PAGE_BITS) | (offset & (PAGE_BYTES - 1));
  }

  /** Copies file bytes [offset, offset + bytes) across pages to to[at...]; 0 or -EIO. */
  copy(offset: number, bytes: number, to: Uint8Array, at: number): number {
    const source = this.cache.memory.u8;
    let done = 0;
    while (done < bytes) {
      const from = this.locate(offset + done);
      if (from < 0) return from;
      let take = PAGE_BYTES - (from & (PAGE_BYTES - 1));
      if (take > bytes - done) take = bytes - done;
      for (let i = 0; i < take; i++) to[at + done + i] = source[from + i];
      done += take;
    }
    return 0;
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
