/**
 * Data blobs as data (rafs-format 0.4, 3.3-3.5, 3.11): feature bits, the compression-context-table ("CCT") header and
 * the two chunk-info formats. Offsets and limits here, I/O elsewhere; reader and builder use the same codecs.
 *
 *   chunk data | CI table (chunk infos, contexts) | CCT header, 4096 B | digests | bootstrap | TOC
 */
import { putU64, u64 } from '../common/u64.ts';
import type { Compressor, Digester } from './types.ts';

/** The broken rule in words, for the log; null when all is well. */
export type Broken = string | null;

/** 0.4: number of an algorithm = its position. */
export const COMPRESSORS: readonly Compressor[] = ['none', 'lz4_block', 'gzip', 'zstd'];
export const DIGESTERS: readonly Digester[] = ['blake3', 'sha256'];
export const DIGEST_BYTES = 32;

/** 3.11 */
export const FEATURE = {
  ALIGNED: 0x0000_0001,
  INLINED_FS_META: 0x0000_0002,
  CHUNK_INFO_V2: 0x0000_0004,
  ZRAN: 0x0000_0008,
  SEPARATE: 0x0000_0010,
  INLINED_CHUNK_DIGEST: 0x0000_0020,
  TARFS: 0x0000_0040,
  BATCH: 0x0000_0080,
  ENCRYPTED: 0x0000_0100,
  IS_CHUNKDICT_GENERATED: 0x0000_0200,
  IS_SEPARATED_WITH_PREFETCH_FILES: 0x0000_0400,
  EXTERNAL: 0x0000_0800,
  HAS_TAR_HEADER: 0x1000_0000,
  HAS_TOC: 0x2000_0000,
  CAP_TAR_TOC: 0x4000_0000,
  V5_NO_EXT_TABLE: 0x8000_0000,
} as const;
/** Unknown bits among these change the meaning of the blob: reject. Unknown bits elsewhere are ignored. */
export const FEATURES_INCOMPATIBLE_UNKNOWN = 0x0000_f000;

/** Names in the order `nydus-image check` prints them (7.5). */
export const FEATURE_NAMES: readonly (readonly [bit: number, name: string])[] = [
  [FEATURE.ALIGNED, 'aligned'],
  [FEATURE.BATCH, 'batch'],
  [FEATURE.CAP_TAR_TOC, 'cap_toc'],
  [FEATURE.INLINED_CHUNK_DIGEST, 'chunk-digest'],
  [FEATURE.CHUNK_INFO_V2, 'chunk-v2'],
  [FEATURE.INLINED_FS_META, 'fs-meta'],
  [FEATURE.SEPARATE, 'separate'],
  [FEATURE.HAS_TAR_HEADER, 'tar-header'],
  [FEATURE.HAS_TOC, 'toc'],
  [FEATURE.ZRAN, 'zran'],
  [FEATURE.ENCRYPTED, 'encrypted'],
  [FEATURE.IS_CHUNKDICT_GENERATED, 'is-chunkdict-generated'],
];

/** 0.2: the builder never hands out index 0xffffff, readers accept 1 << 24 chunks. */
export const BLOB_CHUNKS_MAX = 1 << 24;
export const BUILDER_CHUNKS_MAX = BLOB_CHUNKS_MAX - 1;
export const BLOB_UNCOMPRESSED_BYTES_MAX = 2 ** 44;
export const BLOB_COMPRESSED_BYTES_MAX = 2 ** 40;
/** v6 chunks start on 4 KiB boundaries of the uncompressed blob. */
export const CHUNK_ALIGN_BYTES = 4096;

// ---- CCT header (3.3)

export const CCT_HEADER_BYTES = 4096;
export const CCT_MAGIC = 0xb10b_b10b;
export const CCT = {
  MAGIC: 0,
  FEATURES: 4,
  CI_COMPRESSOR: 8,
  CI_ENTRIES: 12,
  CI_OFFSET: 16,
  CI_COMPRESSED_SIZE: 24,
  CI_UNCOMPRESSED_SIZE: 32,
  CONTEXT_OFFSET: 40,
  CONTEXT_SIZE: 48,
  CONTEXT_COUNT: 56,
  MAGIC_AGAIN: 4092,
} as const;

/** u64 fields are -1 when they exceed 2^53-1 (`checkCctHeader` refuses that). */
export interface CctHeader {
  features: number;
  ciCompressor: number;
  ciEntries: number;
  ciOffset: number;
  ciCompressedSize: number;
  ciUncompressedSize: number;
  contextOffset: number;
  contextSize: number;
  contextCount: number;
}

