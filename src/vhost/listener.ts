/**
 * How a backend gets its connections (protocols 1.9): a socket path it listens on, a listening descriptor it was passed,
 * or a connected one. A daemon keeps the listener and accepts again after a hang-up.
 */
import { lstatSync, unlinkSync } from 'node:fs';
import { errno } from '../sys/errno.ts';
import { close, setNonBlocking } from '../sys/io.ts';
import { accept, connectUnix, isListening, listenUnix, SOCK } from '../sys/socket.ts';

/** A device serves one frontend; the second waits in the queue until the first hangs up. */
const BACKLOG = 4;

/**
 * Binds `path` and listens. A stale socket is replaced, a path somebody listens on is not.
 * @returns a non-blocking listening descriptor, or -errno (-EADDRINUSE: another backend is alive)
 */
export function listenAt(path: string): number {
  let fd = listenUnix(path, SOCK.STREAM, BACKLOG);
  if (fd === -errno.EADDRINUSE && removeStale(path)) fd = listenUnix(path, SOCK.STREAM, BACKLOG);
  if (fd >= 0) setNonBlocking(fd, true);
  return fd;
}

/** Unlinks a socket nobody listens on; anything else at `path` stays. */
function removeStale(path: string): boolean {
  // Not waiting: a listener whose queue is full is alive.
  const probe = connectUnix(path, SOCK.STREAM, true);
  if (probe >= 0) close(probe);
  // A regular file refuses connections too.
  if (probe !== -errno.ECONNREFUSED) return false;
  try {
    if (!lstatSync(path).isSocket()) return false;
    unlinkSync(path);
    return true;
  } catch {
    return false;
  }
}

/**
 * Takes over a descriptor passed by the parent (`--fd`): says whether it listens or is connected.
 * @returns -ENOTSOCK for anything else
 */
export function adoptSocket(fd: number): 'listening' | 'connected' | number {
  const listening = isListening(fd);
  if (listening < 0) return listening;
  setNonBlocking(fd, true);
  return listening === 1 ? 'listening' : 'connected';
}

/** The next connection of a listening descriptor, or -errno (-EAGAIN: nobody is waiting). */
export function acceptFrontend(listener: number): number {
  return accept(listener, true);
}
