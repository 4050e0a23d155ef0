/**
 * Pages of bootstraps in bounded native memory, read by `pread`.
 *
 *     (file, page number) --hash--> chain of slots --> 4 KiB in `memory`
 *                                     ^ clock hand: second chance, then out
 *
 * Bootstraps are not mapped: a truncated one would be a SIGBUS, which Node cannot handle, and a mapping's pages count
 * as ours without a bound. One cache serves all images of a thread. A hit allocates nothing and makes no syscall.
 *
 * Invariant: a slot stays valid until the next `page` call; callers copy what they need across one.
 */
import { errno } from '../sys/errno.ts';
import { pread } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';

export const PAGE_BYTES = 4096;
export const PAGE_BITS = 12;
/** Metadata of about 100,000 inodes; half of the daemon's budget for anonymous memory. Touched pages only cost RSS. */
export const CACHE_BYTES_MAX = 16 * 1024 * 1024;

const NONE = -1;

export class PageCache {
  /** All slots: slot n is bytes [n * PAGE_BYTES, (n + 1) * PAGE_BYTES). */
  readonly memory: NativeMemory;
  /** Page reads from files so far. */
  misses = 0;
  private readonly slots: number;
  private readonly hashShift: number;
  private readonly heads: Int32Array;
  private readonly next: Int32Array;
  /** 0 = free slot. */
  private readonly fileOf: Uint32Array;
  private readonly pageOf: Uint32Array;
  private readonly referenced: Uint8Array;
  private readonly files = new Map<number, { fd: number; fileBytes: number }>();
  private hand = 0;
  /** Slots of dropped files, linked by `next`: they come before memory that was never touched. */
  private freed = NONE;
  private lastFile = 0;

  /** @param bytes a power of two of at least two pages */
  constructor(bytes = CACHE_BYTES_MAX) {
    if (bytes < 2 * PAGE_BYTES || (bytes & (bytes - 1)) !== 0) throw new RangeError(`page cache of ${bytes} bytes`);
    this.memory = NativeMemory.borrow(bytes);
    this.slots = bytes / PAGE_BYTES;
    const buckets = this.slots * 2;
    this.hashShift = Math.clz32(buckets) + 1;
    this.heads = new Int32Array(buckets).fill(NONE);
    this.next = new Int32Array(this.slots).fill(NONE);
    this.fileOf = new Uint32Array(this.slots);
    this.pageOf = new Uint32Array(this.slots);
    this.referenced = new Uint8Array(this.slots);
  }

  /** Gives the memory back, of a cache made for a short time; nothing of it may be used afterwards. */
  close(): void {
    this.memory.free();
  }

  /**
   * Registers a descriptor and returns the file's number in this cache (> 0, never reused). The caller keeps the fd open.
   * @param fileBytes length of the file: its last page may be short, and every other must be whole
   */
  add(fd: number, fileBytes: number): number {
    this.files.set(++this.lastFile, { fd, fileBytes });
    return this.lastFile;
  }

  /** Forgets a file and its pages; does not close the descriptor. */
  drop(file: number): void {
    this.files.delete(file);
    for (let slot = 0; slot < this.slots; slot++) {
      if (this.fileOf[slot] !== file) continue;
      this.free(slot);
      this.next[slot] = this.freed;
      this.freed = slot;
    }
  }

  /**
   * Slot holding page `page` of `file`, reading it if need be; -EIO when the file ends before it was said to, another
   * -errno when the read fails. `page` is a whole number the caller checked against the file's length.
   */
  page(file: number, page: number): number {
    const bucket = this.bucket(file, page);
    for (let slot = this.heads[bucket]; slot !== NONE; slot = this.next[slot]) {
      if (this.pageOf[slot] === page && this.fileOf[slot] === file) {
        this.referenced[slot] = 1;
        return slot;
      }
    }
    return this.load(file, page, bucket);
  }

  private bucket(file: number, page: number): number {
    return Math.imul(page ^ Math.imul(file, 0x85eb_ca6b), 0x9e37_79b1) >>> this.hashShift;
  }

  private load(file: number, page: number, bucket: number): number {
    const source = this.files.get(file);
    if (source === undefined) return -errno.EBADF;
    const wanted = Math.min(PAGE_BYTES, source.fileBytes - page * PAGE_BYTES);
    const slot = this.victim();
    this.misses++;
    const n = pread(source.fd, this.memory.address + slot * PAGE_BYTES, wanted, page * PAGE_BYTES);
    if (n !== wanted) return n < 0 ? n : -errno.EIO;
    this.fileOf[slot] = file;
    this.pageOf[slot] = page;
    this.referenced[slot] = 1;
    this.next[slot] = this.heads[bucket];
    this.heads[bucket] = slot;
    return slot;
  }

  /** A slot of a dropped file; else frees the first one the hand meets that was not used since its last round. */
  private victim(): number {
    const freed = this.freed;
    if (freed !== NONE) {
      this.freed = this.next[freed];
      this.next[freed] = NONE;
      return freed;
    }
    for (;;) {
      const slot = this.hand;
      this.hand = slot + 1 === this.slots ? 0 : slot + 1;
      if (this.fileOf[slot] === 0) return slot;
      if (this.referenced[slot] === 0) {
        this.free(slot);
        return slot;
      }
      this.referenced[slot] = 0;
    }
  }

  private free(slot: number): void {
    const bucket = this.bucket(this.fileOf[slot], this.pageOf[slot]);
    let before = NONE;
    for (let at = this.heads[bucket]; at !== slot; at = this.next[at]) before = at;
    if (before === NONE) this.heads[bucket] = this.next[slot];
    else this.next[before] = this.next[slot];
    this.next[slot] = NONE;
    this.fileOf[slot] = 0;
    this.referenced[slot] = 0;
  }
}

let shared: PageCache | null = null;

/** The one cache of this thread, made on first use. */
export function threadPageCache(): PageCache {
  return (shared ??= new PageCache());
}
