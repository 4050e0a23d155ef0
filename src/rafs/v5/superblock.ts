/** Superblock of a v5 bootstrap, read once at mount (rafs-format 1.2; checks 1.13 and 9.4). */
import { u64 } from '../../common/u64.ts';
import { atByte, type Broken } from '../broken.ts';
import { BOOTSTRAP_BYTES_MAX, chunkSizeLegal, FLAG, flagsAccepted } from '../flags.ts';
import type { CommonGeometry } from '../geometry.ts';
import {
  BLOBS_MAX,
  EXTENDED_ENTRY_BYTES,
  INODE_BYTES,
  RAFS_MAGIC,
  SB,
  SUPERBLOCK_BYTES,
  TABLE_ENTRY_BYTES,
  UNIT_BYTES,
  VERSION_V5,
} from './layout.ts';

export interface Geometry extends CommonGeometry {
  version: 5;
  inodeTableOffset: number;
  /** Indexes 1..entries. */
  entries: number;
  blobTableOffset: number;
  blobTableBytes: number;
  extendedTableOffset: number;
  /** 0: the image has no extended blob table, chunks are known by their digest (0.6). */
  extendedEntries: number;
}

export function isV5(head: DataView): boolean {
  return head.getUint32(SB.MAGIC, true) === RAFS_MAGIC && head.getUint32(SB.VERSION, true) === VERSION_V5;
}

/**
 * Validates the head of a bootstrap that `isV5`.
 * @param head at least its first 128 bytes
 * @returns the geometry, or the broken rule
 */
export function readGeometry(head: DataView, fileBytes: number): Geometry | string {
  const u32 = (at: number) => head.getUint32(at, true);
  const geometry: Geometry = {
    version: 5,
    fileBytes,
    root: 1,
    names: u32(SB.INODE_ENTRIES),
    flags: u32(SB.FLAGS),
    chunkSize: u32(SB.CHUNK_SIZE),
    explicitIds: (u32(SB.FLAGS) & FLAG.EXPLICIT_UID_GID) !== 0,
    inodeTableOffset: u64(head, SB.INODE_TABLE),
    entries: u32(SB.INODE_ENTRIES),
    blobTableOffset: u64(head, SB.BLOB_TABLE),
    blobTableBytes: u32(SB.BLOB_TABLE_BYTES),
    extendedTableOffset: u64(head, SB.EXTENDED_TABLE),
    extendedEntries: u32(SB.EXTENDED_ENTRIES),
    prefetchOffset: u64(head, SB.PREFETCH_TABLE),
    prefetchEntries: u32(SB.PREFETCH_ENTRIES),
  };
  const broken = checkHead(head, geometry) ?? checkTables(geometry);
  return broken === null ? geometry : atByte(0, broken);
}

function checkHead(head: DataView, { fileBytes, flags, chunkSize, entries }: Geometry): Broken {
  if (head.getUint32(SB.BYTES, true) !== SUPERBLOCK_BYTES) return 'superblock: size';
  if (fileBytes <= SUPERBLOCK_BYTES) return `${fileBytes} bytes are too few`;
  if (fileBytes > BOOTSTRAP_BYTES_MAX) return `${fileBytes} bytes are too many`;
  if (fileBytes % UNIT_BYTES !== 0) return `${fileBytes} bytes are no multiple of ${UNIT_BYTES}`;
  if (!flagsAccepted(flags, head.getUint32(SB.FLAGS + 4, true))) return 'superblock: unknown flags';
  if (!chunkSizeLegal(chunkSize)) return `superblock: chunk size ${chunkSize}`;
  const inodes = u64(head, SB.INODES);
  if (entries === 0 || entries > fileBytes / INODE_BYTES) return `superblock: ${entries} inodes`;
  return inodes < 0 || inodes > entries ? 'superblock: more inodes than table entries' : null;
}

/** Ranges of the four tables, in pairs: start, end. Empty ones have no place. */
export function tableRanges(geometry: Geometry): number[] {
  const tables = [
    [geometry.inodeTableOffset, geometry.entries * TABLE_ENTRY_BYTES],
    [geometry.prefetchOffset, geometry.prefetchEntries * TABLE_ENTRY_BYTES],
    [geometry.blobTableOffset, geometry.blobTableBytes],
    [geometry.extendedTableOffset, geometry.extendedEntries * EXTENDED_ENTRY_BYTES],
  ];
  return tables.filter(([, bytes]) => bytes > 0).flatMap(([offset, bytes]) => [offset, offset + bytes]);
}

function checkTables(geometry: Geometry): Broken {
  if (geometry.extendedEntries > BLOBS_MAX) return `superblock: ${geometry.extendedEntries} blobs`;
  const ranges = tableRanges(geometry);
  const tables = ranges.flatMap((start, i) => (i % 2 === 0 ? [[start, ranges[i + 1]]] : []));
  for (const [start, end] of tables) {
    if (start < SUPERBLOCK_BYTES || end > geometry.fileBytes) return 'superblock: table outside the file';
    if (start % UNIT_BYTES !== 0) return 'superblock: table not aligned';
  }
  tables.sort((a, b) => a[0] - b[0]);
  return tables.some(([start], i) => i > 0 && tables[i - 1][1] > start) ? 'superblock: tables overlap' : null;
}
