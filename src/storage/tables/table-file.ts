/**
 * A metadata file of the cache directory in the making: written under a temporary name, linked when it was checked, so
 * that no other process ever sees half of one or loses its own. Where the directory takes nothing it stays in memory.
 */
import { closeSync, fstatSync, linkSync, mkdirSync, openSync, statSync, unlinkSync, writeSync } from 'node:fs';
import { dirname } from 'node:path';
import { AppError } from '../../common/app-error.ts';
import { errnoName } from '../../sys/errno.ts';
import { memfdCreate } from '../../sys/memory.ts';
import { cacheError } from '../cache/cache-io.ts';
import { DIR_MODE, discard, FILE_MODE, temporaryName } from '../cache/cache-names.ts';
import { storageError } from '../errors.ts';

/** Of one table in memory: 1.3 million chunks, and what decoding it takes for a moment anyway. */
const MEMORY_BYTES_MAX = 32 << 20;

/** Bytes and where in the file they belong; the space between them is zero. */
export interface Part {
  bytes: Buffer;
  at: number;
}

export class TableFile {
  private constructor(
    /** Readable; belongs to the caller. */
    readonly fd: number,
    private readonly path: string,
    private readonly temporary: string | null,
  ) {}

  /**
   * @param path of the file to be; '' = in memory
   * @param parts gives the parts in order, anew at each call; their memory is used until the next is asked for
   * @param bytes of the whole file
   * @throws what `parts` throws; what writing beside `path` threw, when the file is too much for memory
   */
  static async write(path: string, parts: () => AsyncIterable<Part>, bytes: number): Promise<TableFile> {
    if (path === '') return new TableFile(await inMemory(parts()), path, null);
    const temporary = temporaryName(path);
    try {
      // The directory may have been removed since the blob was opened.
      mkdirSync(dirname(path), { recursive: true, mode: DIR_MODE });
      await writeNew(temporary, parts());
      return new TableFile(openSync(temporary, 'r'), path, temporary);
    } catch (error) {
      discard(temporary);
      if (error instanceof AppError) throw error;
      if (bytes > MEMORY_BYTES_MAX) throw cacheError(path, error);
      return new TableFile(await inMemory(parts()), path, null);
    }
  }

  /**
   * Gives the file its name, unless another process was first.
   * @param bad descriptor of the file of that name that turned out unusable, -1 = there was none: it goes
   */
  publish(bad: number): void {
    if (this.temporary === null) return;
    try {
      if (bad >= 0 && statSync(this.path).ino === fstatSync(bad).ino) unlinkSync(this.path);
      linkSync(this.temporary, this.path);
    } catch {
      // Another's is as good, and without a name this one serves its own process.
    }
  }

  /** The temporary name goes, published or not. */
  end(): void {
    if (this.temporary !== null) discard(this.temporary);
  }
}

async function inMemory(parts: AsyncIterable<Part>): Promise<number> {
  const fd = memfdCreate('nydusd-table');
  if (fd < 0) throw storageError('CACHE_IO', { path: '(memory)', call: 'memfd_create', errno: errnoName(-fd) });
  try {
    await writeParts(fd, parts);
  } catch (error) {
    closeSync(fd);
    throw cacheError('(memory)', error);
  }
  return fd;
}

async function writeNew(path: string, parts: AsyncIterable<Part>): Promise<void> {
  const fd = openSync(path, 'wx', FILE_MODE);
  try {
    await writeParts(fd, parts);
  } finally {
    closeSync(fd);
  }
}

/** At once: a reader waits, parts are small, and each call in libuv's threads takes longer than the write itself. */
async function writeParts(fd: number, parts: AsyncIterable<Part>): Promise<void> {
  for await (const { bytes, at } of parts) {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done, at + done);
  }
}
