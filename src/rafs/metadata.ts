/**
 * What the read-only file system needs to know of an image, whatever its version: the interface of the v5 and v6
 * readers. A node is the image's own number of an inode (v6: nid, v5: inode number).
 *
 * Made for a request path that allocates nothing: callers own the records, methods fill them. Results are >= 0, or
 * -errno; after -EIO `broken` names the rule that the image broke.
 */
import type { ChunkSource } from '../storage/types.ts';
import type { Inode } from './v6/inode-layout.ts';

/** One inode, validated: every range it names lies inside the bootstrap. */
export class InodeRecord implements Inode {
  node = 0;
  /** Byte offset of the record in the bootstrap. */
  offset = 0;
  /** From the record's start to its xattrs. */
  bytes = 0;
  layout = 0;
  xattrBytes = 0;
  mode = 0;
  size = 0;
  /** 512-byte units, as shown. */
  sectors = 0;
  /** Device number of device nodes; v6 keeps other things here for other types. */
  u = 0;
  ino = 0;
  uid = 0;
  gid = 0;
  /** Seconds since 1970, may be negative. */
  mtime = 0;
  mtimeNs = 0;
  nlink = 0;
  /** v5 only, from here on. 0 = the root has none. */
  parent = 0;
  flags = 0;
  /** Index of a directory's first child. */
  first = 0;
  /** Children of a directory, chunk entries of a file. */
  count = 0;
  nameBytes = 0;
  symlinkBytes = 0;
}

/** One directory entry. The name lies in `Metadata.nameBytes`: valid until the next call that reads metadata. */
export class EntryRecord {
  node = 0;
  /** Type number of the image format (`DIRENT_TYPE`), 0 = unknown. */
  type = 0;
  nameAt = 0;
  nameBytes = 0;
  /** Where `entryAt` goes on after this entry. */
  nextCookie = 0;
}

/** Where one chunk of a file lies. */
export class ChunkRecord {
  /** Position in the blob table. */
  blob = 0;
  /** Position in the blob's chunk table. */
  index = 0;
  /** Byte offset in the blob's uncompressed address space, or HOLE. */
  offset = 0;
}

/** ChunkRecord.offset of a chunk that reads as zeros and lies in no blob. */
export const HOLE = -1;

/** Bytes somewhere in page-cache memory or scratch: valid until the next call that reads metadata. */
export class Span {
  u8: Uint8Array = new Uint8Array(0);
  at = 0;
  bytes = 0;
}

/** Steps through an area of xattrs: `start`, then `next` until it is not 1. */
export interface XattrCursor {
  /** Memory that `valueAt` counts in. */
  readonly u8: Uint8Array;
  readonly nameBytes: number;
  readonly valueAt: number;
  readonly valueBytes: number;
  start(area: Span): void;
  /** 1 with the fields set, 0 at the end, -EIO when an entry does not fit its area. */
  next(): number;
  /** True when the current name is these bytes. */
  matches(name: Uint8Array, at: number, bytes: number): boolean;
  /** Writes the current name to `to` at `at`; returns its bytes. */
  copyName(to: Uint8Array, at: number): number;
}

export interface Metadata {
  readonly root: number;
  /** Names in the image, hard links counted each. */
  readonly names: number;
  readonly fileBytes: number;
  readonly chunkSize: number;
  readonly blobCount: number;
  /** False: uid and gid of the image mean nothing, the daemon's own are shown (rafs-format 0.3). */
  readonly explicitIds: boolean;
  /** The rule broken by what the last -EIO came from. */
  readonly broken: string;
  /** Byte of the bootstrap that was looked at last: where the broken rule was seen. */
  readonly lastOffset: number;
  /** Memory that `EntryRecord.nameAt` counts in. */
  readonly nameBytes: Uint8Array;

  /** Reads inode `node`. -ESTALE when no inode can have this number. */
  load(node: number, into: InodeRecord): number;
  /** Finds a name in a directory: 0, -ENOENT, -EIO. */
  find(dir: InodeRecord, names: Uint8Array, at: number, bytes: number, into: EntryRecord): number;
  /** The entry at a cookie (0 = first): 1, 0 at the end, -EIO. -EINVAL for a cookie never given out. */
  entryAt(dir: InodeRecord, cookie: number, into: EntryRecord): number;
  /** Target of a symlink: 0 or -EIO. */
  target(link: InodeRecord, into: Span): number;
  /** Chunk number `k` of a file: 0 or -EIO. `k` is below ceil(size / chunkSize). */
  chunk(file: InodeRecord, k: number, into: ChunkRecord): number;
  /**
   * How chunk `k`, which `chunk` has filled `into` with, is stored, where the bootstrap is what knows it; null where
   * blob.meta does. Allocates: only for chunks that have to be fetched.
   */
  source(file: InodeRecord, k: number, into: ChunkRecord): ChunkSource | null;
  /** For the areas of `xattrs`; one for all callers. */
  readonly cursor: XattrCursor;
  /** Inline xattrs of an inode as stored: 0 (into.bytes 0 = none) or -EIO. */
  xattrs(inode: InodeRecord, into: Span): number;
  /** Forgets cached pages. The bootstrap's descriptor stays open. */
  close(): void;
}
