/** Blob table and extended blob table of a v5 bootstrap (rafs-format 1.5, 1.6, 3.11; check 9.11). */
import { isUtf8 } from 'node:buffer';
import { u64 } from '../../common/u64.ts';
import {
  CHUNKS_PER_BLOB_MAX,
  COMPRESSED_BLOB_BYTES_MAX,
  FEATURE,
  UNCOMPRESSED_BLOB_BYTES_MAX,
} from '../../storage/tables/blob-layout.ts';
import { type BlobInfo, FEATURE_NO_EXTENDED_TABLE } from '../../storage/types.ts';
import { blobIdLegal, objectId } from '../blob-id.ts';
import { atByte } from '../broken.ts';
import { CHUNK_ENTRY_BYTES } from '../chunk-entry.ts';
import { compressorOf, digesterOf } from '../flags.ts';
import { BLOB_RECORD_HEAD_BYTES, BLOBS_MAX, EXTENDED, EXTENDED_ENTRY_BYTES } from './layout.ts';
import type { Geometry } from './superblock.ts';

/** Bits that builders since 2.2 write; others are dropped, as nydusd does. */
const FEATURES_KNOWN = Object.values(FEATURE).reduce<number>((all, bit) => all | bit, 0);
/** Bytes 168..216 of v6 entries: v5 has none. */
const NO_EXTRA = new Uint8Array(48);

/**
 * Reads the blobs of an image.
 * @param table the whole blob table
 * @param extended the extended entries, or empty
 * @param path of the bootstrap, or of the blob it was `extracted` from
 * @returns the blobs in table order, or the broken rule
 */
export function readBlobs(
  table: Buffer,
  extended: Buffer,
  geometry: Geometry,
  path: string,
  extracted: boolean,
): BlobInfo[] | string {
  const refuse = (rule: string) => atByte(geometry.blobTableOffset, rule);
  const ids = readIds(table);
  if (ids === null) return refuse('blob ids: not UTF-8');
  if (ids.length > BLOBS_MAX) return refuse(`${ids.length} blobs`);
  const { extendedEntries } = geometry;
  if (extendedEntries !== 0 && extendedEntries !== ids.length) {
    return refuse(`${ids.length} blobs, ${extendedEntries} extended entries`);
  }
  const blobs: BlobInfo[] = [];
  for (const [index, stored] of ids.entries()) {
    const blob = extendedEntries === 0 ? unknownBlob(index, geometry) : describedBlob(index, extended, geometry);
    if (typeof blob === 'string') return atByte(geometry.extendedTableOffset + index * EXTENDED_ENTRY_BYTES, blob);
    blob.id = objectId(stored, blob.features, path, extracted);
    if (!blobIdLegal(blob.id)) return refuse(`blob ${index}: id`);
    if (blobs.some(({ id }) => id === blob.id)) return refuse(`blob ${index}: id occurs twice`);
    blobs.push(blob);
  }
  return blobs;
}

/** Records are two u32 and an id, which ends at a NUL or with the table; 8 bytes or fewer are padding. Null: no text. */
function readIds(table: Buffer): string[] | null {
  const ids: string[] = [];
  let at = 0;
  while (table.length - at > BLOB_RECORD_HEAD_BYTES && ids.length <= BLOBS_MAX) {
    const start = at + BLOB_RECORD_HEAD_BYTES;
    const nul = table.indexOf(0, start);
    const end = nul < 0 ? table.length : nul;
    if (!isUtf8(table.subarray(start, end))) return null;
    ids.push(table.toString('utf8', start, end));
    at = end + 1;
  }
  return ids;
}

function describedBlob(index: number, extended: Buffer, geometry: Geometry): BlobInfo | string {
  const at = index * EXTENDED_ENTRY_BYTES;
  const view = new DataView(extended.buffer, extended.byteOffset, extended.length);
  const blob = unknownBlob(index, geometry);
  blob.chunkCount = view.getUint32(at + EXTENDED.CHUNK_COUNT, true);
  blob.features = (view.getUint32(at + EXTENDED.FEATURES, true) & FEATURES_KNOWN) >>> 0;
  blob.uncompressedSize = u64(view, at + EXTENDED.UNCOMPRESSED_SIZE);
  blob.compressedSize = u64(view, at + EXTENDED.COMPRESSED_SIZE);
  if (blob.chunkCount > CHUNKS_PER_BLOB_MAX) return `blob ${index}: ${blob.chunkCount} chunks`;
  const { uncompressedSize, compressedSize } = blob;
  if (uncompressedSize < 0 || uncompressedSize > UNCOMPRESSED_BLOB_BYTES_MAX) return `blob ${index}: uncompressed size`;
  if (compressedSize < 0 || compressedSize > COMPRESSED_BLOB_BYTES_MAX) return `blob ${index}: compressed size`;
  // A generated dictionary counts what it lists (4.1): how long its blobs are, it does not know.
  if ((blob.features & FEATURE.IS_CHUNKDICT_GENERATED) !== 0) blob.uncompressedSize = blob.compressedSize = 0;
  return blob;
}

/** All that is known without an extended table: chunks get their numbers from their place in the bootstrap. */
function unknownBlob(index: number, { flags, chunkSize, fileBytes }: Geometry): BlobInfo {
  return {
    index,
    id: '',
    chunkCount: Math.ceil(fileBytes / CHUNK_ENTRY_BYTES),
    chunkSize,
    compressor: compressorOf(flags),
    digester: digesterOf(flags),
    features: FEATURE_NO_EXTENDED_TABLE,
    compressedSize: 0,
    uncompressedSize: 0,
    ciCompressor: 0,
    ciOffset: 0,
    ciCompressedSize: 0,
    ciUncompressedSize: 0,
    tocSize: 0,
    tocDigest: null,
    cipher: 0,
    extra: NO_EXTRA,
    described: true,
  };
}
