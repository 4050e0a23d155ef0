/**
 * Tables that outlive the process: one memfd, mapped shared, holding everything the daemon must not lose (inodes,
 * handles, mounts). Whoever is handed the descriptor maps it again and finds every table by its name.
 *
 *     memfd   | header: magic, directory of tables, owners of segments | segment 0 | segment 1 | segment 2 | …
 *                          │ "mounts" ─────────────────────────────────────┘           │           │
 *                          │ "inodes" ─────────────────────────────────────────────────┘           │
 *                          └ "inodes.by-key" ──────────────────────────────────────────────────────┘
 *
 * Invariants
 * - The file only grows (sealed against shrinking, so a mapped page can never raise SIGBUS), by whole segments of one
 *   size; a segment never moves, so views and addresses of it stay good as long as the arena is open.
 * - A removed table gives its segments back: their pages are punched out, the next table to grow takes them, zeroed.
 * - Everything is u32 words of the host's byte order; there is no pointer in it, only slots.
 * - One thread writes. Nothing here is atomic.
 *
 * Cost: 4 bytes per word and record plus 4 bytes for the table's own word, in pages touched only. 1,000,000 inodes of
 * 15 words are 64 MB, and 4 MB per index over them.
 */
import { AppError } from '../common/app-error.ts';
import {
  arenaError,
  ENTRY,
  entryAt,
  H,
  HEADER_BYTES,
  KIND,
  MAGIC,
  NAME_BYTES_MAX,
  OWNERS,
  SEGMENT_BYTES,
  SEGMENTS_MAX,
  TABLES_MAX,
  VERSION,
} from './arena-layout.ts';
import { close, FALLOC, fallocate, ftruncate, lseek, SEEK } from './io.ts';
import { viewOf } from './libc.ts';
import { addSeals, MAP, memfdCreate, mmap, overmap, PROT, SEAL } from './memory.ts';

/** What a table asks of its arena. */
export interface Entry {
  readonly arena: Arena;
  /** The directory; the entry's words start at `at`. */
  readonly header: Uint32Array;
  readonly at: number;
  readonly number: number;
}

export class Arena {
  readonly header: Uint32Array;
  /** Views of the segments, by number. */
  readonly #segments: Uint32Array[] = [];
  readonly #addresses: number[] = [];
  readonly #headerAddress: number;
  #closed = false;

