/** Blob table and device slots of a v6 bootstrap (rafs-format 2.4, 2.5, 3.11; checks 9.14, 9.16). */
import { FEATURE } from '../../storage/tables/blob-layout.ts';
import type { BlobInfo } from '../../storage/types.ts';
import { blobIdLegal, fileNameStem, objectId } from '../blob-id.ts';
import { atByte } from '../broken.ts';
import { checkBlobEntry, checkDeviceSlot, decodeBlobEntry, decodeDeviceSlot } from './blob-table-layout.ts';
import { BLOB_ENTRY_BYTES, DEVICE_SLOT_BYTES, DEVICE_SLOT_OFFSET } from './layout.ts';
import type { Geometry } from './superblock.ts';

/**
 * Reads the blobs of an image.
 * @param table the blob table
 * @param slots the device slots
 * @param path of the bootstrap, or of the blob it was `extracted` from: blobs that hold one are named after it
 * @returns the blobs in table order, or the broken rule
 */
export function readBlobs(
  table: Uint8Array,
  slots: Uint8Array,
  geometry: Geometry,
  path: string,
  extracted: boolean,
): BlobInfo[] | string {
  const { blobCount, chunkSize, blockBits } = geometry;
  const blobs: BlobInfo[] = [];
  const ids = new Set<string>();
  for (let index = 0; index < blobCount; index++) {
    const refuse = (rule: string) => atByte(geometry.blobTableOffset + index * BLOB_ENTRY_BYTES, rule);
    const broken = checkBlobEntry(table, index * BLOB_ENTRY_BYTES, index, chunkSize);
    if (broken !== null) return refuse(broken);
    const blob = decodeBlobEntry(table, index * BLOB_ENTRY_BYTES);
    const slot = decodeDeviceSlot(slots, index * DEVICE_SLOT_BYTES);
    const mismatch = checkDeviceSlot(slot, blob, blockBits);
    if (mismatch !== null) return atByte(DEVICE_SLOT_OFFSET + index * DEVICE_SLOT_BYTES, mismatch);
    blob.id = objectId(blob.id, blob.features, path, extracted);
    if ((blob.features & (FEATURE.TARFS | FEATURE.EXTERNAL)) !== 0) describe(blob);
    // The sum of what the dictionary lists (4.1): how long the blob is, the image does not know.
    if ((blob.features & FEATURE.IS_CHUNKDICT_GENERATED) !== 0) blob.uncompressedSize = 0;
    if (!blobIdLegal(blob.id)) return refuse(`blob ${index}: id`);
    if (ids.has(blob.id)) return refuse(`blob ${index}: id occurs twice`);
    ids.add(blob.id);
    // Otherwise the digest in the entry names the meta blob.
    const isInline = (blob.features & FEATURE.INLINED_FS_META) !== 0;
    if (isInline && (blob.features & FEATURE.SEPARATE) !== 0) blob.metaId = fileNameStem(path);
    blobs.push(blob);
  }
  return blobs;
}

/** Chunks lie raw where their indexes say; a table of an external blob's chunks lies somewhere else, if anywhere (4.6). */
function describe(blob: BlobInfo): void {
  blob.described = true;
  blob.ciOffset = 0;
  blob.ciCompressedSize = 0;
  blob.ciUncompressedSize = 0;
}
