/** Files of bootstraps on the main thread, by `node:fs`. */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { codeOf } from '../common/app-error.ts';
import { rafsError } from './errors.ts';

/** Opens a regular file for reading; messages name it `shown`. @throws OPEN */
export function openFile(path: string, shown: string): number {
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

/** Exactly these bytes. @throws TRUNCATED */
export function readAt(fd: number, path: string, offset: number, wantedBytes: number): Buffer {
  const bytes = Buffer.alloc(wantedBytes);
  const gotBytes = wantedBytes === 0 ? 0 : readSync(fd, bytes, 0, wantedBytes, offset);
  if (gotBytes !== wantedBytes) throw rafsError('TRUNCATED', { path, offset, wantedBytes, gotBytes });
  return bytes;
}

/** O_TMPFILE | O_DIRECTORY, which Node does not name. */
const O_TMPFILE = 0o20200000;
/** The second is memory: for daemons without a writable directory. */
const SCRATCH_DIRS = [tmpdir(), '/dev/shm'];

/** A file without a name, for what is taken out of a blob. @throws OPEN when there is no place for it */
export function anonymousFile(shown: string): number {
  let why = '';
  for (const dir of SCRATCH_DIRS) {
    try {
      return openSync(dir, O_TMPFILE | constants.O_RDWR, 0o600);
    } catch (error) {
      why += ` ${dir}: ${codeOf(error)}`;
    }
  }
  throw rafsError('OPEN', { path: shown, why: `no room for the bootstrap in its blob:${why}` });
}
