/**
 * RAFS v6 device slots and blob table as data (rafs-format 2.4, 2.5). The kernel reads the slots, nydusd the table;
 * both name the same blobs in the same order.
 */
import { putU64, u64 } from '../../common/u64.ts';
import { CODECS, compressorOf } from '../../storage/codecs/codecs.ts';
import { DIGESTS, digesterOf } from '../../storage/codecs/digests.ts';
import {
  CHUNK_INFO_V1_BYTES,
  CHUNK_INFO_V2_BYTES,
  CHUNKS_PER_BLOB_MAX,
  COMPRESSED_BLOB_BYTES_MAX,
  FEATURE,
  FEATURES_INCOMPATIBLE_MASK,
  hasChunkTable,
  UNCOMPRESSED_BLOB_BYTES_MAX,
} from '../../storage/tables/blob-layout.ts';
import type { BlobInfo } from '../../storage/types.ts';
import { blobIdLegal } from '../blob-id.ts';
import type { Broken } from '../broken.ts';

// ---- device slots (2.4)

export const BLOB_ID_BYTES = 64;
/** Blobs start on multiples of this in the flat address space. */
export const MAPPED_ALIGN_BYTES = 0x8_0000;
export const DEVICE = { ID: 0, BLOCKS: 64, MAPPED_BLKADDR: 68 } as const;

export interface DeviceSlot {
  id: string;
  blocks: number;
  mappedBlkaddr: number;
}

export function encodeDeviceSlot(bytes: Uint8Array, at: number, slot: DeviceSlot): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  putId(bytes, at + DEVICE.ID, slot.id);
  view.setUint32(at + DEVICE.BLOCKS, slot.blocks, true);
  view.setUint32(at + DEVICE.MAPPED_BLKADDR, slot.mappedBlkaddr, true);
}

export function decodeDeviceSlot(bytes: Uint8Array, at: number): DeviceSlot {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    id: readId(bytes, at + DEVICE.ID),
    blocks: view.getUint32(at + DEVICE.BLOCKS, true),
    mappedBlkaddr: view.getUint32(at + DEVICE.MAPPED_BLKADDR, true),
  };
}

/** 9, item 14: a slot against the blob entry of the same position. */
export function checkDeviceSlot(slot: DeviceSlot, blob: BlobInfo, blockBits: number): Broken {
  if (slot.id !== blob.id) return `device slot ${blob.index}: id differs from the blob table`;
  if (slot.blocks === 0) return `device slot ${blob.index}: no blocks`;
  if (slot.blocks * 2 ** blockBits > blob.uncompressedSize) return `device slot ${blob.index}: larger than its blob`;
  return null;
}

// ---- blob table (2.5)

export const BLOB = {
  ID: 0,
  INDEX: 64,
  CHUNK_SIZE: 68,
  CHUNK_COUNT: 72,
  COMPRESSOR: 76,
  DIGESTER: 80,
  FEATURES: 84,
  COMPRESSED_SIZE: 88,
  UNCOMPRESSED_SIZE: 96,
  TOC_SIZE: 104,
  CI_COMPRESSOR: 108,
  CI_OFFSET: 112,
  CI_COMPRESSED_SIZE: 120,
  CI_UNCOMPRESSED_SIZE: 128,
  TOC_DIGEST: 136,
  /** Meta-blob digest and size, or key and IV: opaque bytes here. */
  EXTRA: 168,
  CIPHER: 216,
} as const;
const TOC_DIGEST_BYTES = 32;
const CIPHER_MAX = 1;
/** Two keys of AES-128; XTS is none when they are equal. */
const KEY_BYTES = 32;
/** Internal mark of v5 images without an extended blob table; must not appear on disk in v6 (3.11). */
const FEATURE_NO_EXT_TABLE = 0x8000_0000;