  private constructor(readonly fd: number) {
    this.#headerAddress = map(fd, 0, HEADER_BYTES);
    this.header = new Uint32Array(viewOf(this.#headerAddress, HEADER_BYTES));
  }

  /**
   * A new, empty arena. `name` shows in /proc/PID/fd.
   * @throws ARENA_MEMORY
   */
  static create(name = 'nydusd-tables'): Arena {
    const fd = memfdCreate(name);
    if (fd < 0) throw arenaError('ARENA_MEMORY', { step: 'memfd_create', errno: fd });
    const done = ftruncate(fd, HEADER_BYTES);
    if (done < 0) throw fail(fd, 'ftruncate', done);
    const sealed = addSeals(fd, SEAL.SHRINK);
    if (sealed < 0) throw fail(fd, 'sealing', sealed);
    const arena = new Arena(fd);
    arena.header[H.VERSION] = VERSION;
    arena.header[H.SEED] = Math.floor(Math.random() * 0x1_0000_0000);
    arena.header[H.MAGIC] = MAGIC;
    return arena;
  }

  /**
   * Maps an arena another process (or an earlier life of this one) made; owns `fd` from then on. After a crash its
   * tables need `recover()` and its indexes `rebuild()`: the last operation may have been cut short.
   * @throws ARENA_FOREIGN, ARENA_MEMORY (`fd` stays the caller's then)
   */
  static attach(fd: number): Arena {
    const sizeBytes = lseek(fd, 0, SEEK.END);
    if (sizeBytes < HEADER_BYTES) throw arenaError('ARENA_FOREIGN', { reason: `only ${sizeBytes} bytes long` });
    const arena = new Arena(fd);
    const { header } = arena;
    const count = header[H.SEGMENTS];
    let reason = '';
    if (header[H.MAGIC] !== MAGIC) reason = 'no arena';
    else if (header[H.VERSION] !== VERSION) reason = `version ${header[H.VERSION]}, this one is ${VERSION}`;
    else if (count > SEGMENTS_MAX || sizeBytes < HEADER_BYTES + count * SEGMENT_BYTES) reason = 'shorter than it says';
    if (reason !== '') {
      overmap(arena.#headerAddress, HEADER_BYTES);
      throw arenaError('ARENA_FOREIGN', { reason });
    }
    for (let i = 0; i < count; i++) arena.#mapSegment(i);
    return arena;
  }

  /** Random start value of all hashes here: a guest that picks its keys cannot aim at one bucket. */
  get seed(): number {
    return this.header[H.SEED];
  }

  set seed(value: number) {
    this.header[H.SEED] = value;
  }

  /**
   * Finds or makes the directory entry `name`. Cold path.
   * @throws ARENA_LAYOUT when it exists with another shape, ARENA_FULL, RangeError for an impossible name
   */
  entry(name: string, kind: number, recordWords: number, cap: number): Entry {
    const bytes = Buffer.from(name);
    if (bytes.length === 0 || bytes.length > NAME_BYTES_MAX)
      throw new RangeError(`table name of ${bytes.length} bytes`);
    const existing = this.numberOf(name);
    if (existing >= 0) return this.#existing(existing, name, kind, recordWords, cap);
    let free = 0;
    while (free < this.#entries && this.header[entryAt(free)] !== KIND.FREE) free++;
    if (free === TABLES_MAX) throw arenaError('ARENA_FULL', { what: 'table' });
    if (free === this.#entries) this.header[H.ENTRIES] = free + 1;
    const at = entryAt(free);
    this.header.fill(0, at, at + ENTRY.WORDS);
    for (let i = 0; i < bytes.length; i++) {
      const word = at + ENTRY.NAME + (i >> 2);
      this.header[word] = this.header[word] | (bytes[i] << ((i & 3) * 8));
    }
    this.header[at + ENTRY.RECORD_WORDS] = recordWords;
    this.header[at + ENTRY.CAP] = cap;
    this.header[at + ENTRY.KIND] = kind;
    return { arena: this, header: this.header, at, number: free };
  }

  #existing(number: number, name: string, kind: number, recordWords: number, cap: number): Entry {
    const at = entryAt(number);
    const found = `kind ${this.header[at]}, ${this.header[at + ENTRY.RECORD_WORDS]} words`;
    const wanted = `kind ${kind}, ${recordWords} words`;
    if (found !== wanted) throw arenaError('ARENA_LAYOUT', { name, wanted, found });
    // The cap is a limit of this run, not a part of the layout; slots above a lowered one stay usable.
    this.header[at + ENTRY.CAP] = cap;
    return { arena: this, header: this.header, at, number };
  }

  /** Directory entries ever used: what is above was never touched and costs no memory. */
  get #entries(): number {
    return Math.min(this.header[H.ENTRIES], TABLES_MAX);
  }

  /** Name of directory entry `number`, '' for a free one. Cold path. */
  nameOf(number: number): string {
    const at = entryAt(number);
    if (this.header[at] === KIND.FREE) return '';
    const bytes = Buffer.alloc(NAME_BYTES_MAX + 1);
    for (let i = 0; i < bytes.length; i++) {
      bytes[i] = this.header[at + ENTRY.NAME + (i >> 2)] >>> ((i & 3) * 8);
    }
    return bytes.toString('utf8', 0, bytes.indexOf(0));
  }

  /** Names of all tables, indexes and counters. */
  names(): string[] {
    const names: string[] = [];
    for (let i = 0; i < this.#entries; i++) if (this.header[entryAt(i)] !== KIND.FREE) names.push(this.nameOf(i));
    return names;
  }

  /** Directory entry of `name` by number, -1 when there is none. */
  numberOf(name: string): number {
    for (let i = 0; i < this.#entries; i++) if (this.nameOf(i) === name) return i;
    return -1;
  }

  /** The entry's segments in order, as views. */
  segmentsOf(number: number): Uint32Array[] {
    const views: Uint32Array[] = [];
    for (let i = 0; i < this.#segments.length; i++) {
      if (this.header[OWNERS + i * 2] !== number + 1) continue;
      views[this.header[OWNERS + i * 2 + 1]] = this.#segments[i];
    }
    return views;
  }

  /** Gives entry `number` one more zeroed segment, or null when there is no memory or no room. Once per segment. */
  grow(number: number): Uint32Array | null {
    const count = this.#segments.length;
    let free = 0;
    while (free < count && this.header[OWNERS + free * 2] !== 0) free++;
    if (free === count) {
      if (count === SEGMENTS_MAX) return null;
      if (ftruncate(this.fd, HEADER_BYTES + (count + 1) * SEGMENT_BYTES) < 0) return null;
      try {
        this.#mapSegment(count);
      } catch (error) {
        if (error instanceof AppError) return null;
        throw error;
      }
      this.header[H.SEGMENTS] = count + 1;
    }
    const at = entryAt(number) + ENTRY.SEGMENTS;
    this.header[OWNERS + free * 2 + 1] = this.header[at];
    this.header[OWNERS + free * 2] = number + 1;
    this.header[at] = this.header[at] + 1;
    return this.#segments[free];
  }

  /** Forgets entry `name` and gives its memory back to the system. Objects opened on it must not be used again. */
  remove(name: string): void {
    const number = this.numberOf(name);
    if (number < 0) return;
    this.header[entryAt(number)] = KIND.FREE;
    for (let i = 0; i < this.#segments.length; i++) {
      if (this.header[OWNERS + i * 2] !== number + 1) continue;
      const punched = fallocate(
        this.fd,
        FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE,
        HEADER_BYTES + i * SEGMENT_BYTES,
        SEGMENT_BYTES,
      );
      if (punched < 0) this.#segments[i].fill(0);
      this.header[OWNERS + i * 2] = 0;
    }
  }

  /** Bytes of segments in use by tables; what is resident may be less. */
  get usedBytes(): number {
    let used = 0;
    for (let i = 0; i < this.#segments.length; i++) if (this.header[OWNERS + i * 2] !== 0) used += SEGMENT_BYTES;
    return used;
  }

  /** Unmaps and closes. Stray views read zeroes from then on instead of trapping. The memory lives on in other holders. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    overmap(this.#headerAddress, HEADER_BYTES);
    for (const address of this.#addresses) overmap(address, SEGMENT_BYTES);
    close(this.fd);
  }

  #mapSegment(number: number): void {
    const address = map(this.fd, HEADER_BYTES + number * SEGMENT_BYTES, SEGMENT_BYTES);
    this.#addresses.push(address);
    this.#segments.push(new Uint32Array(viewOf(address, SEGMENT_BYTES)));
  }
}

/**
 * A counter that never gives the same number twice within the life of the arena: 1, 2, 3 … 2^32-1, then 0 for ever.
 */
export class Counter {
  readonly #header: Uint32Array;
  readonly #at: number;

  constructor(arena: Arena, name: string) {
    const entry = arena.entry(name, KIND.COUNTER, 0, 0);
    this.#header = entry.header;
    this.#at = entry.at + ENTRY.STATE;
  }

  /** The next number, or 0 when all are used up (callers answer ENFILE). */
  next(): number {
    const last = this.#header[this.#at];
    if (last === 0xffff_ffff) return 0;
    this.#header[this.#at] = last + 1;
    return last + 1;
  }

  /** Leaves out the next `count` numbers: another process may have given them out after this arena was saved. */
  skip(count: number): void {
    this.#header[this.#at] = Math.min(this.last + count, 0xffff_ffff);
  }

  /** The number given last, 0 before the first. */
  get last(): number {
    return this.#header[this.#at];
  }
}

function map(fd: number, offsetBytes: number, bytes: number): number {
  const address = mmap(0, bytes, PROT.READ | PROT.WRITE, MAP.SHARED, fd, offsetBytes);
  if (address < 0) throw arenaError('ARENA_MEMORY', { step: 'mmap', errno: address });
  return address;
}

function fail(fd: number, step: string, code: number): AppError {
  close(fd);
  return arenaError('ARENA_MEMORY', { step, errno: code });
}