/** Writes all 4096 bytes' non-zero fields at `at`; the rest must be zero already. */
export function encodeCctHeader(view: DataView, at: number, header: CctHeader): void {
  view.setUint32(at + CCT.MAGIC, CCT_MAGIC, true);
  view.setUint32(at + CCT.FEATURES, header.features, true);
  view.setUint32(at + CCT.CI_COMPRESSOR, header.ciCompressor, true);
  view.setUint32(at + CCT.CI_ENTRIES, header.ciEntries, true);
  putU64(view, at + CCT.CI_OFFSET, header.ciOffset);
  putU64(view, at + CCT.CI_COMPRESSED_SIZE, header.ciCompressedSize);
  putU64(view, at + CCT.CI_UNCOMPRESSED_SIZE, header.ciUncompressedSize);
  putU64(view, at + CCT.CONTEXT_OFFSET, header.contextOffset);
  putU64(view, at + CCT.CONTEXT_SIZE, header.contextSize);
  view.setUint32(at + CCT.CONTEXT_COUNT, header.contextCount, true);
  view.setUint32(at + CCT.MAGIC_AGAIN, CCT_MAGIC, true);
}

export function decodeCctHeader(view: DataView, at: number): CctHeader {
  return {
    features: view.getUint32(at + CCT.FEATURES, true),
    ciCompressor: view.getUint32(at + CCT.CI_COMPRESSOR, true),
    ciEntries: view.getUint32(at + CCT.CI_ENTRIES, true),
    ciOffset: u64(view, at + CCT.CI_OFFSET),
    ciCompressedSize: u64(view, at + CCT.CI_COMPRESSED_SIZE),
    ciUncompressedSize: u64(view, at + CCT.CI_UNCOMPRESSED_SIZE),
    contextOffset: u64(view, at + CCT.CONTEXT_OFFSET),
    contextSize: u64(view, at + CCT.CONTEXT_SIZE),
    contextCount: view.getUint32(at + CCT.CONTEXT_COUNT, true),
  };
}

/** Syntax of a header alone (9, item 28); equality with the blob table entry is the caller's check. */
export function checkCctHeader(view: DataView, at: number): Broken {
  if (view.byteLength < at + CCT_HEADER_BYTES) return 'CCT header: truncated';
  if (view.getUint32(at + CCT.MAGIC, true) !== CCT_MAGIC) return 'CCT header: wrong magic';
  if (view.getUint32(at + CCT.MAGIC_AGAIN, true) !== CCT_MAGIC) return 'CCT header: wrong second magic';
  const header = decodeCctHeader(view, at);
  if ((header.features & FEATURES_INCOMPATIBLE_UNKNOWN) !== 0) return `CCT header: features ${header.features}`;
  if (header.ciCompressor >= COMPRESSORS.length) return `CCT header: compressor ${header.ciCompressor}`;
  if (header.ciEntries > BLOB_CHUNKS_MAX) return `CCT header: ${header.ciEntries} chunks`;
  if (Math.min(header.ciOffset, header.ciCompressedSize, header.ciUncompressedSize) < 0) return 'CCT header: size';
  if (Math.min(header.contextOffset, header.contextSize) < 0) return 'CCT header: context table';
  return null;
}

// ---- chunk infos (3.4, 3.5)

export const CHUNK_INFO_V1_BYTES = 16;
export const CHUNK_INFO_V2_BYTES = 24;
export const CHUNK_V2_FLAG = { COMPRESSED: 0x01, ZRAN: 0x02, BATCH: 0x04, ENCRYPTED: 0x08, HAS_CRC32: 0x10 } as const;

/** One entry of the CI table; reused by decoders so that walking a table allocates nothing. */
export interface ChunkInfo {
  uncompressedOffset: number;
  uncompressedSize: number;
  compressedOffset: number;
  compressedSize: number;
  /** `CHUNK_V2_FLAG` bits; V1 entries only ever have COMPRESSED. */
  flags: number;
  /** V2: CRC-32C with HAS_CRC32, or the offset inside the decoded context with ZRAN or BATCH; else 0. */
  low: number;
  /** V2 with ZRAN or BATCH: context index; else 0. */
  high: number;
}

export function newChunkInfo(): ChunkInfo {
  return {
    uncompressedOffset: 0,
    uncompressedSize: 0,
    compressedOffset: 0,
    compressedSize: 0,
    flags: 0,
    low: 0,
    high: 0,
  };
}

/** 3.4. Every bit pattern decodes; plausibility is `checkChunkInfo`. */
export function decodeChunkInfoV1(view: DataView, at: number, out: ChunkInfo): void {
  const low0 = view.getUint32(at, true);
  const high0 = view.getUint32(at + 4, true);
  const high1 = view.getUint32(at + 12, true);
  out.uncompressedOffset = (high0 & 0xfff) * 2 ** 32 + (low0 - (low0 & 0xfff));
  out.uncompressedSize = ((((low0 >>> 8) & 0xf) << 20) | (high0 >>> 12)) + 1;
  out.compressedOffset = (high1 & 0xff) * 2 ** 32 + view.getUint32(at + 8, true);
  out.compressedSize = ((((high1 >>> 8) & 0xf) << 20) | (high1 >>> 12)) + 1;
  out.flags = out.compressedSize === out.uncompressedSize ? 0 : CHUNK_V2_FLAG.COMPRESSED;
  out.low = 0;
  out.high = 0;
}

