/**
 * The whole tree of an image, for `nydus-image check`, merges and tests. Depth first, in directory order.
 *
 * Bounded whatever the image says: each directory is entered once (a bit per nid), and no more names come out than a
 * file of this length could hold, so directories that share blocks cannot multiply.
 */
import { closeSync } from 'node:fs';
import { SILENT } from '../common/log.ts';
import { S } from '../fuse/flags.ts';
import type { BlobInfo } from '../storage/types.ts';
import { errno } from '../sys/errno.ts';
import { atByte } from './broken.ts';
import { rafsError } from './errors.ts';
import { newMetadata } from './formats.ts';
import type { Geometry } from './geometry.ts';
import { ChunkRecord, EntryRecord, InodeRecord, type Metadata, Span } from './metadata.ts';
import { isDots, Nodes } from './nodes.ts';
import { openImage } from './open-image.ts';
import { PageCache } from './page-cache.ts';
import { DIRENT_BYTES, NID_UNIT_BYTES } from './v6/inode-layout.ts';

/** Path depth that is followed; Linux resolves at most PATH_MAX / 2 components at once. */
const DEPTH_MAX = 4096;
/** A walk reads each directory once: a small cache serves it. */
const CACHE_BYTES = 1024 * 1024;

export interface WalkChunk {
  blob: number;
  index: number;
  /** In the blob's uncompressed space; HOLE for zeros. */
  uncompressedOffset: number;
  /** Bytes of the chunk that the file uses. */
  bytes: number;
}

export interface WalkEntry {
  /** Absolute path, '/' for the root. Bytes: names need not be UTF-8. */
  path: Buffer;
  inode: Readonly<InodeRecord>;
  /** Of symlinks. */
  target: Buffer | null;
  /** Name → value, names as latin1 text so that every byte survives. */
  xattrs: Map<string, Buffer>;
  /** Chunk list of a regular file, read on demand; empty for everything else. */
  chunks: () => WalkChunk[];
}

/** An image opened for walking; `close` it. */
export class ImageWalker {
  readonly blobs: readonly BlobInfo[];
  readonly geometry: Geometry;
  readonly metadata: Metadata;
  private readonly cache: PageCache;
  private readonly nodes: Nodes;
  private readonly fd: number;

  /**
   * @param validate check the digest tree of a v5 image, too
   * @throws what `openImage` throws
   */
  constructor(
    readonly path: string,
    validate = false,
  ) {
    const image = openImage(path);
    image.close();
    this.fd = image.fd;
    this.blobs = image.blobs;
    this.geometry = image.geometry;
    this.cache = new PageCache(CACHE_BYTES);
    this.metadata = newMetadata(this.cache, image.fd, image.geometry, image.blobs.length, validate);
    this.nodes = new Nodes(this.metadata, path, SILENT);
  }

  close(): void {
    this.metadata.close();
    this.cache.close();
    closeSync(this.fd);
  }

  /** All entries, directories before what they hold. @throws BROKEN at the first rule that the image breaks */
  *walk(): Generator<WalkEntry> {
    const { metadata } = this;
    const entered = new Uint8Array(Math.ceil(metadata.fileBytes / NID_UNIT_BYTES / 8));
    let left = Math.floor(metadata.fileBytes / (DIRENT_BYTES + 1));
    const root = this.load(metadata.root);
    if ((root.mode & S.IFMT) !== S.IFDIR) throw this.broken(root.node, 'root is no directory');
    yield this.entry(Buffer.from('/'), root);
    const stack = [{ dir: root, path: Buffer.alloc(0), cookie: 0 }];
    const entry = new EntryRecord();
    while (stack.length > 0) {
      const top = stack[stack.length - 1];
      const found = metadata.entryAt(top.dir, top.cookie, entry);
      if (found < 0) throw this.failure(found, top.dir.node);
      if (found === 0) {
        stack.pop();
        continue;
      }
      top.cookie = entry.nextCookie;
      if (left-- === 0) throw this.broken(top.dir.node, 'more names than the file can hold');
      const names = metadata.nameBytes;
      if (isDots(names, entry.nameAt, entry.nameBytes)) continue;
      const name = Buffer.from(names.subarray(entry.nameAt, entry.nameAt + entry.nameBytes));
      const path = Buffer.concat([top.path, SLASH, name]);
      const child = new InodeRecord();
      const loaded = this.nodes.loadChild(top.dir, entry, names, child);
      if (loaded < 0) throw this.broken(top.dir.node, this.nodes.lastRule);
      yield this.entry(path, child);
      if ((child.mode & S.IFMT) !== S.IFDIR) continue;
      if ((entered[child.node >> 3] & (1 << (child.node & 7))) !== 0) throw this.broken(child.node, 'met twice');
      entered[child.node >> 3] |= 1 << (child.node & 7);
      if (stack.length === DEPTH_MAX) throw this.broken(child.node, `deeper than ${DEPTH_MAX} directories`);
      stack.push({ dir: child, path, cookie: 0 });
    }
  }

  private entry(path: Buffer, inode: InodeRecord): WalkEntry {
    const type = inode.mode & S.IFMT;
    return {
      path,
      inode,
      target: type === S.IFLNK ? this.target(inode) : null,
      xattrs: this.xattrs(inode),
      chunks: () => (type === S.IFREG ? this.chunks(inode) : []),
    };
  }

  private load(node: number): InodeRecord {
    const inode = new InodeRecord();
    const loaded = this.metadata.load(node, inode);
    if (loaded < 0) throw this.failure(loaded, node);
    return inode;
  }

  private target(inode: InodeRecord): Buffer {
    const span = new Span();
    const found = this.metadata.target(inode, span);
    if (found < 0) throw this.failure(found, inode.node);
    return Buffer.from(span.u8.subarray(span.at, span.at + span.bytes));
  }

  private xattrs(inode: InodeRecord): Map<string, Buffer> {
    const xattrs = new Map<string, Buffer>();
    const span = new Span();
    const found = this.metadata.xattrs(inode, span);
    if (found < 0) throw this.failure(found, inode.node);
    if (span.bytes === 0) return xattrs;
    const { cursor } = this.metadata;
    cursor.start(span);
    for (;;) {
      const step = cursor.next();
      if (step < 0) throw this.broken(inode.node, 'xattrs: an entry does not fit');
      if (step === 0) return xattrs;
      const name = Buffer.alloc(cursor.nameBytes);
      cursor.copyName(name, 0);
      const key = name.toString('latin1');
      const value = Buffer.from(cursor.u8.subarray(cursor.valueAt, cursor.valueAt + cursor.valueBytes));
      if (!xattrs.has(key)) xattrs.set(key, value);
    }
  }

  private chunks(inode: InodeRecord): WalkChunk[] {
    const { chunkSize } = this.metadata;
    const record = new ChunkRecord();
    const chunks: WalkChunk[] = [];
    for (let k = 0; k * chunkSize < inode.size; k++) {
      const found = this.metadata.chunk(inode, k, record);
      if (found < 0) throw this.failure(found, inode.node);
      const bytes = Math.min(chunkSize, inode.size - k * chunkSize);
      chunks.push({ blob: record.blob, index: record.index, uncompressedOffset: record.offset, bytes });
    }
    return chunks;
  }

  private failure(result: number, node: number): Error {
    return this.broken(node, result === -errno.EIO ? this.metadata.broken : 'outside the file');
  }

  private broken(node: number, rule: string): Error {
    return rafsError('BROKEN', { path: this.path, rule: `inode ${node}, ${atByte(this.metadata.lastOffset, rule)}` });
  }
}

const SLASH = Buffer.from('/');
