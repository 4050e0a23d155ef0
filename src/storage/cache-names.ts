/** File names in a cache directory (rafs-format 6): which belong to a blob, how new files get theirs, and what a name may turn out to be. */
import { openSync, unlinkSync } from 'node:fs';

/**
 * Endings of a blob's files, in the order they are removed: what promises data before the data, so that whoever comes in
 * between finds promises of nothing. `.chunk_map` alone is nydusd 2.2's name of the map.
 */
export const BLOB_FILES = {
  map: '.blob.data.chunk_map',
  oldMap: '.chunk_map',
  data: '.blob.data',
  raw: '.blob.raw',
  meta: '.blob.meta',
  digest: '.blob.digest',
  toc: '.blob.toc',
  bootstrap: '.image.boot',
  boot: '.blob.boot',
  lock: '.blob.lock',
} as const;

let temporaries = 0;

/** Name next to `path` that nobody else uses. */
export function temporaryName(path: string): string {
  return `${path}.${process.pid}.${temporaries++}.tmp`;
}

/** The descriptor, or -1 when there is no such file. */
export function openIfThere(path: string, flags: number): number {
  try {
    return openSync(path, flags);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return -1;
    throw error;
  }
}

/** Removes what may or may not have been made, as far as that is possible. */
export function discard(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Never made, or its directory is gone: all the same.
  }
}

export function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
}
