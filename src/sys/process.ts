/** What concerns the whole process: how it ends, how many descriptors it may have, its heap. Cold paths only. */
import { errno } from './errno.ts';
import { bind, bindOptional, result } from './libc.ts';
import { NativeMemory } from './native-memory.ts';

const cExit = bind('_exit', 'int', ['int']);
const cPrlimit = bind('prlimit', 'int', ['int', 'int', 'ptr', 'ptr']);

const RLIMIT_NOFILE = 7;
/** RLIM_INFINITY of a 64-bit kernel is all ones; every limit above 2^53 is shown as Infinity. */
const HIGH_WORD_SAFE_MAX = 0x1f_ffff;

/**
 * Ends the process at once, whatever its other threads do. `process.exit` waits for workers, and one that sleeps in a
 * native call never comes; nothing registered for process end runs.
 */
export function exitNow(code: number): never {
  cExit(code & 0xff);
  throw new Error('_exit returned');
}

export interface FileLimit {
  soft: number;
  hard: number;
}

/** Limit of open descriptors of this process, or -errno. */
export function fileLimit(): FileLimit | number {
  const memory = new NativeMemory(32);
  const done = result(cPrlimit(0, RLIMIT_NOFILE, 0, memory.address));
  const limit = { soft: word(memory, 0), hard: word(memory, 2) };
  memory.free();
  return done < 0 ? done : limit;
}

function word(memory: NativeMemory, at: number): number {
  const high = memory.u32[at + 1]!;
  return high > HIGH_WORD_SAFE_MAX ? Number.POSITIVE_INFINITY : high * 2 ** 32 + memory.u32[at]!;
}

/** Sets both limits; 0 or -errno (-EPERM: above the hard limit without CAP_SYS_RESOURCE). */
export function setFileLimit(soft: number, hard: number): number {
  if (!Number.isSafeInteger(soft) || soft < 0 || !(hard >= soft)) return -errno.EINVAL;
  const memory = new NativeMemory(32);
  putWord(memory, 0, soft);
  putWord(memory, 2, hard);
  const done = result(cPrlimit(0, RLIMIT_NOFILE, memory.address, 0));
  memory.free();
  return done;
}

function putWord(memory: NativeMemory, at: number, value: number): void {
  const infinite = !Number.isFinite(value);
  memory.u32[at] = infinite ? 0xffff_ffff : value % 2 ** 32;
  memory.u32[at + 1] = infinite ? 0xffff_ffff : Math.floor(value / 2 ** 32);
}

/** Parameters of glibc's mallopt. */
const M_TRIM_THRESHOLD = -1;
const M_MMAP_THRESHOLD = -3;

/**
 * From now on blocks of `bytes` and more are mappings of their own, which the kernel has back when they are freed. glibc
 * by itself takes every block from its heaps that is smaller than the largest one freed so far (up to 32 MiB), and there
 * a small block behind a freed large one keeps it resident. Without effect where the C library has no mallopt.
 */
export function mapLargeBlocks(bytes: number): void {
  const mallopt = bindOptional('mallopt', 'int', ['int', 'int']);
  mallopt?.(M_MMAP_THRESHOLD, bytes);
  mallopt?.(M_TRIM_THRESHOLD, bytes);
}
