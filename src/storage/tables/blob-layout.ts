/**
 * Data blobs as data (rafs-format 0.2, 3.3-3.5, 3.11): feature bits, limits, the compression-context-table ("CCT")
 * header and both chunk-info formats. No I/O here; reader and builder use the same codecs. The tail of a blob
 * (backwards tar, TOC) is in `blob-toc.ts` and is exported from here too.
 */

import { storageError } from '../errors.ts';
import type { BlobInfo } from '../types.ts';
import type { Unit } from './blob-contexts.ts';
import { TAR_HEADER_BYTES } from './blob-toc.ts';

export {
  decodeToc,
  encodeTarHeader,
  encodeToc,
  PART,
  TAR_HEADER_BYTES,
  TOC_BYTES_MAX,
  TOC_FLAG,
  type TocEntry,
  walkBackwards,
} from './blob-toc.ts';

/** The broken rule in words, for the log; null when all is well. */
export type Broken = string | null;

export const DIGEST_BYTES = 32;

/** Blob feature bits (3.11). */
export const FEATURE = {
  ALIGNED: 0x1,
  INLINED_FS_META: 0x2,
  CHUNK_INFO_V2: 0x4,
  ZRAN: 0x8,
  SEPARATE: 0x10,
  INLINED_CHUNK_DIGEST: 0x20,
  TARFS: 0x40,
  BATCH: 0x80,
  ENCRYPTED: 0x100,
  IS_CHUNKDICT_GENERATED: 0x200,
  SEPARATED_PREFETCH: 0x400,
  EXTERNAL: 0x800,
  HAS_TAR_HEADER: 0x1000_0000,
  HAS_TOC: 0x2000_0000,
  CAP_TAR_TOC: 0x4000_0000,
} as const;

/** Unknown bits that change the meaning of a blob; unknown bits elsewhere are ignored. */
export const FEATURES_INCOMPATIBLE_MASK = 0xf000;

/** Chunks start on multiples of this in the uncompressed blob. */
export const BLOCK_BYTES = 4096;
export const CHUNKS_PER_BLOB_MAX = 1 << 24;
/** `chunkCount` of a blob whose image does not know how many chunks its table has. */
export const COUNTED_BY_HEADER = -1;
export const CHUNK_BYTES_MAX = 0x100_0000;
export const UNCOMPRESSED_BLOB_BYTES_MAX = 2 ** 44;
export const COMPRESSED_BLOB_BYTES_MAX = 2 ** 40;

export const CCT_HEADER_BYTES = 4096;
const CCT_MAGIC = 0xb10b_b10b;
const CCT = {
  magic: 0,
  features: 4,
  compressor: 8,
  entries: 12,
  offset: 16,
  compressed: 24,
  uncompressed: 32,
  contextOffset: 40,
  contextSize: 48,
  contextCount: 56,
  magicAgain: 4092,
} as const;

/** Fields of the CCT header (3.3). */
export interface CctHeader {
  features: number;
  /** Algorithm number of 0.4. */
  ciCompressor: number;
  chunkCount: number;
  ciOffset: number;
  ciCompressedSize: number;
  ciUncompressedSize: number;
  /** Relative to the start of the uncompressed CI table. */
  contextOffset: number;
  contextSize: number;
  contextCount: number;
}

/** The 4096 bytes of a header. */
export function encodeCctHeader(header: CctHeader): Buffer {
  const bytes = Buffer.alloc(CCT_HEADER_BYTES);
  bytes.writeUInt32LE(CCT_MAGIC, CCT.magic);
  bytes.writeUInt32LE(header.features >>> 0, CCT.features);
  bytes.writeUInt32LE(header.ciCompressor, CCT.compressor);
  bytes.writeUInt32LE(header.chunkCount, CCT.entries);
  writeU64(bytes, CCT.offset, header.ciOffset);
  writeU64(bytes, CCT.compressed, header.ciCompressedSize);
  writeU64(bytes, CCT.uncompressed, header.ciUncompressedSize);
  writeU64(bytes, CCT.contextOffset, header.contextOffset);
  writeU64(bytes, CCT.contextSize, header.contextSize);
  bytes.writeUInt32LE(header.contextCount, CCT.contextCount);
  bytes.writeUInt32LE(CCT_MAGIC, CCT.magicAgain);
  return bytes;
}

