/**
 * Sources of mounts that do not answer: a dead NFS server, the FUSE mount of a stopped process. Whoever touches one
 * waits for ever, and most of what opens an image runs on the main thread, so it is asked from the thread pool first.
 */
import { open, opendir, stat } from 'node:fs/promises';
import { daemonError } from './errors.ts';

/** A disk under load answers within this; the client of the mount waits 30 s. */
export const SOURCE_MS_MAX = 10_000;

/** Each holds a thread of the pool until its file system answers; the pool has four, and fetches data with them. */
const HANGING_MAX = 2;

/** The first page of an image. */
const PAGE_BYTES = 4096;

let hanging = 0;

/**
 * What `ask` says of `path`.
 * @throws AppError SOURCE_HANGS after SOURCE_MS_MAX, or at once while others hang; and what `ask` throws
 */
export async function inTime<T>(path: string, ask: () => Promise<T>, limitMs = SOURCE_MS_MAX): Promise<T> {
  if (hanging >= HANGING_MAX) throw daemonError('SOURCE_HANGS', { path, waitedMs: 0 });
  let timer: NodeJS.Timeout | undefined;
  const answer = ask();
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      hanging++;
      void answer.catch(() => {}).finally(() => hanging--);
      reject(daemonError('SOURCE_HANGS', { path, waitedMs: limitMs }));
    }, limitMs);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Returns when a source can be looked at without waiting, or will fail at once. @throws AppError SOURCE_HANGS */
export function demandAnswer(path: string): Promise<void> {
  return inTime(path, async () => {
    try {
      const found = await stat(path); // possibly from the kernel's memory
      if (found.isDirectory()) {
        const directory = await opendir(path, { bufferSize: 1 });
        await directory.read().finally(() => directory.close());
      } else if (found.isFile()) {
        const file = await open(path);
        await file.read(Buffer.allocUnsafe(PAGE_BYTES), 0, PAGE_BYTES, 0).finally(() => file.close());
      }
    } catch {
      // Whoever opens it in earnest says what is wrong with it.
    }
  });
}
