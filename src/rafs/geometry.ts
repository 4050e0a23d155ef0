/** What the superblock of an image says, whatever its version. No koffi here: the main thread mounts without it. */
import type { Geometry as V5Geometry } from './v5/superblock.ts';
import { isV5, readGeometry as readV5 } from './v5/superblock.ts';
import { readGeometry as readV6, type Geometry as V6Geometry } from './v6/superblock.ts';

export interface CommonGeometry {
  fileBytes: number;
  /** Number of the root: v6 its nid, v5 1. */
  root: number;
  /** Names in the image, hard links counted each. */
  names: number;
  /** Low u32 of the flag word (0.3). */
  flags: number;
  chunkSize: number;
  explicitIds: boolean;
  prefetchOffset: number;
  prefetchEntries: number;
}

export type Geometry = V5Geometry | V6Geometry;

/** Bytes from the file's start that hold what `readGeometry` looks at; zeros behind the end of a shorter file. */
export const HEAD_BYTES = 4096;

/**
 * Validates the head of a bootstrap of either version.
 * @param head the first HEAD_BYTES of the file
 * @returns the geometry, or the broken rule
 */
export function readGeometry(head: DataView, fileBytes: number): Geometry | string {
  return isV5(head) ? readV5(head, fileBytes) : readV6(head, fileBytes);
}
