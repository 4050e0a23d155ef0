/**
 * Shared mappings: memfds with seals, mmap of guest memory, and the views JavaScript reads it through.
 *
 *     MappedRange   | window 0: 1 GiB + 1 MiB |
 *                                  | window 1: 1 GiB + 1 MiB |
 *                                               | window 2 … |      each made on first use
 *
 * Windows start every 1 GiB and overlap by 1 MiB, so that whatever is at most 1 MiB long (a ring, a request header, an
 * indirect table) lies in one view; koffi aborts the process on a view of 5 GiB, and big views cost a full GC each.
 *
 * A view cannot be detached (Node 20 copies the memory of a foreign ArrayBuffer instead of transferring it), and nothing
 * says when the last one is collected. So an address range that ever had a view is never unmapped: when its memory goes
 * away, anonymous memory is mapped over it, and the range with its views waits for the next mapping of this thread.
 */
import { errno } from './errno.ts';
import { bind, bindOptional, result, viewOf, whole } from './libc.ts';
import { NativeMemory, pathAddress } from './native-memory.ts';
import { AT, EMPTY_NAME } from './path.ts';
import { STATX, STATX_BYTES, STATX_MASK, statx } from './stat.ts';

const cMmap = bind('mmap', 'i64', ['ptr', 'size', 'int', 'int', 'int', 'i64']);
const cMunmap = bind('munmap', 'int', ['ptr', 'size']);
const cMadvise = bind('madvise', 'int', ['ptr', 'size', 'int']);
const cMemfdCreate = bindOptional('memfd_create', 'int', ['ptr', 'uint']);
const cFcntl = bind('fcntl', 'int', ['int', 'int', 'i64']);
const cSysconf = bind('sysconf', 'long', ['int']);

export const PROT = { NONE: 0, READ: 1, WRITE: 2 } as const;
export const MAP = { SHARED: 1, PRIVATE: 2, FIXED: 0x10, ANONYMOUS: 0x20, NORESERVE: 0x4000 } as const;
export const MADV = { DONTNEED: 4, HUGEPAGE: 14, DONTDUMP: 16, POPULATE_READ: 22, POPULATE_WRITE: 23 } as const;
export const MFD = { CLOEXEC: 1, ALLOW_SEALING: 2 } as const;
export const SEAL = { SEAL: 1, SHRINK: 2, GROW: 4, WRITE: 8 } as const;

const SC_PAGESIZE = 30;
/** Page size of the host: alignment of mapping offsets. */
export const PAGE_BYTES = cSysconf(SC_PAGESIZE);

/** mmap(2): an address, or -errno. `address` counts only with MAP.FIXED. */
export function mmap(
  address: number,
  bytes: number,
  prot: number,
  flags: number,
  fd: number,
  offsetBytes: number,
): number {
  if (!whole(address) || !whole(bytes) || !whole(offsetBytes)) return -errno.EINVAL;
  return result(cMmap(address, bytes, prot, flags, fd, offsetBytes));
}

/** munmap(2). Never on memory that has a view. */
export function munmap(address: number, bytes: number): number {
  if (!whole(address) || !whole(bytes)) return -errno.EINVAL;
  return result(cMunmap(address, bytes));
}

/** madvise(2) with one of MADV. */
export function madvise(address: number, bytes: number, advice: number): number {
  if (!whole(address) || !whole(bytes)) return -errno.EINVAL;
  return result(cMadvise(address, bytes, advice));
}

/**
 * Makes every page of the range present and writable, so that touching it cannot raise SIGBUS for lack of memory.
 * @returns 0, or -errno (-EFAULT when a page has nothing behind it). Kernels before 5.14 have no such call: 0.
 */
export function populateWrite(address: number, bytes: number): number {
  const skew = address % PAGE_BYTES;
  const done = madvise(address - skew, bytes + skew, MADV.POPULATE_WRITE);
  return done === -errno.EINVAL ? 0 : done;
}

/** Maps zeroed anonymous memory over the range: whoever still holds an address or a view of it touches nothing real. */
export function overmap(address: number, bytes: number): number {
  const flags = MAP.PRIVATE | MAP.ANONYMOUS | MAP.NORESERVE | MAP.FIXED;
  const at = mmap(address, bytes, PROT.READ | PROT.WRITE, flags, -1, 0);
  return Math.min(at, 0);
}

/** memfd_create(2), close-on-exec and sealable: a descriptor or -errno. `name` shows in /proc/PID/maps. */
export function memfdCreate(name: string): number {
  if (cMemfdCreate === null) return -errno.ENOSYS;
  return result(cMemfdCreate(pathAddress(name), MFD.CLOEXEC | MFD.ALLOW_SEALING));
}

const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;

/** Adds seals (bits of SEAL) to a memfd. */
export function addSeals(fd: number, seals: number): number {
  return result(cFcntl(fd, F_ADD_SEALS, seals));
}

/** Seals of a memfd; -EINVAL for any other file. */
export function getSeals(fd: number): number {
  return result(cFcntl(fd, F_GET_SEALS, 0));
}

const stat = new NativeMemory(STATX_BYTES);

