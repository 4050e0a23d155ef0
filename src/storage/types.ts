/**
 * What storage and its users say to each other. Storage knows blobs and chunks, never files.
 *
 * Two threads share one blob: the main thread fetches, decodes, verifies and writes to the cache file; the device
 * thread only tests bits of `ready` and preads `dataFd`. Everything in `BlobHandle` is structured-clonable.
 */

import type { SpillHandle } from './cache/spill-bits.ts';

export type Compressor = 'none' | 'lz4_block' | 'gzip' | 'zstd';
export type Digester = 'blake3' | 'sha256';

/** One blob as the image's blob table describes it (rafs-format 2.5); plain data, read by `src/rafs`. */
export interface BlobInfo {
  /** Position in the image's blob table. */
  index: number;
  /** Name of the blob at the backend and in the cache directory; opaque, already checked for path tricks. */
  id: string;
  chunkCount: number;
  chunkSize: number;
  compressor: Compressor;
  digester: Digester;
  /** Feature bits of rafs-format 3.11. */
  features: number;
  compressedSize: number;
  uncompressedSize: number;
  /** Compression-context table (blob.meta) inside the blob; sizes 0 where there is none. */
  ciCompressor: number;
  ciOffset: number;
  ciCompressedSize: number;
  ciUncompressedSize: number;
  /** Entries plus their tar header, 0 = unknown. */
  tocSize: number;
  /** SHA-256, 32 bytes; null = do not verify. */
  tocDigest: Uint8Array | null;
  /** Cipher number, 0 = none. */
  cipher: number;
  /** Raw bytes 168..216 of the table entry: key and IV where there is a cipher, else meta-blob digest and size. */
  extra: Uint8Array;
  /** SEPARATE blobs: object that holds the chunk table; without it the digest in `extra` names it. */
  metaId?: string;
  /**
   * True: the blob has no blob.meta (RAFS v5, tarfs). Every `WantedChunk` then carries its `source`, `ci*` are 0, and
   * `chunkCount` is the chunk map's size. `compressedSize` 0 means unknown. What one image says of a chunk binds only
   * that image: chunks nobody asked for are not known, so nothing can be read ahead.
   */
  described?: boolean;
}

/**
 * Feature bit, never on disk (rafs-format 0.6, 1.6): a v5 image without extended blob table. Its chunks have no numbers,
 * so `chunkIndex` is a number that is unique inside this one bootstrap, `chunkCount` their bound, sizes are 0 = unknown,
 * and `source.digest` (never null) is what a chunk is known by. So storage keeps the bits of such a blob in memory and
 * for this mount alone: no chunk_map file, never shared with another open blob. Chunks of equal digest and
 * `uncompressedOffset` are one chunk with several bits.
 */
export const FEATURE_NO_EXTENDED_TABLE = 0x8000_0000;

/** Where and how one chunk is stored, as the bootstrap describes it; for blobs with `described`. Already range-checked. */
export interface ChunkSource {
  /** Stored bytes of the chunk in the blob; inside `compressedSize` of the blob where that is known. */
  compressedOffset: number;
  compressedSize: number;
  /** 1..chunkSize; equals `compressedSize` when not compressed. */
  uncompressedSize: number;
  /** Compressed with the blob's compressor, else raw. */
  compressed: boolean;
  /** CRC-32C of the uncompressed bytes, null where the image carries none. */
  crc32: number | null;
  /** Digest of the uncompressed bytes with the blob's digester, 32 bytes; null = none (tarfs). */
  digest: Uint8Array | null;
}

/**
 * Digest of a chunk's uncompressed bytes, from wherever the image keeps it; its CRC-32C (4 bytes) where the image has only
 * that (external blobs); null when the image has neither.
 */
export type ChunkDigests = (chunkIndex: number) => Uint8Array | null;

/** The device thread's half of an open blob. */
export interface BlobHandle {
  /** Process-wide number of the open blob, named in fetch requests; never reused. */
  handle: number;
  /** Cache file `<id>.blob.data`, read-only use by the device thread; chunk at its uncompressed offset. */
  dataFd: number;
  /** Private copy of the chunk map: bit 7-(i%8) of byte i/8 is chunk i (rafs-format 6.2); set by main with Atomics. */
  ready: SharedArrayBuffer;
  /** Where a chunk may be that no cache file takes. */
  spill: SpillHandle;
  /** Where chunks lie, `newPlaces(chunkCount)` filled by main (`chunk-places.ts`): what a bootstrap says must agree. */
  places: SharedArrayBuffer;
  chunkCount: number;
  uncompressedSize: number;
}

/** One chunk a read waits for, as the bootstrap's chunk index names it. */
export interface WantedChunk {
  chunkIndex: number;
  /** Where the bootstrap expects it in the cache file: blkaddr * blksz. Checked against blob.meta before serving. */
  uncompressedOffset: number;
  /** Bytes of it the file uses; blob.meta must promise at least as many. */
  bytes: number;
  /** It is the first of its file: whoever reads it begins with that file. */
  startsFile?: boolean;
  /** Nobody waits for it yet: its file's reader goes straight on and will come to it. */
  isAhead?: boolean;
  /** Set exactly for blobs with `described`; takes the place of blob.meta and of `ChunkDigests`. */
  source?: ChunkSource;
}
