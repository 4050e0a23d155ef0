/** An open v5 bootstrap as the readers of this folder see it: validated geometry, and records through the page cache. */
import { PAGE_BYTES, type PageCache } from '../page-cache.ts';
import { PagedFile } from '../paged-file.ts';
import { INODE_BYTES, RECORD_UNIT_END, RECORD_UNIT_MIN, TABLE_ENTRY_BYTES, UNIT_BYTES } from './layout.ts';
import { type Geometry, tableRanges } from './superblock.ts';

export class V5Image extends PagedFile {
  readonly entries: number;
  readonly chunkSize: number;
  /** Where `window` has put its bytes. */
  view: DataView;
  private readonly tables: readonly number[];
  private readonly scratch = new Uint8Array(INODE_BYTES);
  private readonly scratchView = new DataView(this.scratch.buffer);

  constructor(
    cache: PageCache,
    fd: number,
    readonly geometry: Geometry,
    readonly blobCount: number,
  ) {
    super(cache, fd, geometry.fileBytes);
    this.entries = geometry.entries;
    this.chunkSize = geometry.chunkSize;
    this.view = this.scratchView;
    this.tables = tableRanges(geometry);
  }

  /**
   * Makes up to 128 file bytes readable in one piece: their place in `view`, or -EIO. Valid until the next call that
   * reads. The caller has checked the range.
   */
  window(offset: number, bytes: number): number {
    if ((offset & (PAGE_BYTES - 1)) + bytes <= PAGE_BYTES) {
      this.view = this.cache.memory.view;
      return this.locate(offset);
    }
    this.view = this.scratchView;
    const copied = this.copy(offset, bytes, this.scratch, 0);
    return Math.min(copied, 0);
  }

  /** File offset of the record of an index in 1..entries, its fixed part inside the file; or -EIO. */
  recordAt(index: number): number {
    const at = this.locate(this.geometry.inodeTableOffset + (index - 1) * TABLE_ENTRY_BYTES);
    if (at < 0) return at;
    const unit = this.cache.memory.u32[at >> 2];
    if (unit < RECORD_UNIT_MIN || unit >= RECORD_UNIT_END) return this.refuse(`inode table: entry ${index}`);
    const offset = unit * UNIT_BYTES;
    return offset + INODE_BYTES > this.fileBytes ? this.refuse(`inode table: entry ${index}`) : offset;
  }

  /** True when [start, end) touches one of the tables. */
  inTable(start: number, end: number): boolean {
    const { tables } = this;
    for (let i = 0; i < tables.length; i += 2) if (start < tables[i + 1] && end > tables[i]) return true;
    return false;
  }
}
