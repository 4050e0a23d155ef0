/**
 * Opening an image on the main thread: what a mount needs to know before any inode is read. Costs the same for every
 * image: one page, the blob table, no walk. `node:fs` only, because loading koffi costs 10 ms.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { codeOf } from '../common/app-error.ts';
import type { BlobInfo, ChunkDigests } from '../storage/types.ts';
import { ChunkDigestTable } from './chunk-digests.ts';
import { CHUNK_ENTRY_BYTES } from './chunk-entry.ts';
import { blobSlot, compressorSlot, requireV6, TAIL_BYTES } from './detect.ts';
import { rafsError } from './errors.ts';
import { readBlobs } from './v6/blobs.ts';
import { BLOB_ENTRY_BYTES, DEVICE_SLOT_BYTES, DEVICE_SLOT_OFFSET } from './v6/layout.ts';
import { type Geometry, HEAD_BYTES, readGeometry } from './v6/superblock.ts';

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

/**
 * Opens and validates a bootstrap: superblocks, device slots, blob table (rafs-format 9, items 13-16).
 * @throws OPEN, NOT_AN_IMAGE, NOT_BUILT, BROKEN, TRUNCATED
 */
export function openImage(bootstrapPath: string): OpenedImage {
  const fd = openFile(bootstrapPath, bootstrapPath);
  let tableFd = -1;
  try {
    const { geometry, blobs } = readTables(fd, bootstrapPath);
    // A descriptor of our own: the other one is handed over and may be closed while chunks are still verified.
    tableFd = openFile(`/proc/self/fd/${fd}`, bootstrapPath);
    const table = new ChunkDigestTable(
      tableFd,
      bootstrapPath,
      geometry.chunkTableOffset,
      geometry.chunkTableSize / CHUNK_ENTRY_BYTES,
    );
    return {
      path: bootstrapPath,
      fd,
      blobs,
      inodes: geometry.names,
      chunkSize: geometry.chunkSize,
      geometry,
      digests: (blobIndex) => table.ofBlob(blobIndex),
      prepareDigests: () => table.prepare(),
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

function readTables(fd: number, path: string): { geometry: Geometry; blobs: BlobInfo[] } {
  const fileBytes = fstatSync(fd).size;
  const head = readAt(fd, path, 0, Math.min(HEAD_BYTES, fileBytes));
  const tailBytes = Math.min(TAIL_BYTES, fileBytes);
  requireV6(path, head, readAt(fd, path, fileBytes - tailBytes, tailBytes));
  const whole = head.length === HEAD_BYTES ? head : Buffer.concat([head, Buffer.alloc(HEAD_BYTES - head.length)]);
  const geometry = readGeometry(new DataView(whole.buffer, whole.byteOffset, whole.length), fileBytes);
  if (typeof geometry === 'string') throw rafsError('BROKEN', { path, rule: geometry });
  const count = geometry.blobCount;
  // Both ranges were checked against the file's length with the superblock; count is at most 254.
  const table = readAt(fd, path, geometry.blobTableOffset, count * BLOB_ENTRY_BYTES);
  const devices = readAt(fd, path, DEVICE_SLOT_OFFSET, count * DEVICE_SLOT_BYTES);
  const blobs = readBlobs(table, devices, count, geometry.chunkSize, path);
  if (typeof blobs === 'string') throw rafsError('BROKEN', { path, rule: blobs });
  const slots = [...blobs.map(blobSlot), compressorSlot(geometry.flags)];
  const found = slots.find((slot) => slot !== null);
  if (found !== undefined && found !== null) throw rafsError('NOT_BUILT', { path, found });
  return { geometry, blobs };
}

function readPrefetch(fd: number, path: string, geometry: Geometry): number[] {
  const count = Math.min(geometry.prefetchSize / 4, PREFETCH_MAX);
  const bytes = readAt(fd, path, geometry.prefetchOffset, count * 4);
  const nodes: number[] = [];
  for (let i = 0; i < count; i++) {
    const node = bytes.readUInt32LE(i * 4);
    if (node === 0) break;
    nodes.push(node);
  }
  return nodes;
}

function openFile(path: string, shown: string): number {
  let fd: number;
  try {
    // O_NONBLOCK: a FIFO must not hang the daemon.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw rafsError('OPEN', { path: shown, why: codeOf(error) }, error);
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw rafsError('OPEN', { path: shown, why: 'not a regular file' });
}

function readAt(fd: number, path: string, offset: number, wantedBytes: number): Buffer {
  const bytes = Buffer.alloc(wantedBytes);
  const gotBytes = wantedBytes === 0 ? 0 : readSync(fd, bytes, 0, wantedBytes, offset);
  if (gotBytes !== wantedBytes) throw rafsError('TRUNCATED', { path, offset, wantedBytes, gotBytes });
  return bytes;
}
