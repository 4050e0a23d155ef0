/** What a blob's table and its header must be before they are cached (rafs-format 9, items 28 and 29). */
import { explain } from '../../common/app-error.ts';
import { CODECS, compressorOf } from '../codecs/codecs.ts';
import { DIGESTS } from '../codecs/digests.ts';
import { storageError } from '../errors.ts';
import type { BlobInfo } from '../types.ts';
import { type ContextTable, ciBytesMax, contextTable } from './blob-contexts.ts';
import {
  type CctHeader,
  CHUNKS_PER_BLOB_MAX,
  COUNTED_BY_HEADER,
  chunkInfoBytes,
  FEATURE,
  readU64,
} from './blob-layout.ts';

/** Of the `extra` bytes of a SEPARATE blob's entry (rafs-format 2.5). */
const META_BLOB = { digest: 0, size: 32 } as const;
/**
 * Largest table: 16 million plain entries take 384 MiB; the dictionaries of a zran blob, 32 KiB each, end here too.
 */
export const TABLE_BYTES_MAX = 384 << 20;

/** Of what an entry is made, as far as a header can know better than a dictionary that kept sizes alone. */
const TABLE_FEATURES = FEATURE.CHUNK_INFO_V2 | FEATURE.BATCH | FEATURE.ZRAN;

/** The blob, with what only its header says filled in. */
export function countedBy(info: BlobInfo, header: CctHeader | null): BlobInfo {
  if (info.chunkCount !== COUNTED_BY_HEADER || header === null) return info;
  const { chunkCount } = header;
  return { ...info, chunkCount, features: info.features | (header.features & TABLE_FEATURES) };
}

/** Item 28: the header must say what the image's blob entry says. The contexts it announces, or the broken rule. */
export function checkHeader(info: BlobInfo, header: CctHeader | null): ContextTable | null | string {
  if (header === null) return 'header without its magic';
  if (header.chunkCount > CHUNKS_PER_BLOB_MAX) return `header counts ${header.chunkCount} chunks`;
  if (header.chunkCount !== info.chunkCount)
    return `header counts ${header.chunkCount} chunks, image ${info.chunkCount}`;
  if (header.ciCompressor !== info.ciCompressor) return `header names compressor ${header.ciCompressor}`;
  if (header.ciOffset !== info.ciOffset) return `header names offset ${header.ciOffset}, image ${info.ciOffset}`;
  if (header.ciCompressedSize !== info.ciCompressedSize) return `header names ${header.ciCompressedSize} stored bytes`;
  if (header.ciUncompressedSize !== info.ciUncompressedSize) return `header names ${header.ciUncompressedSize} bytes`;
  const infos = info.chunkCount * chunkInfoBytes(info.features);
  const most = Math.min(TABLE_BYTES_MAX, ciBytesMax(info, chunkInfoBytes(info.features)));
  if (info.ciUncompressedSize < infos || info.ciUncompressedSize > most) return 'table size does not fit count';
  return contextTable(info, header);
}

/**
 * SHA-256 of a meta blob that holds nothing but a table and its header, of `bytes` together: the image vouches for it
 * (rafs-format 2.5). Null where it does not.
 */
export function metaDigestOf(info: BlobInfo, bytes: number): Uint8Array | null {
  if (!(info.features & FEATURE.SEPARATE) || info.ciOffset !== 0) return null;
  const digest = info.extra.subarray(META_BLOB.digest, META_BLOB.size);
  const metaBytes = readU64(Buffer.from(info.extra), META_BLOB.size);
  return metaBytes !== bytes || digest.every((byte) => byte === 0) ? null : digest;
}

/** @throws BLOB_META when table and header are not what the image vouches for */
export function checkMetaDigest(info: BlobInfo, bytes: Buffer): void {
  const digest = metaDigestOf(info, bytes.length);
  if (digest !== null && !DIGESTS.sha256.digest(bytes).equals(digest)) {
    throw refusal(info, 'the meta blob has another digest');
  }
}

/** Item 29: decoded with the declared size as a hard cap. */
export async function decodeTable(info: BlobInfo, stored: Buffer): Promise<Buffer> {
  const compressor = compressorOf(info.ciCompressor);
  if (compressor === null) throw refusal(info, `unknown table compressor ${info.ciCompressor}`);
  try {
    return await CODECS[compressor].decompressAsync(stored, info.ciUncompressedSize);
  } catch (error) {
    throw refusal(info, explain(error));
  }
}

export function refusal(info: BlobInfo, rule: string) {
  return storageError('BLOB_META', { blobId: info.id, rule: `byte ${info.ciOffset}: ${rule}` });
}
