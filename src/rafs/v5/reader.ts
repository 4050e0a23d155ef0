/** The v5 reader: `Metadata` on top of the files of this folder. Mounting reads one page, whatever the image holds. */
import type { ChunkSource } from '../../storage/types.ts';
import type { ChunkRecord, EntryRecord, InodeRecord, Metadata, Span } from '../metadata.ts';
import type { PageCache } from '../page-cache.ts';
import { Chunks } from './chunks.ts';
import { DigestTree } from './digest-tree.ts';
import { Directories } from './directory.ts';
import { V5Image } from './image.ts';
import { loadInode, symlinkTarget } from './inode.ts';
import { SYMLINK_BYTES_MAX } from './layout.ts';
import type { Geometry } from './superblock.ts';
import { V5XattrCursor, Xattrs } from './xattr.ts';

export class V5Metadata implements Metadata {
  readonly root: number;
  readonly names: number;
  readonly fileBytes: number;
  readonly chunkSize: number;
  readonly blobCount: number;
  readonly explicitIds: boolean;
  readonly nameBytes: Uint8Array;
  readonly cursor = new V5XattrCursor();
  private readonly image: V5Image;
  private readonly directories: Directories;
  private readonly chunks: Chunks;
  private readonly areas: Xattrs;
  private readonly tree: DigestTree | null;
  private readonly targetScratch = new Uint8Array(SYMLINK_BYTES_MAX);

  /**
   * @param geometry of `readGeometry`, for the file open as `fd`
   * @param validate check the digest tree as it is walked
   */
  constructor(cache: PageCache, fd: number, geometry: Geometry, blobCount: number, validate: boolean) {
    this.image = new V5Image(cache, fd, geometry, blobCount);
    this.root = geometry.root;
    this.names = geometry.names;
    this.fileBytes = geometry.fileBytes;
    this.chunkSize = geometry.chunkSize;
    this.blobCount = blobCount;
    this.explicitIds = geometry.explicitIds;
    this.directories = new Directories(this.image);
    this.chunks = new Chunks(this.image);
    this.areas = new Xattrs(this.image);
    this.tree = validate ? new DigestTree(this.image) : null;
    this.nameBytes = this.directories.names;
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
    if (this.directories.findDots(dir, names, at, bytes, into)) return 0;
    const checked = this.check(dir);
    return checked < 0 ? checked : this.directories.find(dir, names, at, bytes, into);
  }

  entryAt(dir: InodeRecord, cookie: number, into: EntryRecord): number {
    const checked = this.check(dir);
    return checked < 0 ? checked : this.directories.entryAt(dir, cookie, into);
  }

  target(link: InodeRecord, into: Span): number {
    const checked = this.check(link);
    return checked < 0 ? checked : symlinkTarget(this.image, link, this.targetScratch, into);
  }

  chunk(file: InodeRecord, k: number, into: ChunkRecord): number {
    const checked = this.check(file);
    return checked < 0 ? checked : this.chunks.chunkAt(file, k, into);
  }

  source(file: InodeRecord, k: number, into: ChunkRecord): ChunkSource | null {
    return this.chunks.source(file, k, into);
  }

  xattrs(inode: InodeRecord, into: Span): number {
    return this.areas.area(inode, into);
  }

  close(): void {
    this.image.close();
  }

  private check(inode: InodeRecord): number {
    return this.tree === null ? 0 : this.tree.check(inode);
  }
}
