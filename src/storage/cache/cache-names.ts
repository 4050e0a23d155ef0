/** File names in a cache directory (rafs-format 6): which belong to a blob, how new files get theirs, and what a name may turn out to be. */
import { openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';

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

export type BlobFile = keyof typeof BLOB_FILES;

/**
 * Folder of a cache directory for files that only we know. The snapshotter's cleaner takes every file it meets for a
 * blob's, warns of ours and leaves them behind; folders it passes over.
 */
export const OWN_FOLDER = 'nydusd-ts';
/**
 * Of cache directories the daemon makes: said at each, because the process has no umask (guests have applied theirs), and
 * whoever may write there decides what containers read.
 */
export const DIR_MODE = 0o755;
/** Of the files in them. */
export const FILE_MODE = 0o644;
const OWN: readonly BlobFile[] = ['boot', 'lock'];

/** Path of a blob's file in the cache directory `dir`. */
export function cacheFile(dir: string, blobId: string, file: BlobFile): string {
  const name = blobId + BLOB_FILES[file];
  return OWN.includes(file) ? join(dir, OWN_FOLDER, name) : join(dir, name);
}

/** Files whose openers use the blob's cached chunks. */
export const CHUNK_FILES: readonly BlobFile[] = ['map', 'oldMap', 'data', 'raw'];

/** Longest first: `.chunk_map` ends the map's name, too. */
const ENDINGS = (Object.entries(BLOB_FILES) as [BlobFile, string][]).sort(([, a], [, b]) => b.length - a.length);

/** Whose file this is, and which; null for a name of nobody's. */
export function blobOfFile(name: string): { blobId: string; file: BlobFile } | null {
  const found = ENDINGS.find(([, ending]) => name.length > ending.length && name.endsWith(ending));
  return found === undefined ? null : { blobId: name.slice(0, -found[1].length), file: found[0] };
}

let temporaries = 0;

/** Name next to `path` that nobody else uses. */
export function temporaryName(path: string): string {
  return `${path}.${process.pid}.${temporaries++}.tmp`;
}

/** The process that made a temporary name; null for other names. */
export function makerOfTemporary(name: string): number | null {
  const match = /\.(\d+)\.\d+\.tmp$/.exec(name);
  return match === null ? null : Number(match[1]);
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
