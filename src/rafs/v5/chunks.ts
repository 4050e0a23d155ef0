/** Chunk entries of regular files (rafs-format 1.8; check 9.10). */
import { u64 } from '../../common/u64.ts';
import { UNCOMPRESSED_BLOB_BYTES_MAX } from '../../storage/tables/blob-layout.ts';
import type { ChunkSource } from '../../storage/types.ts';
import type { Broken } from '../broken.ts';
import {
  CHUNK_ENTRY,
  CHUNK_ENTRY_BYTES,
  CHUNK_FLAG,
  type ChunkEntry,
  decodeChunkEntry,
  newChunkEntry,
} from '../chunk-entry.ts';
import { compressorOf } from '../flags.ts';
import { type ChunkRecord, HOLE, type InodeRecord } from '../metadata.ts';
import type { V5Image } from './image.ts';
import { chunksAt } from './inode.ts';
import { EXTENDED, EXTENDED_ENTRY_BYTES, INODE_FLAG } from './layout.ts';

const FLAGS_KNOWN = CHUNK_FLAG.COMPRESSED | CHUNK_FLAG.HAS_CRC32;
/** What codecs may add to bytes that do not compress: LZ4 a 255th and 16 bytes, estimates of gzip some 150 bytes. */
const GROWTH_SHIFT = 7;
const GROWTH_BYTES = 256;
const DIGEST_BYTES = 32;

export class Chunks {
  private readonly entry: ChunkEntry = newChunkEntry();
  /** File offset of `entry`. */
  private offset = 0;

  /** Stored sizes of stargz images are estimates that may reach behind the blob (3.2). */
  private readonly estimated: boolean;

  constructor(private readonly image: V5Image) {
    this.estimated = compressorOf(image.geometry.flags) === 'gzip';
  }

  /** Fills `out` with chunk `k` of the file, which is below ceil(size / chunk size): 0 or -EIO. */
  chunkAt(file: InodeRecord, k: number, out: ChunkRecord): number {
    const found = (file.flags & INODE_FLAG.HAS_HOLE) === 0 ? this.open(file, k) : this.search(file, k);
    if (found < 0) return found;
    const { entry, image } = this;
    if (found === 0 || this.isHole()) {
      out.blob = out.index = 0;
      out.offset = HOLE;
      return 0;
    }
    const broken = this.check(file, k);
    if (broken !== null) return image.refuse(broken);
    const inBlob = this.checkStored();
    if (inBlob < 0) return inBlob;
    out.blob = entry.blobIndex;
    out.index = this.number();
    out.offset = entry.uncompressedOffset;
    return 0;
  }

  /** Nothing writes such entries any more; one that has stored bytes is a chunk with a wrong flag. */
  private isHole(): boolean {
    const { flags, compressedSize } = this.entry;
    return (flags & CHUNK_FLAG.HOLE) !== 0 && compressedSize === 0;
  }

  /** What storage has to know to fetch chunk `k`, which `chunkAt` has just filled `record` with; null on -EIO. */
  source(file: InodeRecord, k: number, record: ChunkRecord): ChunkSource | null {
    if (this.chunkAt(file, k, record) < 0 || record.offset === HOLE) return null;
    const { entry } = this;
    const digest = new Uint8Array(DIGEST_BYTES);
    if (this.image.copy(this.offset + CHUNK_ENTRY.DIGEST, DIGEST_BYTES, digest, 0) < 0) return null;
    return {
      compressedOffset: entry.compressedOffset,
      compressedSize: entry.compressedSize,
      uncompressedSize: entry.uncompressedSize,
      compressed: (entry.flags & CHUNK_FLAG.COMPRESSED) !== 0,
      crc32: (entry.flags & CHUNK_FLAG.HAS_CRC32) === 0 ? null : entry.crc32,
      // Chunks of external blobs have none (4.6).
      digest: digest.every((byte) => byte === 0) ? null : digest,
    };
  }

  /** Number of a chunk in its blob. Old images store none: then its place in the bootstrap tells it apart (0.6). */
  private number(): number {
    return this.image.geometry.extendedEntries === 0 ? Math.floor(this.offset / CHUNK_ENTRY_BYTES) : this.entry.index;
  }

  /** Decodes entry `position`: 1 or -EIO. */
  private open(file: InodeRecord, position: number): number {
    const { image } = this;
    this.offset = chunksAt(file) + position * CHUNK_ENTRY_BYTES;
    const at = image.window(this.offset, CHUNK_ENTRY_BYTES);
    if (at < 0) return at;
    decodeChunkEntry(image.view, at, this.entry);
    return 1;
  }

  /** Finds the entry of chunk `k` by its file offset: 1, 0 for a hole, -EIO. */
  private search(file: InodeRecord, k: number): number {
    const wanted = k * this.image.chunkSize;
    let low = 0;
    let high = file.count - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const opened = this.open(file, middle);
      if (opened < 0) return opened;
      const { fileOffset } = this.entry;
      if (fileOffset === wanted) return 1;
      if (fileOffset < 0 || fileOffset % this.image.chunkSize !== 0) return this.image.refuse('chunk: file offset');
      if (fileOffset < wanted) low = middle + 1;
      else high = middle - 1;
    }
    return 0;
  }

  private check(file: InodeRecord, k: number): Broken {
    const { entry, image } = this;
    const { compressedSize, uncompressedSize } = entry;
    const start = k * image.chunkSize;
    if (entry.blobIndex >= image.blobCount) return 'chunk: no such blob';
    if ((entry.flags & ~FLAGS_KNOWN) !== 0) return 'chunk: flags';
    if (entry.fileOffset !== start) return 'chunk: file offset';
    if (uncompressedSize !== Math.min(image.chunkSize, file.size - start)) return 'chunk: uncompressed size';
    const compressed = (entry.flags & CHUNK_FLAG.COMPRESSED) !== 0;
    const bound = uncompressedSize + (uncompressedSize >> GROWTH_SHIFT) + GROWTH_BYTES;
    if (compressed ? compressedSize === 0 || compressedSize > bound : compressedSize !== uncompressedSize) {
      return 'chunk: compressed size';
    }
    if (entry.compressedOffset < 0) return 'chunk: compressed offset';
    const { uncompressedOffset } = entry;
    return uncompressedOffset < 0 || uncompressedOffset + uncompressedSize > UNCOMPRESSED_BLOB_BYTES_MAX
      ? 'chunk: uncompressed offset'
      : null;
  }

  /** The stored bytes lie inside the blob, where its length is known. */
  private checkStored(): number {
    const { entry, image } = this;
    const { extendedEntries, extendedTableOffset } = image.geometry;
    if (extendedEntries === 0) return 0;
    const at = image.window(extendedTableOffset + entry.blobIndex * EXTENDED_ENTRY_BYTES, EXTENDED_ENTRY_BYTES);
    if (at < 0) return at;
    const blobBytes = u64(image.view, at + EXTENDED.COMPRESSED_SIZE);
    const end = entry.compressedOffset + (this.estimated ? 1 : entry.compressedSize);
    return blobBytes !== 0 && end > blobBytes ? image.refuse('chunk: outside its blob') : 0;
  }
}
