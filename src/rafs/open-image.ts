/**
 * Opening an image on the main thread: what a mount needs to know before any inode is read. Costs the same for every
 * image: one page, the blob table, no walk. `node:fs` only, because loading koffi costs 10 ms.
 */
import { closeSync, fstatSync } from 'node:fs';
import { FEATURE } from '../storage/tables/blob-layout.ts';
import type { BlobInfo, ChunkDigests } from '../storage/types.ts';
import { openFile, readAt } from './bootstrap-file.ts';
import { ChunkDigestTable } from './chunk-digests.ts';
import { CHUNK_ENTRY_BYTES } from './chunk-entry.ts';
import { detectFile } from './detect.ts';
import { rafsError } from './errors.ts';
import { FLAG } from './flags.ts';
import { type Geometry, HEAD_BYTES, readGeometry } from './geometry.ts';
import { extractBootstrap } from './inline.ts';
import { readBlobs as readV5Blobs } from './v5/blobs.ts';
import { EXTENDED_ENTRY_BYTES, INODE, INODE_BYTES, TABLE_ENTRY_BYTES, UNIT_BYTES } from './v5/layout.ts';
import type { Geometry as V5Geometry } from './v5/superblock.ts';
import { readBlobs as readV6Blobs } from './v6/blobs.ts';
import { BLOB_ENTRY_BYTES, DEVICE_SLOT_BYTES, DEVICE_SLOT_OFFSET } from './v6/layout.ts';
import type { Geometry as V6Geometry } from './v6/superblock.ts';

export interface OpenedImage {
  readonly path: string;
  /** For `RafsSpec.bootstrapFd`: whoever it is handed to closes it; `close` does not. */
  readonly fd: number;
  /** In table order. */
  readonly blobs: BlobInfo[];
  /** Names in the image, as its superblock says. */
  readonly inodes: number;
  readonly chunkSize: number;
  readonly geometry: Geometry;
  /** False: the image has no digests, so its data cannot be validated (tarfs). */
  readonly verifiable: boolean;
  /** Digests of a blob's chunks; the function answers null where the image has none. Usable until `close`. */
  digests(blobIndex: number): ChunkDigests;
  /** Builds the digests' index in slices instead of at the first digest. */
  prepareDigests(): Promise<void>;
  /** Node numbers of the prefetch table: hints, possibly useless ones. */
  prefetchNodes(): number[];
  /** Closes what `digests` reads from; after the last chunk of the image was fetched. */
  close(): void;
}

/** Entries of a prefetch table that are looked at; they are only hints. */
const PREFETCH_MAX = 4096;
const PREFETCH_ENTRY_BYTES = 4;
const SLASH = 0x2f;

/**
 * Opens and validates a bootstrap, or the one at the end of a data blob: superblocks, device slots, blob tables
 * (rafs-format 9, items 4, 11, 13-16, 34, 35).
 * @throws OPEN, NOT_AN_IMAGE, NOT_BUILT, BROKEN, TRUNCATED
 */
export function openImage(bootstrapPath: string): OpenedImage {
  const { fd, extracted } = openBootstrap(bootstrapPath);
  let tableFd = -1;
  try {
    const { geometry, blobs } = readTables(fd, bootstrapPath, extracted);
    // A descriptor of our own: the other one is handed over and may be closed while chunks are still verified.
    tableFd = openFile(`/proc/self/fd/${fd}`, bootstrapPath);
    const table = digestTable(tableFd, bootstrapPath, geometry);
    return {
      path: bootstrapPath,
      fd,
      blobs,
      inodes: geometry.names,
      chunkSize: geometry.chunkSize,
      geometry,
      verifiable: (geometry.flags & FLAG.TARFS_MODE) === 0 && blobs.every(isVerifiable),
      digests: (blobIndex) => table?.ofBlob(blobIndex) ?? (() => null),
      prepareDigests: async () => table?.prepare(),
      prefetchNodes: () => readPrefetch(tableFd, bootstrapPath, geometry),
      close: () => {
        if (tableFd >= 0) closeSync(tableFd);
        tableFd = -1;
      },
    };
  } catch (error) {
    closeSync(fd);
    if (tableFd >= 0) closeSync(tableFd);
    throw error;
  }
}

