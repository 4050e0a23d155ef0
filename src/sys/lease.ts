/**
 * Write leases (fcntl F_SETLEASE): the kernel grants one only while nobody else has the file open, in this process or any
 * other, and whoever opens it then waits until the lease is given back. So it tells whether a file is in use, and keeps
 * it unused for a moment.
 */
import { bind, result } from './libc.ts';

const cFcntl = bind('fcntl', 'int', ['int', 'int', 'i64']);

const F_SETSIG = 10;
const F_SETLEASE = 1024;
const F_WRLCK = 1;
/** Told to the holder when somebody opens the file. Ignored unless handled; the default, SIGIO, ends the process. */
const SIGURG = 23;

/** 0 until the descriptor is closed, or -EAGAIN: the file is open elsewhere. -EINVAL: this file system has no leases. -EACCES: the file is another user's. */
export function takeLease(fd: number): number {
  const done = result(cFcntl(fd, F_SETSIG, SIGURG));
  return done < 0 ? done : result(cFcntl(fd, F_SETLEASE, F_WRLCK));
}