/** Size of the file behind `fd` in bytes, or -errno (-EFBIG above 2^53-1). */
export function fileSizeBytes(fd: number): number {
  const done = statx(fd, EMPTY_NAME, AT.EMPTY_PATH, STATX_MASK.BASIC_STATS, stat.address);
  if (done < 0) return done;
  const high = stat.u32[STATX.SIZE + 1];
  return high > 0x1f_ffff ? -errno.EFBIG : high * 2 ** 32 + stat.u32[STATX.SIZE];
}

/** Alignment mmap needs for this file: the page size, or the huge page size of hugetlbfs (which it reports as block size). */
function mapAlignment(fd: number): number {
  if (statx(fd, EMPTY_NAME, AT.EMPTY_PATH, STATX_MASK.BASIC_STATS, stat.address) < 0) return PAGE_BYTES;
  const block = stat.u32[STATX.BLKSIZE];
  return block > PAGE_BYTES && (block & (block - 1)) === 0 ? block : PAGE_BYTES;
}

export const WINDOW_STEP_BYTES = 2 ** 30;
export const WINDOW_OVERLAP_BYTES = 2 ** 20;

/** Typed views of up to 1 GiB + 1 MiB of mapped memory. Index of the byte at address `a`: `a - base`. */
export class Window {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly view: DataView;
  readonly end: number;
  /** Addresses from `base` up to here have this window; those behind, in the overlap, have the next one. */
  readonly reach: number;

  constructor(
    readonly base: number,
    buffer: ArrayBuffer,
  ) {
    this.end = base + buffer.byteLength;
    this.reach = Math.min(this.end, base + WINDOW_STEP_BYTES);
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.u32 = new Uint32Array(buffer);
    this.view = new DataView(buffer);
  }
}

/** A window that holds no address. */
export const NO_WINDOW = new Window(Number.POSITIVE_INFINITY, new ArrayBuffer(0));

/** Ranges whose memory is gone but whose views may live; reused by the next `MappedRange.map`. One list per thread. */
const spares: MappedRange[] = [];

/** A page-aligned range of address space with its windows. States: mapped → vacated → released. */
export class MappedRange {
  readonly #windows: (Window | null)[];
  #viewed = false;

  private constructor(
    readonly address: number,
    readonly bytes: number,
  ) {
    this.#windows = new Array<Window | null>(Math.ceil(bytes / WINDOW_STEP_BYTES)).fill(null);
  }

  /**
   * Maps `bytes` of `fd` from `offsetBytes` on, shared and writable. The caller has checked the file's size.
   * @returns the range and in `at` the address of the first byte asked for, or -errno
   */
  static map(fd: number, offsetBytes: number, bytes: number): { range: MappedRange; at: number } | number {
    if (!whole(offsetBytes) || !whole(bytes) || bytes === 0) return -errno.EINVAL;
    const alignment = mapAlignment(fd);
    const skew = offsetBytes % alignment;
    const length = Math.ceil((skew + bytes) / alignment) * alignment;
    if (!whole(length) || length > ADDRESS_SPACE_BYTES_MAX) return -errno.ENOMEM;
    const spare = takeSpare(length, alignment);
    const flags = MAP.SHARED | MAP.NORESERVE | (spare === null ? 0 : MAP.FIXED);
    const address = mmap(spare?.address ?? 0, length, PROT.READ | PROT.WRITE, flags, fd, offsetBytes - skew);
    if (address < 0) {
      // Kernels before 6.7 may have unmapped the range before they refused the file (one sealed against writes): closed again.
      if (spare !== null && spare.vacate() >= 0) spares.push(spare);
      return address;
    }
    return { range: spare ?? new MappedRange(address, length), at: address + skew };
  }

  /** The window whose first GiB holds `address`, which must lie in this range. */
  window(address: number): Window {
    return this.windowAt(Math.floor((address - this.address) / WINDOW_STEP_BYTES));
  }

  /** Window number `index` of this range. */
  windowAt(index: number): Window {
    return this.#windows[index] ?? this.#open(index);
  }

  #open(index: number): Window {
    const start = index * WINDOW_STEP_BYTES;
    const bytes = Math.min(this.bytes - start, WINDOW_STEP_BYTES + WINDOW_OVERLAP_BYTES);
    const window = new Window(this.address + start, viewOf(this.address + start, bytes));
    this.#windows[index] = window;
    this.#viewed = true;
    return window;
  }

  /** Replaces the memory by anonymous zeroes. Addresses stay reserved: system calls under way and views hit nothing real. */
  vacate(): number {
    return overmap(this.address, this.bytes);
  }

  /** After `vacate`, when no system call can still use an address: unmaps, or keeps the range for reuse if it has views. */
  release(): void {
    if (this.#viewed) spares.push(this);
    else munmap(this.address, this.bytes);
  }
}

/** User space ends at 2^47; a request for more than a sixteenth of it is a mistake or an attack. */
const ADDRESS_SPACE_BYTES_MAX = 2 ** 43;

/** The smallest spare range that fits, removed from the list. */
function takeSpare(bytes: number, alignment: number): MappedRange | null {
  let best = -1;
  for (let i = 0; i < spares.length; i++) {
    const fits = spares[i].bytes >= bytes && spares[i].address % alignment === 0;
    if (fits && (best < 0 || spares[i].bytes < spares[best].bytes)) best = i;
  }
  return best < 0 ? null : spares.splice(best, 1)[0];
}