/** The file itself, or an anonymous copy of the bootstrap inside it. */
function openBootstrap(path: string): { fd: number; extracted: boolean } {
  const fd = openFile(path, path);
  try {
    const detected = detectFile(fd, path);
    if (detected.format === 'v5' || detected.format === 'v6') return { fd, extracted: false };
    const inner = extractBootstrap(fd, path);
    closeSync(fd);
    return { fd: inner, extracted: true };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function readTables(fd: number, path: string, extracted: boolean): { geometry: Geometry; blobs: BlobInfo[] } {
  const fileBytes = fstatSync(fd).size;
  const head = Buffer.alloc(HEAD_BYTES);
  readAt(fd, path, 0, Math.min(HEAD_BYTES, fileBytes)).copy(head);
  const geometry = readGeometry(new DataView(head.buffer, head.byteOffset, head.length), fileBytes);
  if (typeof geometry === 'string') throw rafsError('BROKEN', { path, rule: geometry });
  const blobs =
    geometry.version === 5 ? v5Blobs(fd, path, geometry, extracted) : v6Blobs(fd, path, geometry, extracted);
  if (typeof blobs === 'string') throw rafsError('BROKEN', { path, rule: blobs });
  return { geometry, blobs };
}

/** Chunks of external blobs may have a CRC, or nothing. */
function isVerifiable({ features }: BlobInfo): boolean {
  return (features & FEATURE.EXTERNAL) === 0;
}

// All ranges read here were checked against the file's length with the superblock, and both counts are small.

function v5Blobs(fd: number, path: string, geometry: V5Geometry, extracted: boolean): BlobInfo[] | string {
  if (!hasV5Root(fd, path, geometry)) {
    throw rafsError('NOT_AN_IMAGE', { path, found: 'RAFS v5 of a development version before 0.1, or has no root' });
  }
  const table = readAt(fd, path, geometry.blobTableOffset, geometry.blobTableBytes);
  const extended = readAt(fd, path, geometry.extendedTableOffset, geometry.extendedEntries * EXTENDED_ENTRY_BYTES);
  return readV5Blobs(table, extended, geometry, path, extracted);
}

function v6Blobs(fd: number, path: string, geometry: V6Geometry, extracted: boolean): BlobInfo[] | string {
  const table = readAt(fd, path, geometry.blobTableOffset, geometry.blobCount * BLOB_ENTRY_BYTES);
  const slots = readAt(fd, path, DEVICE_SLOT_OFFSET, geometry.blobCount * DEVICE_SLOT_BYTES);
  return readV6Blobs(table, slots, geometry, path, extracted);
}

/** Inodes of the first development versions had other fields (0.6): the root's name tells. */
function hasV5Root(fd: number, path: string, { inodeTableOffset, fileBytes }: V5Geometry): boolean {
  const offset = readAt(fd, path, inodeTableOffset, TABLE_ENTRY_BYTES).readUInt32LE(0) * UNIT_BYTES;
  if (offset + INODE_BYTES + UNIT_BYTES > fileBytes) return false;
  const record = readAt(fd, path, offset, INODE_BYTES + UNIT_BYTES);
  return record.readUInt16LE(INODE.NAME_BYTES) === 1 && record[INODE_BYTES] === SLASH;
}

/** v5 keeps digests with each chunk, tarfs has none: null. */
function digestTable(fd: number, path: string, geometry: Geometry): ChunkDigestTable | null {
  if (geometry.version === 5 || (geometry.flags & FLAG.TARFS_MODE) !== 0) return null;
  const entries = geometry.chunkTableSize / CHUNK_ENTRY_BYTES;
  return new ChunkDigestTable(fd, path, geometry.chunkTableOffset, entries);
}

function readPrefetch(fd: number, path: string, geometry: Geometry): number[] {
  const count = Math.min(geometry.prefetchEntries, PREFETCH_MAX);
  const bytes = readAt(fd, path, geometry.prefetchOffset, count * PREFETCH_ENTRY_BYTES);
  const nodes: number[] = [];
  for (let i = 0; i < count; i++) {
    const node = bytes.readUInt32LE(i * PREFETCH_ENTRY_BYTES);
    if (node === 0) break;
    nodes.push(node);
  }
  return nodes;
}
