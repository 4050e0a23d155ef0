/**
 * Which chunks make up files: for what is fetched before anybody reads it. Hints, so that nothing here is an error of
 * its own: what does not resolve or does not decode is passed over, and readers hear of it when they come.
 */
import { closeSync } from 'node:fs';
import { SILENT } from '../common/log.ts';
import { S } from '../fuse/flags.ts';
import type { BlobInfo, WantedChunk } from '../storage/types.ts';
import { openFile } from './bootstrap-file.ts';
import { newMetadata } from './formats.ts';
import type { Geometry } from './geometry.ts';
import { ChunkRecord, EntryRecord, HOLE, InodeRecord, type Metadata } from './metadata.ts';
import { isDots, Nodes } from './nodes.ts';
import { PageCache } from './page-cache.ts';
import { CHUNK_INDEX_BYTES, DIRENT_BYTES, NID_UNIT_BYTES } from './v6/inode-layout.ts';

/** Lists are gone through once: a small cache serves. */
const CACHE_BYTES = 512 * 1024;
/** Path depth that is followed. */
const DEPTH_MAX = 4096;

/** A chunk and the position of its blob in the image's table. */
export interface FileChunk {
  blob: number;
  wanted: WantedChunk;
}

/** A part of a file. */
export interface Span {
  offset: number;
  bytes: number;
}

export interface NamedNode {
  node: number;
  path: string;
  /** Length of the file. */
  bytes: number;
}

const WHOLE: readonly Span[] = [{ offset: 0, bytes: Number.MAX_SAFE_INTEGER }];

export class FileChunks {
  private readonly cache = new PageCache(CACHE_BYTES);
  private readonly metadata: Metadata;
  private readonly nodes: Nodes;
  private readonly record = new ChunkRecord();

  private constructor(
    private readonly fd: number,
    path: string,
    geometry: Geometry,
    private readonly blobs: readonly BlobInfo[],
  ) {
    this.metadata = newMetadata(this.cache, fd, geometry, blobs.length, false);
    this.nodes = new Nodes(this.metadata, path, SILENT);
  }

