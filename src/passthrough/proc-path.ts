/**
 * Names of our own descriptors in /proc, the only way from an O_PATH descriptor to calls that want a name: opening for
 * I/O, chmod, utimes, link and xattrs (which work on links and devices too that way, without opening them).
 */
import { NativeMemory } from '../sys/native-memory.ts';

const PREFIX = '/proc/self/fd/';
const DIGITS_MAX = 10;
const scratch = new NativeMemory(4096);
scratch.putText(0, PREFIX);

/** Address of the decimal number of `fd`: a name relative to the descriptor of /proc/self/fd. Valid until the next call. */
export function fdName(fd: number): number {
  const bytes = scratch.u8;
  let end = PREFIX.length + DIGITS_MAX;
  bytes[end] = 0;
  let rest = fd;
  do {
    const tenth = Math.floor(rest / 10);
    bytes[--end] = 0x30 + (rest - tenth * 10);
    rest = tenth;
  } while (rest > 0);
  // The number moves next to the prefix, so that one scratch serves the relative and the absolute name.
  let to = PREFIX.length;
  if (end !== to) while ((bytes[to++] = bytes[end++]) !== 0);
  return scratch.address + PREFIX.length;
}

/** Address of `/proc/self/fd/<fd>`. Valid until the next call. */
export function fdPath(fd: number): number {
  fdName(fd);
  return scratch.address;
}
