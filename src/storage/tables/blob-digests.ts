/**
 * Digests of chunks out of the blob itself: part `blob.digest`, for images whose bootstrap leaves them out
 * (rafs-format 3.1, 3.8; INLINED_CHUNK_DIGEST). The bootstrap vouches for the table of contents at the end of the blob,
 * and that for the part.
 */

import { CODECS } from '../codecs/codecs.ts';
import { DIGESTS } from '../codecs/digests.ts';
import { storageError } from '../errors.ts';
import type { BlobInfo, ChunkDigests, Compressor } from '../types.ts';
import {
  DIGEST_BYTES,
  decodeToc,
  FEATURE,
  hasChunkTable,
  PART,
  readU64,
  TAR_HEADER_BYTES,
  TOC_BYTES_MAX,
  TOC_FLAG,
  type TocEntry,
} from './blob-layout.ts';

/** Held in memory: half a million chunks, 2 GiB of the smallest. Larger images carry digests in their bootstrap. */
const PART_BYTES_MAX = 16 << 20;
/** Where the meta blob's length stands in the `extra` bytes of a SEPARATE entry (rafs-format 2.5). */
const META_BLOB_SIZE_AT = 32;

/** True when the blob has a part with digests, and the image says where to look for it. */
export function hasBlobDigests(info: BlobInfo): boolean {
  const needed = FEATURE.INLINED_CHUNK_DIGEST | FEATURE.HAS_TOC;
  return (info.features & needed) === needed && info.tocSize > TAR_HEADER_BYTES && hasChunkTable(info);
}

/**
 * Fetches and verifies the digests.
 * @param read of the object that ends with the table of contents: the blob, or its meta blob
 * @throws TOC with the broken rule, fetch errors
 */
export async function fetchBlobDigests(
  info: BlobInfo,
  read: (offset: number, bytes: number) => Promise<Buffer>,
): Promise<ChunkDigests> {
  const { tocSize, tocDigest, chunkCount } = info;
  const objectBytes = lengthOf(info);
  const tocAt = objectBytes - tocSize;
  const refuse = (rule: string) => storageError('TOC', { rule: `blob ${info.id}, byte ${tocAt}: ${rule}` });
  if (tocSize > TOC_BYTES_MAX || tocSize > objectBytes) throw refuse(`size ${tocSize}`);
  const toc = await read(tocAt, tocSize);
  if (tocDigest !== null && !DIGESTS.sha256.digest(toc).equals(tocDigest)) throw refuse('its digest is another one');
  const entry = decodeToc(toc, objectBytes).find(({ name }) => name === PART.DIGEST);
  if (entry === undefined) throw refuse(`no part ${PART.DIGEST}`);
  const partBytes = chunkCount * DIGEST_BYTES;
  if (entry.uncompressedSize !== partBytes || partBytes > PART_BYTES_MAX || entry.storedSize > PART_BYTES_MAX) {
    throw refuse(`${entry.uncompressedSize} bytes of digests for ${chunkCount} chunks`);
  }
  const stored = await read(entry.offset, entry.storedSize);
  const part = await CODECS[compressorOf(entry)].decompressAsync(stored, partBytes);
  if (!DIGESTS.sha256.digest(part).equals(entry.digest)) throw refuse(`part ${PART.DIGEST} has another digest`);
  return (chunk) => (chunk < chunkCount ? part.subarray(chunk * DIGEST_BYTES, (chunk + 1) * DIGEST_BYTES) : null);
}

/** Length of the object with the table of contents (rafs-format 2.5). */
function lengthOf(info: BlobInfo): number {
  return info.features & FEATURE.SEPARATE ? readU64(Buffer.from(info.extra), META_BLOB_SIZE_AT) : info.compressedSize;
}

function compressorOf({ flags }: TocEntry): Compressor {
  if (flags === TOC_FLAG.ZSTD) return 'zstd';
  return flags === TOC_FLAG.LZ4 ? 'lz4_block' : 'none';
}