export function encodeBlobEntry(bytes: Uint8Array, at: number, blob: BlobInfo): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  putId(bytes, at + BLOB.ID, blob.id);
  view.setUint32(at + BLOB.INDEX, blob.index, true);
  view.setUint32(at + BLOB.CHUNK_SIZE, blob.chunkSize, true);
  view.setUint32(at + BLOB.CHUNK_COUNT, blob.chunkCount, true);
  view.setUint32(at + BLOB.COMPRESSOR, CODECS[blob.compressor].id, true);
  view.setUint32(at + BLOB.DIGESTER, DIGESTS[blob.digester].id, true);
  view.setUint32(at + BLOB.FEATURES, blob.features, true);
  putU64(view, at + BLOB.COMPRESSED_SIZE, blob.compressedSize);
  putU64(view, at + BLOB.UNCOMPRESSED_SIZE, blob.uncompressedSize);
  view.setUint32(at + BLOB.TOC_SIZE, blob.tocSize, true);
  view.setUint32(at + BLOB.CI_COMPRESSOR, blob.ciCompressor, true);
  putU64(view, at + BLOB.CI_OFFSET, blob.ciOffset);
  putU64(view, at + BLOB.CI_COMPRESSED_SIZE, blob.ciCompressedSize);
  putU64(view, at + BLOB.CI_UNCOMPRESSED_SIZE, blob.ciUncompressedSize);
  if (blob.tocDigest) bytes.set(blob.tocDigest, at + BLOB.TOC_DIGEST);
  bytes.set(blob.extra, at + BLOB.EXTRA);
  view.setUint32(at + BLOB.CIPHER, blob.cipher, true);
}

/** Call `checkBlobEntry` first: unknown algorithm numbers become defaults and u64 fields above 2^53-1 are -1. */
export function decodeBlobEntry(bytes: Uint8Array, at: number): BlobInfo {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const tocDigest = bytes.slice(at + BLOB.TOC_DIGEST, at + BLOB.TOC_DIGEST + TOC_DIGEST_BYTES);
  return {
    id: readId(bytes, at + BLOB.ID),
    index: view.getUint32(at + BLOB.INDEX, true),
    chunkSize: view.getUint32(at + BLOB.CHUNK_SIZE, true),
    chunkCount: view.getUint32(at + BLOB.CHUNK_COUNT, true),
    compressor: compressorOf(view.getUint32(at + BLOB.COMPRESSOR, true)) ?? 'none',
    digester: digesterOf(view.getUint32(at + BLOB.DIGESTER, true)) ?? 'blake3',
    features: view.getUint32(at + BLOB.FEATURES, true),
    compressedSize: u64(view, at + BLOB.COMPRESSED_SIZE),
    uncompressedSize: u64(view, at + BLOB.UNCOMPRESSED_SIZE),
    tocSize: view.getUint32(at + BLOB.TOC_SIZE, true),
    ciCompressor: view.getUint32(at + BLOB.CI_COMPRESSOR, true),
    ciOffset: u64(view, at + BLOB.CI_OFFSET),
    ciCompressedSize: u64(view, at + BLOB.CI_COMPRESSED_SIZE),
    ciUncompressedSize: u64(view, at + BLOB.CI_UNCOMPRESSED_SIZE),
    tocDigest: tocDigest.every((byte) => byte === 0) ? null : tocDigest,
    extra: bytes.slice(at + BLOB.EXTRA, at + BLOB.CIPHER),
    cipher: view.getUint32(at + BLOB.CIPHER, true),
  };
}

