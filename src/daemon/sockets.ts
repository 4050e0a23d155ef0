/** Socket paths before they are bound: length, and what to do with a file left over from an earlier run. */
import { existsSync, lstatSync, type Stats, unlinkSync } from 'node:fs';
import { dirname } from 'node:path';
import { codeOf } from '../common/app-error.ts';
import { errnoText } from '../sys/errno.ts';
import { listenUnix, SOCK } from '../sys/socket.ts';
import { daemonError } from './errors.ts';

/** sun_path has 108 bytes, the last for NUL. */
export const SOCKET_PATH_BYTES_MAX = 107;
/** A listener with a full backlog neither answers nor refuses; then it is alive. */
const PROBE_MS = 1000;

/**
 * Makes `path` free for bind(2). A socket file that nobody answers on is a leftover and is removed (the Go runtime does
 * not do it, kata-contract 1.3); anything else stays and is an error.
 * @throws AppError SOCKET_PATH, SOCKET_BUSY, SOCKET_NOT_A_SOCKET
 */
export async function clearSocketPath(path: string): Promise<void> {
  const bytes = Buffer.byteLength(path);
  if (bytes > SOCKET_PATH_BYTES_MAX) throw daemonError('SOCKET_PATH', { path, bytes });
  let stats: Stats;
  try {
    stats = lstatSync(path);
  } catch (error) {
    // libuv says EACCES for a directory that is missing, when it binds.
    const isFree = codeOf(error) === 'ENOENT' && existsSync(dirname(path));
    if (isFree) return;
    throw daemonError('SOCKET_BIND', { path, reason: codeOf(error) }, error);
  }
  if (!stats.isSocket()) throw daemonError('SOCKET_NOT_A_SOCKET', { path });
  if (await answers(path)) throw daemonError('SOCKET_BUSY', { path });
  removeSocket(path);
}

/** Whether somebody listens on the socket at `path`. */
export async function answers(path: string): Promise<boolean> {
  const { connect } = await import('node:net');
  return new Promise((resolve) => {
    const socket = connect(path);
    const done = (isAlive: boolean) => {
      socket.destroy();
      resolve(isAlive);
    };
    socket.setTimeout(PROBE_MS, () => done(true));
    socket.once('connect', () => done(true));
    // ECONNREFUSED: bound once, nobody listens. ENOENT: gone meanwhile. Anything else (EAGAIN: backlog full) is life.
    socket.once('error', (error) => done(codeOf(error) !== 'ECONNREFUSED' && codeOf(error) !== 'ENOENT'));
  });
}

/** Unlinks a socket file; one that is gone already is as good. */
export function removeSocket(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

/** One VMM at a time; the next waits here, and so does one that connects before the device thread is up. */
const VMM_BACKLOG = 8;

/** Binds the vhost-user socket. @returns the listening descriptor @throws AppError SOCKET_BIND */
export function bindVmmSocket(path: string): number {
  const fd = listenUnix(path, SOCK.STREAM, VMM_BACKLOG);
  if (fd < 0) throw daemonError('SOCKET_BIND', { path, reason: errnoText(fd) });
  return fd;
}
