/**
 * Chunk tables that are not decoded in memory: those of large zran blobs carry 32 KiB of window for every MiB or so of
 * their layer. Stored bytes come in ranges, and what they decode to goes to the file piece by piece.
 */
import { codeOf, explain } from '../../common/app-error.ts';
import { compressorOf, decompressZstdPieces } from '../codecs/codecs.ts';
import { DIGESTS } from '../codecs/digests.ts';
import type { BlobInfo } from '../types.ts';
import { align4096, CCT_HEADER_BYTES } from './blob-layout.ts';
import { metaDigestOf, refusal } from './blob-meta-rules.ts';
import type { Part } from './table-file.ts';

/** Tables from this size on are streamed: below, one request and a buffer are faster. */
export const STREAMED_BYTES_MIN = 8 << 20;
/** Stored bytes of one request. */
const RANGE_BYTES = 4 << 20;

/** True for tables that come in pieces. An encrypted table is one unit, an LZ4 block too. */
export function isStreamed(info: BlobInfo): boolean {
  const compressor = compressorOf(info.ciCompressor);
  const hasPieces = compressor === 'zstd' || compressor === 'none';
  return info.ciUncompressedSize >= STREAMED_BYTES_MIN && info.cipher === 0 && hasPieces;
}

/**
 * The cache file of a table (rafs-format 6.3), part by part.
 * @param header its 4096 bytes, already checked
 * @throws BLOB_META when the table is not what the image promises, fetch errors
 */
export async function* tableParts(
  info: BlobInfo,
  header: Buffer,
  read: (offset: number, bytes: number) => Promise<Buffer>,
): AsyncGenerator<Part> {
  const digest = metaDigestOf(info, info.ciCompressedSize + CCT_HEADER_BYTES);
  const hash = digest === null ? null : DIGESTS.sha256.create();
  async function* stored(): AsyncGenerator<Buffer> {
    for (let at = 0; at < info.ciCompressedSize; at += RANGE_BYTES) {
      const bytes = await read(info.ciOffset + at, Math.min(RANGE_BYTES, info.ciCompressedSize - at));
      hash?.update(bytes);
      yield bytes;
    }
  }
  const isRaw = compressorOf(info.ciCompressor) === 'none';
  if (isRaw && info.ciCompressedSize !== info.ciUncompressedSize) throw refusal(info, 'a raw table of two sizes');
  let at = 0;
  try {
    for await (const bytes of isRaw ? stored() : decompressZstdPieces(stored(), info.ciUncompressedSize)) {
      yield { bytes, at };
      at += bytes.length;
    }
  } catch (error) {
    throw codeOf(error) === 'DECODE' ? refusal(info, explain(error)) : error;
  }
  if (digest !== null && hash !== null) {
    hash.update(header);
    if (!hash.digest().equals(digest)) throw refusal(info, 'the meta blob has another digest');
  }
  yield { bytes: header, at: align4096(info.ciUncompressedSize) };
}
