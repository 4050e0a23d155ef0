/** File names in a cache directory (rafs-format 6): which belong to a blob, and how new files get theirs. */
import { unlinkSync } from 'node:fs';

let temporaries = 0;

/** Name next to `path` that nobody else uses. */
export function temporaryName(path: string): string {
  return `${path}.${process.pid}.${temporaries++}.tmp`;
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
