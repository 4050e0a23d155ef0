/** System calls on files of the cache directory, and what their failures are called. */
import { closeSync, constants, ftruncateSync, linkSync, mkdirSync, openSync } from 'node:fs';
import { AppError } from '../../common/app-error.ts';
import { storageError } from '../errors.ts';
import { DIR_MODE, FILE_MODE, temporaryName, unlinkIfThere } from './cache-names.ts';

const { O_RDWR, O_CREAT, O_EXCL } = constants;

/** A system error about a cache file as the error a reader gets; other AppErrors pass. */
export function cacheError(path: string, error: unknown): unknown {
  if (error instanceof AppError) return error;
  const { code, syscall } = error as NodeJS.ErrnoException;
  if (code === 'ENOSPC' || code === 'EDQUOT') return storageError('NO_SPACE', { path }, error);
  if (code === 'EROFS' || code === 'EACCES' || code === 'EPERM') return storageError('READ_ONLY', { path }, error);
  return storageError('CACHE_IO', { path, call: syscall ?? 'access', errno: code ?? 'unknown' }, error);
}

/** Not a recursive mkdir, which calls a read-only file system ENOENT. */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path, DIR_MODE);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

/** Runs `use`; closes the descriptor when it throws. */
export function keptOpen<T>(fd: number, use: () => T): T {
  try {
    return use();
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** Creates a file that is never seen with another length; another process's file of that name wins. */
export function createSized(path: string, bytes: number): number {
  const temporary = temporaryName(path);
  const fd = openSync(temporary, O_RDWR | O_CREAT | O_EXCL, FILE_MODE);
  try {
    ftruncateSync(fd, bytes);
    linkSync(temporary, path);
    return fd;
  } catch (error) {
    closeSync(fd);
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return openSync(path, O_RDWR);
    throw error;
  } finally {
    unlinkIfThere(temporary);
  }
}
