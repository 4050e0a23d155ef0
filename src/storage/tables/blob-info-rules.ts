/** What an image may say of a blob as a whole, before any byte of it was seen. */
import { checkBlobId } from '../backend.ts';
import { cipherOf } from '../codecs/cipher.ts';
import { storageError } from '../errors.ts';
import type { BlobInfo } from '../types.ts';
import { ciBytesMax } from './blob-contexts.ts';
import {
  CHUNKS_PER_BLOB_MAX,
  checkFeatures,
  chunkInfoBytes,
  DIGEST_BYTES,
  FEATURE,
  hasChunkTable,
  UNCOMPRESSED_BLOB_BYTES_MAX,
} from './blob-layout.ts';
import { TABLE_BYTES_MAX } from './blob-meta-rules.ts';

/** @throws BLOB_META, CONFIG, UNSUPPORTED: before anything of the blob is opened */
export function checkBlobInfo(info: BlobInfo): void {
  checkFeatures(info.id, info.features);
  cipherOf(info);
  checkBlobId(metaObjectId(info));
  const refuse = (rule: string) => storageError('BLOB_META', { blobId: info.id, rule });
  if (!isCount(info.chunkCount, CHUNKS_PER_BLOB_MAX)) throw refuse(`${info.chunkCount} chunks`);
  if (!isCount(info.uncompressedSize, UNCOMPRESSED_BLOB_BYTES_MAX)) throw refuse(`${info.uncompressedSize} bytes`);
  if (info.described === true) return;
  if (info.features & FEATURE.IS_CHUNKDICT_GENERATED) {
    // What its own header says of the table is looked at when it comes.
    if (!isCount(info.ciUncompressedSize, TABLE_BYTES_MAX)) throw refuse(`a table of ${info.ciUncompressedSize} bytes`);
    return;
  }
  if (info.chunkCount > 0 && !hasChunkTable(info)) throw refuse('chunks without a chunk table');
  const entryBytes = chunkInfoBytes(info.features);
  const isSizeLegal =
    info.ciUncompressedSize >= info.chunkCount * entryBytes && info.ciUncompressedSize <= ciBytesMax(info, entryBytes);
  if (hasChunkTable(info) && !isSizeLegal) throw refuse('chunk table size does not fit the chunk count');
}

/** Object that holds the chunk table: the blob, or the meta blob of an image whose data is somebody else's (3.11). */
export function metaObjectId(info: BlobInfo): string {
  if (!(info.features & FEATURE.SEPARATE)) return info.id;
  if (info.metaId !== undefined) return info.metaId;
  const digest = info.extra.subarray(0, DIGEST_BYTES);
  if (digest.every((byte) => byte === 0)) {
    throw storageError('BLOB_META', { blobId: info.id, rule: 'its meta blob has no name' });
  }
  return Buffer.from(digest).toString('hex');
}

function isCount(value: number, max: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value <= max;
}