export function encodeChunkInfoV1(view: DataView, at: number, info: ChunkInfo): void {
  const usize = info.uncompressedSize - 1;
  const csize = info.compressedSize - 1;
  view.setUint32(at, (info.uncompressedOffset % 2 ** 32) + (((usize >>> 20) & 0xf) << 8), true);
  view.setUint32(at + 4, Math.floor(info.uncompressedOffset / 2 ** 32) + (usize & 0xf_ffff) * 0x1000, true);
  view.setUint32(at + 8, info.compressedOffset % 2 ** 32, true);
  const high = Math.floor(info.compressedOffset / 2 ** 32) + (((csize >>> 20) & 0xf) << 8);
  view.setUint32(at + 12, high + (csize & 0xf_ffff) * 0x1000, true);
}

/** 3.5. Every bit pattern decodes; plausibility is `checkChunkInfo`. */
export function decodeChunkInfoV2(view: DataView, at: number, out: ChunkInfo): void {
  const high0 = view.getUint32(at + 4, true);
  const high1 = view.getUint32(at + 12, true);
  out.uncompressedOffset = view.getUint32(at, true) * CHUNK_ALIGN_BYTES;
  out.uncompressedSize = (high0 & 0xff_ffff) + 1;
  out.flags = high0 >>> 24;
  out.compressedOffset = (high1 & 0xff) * 2 ** 32 + view.getUint32(at + 8, true);
  out.compressedSize = high1 >>> 8;
  out.low = view.getUint32(at + 16, true);
  out.high = view.getUint32(at + 20, true);
}

export function encodeChunkInfoV2(view: DataView, at: number, info: ChunkInfo): void {
  view.setUint32(at, info.uncompressedOffset / CHUNK_ALIGN_BYTES, true);
  view.setUint32(at + 4, ((info.uncompressedSize - 1) & 0xff_ffff) + info.flags * 2 ** 24, true);
  view.setUint32(at + 8, info.compressedOffset % 2 ** 32, true);
  view.setUint32(at + 12, Math.floor(info.compressedOffset / 2 ** 32) + info.compressedSize * 0x100, true);
  view.setUint32(at + 16, info.low, true);
  view.setUint32(at + 20, info.high, true);
}

/** Bytes the chunk-data area of a blob has (3.11), the upper bound of every compressed range. */
export function chunkDataBytes(blob: {
  features: number;
  compressedSize: number;
  ciOffset: number;
  ciCompressedSize: number;
  ciUncompressedSize: number;
}): number {
  if ((blob.features & FEATURE.SEPARATE) !== 0 || (blob.features & FEATURE.CAP_TAR_TOC) === 0) {
    return blob.compressedSize;
  }
  const header = (blob.features & FEATURE.HAS_TAR_HEADER) !== 0 ? 512 : 0;
  const ciValid = blob.ciCompressedSize !== 0 && blob.ciUncompressedSize !== 0;
  return Math.max(0, (ciValid ? blob.ciOffset : blob.compressedSize) - header);
}

/**
 * One chunk info against its blob (9, item 30). `compressedEnd` is `chunkDataBytes`, `uncompressedEnd` the blob's
 * uncompressed size; ordering against the entry before it is the caller's check.
 */
export function checkChunkInfo(
  info: ChunkInfo,
  chunkSize: number,
  compressedEnd: number,
  uncompressedEnd: number,
): Broken {
  const plain = (info.flags & (CHUNK_V2_FLAG.COMPRESSED | CHUNK_V2_FLAG.ENCRYPTED)) === 0;
  const context = (info.flags & (CHUNK_V2_FLAG.ZRAN | CHUNK_V2_FLAG.BATCH)) !== 0;
  if (info.uncompressedSize > chunkSize) return `chunk of ${info.uncompressedSize} bytes, chunk size ${chunkSize}`;
  if (info.uncompressedOffset + info.uncompressedSize > uncompressedEnd) return 'chunk ends behind the blob';
  if (info.compressedOffset + info.compressedSize > compressedEnd) return 'chunk ends behind the chunk data';
  if (plain && !context && info.compressedSize !== info.uncompressedSize) return 'raw chunk with two sizes';
  if (info.compressedSize === 0 && !context) return 'empty chunk';
  if ((info.flags & CHUNK_V2_FLAG.HAS_CRC32) !== 0 && !context && info.low === 0) return 'CRC flag without CRC';
  return null;
}
