/** Blob table and device slots of a v6 bootstrap (rafs-format 2.4, 2.5, 3.11; checks 9.14, 9.16). */
import { basename } from 'node:path';
import { FEATURE } from '../../storage/blob-layout.ts';
import type { BlobInfo } from '../../storage/types.ts';
import {
  blobIdLegal,
  checkBlobEntry,
  checkDeviceSlot,
  decodeBlobEntry,
  decodeDeviceSlot,
} from './blob-table-layout.ts';
import { BLOB_ENTRY_BYTES, BLOCK_BITS, DEVICE_SLOT_BYTES } from './layout.ts';

/**
 * Reads the blobs of an image.
 * @param table the blob table, `count` entries
 * @param slots the device slots, `count` of them
 * @param path of the bootstrap: blobs with INLINED_FS_META are named after it
 * @returns the blobs in table order, or the broken rule
 */
export function readBlobs(
  table: Uint8Array,
  slots: Uint8Array,
  count: number,
  chunkSize: number,
  path: string,
): BlobInfo[] | string {
  const blobs: BlobInfo[] = [];
  const ids = new Set<string>();
  for (let index = 0; index < count; index++) {
    const broken = checkBlobEntry(table, index * BLOB_ENTRY_BYTES, index, chunkSize);
    if (broken !== null) return broken;
    const blob = decodeBlobEntry(table, index * BLOB_ENTRY_BYTES);
    const slot = decodeDeviceSlot(slots, index * DEVICE_SLOT_BYTES);
    const mismatch = checkDeviceSlot(slot, blob, BLOCK_BITS);
    if (mismatch !== null) return mismatch;
    blob.id = objectId(blob, path);
    if (!blobIdLegal(blob.id)) return `blob ${index}: id`;
    if (ids.has(blob.id)) return `blob ${index}: id occurs twice`;
    ids.add(blob.id);
    blobs.push(blob);
  }
  return blobs;
}

/** The id to fetch: stored, but for blobs that held their bootstrap, whose hash was not known when it was written. */
function objectId(blob: BlobInfo, path: string): string {
  const inline = (blob.features & FEATURE.INLINED_FS_META) !== 0;
  const elsewhere = (blob.features & (FEATURE.SEPARATE | FEATURE.EXTERNAL)) !== 0;
  return inline && !elsewhere ? basename(path).replace(/\..*$/, '') : blob.id;
}
