/**
 * Real images for the tests of this room. Bootstraps are read here at the offsets of rafs-format 2.3, 2.5 and 2.13
 * and not through `src/rafs`, which stands above storage.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { CODECS, compressorOf } from './codecs/codecs.ts';
import { crc32c, DIGESTS, digesterOf } from './codecs/digests.ts';
import {
  align4096,
  CHUNK_FLAG,
  chunkInfoBytes,
  decodeChunkInfo,
  encodeCctHeader,
  encodeChunkInfo,
  FEATURE,
} from './tables/blob-layout.ts';
import type { BlobInfo, ChunkDigests, Compressor, WantedChunk } from './types.ts';

export const FIXTURES = process.env['NYDUS_FIXTURES'] ?? resolve(import.meta.dirname, '../../../shared/fixtures');
export const BLOBS_DIR = join(FIXTURES, 'images/blobs');

/** Bytes of a blob of the fixtures. */
export function blobBytes(id: string): Buffer {
  return readFileSync(join(BLOBS_DIR, id));
}

/** Blob table of a v6 bootstrap `images/boot/<name>.boot`. */
export function blobTable(name: string): BlobInfo[] {
  return parseBlobTable(readFileSync(join(FIXTURES, 'images/boot', `${name}.boot`)));
}

export function parseBlobTable(boot: Buffer): BlobInfo[] {
  const table = Number(boot.readBigUInt64LE(1152 + 8));
  const bytes = boot.readUInt32LE(1152 + 16);
  const blobs: BlobInfo[] = [];
  for (let at = table; at < table + bytes; at += 256) {
    const u64 = (offset: number) => Number(boot.readBigUInt64LE(at + offset));
    const tocDigest = Buffer.from(boot.subarray(at + 136, at + 168));
    blobs.push({
      index: boot.readUInt32LE(at + 64),
      id: boot.toString('latin1', at, at + 64).replace(/\0+$/, ''),
      chunkSize: boot.readUInt32LE(at + 68),
      chunkCount: boot.readUInt32LE(at + 72),
      compressor: compressorOf(boot.readUInt32LE(at + 76)) ?? 'none',
      digester: digesterOf(boot.readUInt32LE(at + 80)) ?? 'blake3',
      features: boot.readUInt32LE(at + 84),
      compressedSize: u64(88),
      uncompressedSize: u64(96),
      tocSize: boot.readUInt32LE(at + 104),
      ciCompressor: boot.readUInt32LE(at + 108),
      ciOffset: u64(112),
      ciCompressedSize: u64(120),
      ciUncompressedSize: u64(128),
      tocDigest: tocDigest.every((byte) => byte === 0) ? null : tocDigest,
      cipher: boot.readUInt32LE(at + 216),
      extra: Buffer.from(boot.subarray(at + 168, at + 216)),
    });
  }
  return blobs;
}

/** Chunk digests of a bootstrap's chunk table for blob `blobIndex`. */
export function chunkDigests(name: string, blobIndex: number): ChunkDigests {
  const boot = readFileSync(join(FIXTURES, 'images/boot', `${name}.boot`));
  const table = Number(boot.readBigUInt64LE(1152 + 24));
  const bytes = Number(boot.readBigUInt64LE(1152 + 32));
  const digests = new Map<number, Buffer>();
  for (let at = table; at < table + bytes; at += 80) {
    if (boot.readUInt32LE(at + 32) === blobIndex) {
      digests.set(boot.readUInt32LE(at + 72), boot.subarray(at, at + 32));
    }
  }
  return (chunkIndex) => digests.get(chunkIndex) ?? null;
}

/** A chunk as it must appear in the cache file. */
export interface ExpectedChunk {
  index: number;
  uncompressedOffset: number;
  compressedOffset: number;
  compressedSize: number;
  bytes: Buffer;
}

/** All chunks of a blob, decoded straight from its file. */
export function expectedChunks(info: BlobInfo, file = blobBytes(info.id)): ExpectedChunk[] {
  const stored = file.subarray(info.ciOffset, info.ciOffset + info.ciCompressedSize);
  const table = CODECS[compressorOf(info.ciCompressor) ?? 'none'].decompress(stored, info.ciUncompressedSize);
  return Array.from({ length: info.chunkCount }, (_, index) => {
    const chunk = decodeChunkInfo(table, index * chunkInfoBytes(info.features), info.features);
    const raw = file.subarray(chunk.compressedOffset, chunk.compressedOffset + chunk.compressedSize);
    const codec = CODECS[chunk.flags & CHUNK_FLAG.COMPRESSED ? info.compressor : 'none'];
    const { uncompressedOffset, compressedOffset, compressedSize } = chunk;
    const bytes = codec.decompress(raw, chunk.uncompressedSize);
    return { index, uncompressedOffset, compressedOffset, compressedSize, bytes };
  });
}

export function wantAll(chunks: readonly ExpectedChunk[]): WantedChunk[] {
  return chunks.map(({ index, uncompressedOffset, bytes }) => ({
    chunkIndex: index,
    uncompressedOffset,
    bytes: bytes.length,
  }));
}

export interface MadeBlob {
  info: BlobInfo;
  /** The blob file: chunk data, chunk table, header. */
  file: Buffer;
  digests: ChunkDigests;
}

/** A blob of these chunks with a V2 table, which carries CRCs when `crc` is set. Changes in `file` are not noticed. */
export function makeBlob(contents: readonly Buffer[], options: { compressor: Compressor; crc: boolean }): MadeBlob {
  const features = FEATURE.ALIGNED | FEATURE.CAP_TAR_TOC | FEATURE.CHUNK_INFO_V2;
  const stored: Buffer[] = [];
  const table = Buffer.alloc(contents.length * chunkInfoBytes(features));
  let compressedOffset = 0;
  let uncompressedOffset = 0;
  contents.forEach((bytes, index) => {
    const packed = CODECS[options.compressor].compress(bytes);
    const isSmaller = packed.length < bytes.length;
    const data = isSmaller ? packed : bytes;
    encodeChunkInfo(table, index * chunkInfoBytes(features), features, {
      compressedOffset,
      compressedSize: data.length,
      uncompressedOffset,
      uncompressedSize: bytes.length,
      flags: (isSmaller ? CHUNK_FLAG.COMPRESSED : 0) | (options.crc ? CHUNK_FLAG.HAS_CRC32 : 0),
      low: options.crc ? crc32c(bytes) : 0,
      high: 0,
    });
    stored.push(data);
    compressedOffset += data.length;
    uncompressedOffset += align4096(bytes.length);
  });
  const ci = { ciOffset: compressedOffset, ciCompressedSize: table.length, ciUncompressedSize: table.length };
  const context = { contextOffset: 0, contextSize: 0, contextCount: 0 };
  const header = encodeCctHeader({ features, ciCompressor: 0, chunkCount: contents.length, ...ci, ...context });
  const file = Buffer.concat([...stored, table, header]);
  const info: BlobInfo = {
    index: 0,
    id: DIGESTS.sha256.digest(file).toString('hex'),
    chunkCount: contents.length,
    chunkSize: 1 << 24,
    compressor: options.compressor,
    digester: 'blake3',
    features,
    compressedSize: file.length,
    uncompressedSize: uncompressedOffset,
    ciCompressor: 0,
    ...ci,
    tocSize: 0,
    tocDigest: null,
    cipher: 0,
    extra: Buffer.alloc(48),
  };
  const digests = contents.map((bytes) => DIGESTS.blake3.digest(bytes));
  return { info, file, digests: (index) => digests[index] ?? null };
}
