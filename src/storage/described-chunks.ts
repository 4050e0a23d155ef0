/**
 * Chunks that the bootstrap describes instead of the blob: RAFS v5 and tarfs have no blob.meta (rafs-format 1.8, 4.5).
 * What a reader brings along takes the place of the chunk table; it is checked here once more, since it decides which
 * bytes are asked for and where they are written.
 */

import { storageError } from './errors.ts';
import type { PlannedChunk } from './fetch-plan.ts';
import {
  align4096,
  CHUNK_BYTES_MAX,
  CHUNK_FLAG,
  COMPRESSED_BLOB_BYTES_MAX,
  COUNTED_BY_HEADER,
  FEATURE,
  UNCOMPRESSED_BLOB_BYTES_MAX,
} from './tables/blob-layout.ts';
import { type BlobInfo, type ChunkDigests, FEATURE_NO_EXTENDED_TABLE, type WantedChunk } from './types.ts';

/** The chunk as the plan knows it. @throws CHUNK when it is not described, or lies outside its blob */
export function describedChunk(blob: BlobInfo, wanted: WantedChunk): PlannedChunk {
  const { source, chunkIndex, uncompressedOffset } = wanted;
  const wrong = (rule: string) => storageError('CHUNK', { blobId: blob.id, chunk: chunkIndex, rule });
  if (source === undefined) throw wrong('is not described by its image');
  const { compressedOffset, uncompressedSize, compressed, crc32 } = source;
  const compressedSize = storedBytes(blob, source);
  const numbers = [compressedOffset, compressedSize, uncompressedOffset, uncompressedSize, wanted.bytes];
  if (!numbers.every((value) => Number.isSafeInteger(value) && value >= 0)) throw wrong('has senseless numbers');
  if (compressedSize === 0 || uncompressedSize === 0) throw wrong('is empty');
  if (uncompressedSize > CHUNK_BYTES_MAX) throw wrong(`is ${uncompressedSize} bytes long`);
  if (uncompressedSize < wanted.bytes) {
    throw wrong(`has ${uncompressedSize} bytes, the image needs ${wanted.bytes}`);
  }
  if (!compressed && compressedSize !== uncompressedSize) throw wrong('is raw and has two sizes');
  if (blob.compressedSize !== 0 && compressedOffset + compressedSize > blob.compressedSize) {
    throw wrong('ends behind the blob');
  }
  if (blob.uncompressedSize !== 0 && uncompressedOffset + uncompressedSize > align4096(blob.uncompressedSize)) {
    throw wrong('ends behind the cache file');
  }
  const flags = (compressed ? CHUNK_FLAG.COMPRESSED : 0) | (crc32 !== null ? CHUNK_FLAG.HAS_CRC32 : 0);
  const info = {
    compressedOffset,
    compressedSize,
    uncompressedOffset,
    uncompressedSize,
    flags,
    low: crc32 ?? 0,
    high: 0,
  };
  return { index: chunkIndex, info };
}

/** Sizes of gzip chunks may be estimates that reach beyond the blob (rafs-format 3.2, stargz). */
function storedBytes(blob: BlobInfo, source: NonNullable<WantedChunk['source']>): number {
  const { compressed, compressedOffset, compressedSize } = source;
  const isEstimate = compressed && blob.compressor === 'gzip' && blob.compressedSize !== 0;
  return isEstimate ? Math.min(compressedSize, Math.max(0, blob.compressedSize - compressedOffset)) : compressedSize;
}

/** The digest that comes with a described chunk, else what the image has elsewhere. */
export function describedDigest({ source }: WantedChunk, elsewhere: ChunkDigests): ChunkDigests {
  return source === undefined ? elsewhere : (index) => source.digest ?? elsewhere(index);
}

/**
 * True for blobs whose chunks have no numbers that two images would agree on: of old images (rafs-format 0.6), external
 * ones, which every image cuts up for itself (4.6), and those that came through a generated dictionary, which counts
 * the chunks it lists (4.1).
 */
export function isUnnumbered(blob: BlobInfo): boolean {
  return (blob.features & (FEATURE_NO_EXTENDED_TABLE | FEATURE.EXTERNAL | FEATURE.IS_CHUNKDICT_GENERATED)) !== 0;
}

/**
 * The blob as its own chunk table knows it, for an image that knows it through a generated dictionary: that tells where the
 * table lies and how long it is. How many chunks it holds, its own header says.
 */
export function ownTable(info: BlobInfo): BlobInfo {
  const isSeparate = (info.features & FEATURE.SEPARATE) !== 0;
  return {
    ...info,
    features: info.features & ~(FEATURE.CAP_TAR_TOC | FEATURE.HAS_TAR_HEADER),
    chunkCount: COUNTED_BY_HEADER,
    // Tables that do not shrink are stored raw, whatever the dictionary says.
    ciCompressor: info.ciCompressedSize === info.ciUncompressedSize ? 0 : info.ciCompressor,
    compressedSize: isSeparate ? COMPRESSED_BLOB_BYTES_MAX : info.ciOffset,
    uncompressedSize: UNCOMPRESSED_BLOB_BYTES_MAX,
  };
}

/** Nothing can vouch for the chunks of a tar (rafs-format 4.5). */
export function hasNoDigests(blob: BlobInfo): boolean {
  return (blob.features & FEATURE.TARFS) !== 0;
}

/** Which numbers stand for the same chunk, in images that number their chunks anew for every file. */
export class EqualChunks {
  private readonly firstOf = new Map<string, number>();

  /** The number that an equal chunk was first seen under; its own for a new one. */
  first({ chunkIndex, uncompressedOffset, source }: WantedChunk): number {
    const digest = source?.digest;
    if (digest == null) return chunkIndex;
    const key = `${uncompressedOffset} ${Buffer.from(digest).toString('base64')}`;
    const known = this.firstOf.get(key);
    if (known === undefined) this.firstOf.set(key, chunkIndex);
    return known ?? chunkIndex;
  }
}
