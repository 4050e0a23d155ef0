/** What tells an opened bootstrap apart, for takeovers and for the API. */
import { fstatSync } from 'node:fs';
import type { OpenedImage as Bootstrap } from '../rafs/open-image.ts';

/** Equal while the file is the same one, unchanged. */
export function identityOf(fd: number): string {
  const { dev, ino, size, mtimeNs } = fstatSync(fd, { bigint: true });
  return [dev, ino, size, mtimeNs].join(':');
}

/** `GET /api/v1/daemon/backend`, kata-contract 4.5. */
export function superblockOf({ geometry, inodes, chunkSize, blobs }: Bootstrap): object {
  const isV6 = geometry.version === 6;
  return {
    magic: isV6 ? 0xe0f5_e1e2 : 0x5241_4653,
    version: geometry.version * 0x100,
    inodes_count: inodes,
    flags: geometry.flags,
    chunk_size: chunkSize,
    blob_count: blobs.length,
    root_nid: geometry.root,
    size: geometry.fileBytes,
    chunk_table_offset: isV6 ? geometry.chunkTableOffset : 0,
    chunk_table_size: isV6 ? geometry.chunkTableSize : 0,
    prefetch_table_offset: geometry.prefetchOffset,
    prefetch_table_entries: geometry.prefetchEntries,
  };
}
