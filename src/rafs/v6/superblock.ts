/** Superblock and extended superblock of a v6 bootstrap, read once at mount (rafs-format 2.2, 2.3; checks 9.13-9.15). */
import type { Broken } from '../broken.ts';
import { BOOTSTRAP_BYTES_MAX, FLAG } from '../flags.ts';
import {
  BLOCK_BYTES,
  checkExtSuperblock,
  checkSuperblock,
  decodeExtSuperblock,
  decodeSuperblock,
  EXT_SUPERBLOCK_OFFSET,
  SUPERBLOCK_OFFSET,
} from './layout.ts';

/** Bytes from the file's start that hold both superblocks and the first device slots. */
export const HEAD_BYTES = BLOCK_BYTES;

export interface Geometry {
  fileBytes: number;
  /** Byte offset of nid 0. */
  metaOffset: number;
  rootNid: number;
  names: number;
  flags: number;
  chunkSize: number;
  blobCount: number;
  explicitIds: boolean;
  blobTableOffset: number;
  chunkTableOffset: number;
  chunkTableSize: number;
  prefetchOffset: number;
  prefetchSize: number;
}

/** The broken rule of a file's length (9.1), or null. Tarfs images, with blocks of 512 bytes, are a slot of their own. */
export function checkLength(fileBytes: number): Broken {
  if (fileBytes < 2 * BLOCK_BYTES) return `${fileBytes} bytes are too few`;
  if (fileBytes > BOOTSTRAP_BYTES_MAX) return `${fileBytes} bytes are too many`;
  return fileBytes % BLOCK_BYTES === 0 ? null : `${fileBytes} bytes are no whole blocks`;
}

/**
 * Validates the head of a bootstrap.
 * @param head the first HEAD_BYTES of the file
 * @returns the geometry, or the broken rule
 */
export function readGeometry(head: DataView, fileBytes: number): Geometry | string {
  const broken =
    checkLength(fileBytes) ??
    checkSuperblock(head, SUPERBLOCK_OFFSET, fileBytes) ??
    checkExtSuperblock(head, EXT_SUPERBLOCK_OFFSET, decodeSuperblock(head, SUPERBLOCK_OFFSET), fileBytes);
  if (broken !== null) return broken;
  const sb = decodeSuperblock(head, SUPERBLOCK_OFFSET);
  const ext = decodeExtSuperblock(head, EXT_SUPERBLOCK_OFFSET);
  return {
    fileBytes,
    metaOffset: sb.metaBlkaddr * BLOCK_BYTES,
    rootNid: sb.rootNid,
    names: sb.inos,
    flags: ext.flags,
    chunkSize: ext.chunkSize,
    blobCount: sb.extraDevices,
    explicitIds: (ext.flags & FLAG.EXPLICIT_UID_GID) !== 0,
    blobTableOffset: ext.blobTableOffset,
    chunkTableOffset: ext.chunkTableOffset,
    chunkTableSize: ext.chunkTableSize,
    prefetchOffset: ext.prefetchOffset,
    prefetchSize: ext.prefetchSize,
  };
}