/** Null when it is no header: wrong length, a wrong magic, or a number above 2^53-1. */
export function decodeCctHeader(bytes: Buffer): CctHeader | null {
  if (bytes.length !== CCT_HEADER_BYTES) return null;
  if (bytes.readUInt32LE(CCT.magic) !== CCT_MAGIC || bytes.readUInt32LE(CCT.magicAgain) !== CCT_MAGIC) return null;
  const header: CctHeader = {
    features: bytes.readUInt32LE(CCT.features),
    ciCompressor: bytes.readUInt32LE(CCT.compressor),
    chunkCount: bytes.readUInt32LE(CCT.entries),
    ciOffset: readU64(bytes, CCT.offset),
    ciCompressedSize: readU64(bytes, CCT.compressed),
    ciUncompressedSize: readU64(bytes, CCT.uncompressed),
    contextOffset: readU64(bytes, CCT.contextOffset),
    contextSize: readU64(bytes, CCT.contextSize),
    contextCount: bytes.readUInt32LE(CCT.contextCount),
  };
  return Object.values(header).every((value) => value >= 0) ? header : null;
}

/** Flags of a chunk info (3.5); V1 entries only ever have COMPRESSED. */
export const CHUNK_FLAG = { COMPRESSED: 0x01, ZRAN: 0x02, BATCH: 0x04, ENCRYPTED: 0x08, HAS_CRC32: 0x10 } as const;
export const CHUNK_INFO_V1_BYTES = 16;
export const CHUNK_INFO_V2_BYTES = 24;

/** One entry of the CI table, whichever format. */
export interface ChunkInfo {
  compressedOffset: number;
  compressedSize: number;
  uncompressedOffset: number;
  uncompressedSize: number;
  flags: number;
  /** V2: CRC-32C with HAS_CRC32; with ZRAN or BATCH the offset inside the context's output. */
  low: number;
  /** V2 with ZRAN or BATCH: context index. */
  high: number;
  /**
   * Set by readers for chunks that are stored together: then compressed offset and size are the unit's. Chunks of equal
   * compressed offset and `high` come out of one unit.
   */
  unit?: Unit;
}

/** Bytes of one entry of a blob with these features. */
export function chunkInfoBytes(features: number): number {
  return features & FEATURE.CHUNK_INFO_V2 ? CHUNK_INFO_V2_BYTES : CHUNK_INFO_V1_BYTES;
}

/** Decodes the entry at `at`; every bit pattern decodes, whether it is plausible is for the caller to check. */
export function decodeChunkInfo(bytes: Buffer, at: number, features: number): ChunkInfo {
  const low0 = bytes.readUInt32LE(at);
  const high0 = bytes.readUInt32LE(at + 4);
  const low1 = bytes.readUInt32LE(at + 8);
  const high1 = bytes.readUInt32LE(at + 12);
  const compressedOffset = low1 + (high1 & 0xff) * 2 ** 32;
  if (features & FEATURE.CHUNK_INFO_V2) {
    return {
      compressedOffset,
      compressedSize: high1 >>> 8,
      uncompressedOffset: low0 * BLOCK_BYTES,
      uncompressedSize: (high0 & 0xff_ffff) + 1,
      flags: high0 >>> 24,
      low: bytes.readUInt32LE(at + 16),
      high: bytes.readUInt32LE(at + 20),
    };
  }
  const compressedSize = ((high1 & 0xf00) << 12) + (high1 >>> 12) + 1;
  const uncompressedSize = ((low0 & 0xf00) << 12) + (high0 >>> 12) + 1;
  return {
    compressedOffset,
    compressedSize,
    uncompressedOffset: ((low0 & 0xffff_f000) >>> 0) + (high0 & 0xfff) * 2 ** 32,
    uncompressedSize,
    flags: compressedSize === uncompressedSize ? 0 : CHUNK_FLAG.COMPRESSED,
    low: 0,
    high: 0,
  };
}

