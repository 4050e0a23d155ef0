/** Chunk indexes of regular files (rafs-format 2.8; check 9.25). */
import { FEATURE } from '../../storage/tables/blob-layout.ts';
import { FLAG } from '../flags.ts';
import { type ChunkRecord, HOLE, type InodeRecord } from '../metadata.ts';
import { BLOB } from './blob-table-layout.ts';
import type { V6Image } from './image.ts';
import { CHUNK_INDEX_BYTES, chunkIndexOffset } from './inode-layout.ts';
import { BLOB_ENTRY_BYTES } from './layout.ts';

/** True when blob `index`, which is below the blob count, has no chunk table. */
export function isRawBlob(image: V6Image, index: number): boolean {
  const { flags, blobTableOffset } = image.geometry;
  if ((flags & FLAG.TARFS_MODE) !== 0) return true;
  const at = image.locate(blobTableOffset + index * BLOB_ENTRY_BYTES + BLOB.FEATURES);
  return at >= 0 && (image.cache.memory.u32[at >> 2] & FEATURE.EXTERNAL) !== 0;
}

/** What the kernel reads as a hole; no builder emits it. */
const BLKADDR_HOLE = 0xffff_ffff;

/** Fills `out` with index `k` of the file, which is below ceil(size / chunk size): 0 or -EIO. */
export function chunkAt(image: V6Image, inode: InodeRecord, k: number, out: ChunkRecord): number {
  const offset = chunkIndexOffset(inode.offset, inode.bytes, inode.xattrBytes) + k * CHUNK_INDEX_BYTES;
  const at = image.locate(offset);
  if (at < 0) return at;
  const { u32 } = image.cache.memory;
  const word = u32[at >> 2];
  const blkaddr = u32[(at >> 2) + 1];
  if (blkaddr === BLKADDR_HOLE) {
    out.blob = out.index = 0;
    out.offset = HOLE;
    return 0;
  }
  const device = (word >>> 16) & 0xff;
  if (device === 0 || device > image.geometry.blobCount) return image.refuse('chunk index: no such blob');
  out.blob = device - 1;
  out.index = (word & 0xffff) | ((word >>> 24) << 16);
  out.offset = blkaddr * image.blockBytes;
  return 0;
}
