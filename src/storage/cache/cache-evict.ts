/**
 * Takes a blob out of a cache directory, unless any process has it open: ours are seen by their files, nydusd's too, since
 * the kernel grants a write lease only on files nobody else has open. While the leases are held nobody can open them.
 */
import { closeSync, constants } from 'node:fs';
import { codeOf } from '../../common/app-error.ts';
import { takeLease } from '../../sys/lease.ts';
import { tryLock } from '../../sys/lock.ts';
import { BLOB_FILES, type BlobFile, CHUNK_FILES, cacheFile, openIfThere, unlinkIfThere } from './cache-names.ts';
import { LOCK_OPEN_AT } from './chunk-locks.ts';

const { O_RDONLY, O_RDWR, O_NOFOLLOW, O_NONBLOCK } = constants;

/**
 * @param files to remove, in the order of `BLOB_FILES`
 * @returns false when the blob is in use, and nothing was removed
 * @throws system errors of a directory that cannot be changed; what promises data is gone then before any data
 */
export function evictBlob(dir: string, blobId: string, files = Object.keys(BLOB_FILES) as BlobFile[]): boolean {
  return withBlob(dir, blobId, () => {
    for (const file of files) unlinkIfThere(cacheFile(dir, blobId, file));
  });
}

/** True when a process has the blob's chunks open. */
export function isBlobInUse(dir: string, blobId: string): boolean {
  return !withBlob(dir, blobId, () => {});
}

function withBlob(dir: string, blobId: string, use: () => void): boolean {
  const pathOf = (file: BlobFile) => cacheFile(dir, blobId, file);
  const lock = openIfThere(pathOf('lock'), O_RDWR | O_NOFOLLOW);
  try {
    if (lock >= 0 && tryLock(lock, LOCK_OPEN_AT, 1) !== 0) return false;
    return withUnused(CHUNK_FILES.map(pathOf), use);
  } finally {
    if (lock >= 0) closeSync(lock);
  }
}

/** Runs `use` while nobody has any of these files open or can open them; false when somebody has. */
export function withUnused(paths: readonly string[], use: () => void): boolean {
  const held: number[] = [];
  try {
    for (const path of paths) {
      const fd = openIfThere(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
      if (fd < 0) continue;
      held.push(fd);
      if (takeLease(fd) !== 0) return false;
    }
    use();
    return true;
  } catch (error) {
    // A symbolic link is somebody's own arrangement; what it stands for is not ours to judge, nor a reason to stop here.
    if (codeOf(error) === 'ELOOP') return false;
    throw error;
  } finally {
    // Closing gives the leases back.
    for (const fd of held) closeSync(fd);
  }
}