/** Encodes one entry at `at`. @throws RangeError on a number the format cannot hold. */
export function encodeChunkInfo(bytes: Buffer, at: number, features: number, chunk: ChunkInfo): void {
  fits('compressed offset', chunk.compressedOffset, 0, 2 ** 40 - 1);
  fits('uncompressed offset', chunk.uncompressedOffset, 0, 2 ** 44 - 1);
  fits('uncompressed size', chunk.uncompressedSize, 1, CHUNK_BYTES_MAX);
  if (chunk.uncompressedOffset % BLOCK_BYTES !== 0) {
    throw new RangeError('uncompressed offset is not a multiple of 4096');
  }
  const offsetHigh = Math.floor(chunk.compressedOffset / 2 ** 32);
  const sizeLess1 = chunk.uncompressedSize - 1;
  bytes.writeUInt32LE(chunk.compressedOffset % 2 ** 32, at + 8);
  if (features & FEATURE.CHUNK_INFO_V2) {
    fits('compressed size', chunk.compressedSize, 0, CHUNK_BYTES_MAX - 1);
    bytes.writeUInt32LE(chunk.uncompressedOffset / BLOCK_BYTES, at);
    bytes.writeUInt32LE(((chunk.flags << 24) | sizeLess1) >>> 0, at + 4);
    bytes.writeUInt32LE(((chunk.compressedSize << 8) | offsetHigh) >>> 0, at + 12);
    bytes.writeUInt32LE(chunk.low, at + 16);
    bytes.writeUInt32LE(chunk.high, at + 20);
    return;
  }
  fits('compressed size', chunk.compressedSize, 1, CHUNK_BYTES_MAX);
  const storedLess1 = chunk.compressedSize - 1;
  const low = (chunk.uncompressedOffset % 2 ** 32) + ((sizeLess1 >>> 20) << 8);
  bytes.writeUInt32LE(low, at);
  const high = Math.floor(chunk.uncompressedOffset / 2 ** 32);
  bytes.writeUInt32LE((((sizeLess1 & 0xf_ffff) << 12) | high) >>> 0, at + 4);
  const stored = ((storedLess1 & 0xf_ffff) << 12) | ((storedLess1 >>> 20) << 8) | offsetHigh;
  bytes.writeUInt32LE(stored >>> 0, at + 12);
}

/** True when the blob has a CI table ("CI valid", 2.5). */
export function hasChunkTable(blob: Pick<BlobInfo, 'ciCompressedSize' | 'ciUncompressedSize'>): boolean {
  return blob.ciCompressedSize !== 0 && blob.ciUncompressedSize !== 0;
}

/** Length of the chunk-data area (3.11): the upper bound of every compressed range. */
export function chunkDataBytes(
  blob: Pick<BlobInfo, 'features' | 'compressedSize' | 'ciOffset' | 'ciCompressedSize' | 'ciUncompressedSize'>,
): number {
  if (blob.features & FEATURE.SEPARATE || !(blob.features & FEATURE.CAP_TAR_TOC)) return blob.compressedSize;
  const end = hasChunkTable(blob) ? blob.ciOffset : blob.compressedSize;
  return Math.max(0, blob.features & FEATURE.HAS_TAR_HEADER ? end - TAR_HEADER_BYTES : end);
}

export function align4096(size: number): number {
  return Math.ceil(size / BLOCK_BYTES) * BLOCK_BYTES;
}

/** u64 as a number, -1 above 2^53-1: refused, never rounded. */
export function readU64(bytes: Buffer, at: number): number {
  const high = bytes.readUInt32LE(at + 4);
  return high > 0x1f_ffff ? -1 : high * 2 ** 32 + bytes.readUInt32LE(at);
}

export function writeU64(bytes: Buffer, at: number, value: number): void {
  fits('u64', value, 0, Number.MAX_SAFE_INTEGER);
  bytes.writeUInt32LE(value % 2 ** 32, at);
  bytes.writeUInt32LE(Math.floor(value / 2 ** 32), at + 4);
}

function fits(name: string, value: number, min: number, max: number): void {
  if (!Number.isSafeInteger(value) || value < min || value > max) {
    throw new RangeError(`${name} ${value} is not in ${min}..${max}`);
  }
}

/** @throws BLOB_META when the features are unknown or contradict each other (rafs-format 9, rule 16). */
export function checkFeatures(blobId: string, features: number): void {
  const refuse = (rule: string) => storageError('BLOB_META', { blobId, rule });
  if (features & FEATURES_INCOMPATIBLE_MASK) throw refuse(`unknown feature bits 0x${features.toString(16)}`);
  if (features & FEATURE.ZRAN && features & FEATURE.BATCH) throw refuse('both ZRAN and BATCH');
  const needsV2 = FEATURE.ZRAN | FEATURE.BATCH | FEATURE.ENCRYPTED;
  if (features & needsV2 && !(features & FEATURE.CHUNK_INFO_V2)) throw refuse('needs CHUNK_INFO_V2');
}
