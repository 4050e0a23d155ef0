/** An open v6 bootstrap as the readers of this folder see it: validated geometry, and pages through the cache. */
import type { PageCache } from '../page-cache.ts';
import { PagedFile } from '../paged-file.ts';
import { INODE_EXTENDED_BYTES, SYMLINK_BYTES_MAX, XATTR_AREA_BYTES_MAX } from './inode-layout.ts';
import type { Geometry } from './superblock.ts';

export class V6Image extends PagedFile {
  readonly metaOffset: number;
  readonly chunkSize: number;
  /** 4096, of tarfs images 512. */
  readonly blockBytes: number;
  /** Inodes that cross a page border are put together here. */
  readonly inodeScratch = new DataView(new ArrayBuffer(INODE_EXTENDED_BYTES));
  private areaScratch: Uint8Array | null = null;
  private targetScratch: Uint8Array | null = null;

  constructor(
    cache: PageCache,
    fd: number,
    readonly geometry: Geometry,
  ) {
    super(cache, fd, geometry.fileBytes);
    this.metaOffset = geometry.metaOffset;
    this.chunkSize = geometry.chunkSize;
    this.blockBytes = 2 ** geometry.blockBits;
  }

  /** Room for the largest xattr area, made when the first one that crosses a page is read. */
  xattrScratch(): Uint8Array {
    return (this.areaScratch ??= new Uint8Array(XATTR_AREA_BYTES_MAX));
  }

  /** Room for the longest symlink target of more than one block, made when the first is read: only tarfs has them. */
  symlinkScratch(): Uint8Array {
    return (this.targetScratch ??= new Uint8Array(SYMLINK_BYTES_MAX));
  }
}
