/**
 * The 80-byte chunk entry (rafs-format 1.8): behind each v5 inode, and as the chunk table of v6 (2.13).
 */
import { putU64, u64 } from '../common/u64.ts';

export const CHUNK_ENTRY_BYTES = 80;
export const CHUNK_FLAG = { COMPRESSED: 1, HOLE: 2, ENCRYPTED: 4, BATCH: 8, HAS_CRC32: 0x10 } as const;
export const CHUNK_ENTRY = {
  DIGEST: 0,
  BLOB_INDEX: 32,
  FLAGS: 36,
  COMPRESSED_SIZE: 40,
  UNCOMPRESSED_SIZE: 44,
  COMPRESSED_OFFSET: 48,
  UNCOMPRESSED_OFFSET: 56,
  FILE_OFFSET: 64,
  INDEX: 72,
  CRC32: 76,
} as const;

export interface ChunkEntry {
  blobIndex: number;
  flags: number;
  compressedSize: number;
  uncompressedSize: number;
  /** u64 fields are -1 above 2^53-1 when decoded. */
  compressedOffset: number;
  uncompressedOffset: number;
  fileOffset: number;
  /** Position in the blob's chunk-info array. */
  index: number;
  /** CRC-32C of the uncompressed bytes, valid with HAS_CRC32. */
  crc32: number;
}

/** An entry to be filled by `decodeChunkEntry`. */
export function newChunkEntry(): ChunkEntry {
  return {
    blobIndex: 0,
    flags: 0,
    compressedSize: 0,
    uncompressedSize: 0,
    compressedOffset: 0,
    uncompressedOffset: 0,
    fileOffset: 0,
    index: 0,
    crc32: 0,
  };
}

/** Writes everything but the digest, which callers copy from where they keep it. */
export function encodeChunkEntry(view: DataView, at: number, chunk: ChunkEntry): void {
  view.setUint32(at + CHUNK_ENTRY.BLOB_INDEX, chunk.blobIndex, true);
  view.setUint32(at + CHUNK_ENTRY.FLAGS, chunk.flags, true);
  view.setUint32(at + CHUNK_ENTRY.COMPRESSED_SIZE, chunk.compressedSize, true);
  view.setUint32(at + CHUNK_ENTRY.UNCOMPRESSED_SIZE, chunk.uncompressedSize, true);
  putU64(view, at + CHUNK_ENTRY.COMPRESSED_OFFSET, chunk.compressedOffset);
  putU64(view, at + CHUNK_ENTRY.UNCOMPRESSED_OFFSET, chunk.uncompressedOffset);
  putU64(view, at + CHUNK_ENTRY.FILE_OFFSET, chunk.fileOffset);
  view.setUint32(at + CHUNK_ENTRY.INDEX, chunk.index, true);
  view.setUint32(at + CHUNK_ENTRY.CRC32, chunk.crc32, true);
}

export function decodeChunkEntry(view: DataView, at: number, out: ChunkEntry): void {
  out.blobIndex = view.getUint32(at + CHUNK_ENTRY.BLOB_INDEX, true);
  out.flags = view.getUint32(at + CHUNK_ENTRY.FLAGS, true);
  out.compressedSize = view.getUint32(at + CHUNK_ENTRY.COMPRESSED_SIZE, true);
  out.uncompressedSize = view.getUint32(at + CHUNK_ENTRY.UNCOMPRESSED_SIZE, true);
  out.compressedOffset = u64(view, at + CHUNK_ENTRY.COMPRESSED_OFFSET);
  out.uncompressedOffset = u64(view, at + CHUNK_ENTRY.UNCOMPRESSED_OFFSET);
  out.fileOffset = u64(view, at + CHUNK_ENTRY.FILE_OFFSET);
  out.index = view.getUint32(at + CHUNK_ENTRY.INDEX, true);
  out.crc32 = view.getUint32(at + CHUNK_ENTRY.CRC32, true);
}
