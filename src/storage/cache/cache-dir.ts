/** What lies in a cache directory: blobs with their files, and what was left over. For the keeper of a daemon and `nydusctl cache`. */
import { existsSync, lstatSync } from 'node:fs';
import { opendir } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { cacheError } from './cache-io.ts';
import { type BlobFile, blobOfFile, makerOfTemporary, OWN_FOLDER } from './cache-names.ts';

/** Files looked at in one turn of the event loop: a millisecond. */
const FILES_PER_TURN = 200;
/** A name of another process's making is left alone this long: process ids mean nothing in another container. */
const LEFTOVER_AFTER_MS = 600_000;
/** Files of a blob that nothing can be read from. */
const EMPTY_HANDED: readonly BlobFile[] = ['map', 'oldMap', 'lock', 'boot'];

export interface CachedBlob {
  blobId: string;
  files: Set<BlobFile>;
  /** On the disk: cached data is sparse. */
  bytes: number;
  /** Of the data file. */
  lengthBytes: number;
  /** When a process of ours opened or closed it, or the kernel noted a use. */
  usedAtMs: number;
}

export interface CacheContents {
  /** The longest unused first. */
  blobs: CachedBlob[];
  /** Names, relative to the directory, of files that no process will ask for again, and their bytes. */
  leftovers: { name: string; bytes: number }[];
  /** On the disk, all blobs and leftovers. */
  bytes: number;
}

/** @throws READ_ONLY, CACHE_IO when the directory cannot be read */
export async function readCacheDir(dir: string): Promise<CacheContents> {
  const blobs = new Map<string, CachedBlob>();
  const leftovers: CacheContents['leftovers'] = [];
  try {
    let seen = 0;
    for (const folder of ['', OWN_FOLDER]) {
      if (folder === OWN_FOLDER && !existsSync(join(dir, folder))) continue;
      for await (const entry of await opendir(join(dir, folder))) {
        if (++seen % FILES_PER_TURN === 0) await nextTurn();
        if (entry.isFile()) note(dir, join(folder, entry.name), blobs, leftovers);
      }
    }
  } catch (error) {
    throw cacheError(dir, error);
  }
  const found = [...blobs.values()].sort((a, b) => a.usedAtMs - b.usedAtMs);
  const bytes = [...found, ...leftovers].reduce((sum, item) => sum + item.bytes, 0);
  return { blobs: found, leftovers, bytes };
}

function note(dir: string, name: string, blobs: Map<string, CachedBlob>, leftovers: CacheContents['leftovers']): void {
  const owner = blobOfFile(basename(name));
  const maker = owner === null ? makerOfTemporary(name) : null;
  if (owner === null && maker === null) return;
  const stat = lstatSync(join(dir, name), { throwIfNoEntry: false });
  if (stat === undefined) return;
  const bytes = stat.blocks * 512;
  if (owner === null) {
    if (Date.now() - stat.mtimeMs > LEFTOVER_AFTER_MS && !isAlive(maker!)) leftovers.push({ name, bytes });
    return;
  }
  const { blobId, file } = owner;
  const blob = blobs.get(blobId) ?? { blobId, files: new Set(), bytes: 0, lengthBytes: 0, usedAtMs: 0 };
  blobs.set(blobId, blob);
  blob.files.add(file);
  blob.bytes += bytes;
  if (file === 'data' || file === 'raw') blob.lengthBytes = stat.size;
  blob.usedAtMs = Math.max(blob.usedAtMs, stat.mtimeMs, file === 'data' || file === 'raw' ? stat.atimeMs : 0);
}

/** Nothing of the blob is there but promises. */
export function isEmptyHanded(blob: CachedBlob): boolean {
  return [...blob.files].every((file) => EMPTY_HANDED.includes(file));
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}
