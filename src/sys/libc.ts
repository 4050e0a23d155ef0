/**
 * The one place that loads koffi. Every other file of `src/sys` binds the libc functions it needs with `bind` and
 * wraps them; nothing outside `src/sys` sees a prototype.
 *
 * Conventions of all wrappers:
 * - addresses are JS numbers (user space ends below 2^47), data is never copied into JS objects;
 * - the result is a count or descriptor >= 0, or -errno; nothing throws, nothing is allocated;
 * - EINTR is retried inside (`retried`), except where a caller must see it (epoll_wait);
 * - numbers are checked with `whole` before the call, because koffi turns NaN into 0: a parse error would become a
 *   write at offset 0.
 */
import koffi from 'koffi';
import { errno } from './errno.ts';

/** Type names this project uses in prototypes. `ptr` is a raw address, `i64` an off_t or ssize_t. */
const TYPES = {
  int: 'int',
  uint: 'uint32_t',
  i64: 'int64_t',
  u64: 'uint64_t',
  size: 'size_t',
  ptr: 'uintptr_t',
  long: 'long',
} as const;

export type CType = keyof typeof TYPES;

/** A bound libc function: numbers in, number out. koffi returns i64 as a number as long as it is a safe integer. */
export type Native = (...args: number[]) => number;

const libc = koffi.load(null);

/**
 * Binds libc function `name`. Cost per call about 220 ns (getppid; 172 ns from C).
 * @throws when this libc has no such symbol; `bindOptional` answers null instead.
 */
export function bind(name: string, result: CType, args: readonly CType[]): Native {
  return libc.func(
    name,
    TYPES[result],
    args.map((type) => TYPES[type]),
  ) as unknown as Native;
}

/** As `bind`, for functions that older C libraries lack: null when the symbol is missing. */
export function bindOptional(name: string, result: CType, args: readonly CType[]): Native | null {
  try {
    return bind(name, result, args);
  } catch {
    return null;
  }
}

/**
 * As `bind`, but each call runs on a thread of Node's pool and its result goes to the callback. errno is that thread's
 * and is lost. Not for the device thread, whose event loop never runs.
 */
export function bindInPool(
  name: string,
  result: CType,
  args: readonly CType[],
): (arg: number, done: (value: number) => void) => void {
  const native = libc.func(
    name,
    TYPES[result],
    args.map((type) => TYPES[type]),
  );
  return (arg, done) => native.async(arg, (_error: unknown, value: number) => done(value));
}

/** Turns a libc result (-1 on failure) into a count or -errno. */
export function result(value: number): number {
  return value === -1 ? -koffi.errno() : value;
}

/** True when -1 was returned because of EINTR, so that the call is made again. */
export function interrupted(value: number): boolean {
  return value === -1 && koffi.errno() === errno.EINTR;
}

/** True for a whole number within 0..2^53-1: the only numbers that may become offsets, sizes, addresses or counts. */
export function whole(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

/** An ArrayBuffer over native memory. Above 4 GiB koffi aborts the process, hence the assertion. */
export function viewOf(address: number, bytes: number): ArrayBuffer {
  if (!whole(address) || address === 0 || !whole(bytes) || bytes === 0 || bytes > VIEW_BYTES_MAX) {
    throw new RangeError(`no view of ${bytes} bytes at ${address}`);
  }
  return koffi.view(BigInt(address), bytes);
}

/** Largest view koffi makes (5 GiB aborts the process); guest memory is viewed in windows far below this. */
export const VIEW_BYTES_MAX = 4 * 1024 ** 3;
