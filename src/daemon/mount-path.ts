import { daemonError } from './errors.ts';

/** Linux's NAME_MAX and PATH_MAX: a guest could not name anything longer. */
const NAME_BYTES_MAX = 255;
const PATH_BYTES_MAX = 4096;

/**
 * The one spelling of a mount point inside the VFS: absolute, single slashes, none at the end.
 * @throws AppError MOUNT_PATH for relative paths, `.`, `..`, NUL and names no guest could use
 */
export function mountPath(text: string): string {
  const refuse = (reason: string) => daemonError('MOUNT_PATH', { path: text.slice(0, 200), reason });
  if (!text.startsWith('/')) throw refuse('must start with /');
  if (text.includes('\0')) throw refuse('contains a NUL byte');
  if (Buffer.byteLength(text) >= PATH_BYTES_MAX) throw refuse(`longer than ${PATH_BYTES_MAX - 1} bytes`);
  const names = text.split('/').filter((name) => name !== '');
  for (const name of names) {
    if (name === '.' || name === '..') throw refuse(`contains ${name}`);
    if (Buffer.byteLength(name) > NAME_BYTES_MAX) throw refuse(`a name has more than ${NAME_BYTES_MAX} bytes`);
  }
  return `/${names.join('/')}`;
}

/** Clients name a mount, and the id of a configuration, with or without the leading slash (kata-contract 4.5 and 8, entry 12). */
export function isSameName(a: string, b: string): boolean {
  return bare(a) === bare(b);
}

const bare = (name: string): string => (name.startsWith('/') ? name.slice(1) : name);
