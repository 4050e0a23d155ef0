/** The v6 reader: `Metadata` on top of the files of this folder. Mounting reads one page, whatever the image holds. */
import type { ChunkSource } from '../../storage/types.ts';
import type { ChunkRecord, EntryRecord, InodeRecord, Metadata, Span } from '../metadata.ts';
import type { PageCache } from '../page-cache.ts';
import { chunkAt, isRawBlob } from './chunks.ts';
import { entryAt, findEntry } from './directory.ts';
import { V6Image } from './image.ts';
import { loadInode, symlinkTarget } from './inode.ts';
import type { Geometry } from './superblock.ts';
import { V6XattrCursor, xattrArea } from './xattr.ts';

export class V6Metadata implements Metadata {
  readonly root: number;
  readonly names: number;
  readonly fileBytes: number;
  readonly chunkSize: number;
  readonly blobCount: number;
  readonly explicitIds: boolean;
  readonly nameBytes: Uint8Array;
  readonly cursor = new V6XattrCursor();
  private readonly image: V6Image;

  /** @param geometry of `readGeometry`, for the file open as `fd` */
  constructor(cache: PageCache, fd: number, geometry: Geometry) {
    this.image = new V6Image(cache, fd, geometry);
    this.root = geometry.root;
    this.names = geometry.names;
    this.fileBytes = geometry.fileBytes;
    this.chunkSize = geometry.chunkSize;
    this.blobCount = geometry.blobCount;
    this.explicitIds = geometry.explicitIds;
    this.nameBytes = cache.memory.u8;
  }

  get broken(): string {
    return this.image.broken;
  }

  get lastOffset(): number {
    return this.image.lastOffset;
  }

  load(node: number, into: InodeRecord): number {
    return loadInode(this.image, node, into);
  }

  find(dir: InodeRecord, names: Uint8Array, at: number, bytes: number, into: EntryRecord): number {
    return findEntry(this.image, dir, names, at, bytes, into);
  }

  entryAt(dir: InodeRecord, cookie: number, into: EntryRecord): number {
    return entryAt(this.image, dir, cookie, into);
  }

  target(link: InodeRecord, into: Span): number {
    return symlinkTarget(this.image, link, into);
  }

  chunk(file: InodeRecord, k: number, into: ChunkRecord): number {
    return chunkAt(this.image, file, k, into);
  }

  /** Data of tarfs images lies raw in the tar, that of external blobs in them, where the chunk index says (4.5, 4.6). */
  source(file: InodeRecord, k: number, into: ChunkRecord): ChunkSource | null {
    if (!isRawBlob(this.image, into.blob)) return null;
    const bytes = Math.min(this.chunkSize, file.size - k * this.chunkSize);
    return {
      compressedOffset: into.offset,
      compressedSize: bytes,
      uncompressedSize: bytes,
      compressed: false,
      crc32: null,
      digest: null,
    };
  }

  xattrs(inode: InodeRecord, into: Span): number {
    return xattrArea(this.image, inode, into);
  }

  close(): void {
    this.image.close();
  }
}