  /** @param bootstrapFd open, and read by others: it is opened once more. @throws OPEN */
  static open(bootstrapFd: number, path: string, geometry: Geometry, blobs: readonly BlobInfo[]): FileChunks {
    const fd = openFile(`/proc/self/fd/${bootstrapFd}`, path);
    try {
      return new FileChunks(fd, path, geometry, blobs);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  close(): void {
    this.metadata.close();
    this.cache.close();
    closeSync(this.fd);
  }

  get root(): number {
    return this.metadata.root;
  }

  get chunkSize(): number {
    return this.metadata.chunkSize;
  }

  /** Node of an absolute path, symlinks not followed; null when the image has none. */
  nodeAt(path: string): number | null {
    let inode = this.load(this.metadata.root);
    const entry = new EntryRecord();
    for (const name of path.split('/').filter((part) => part !== '')) {
      if (inode === null || typeOf(inode) !== S.IFDIR) return null;
      const bytes = Buffer.from(name);
      if (this.metadata.find(inode, bytes, 0, bytes.length, entry) < 0) return null;
      inode = this.load(entry.node);
    }
    return inode?.node ?? null;
  }

  /**
   * Chunks of a file, or of every file below a directory, each once; `null` now and then where there are none, so that
   * callers can pause. No more come than the bootstrap has room for, though files of a hostile one share their lists.
   */
  *below(node: number, spans: readonly Span[] = WHOLE): Generator<FileChunk | null> {
    const top = this.load(node);
    if (top === null) return;
    if (typeOf(top) !== S.IFDIR) {
      yield* this.chunksOf(top, spans);
      return;
    }
    let left = Math.floor(this.metadata.fileBytes / CHUNK_INDEX_BYTES);
    for (const { inode } of this.walk(top)) {
      yield null;
      for (const chunk of this.chunksOf(inode, spans)) {
        if (left-- === 0) return;
        yield chunk;
      }
    }
  }

  /**
   * Paths of nodes, in no order; `null` now and then, so that callers can pause. Of a file with several names one comes,
   * none of names that are no UTF-8.
   */
  *pathsOf(nodes: ReadonlySet<number>): Generator<NamedNode | null> {
    const left = new Set(nodes);
    const root = this.load(this.root);
    if (root === null) return;
    for (const { inode, path } of this.walk(root)) {
      if (left.size === 0) return;
      yield null;
      if (!left.delete(inode.node)) continue;
      const text = path();
      if (text !== null) yield { node: inode.node, path: text, bytes: inode.size };
    }
  }

  /** Everything below a directory, each inode once; ends where more names come than the bootstrap has room for. */
  private *walk(top: InodeRecord): Generator<{ inode: InodeRecord; path: () => string | null }> {
    const met = new Uint8Array(Math.ceil(this.metadata.fileBytes / NID_UNIT_BYTES / 8));
    let left = Math.floor(this.metadata.fileBytes / (DIRENT_BYTES + 1));
    const stack = [{ dir: top, cookie: 0, name: Buffer.alloc(0) }];
    const entry = new EntryRecord();
    for (let at = stack.at(-1); at !== undefined; at = stack.at(-1)) {
      const found = this.metadata.entryAt(at.dir, at.cookie, entry);
      if (found <= 0) {
        stack.pop();
        continue;
      }
      if (left-- === 0) return;
      at.cookie = entry.nextCookie;
      const names = this.metadata.nameBytes;
      if (isDots(names, entry.nameAt, entry.nameBytes)) continue;
      const name = Buffer.from(names.subarray(entry.nameAt, entry.nameAt + entry.nameBytes));
      const inode = new InodeRecord();
      if (this.nodes.loadChild(at.dir, entry, names, inode) < 0) continue;
      const bit = 1 << (inode.node & 7);
      if (((met[inode.node >>> 3] ?? bit) & bit) !== 0) continue;
      met[inode.node >>> 3] |= bit;
      const above = stack.length;
      yield { inode, path: () => textOf([...stack.slice(1, above).map((level) => level.name), name]) };
      if (typeOf(inode) !== S.IFDIR || stack.length === DEPTH_MAX) continue;
      stack.push({ dir: inode, cookie: 0, name });
    }
  }

  private *chunksOf(file: InodeRecord, spans: readonly Span[]): Generator<FileChunk | null> {
    if (typeOf(file) !== S.IFREG) return;
    const { chunkSize } = this.metadata;
    for (const { offset, bytes } of spans) {
      const end = Math.min(file.size, offset + bytes);
      for (let k = Math.floor(offset / chunkSize); k * chunkSize < end; k++) {
        yield this.chunk(file, k);
      }
    }
  }

  /** Null: a hole, or nothing that could be fetched. */
  private chunk(file: InodeRecord, k: number): FileChunk | null {
    const { record } = this;
    if (this.metadata.chunk(file, k, record) < 0) return null;
    const { blob, index, offset } = record;
    if (offset === HOLE || index >= (this.blobs[blob]?.chunkCount ?? 0)) return null;
    const { chunkSize } = this.metadata;
    const source = this.metadata.source(file, k, record);
    const known = {
      chunkIndex: index,
      uncompressedOffset: offset,
      bytes: Math.min(chunkSize, file.size - k * chunkSize),
    };
    return { blob, wanted: source === null ? known : { ...known, source } };
  }

  private load(node: number): InodeRecord | null {
    const inode = new InodeRecord();
    return this.metadata.load(node, inode) < 0 ? null : inode;
  }
}

/** An absolute path; null when it is no UTF-8. */
function textOf(names: readonly Buffer[]): string | null {
  const bytes = Buffer.concat(names.flatMap((name) => [SLASH, name]));
  const text = bytes.toString('utf8');
  return Buffer.from(text).equals(bytes) ? text : null;
}

const SLASH = Buffer.from('/');

const typeOf = (inode: InodeRecord): number => inode.mode & S.IFMT;
