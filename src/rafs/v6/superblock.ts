/** Superblock and extended superblock of a v6 bootstrap, read once at mount (rafs-format 2.2, 2.3; checks 9.13-9.15). */
import { atByte, type Broken } from '../broken.ts';
import { BOOTSTRAP_BYTES_MAX, FLAG } from '../flags.ts';
import type { CommonGeometry } from '../geometry.ts';
import {
  BLOCK_BYTES,
  checkExtSuperblock,
  checkSuperblock,
  decodeExtSuperblock,
  decodeSuperblock,
  EXT_SUPERBLOCK_OFFSET,
  PREFETCH_ENTRY_BYTES,
  SUPERBLOCK_OFFSET,
} from './layout.ts';

export interface Geometry extends CommonGeometry {
  version: 6;
  /** Byte offset of nid 0. */
  metaOffset: number;
  /** 12, of tarfs images 9. */
  blockBits: number;
  blobCount: number;
  blobTableOffset: number;
  chunkTableOffset: number;
  chunkTableSize: number;
}

/** The broken rule of a file's length (9.1), or null. */
export function checkLength(fileBytes: number, blockBits: number): Broken {
  if (fileBytes < 2 * BLOCK_BYTES) return `${fileBytes} bytes are too few`;
  if (fileBytes > BOOTSTRAP_BYTES_MAX) return `${fileBytes} bytes are too many`;
  return fileBytes % 2 ** blockBits === 0 ? null : `${fileBytes} bytes are no whole blocks`;
}

/**
 * Validates the head of a bootstrap.
 * @param head the first block of the file
 * @returns the geometry, or the broken rule
 */
export function readGeometry(head: DataView, fileBytes: number): Geometry | string {
  const sb = decodeSuperblock(head, SUPERBLOCK_OFFSET);
  const broken = checkSuperblock(head, SUPERBLOCK_OFFSET, fileBytes) ?? checkLength(fileBytes, sb.blockBits);
  if (broken !== null) return atByte(SUPERBLOCK_OFFSET, broken);
  const extension = checkExtSuperblock(head, EXT_SUPERBLOCK_OFFSET, sb, fileBytes);
  if (extension !== null) return atByte(EXT_SUPERBLOCK_OFFSET, extension);
  const ext = decodeExtSuperblock(head, EXT_SUPERBLOCK_OFFSET);
  return {
    version: 6,
    fileBytes,
    metaOffset: sb.metaBlkaddr * 2 ** sb.blockBits,
    blockBits: sb.blockBits,
    root: sb.rootNid,
    names: sb.inos,
    flags: ext.flags,
    chunkSize: ext.chunkSize,
    blobCount: sb.extraDevices,
    explicitIds: (ext.flags & FLAG.EXPLICIT_UID_GID) !== 0,
    blobTableOffset: ext.blobTableOffset,
    chunkTableOffset: ext.chunkTableOffset,
    chunkTableSize: ext.chunkTableSize,
    prefetchOffset: ext.prefetchOffset,
    prefetchEntries: ext.prefetchSize / PREFETCH_ENTRY_BYTES,
  };
}