/** 9, item 16: entry `index` against the file system's chunk size. */
export function checkBlobEntry(bytes: Uint8Array, at: number, index: number, chunkSize: number): Broken {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const compressor = compressorOf(view.getUint32(at + BLOB.COMPRESSOR, true));
  const digester = digesterOf(view.getUint32(at + BLOB.DIGESTER, true));
  const say = (what: string) => `blob ${index}: ${what}`;
  if (compressor === null || digester === null) return say('unknown algorithm');
  const blob = decodeBlobEntry(bytes, at);
  if (blob.index !== index) return say(`index ${blob.index}`);
  if (!blobIdLegal(blob.id)) return say('id');
  if (blob.chunkSize !== chunkSize) return say(`chunk size ${blob.chunkSize}`);
  if (blob.chunkCount > CHUNKS_PER_BLOB_MAX) return say(`${blob.chunkCount} chunks`);
  if ((blob.features & (FEATURES_INCOMPATIBLE_MASK | FEATURE_NO_EXT_TABLE)) !== 0) {
    return say(`features 0x${blob.features.toString(16)}`);
  }
  const tarfs = (blob.features & FEATURE.TARFS) !== 0 && (blob.features & FEATURE.CAP_TAR_TOC) !== 0;
  if (tarfs === ((blob.features & FEATURE.ALIGNED) !== 0)) return say('must be aligned or tarfs');
  if (blob.uncompressedSize < 0 || blob.uncompressedSize > UNCOMPRESSED_BLOB_BYTES_MAX) return say('uncompressed size');
  if (blob.compressedSize < 0 || blob.compressedSize > COMPRESSED_BLOB_BYTES_MAX) return say('compressed size');
  const encrypted = (blob.features & FEATURE.ENCRYPTED) !== 0;
  if (blob.cipher > CIPHER_MAX || (blob.cipher !== 0) !== encrypted) return say(`cipher ${blob.cipher}`);
  const half = KEY_BYTES / 2;
  if (encrypted && Buffer.compare(blob.extra.subarray(0, half), blob.extra.subarray(half, KEY_BYTES)) === 0) {
    return say('halves of the key are equal');
  }
  return checkContextTable(blob, tarfs, say);
}

function checkContextTable(blob: BlobInfo, tarfs: boolean, say: (what: string) => string): Broken {
  if (Math.min(blob.ciOffset, blob.ciCompressedSize, blob.ciUncompressedSize) < 0) return say('CI size');
  if (compressorOf(blob.ciCompressor) === null) return say(`CI compressor ${blob.ciCompressor}`);
  if (tarfs || (blob.features & FEATURE.EXTERNAL) !== 0 || !hasChunkTable(blob)) return null;
  const contexts = (blob.features & (FEATURE.ZRAN | FEATURE.BATCH)) !== 0;
  const v2 = (blob.features & FEATURE.CHUNK_INFO_V2) !== 0;
  if (blob.ciCompressedSize > blob.ciUncompressedSize) return say('CI table grew by compression');
  if ((contexts || (blob.features & FEATURE.ENCRYPTED) !== 0) && !v2) return say('needs chunk info V2');
  if ((blob.features & FEATURE.ZRAN) !== 0 && (blob.features & FEATURE.BATCH) !== 0) return say('zran and batch');
  // A generated dictionary counts the chunks it lists, and says nothing of the blob's length (4.1).
  if ((blob.features & FEATURE.IS_CHUNKDICT_GENERATED) !== 0) return null;
  const entryBytes = v2 ? CHUNK_INFO_V2_BYTES : CHUNK_INFO_V1_BYTES;
  const exact = !contexts && (blob.features & FEATURE.ENCRYPTED) === 0;
  const infos = entryBytes * blob.chunkCount;
  if (exact ? blob.ciUncompressedSize !== infos : blob.ciUncompressedSize < infos) return say('CI size against count');
  const inBlob = (blob.features & FEATURE.SEPARATE) === 0 && (blob.features & FEATURE.CAP_TAR_TOC) !== 0;
  if (inBlob && blob.ciOffset + blob.ciCompressedSize > blob.compressedSize) return say('CI table outside the blob');
  return null;
}

function putId(bytes: Uint8Array, at: number, id: string): void {
  const text = Buffer.from(id, 'utf8');
  if (text.length > BLOB_ID_BYTES) throw new RangeError(`blob id of ${text.length} bytes`);
  bytes.set(text, at);
}

function readId(bytes: Uint8Array, at: number): string {
  let end = at;
  while (end < at + BLOB_ID_BYTES && bytes[end] !== 0) end++;
  return Buffer.from(bytes.buffer, bytes.byteOffset + at, end - at).toString('utf8');
}
