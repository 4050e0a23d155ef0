/**
 * Walks one descriptor chain and checks everything a hostile driver could put there (protocols 2.5).
 *
 * Every descriptor word is read exactly once. The result is two lists of segments, readable then writable, in arrays
 * that are reused by the next walk. Segments that touch each other in guest and host memory are joined, ranges that cross
 * into an adjacent region are split: nothing can be concluded from segment borders.
 */
import { copyMemory } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import type { GuestMemory } from './memory.ts';
import { DESC, DESC_BYTES, type SplitRing } from './split.ts';

/** Answers of `walk`. */
export const WALK = {
  OK: 0,
  /** The chain is bad, the head can be returned: complete it with 0 bytes. */
  FAIL_REQUEST: 1,
  /** The ring is bad: `breakRing`. */
  BREAK_RING: 2,
} as const;

/** Why a walk ended, in the order of protocols 2.5; for the log. */
export const CHAIN_FAULT = {
  NONE: 0,
  LOOP: 1,
  NEXT_RANGE: 2,
  NESTED_INDIRECT: 3,
  INDIRECT_WITH_NEXT: 4,
  INDIRECT_BYTES: 5,
  INDIRECT_ADDRESS: 6,
  READABLE_AFTER_WRITABLE: 7,
  ADDRESS: 8,
  TOO_MANY_BYTES: 9,
  TOO_MANY_SEGMENTS: 10,
  INDIRECT_LOOP: 11,
} as const;

const FAULT_TEXT: readonly string[] = [
  'no fault',
  'chain longer than the descriptor table',
  'next index outside the table',
  'indirect descriptor inside an indirect table',
  'descriptor both indirect and continued',
  'indirect table of no, a fractional or too large a number of entries',
  'indirect table outside guest memory',
  'readable descriptor after a writable one',
  'buffer outside guest memory',
  'chain of more bytes than allowed',
  'chain of more segments than allowed',
  'indirect table loops',
];

export function chainFaultText(fault: number): string {
  return FAULT_TEXT[fault] ?? `fault ${fault}`;
}

/** Linux before 5.13 posts indirect tables longer than the queue; virtio ends at 32,768. */
export const INDIRECT_ENTRIES_MAX = 32_768;
/** One indirect table, the direct descriptors before it, and some splits at region borders. */
export const SEGMENTS_MAX = 65_536;
/** FUSE and used.len count in u32. */
export const CHAIN_BYTES_MAX = 2 ** 32 - 1;

/** Cells of `#cells`: numbers handed to slow paths, which as arguments would be boxed. */
const GPA = 0;
const BYTES = 1;
const CELLS = 2;

/** The parts of a chain, as positions in `#totals`. */
const READABLE = 0;
const WRITABLE = 1;

export class ChainWalker {
  /** Segment i of the readable part: guest address, raw address, bytes. */
  readonly readGpa = new Float64Array(SEGMENTS_MAX);
  readonly readAddress = new Float64Array(SEGMENTS_MAX);
  readonly readBytes = new Uint32Array(SEGMENTS_MAX);
  readCount = 0;
  readonly writeGpa = new Float64Array(SEGMENTS_MAX);
  readonly writeAddress = new Float64Array(SEGMENTS_MAX);
  readonly writeBytes = new Uint32Array(SEGMENTS_MAX);
  writeCount = 0;
  /** One of CHAIN_FAULT after a walk that was not OK. */
  fault: number = CHAIN_FAULT.NONE;
  /** Bytes of the readable and of the writable part. */
  readonly #totals = new Float64Array(2);
  readonly #cells = new Float64Array(CELLS);
  /** Tables that cannot be read in place (unaligned, or crossing regions) are copied here first. */
  #table: NativeMemory | null = null;
  /** Region (position in the memory's table) of the last range looked up; it holds the next one most of the time. */
  #region = 0;

  /** @param bytesMax limit of the readable and of the writable part, in bytes */
  constructor(
    readonly memory: GuestMemory,
    readonly bytesMax: number = CHAIN_BYTES_MAX,
  ) {
    if (!(bytesMax > 0 && bytesMax <= CHAIN_BYTES_MAX)) throw new RangeError(`bytesMax ${bytesMax}`);
  }

  /** Bytes of all readable segments. */
  get readTotal(): number {
    return this.#totals[0];
  }

  /** Bytes of all writable segments. */
  get writeTotal(): number {
    return this.#totals[1];
  }

  /** Gives back native memory; the walker must not be used any more. */
  free(): void {
    this.#table?.free();
    this.#table = null;
  }

  /** Walks the chain of `head`, which `ring.next()` returned. One of WALK. */
  walk(ring: SplitRing, head: number): number {
    this.#clear();
    this.fault = CHAIN_FAULT.NONE;
    return this.#follow(ring.descriptors, 0, ring.size, head, true);
  }

  #clear(): void {
    this.readCount = 0;
    this.writeCount = 0;
    this.#totals[0] = 0;
    this.#totals[1] = 0;
  }

  /** Nothing of a bad chain is left to be used by mistake. */
  #fail(fault: number): number {
    this.#clear();
    this.fault = fault;
    return WALK.FAIL_REQUEST;
  }

  /**
   * Follows descriptors from `index` on in the table of `entries` that starts at word `start`.
   *
   * A READ of 1 MiB has 258 descriptors. What nearly all of them are, a buffer in the region of the one before it that
   * does not touch it, is appended here, from local variables: 10 ns each, 14 where fields are read and written for it.
   * Everything else is for `#append` and `#addSplit`.
   */
  #follow(table: Uint32Array, start: number, entries: number, index: number, direct: boolean): number {
    const cells = this.#cells;
    const totals = this.#totals;
    const regions = this.memory.table;
    const bytesMax = this.bytesMax;
    let from = regions[this.#region];
    let to = regions[this.#region + 1];
    let toAddress = regions[this.#region + 2] - from;
    // The part that grows: 0 readable, 1 writable.
    let part = this.writeCount === 0 ? READABLE : WRITABLE;
    let gpas = part === READABLE ? this.readGpa : this.writeGpa;
    let addresses = part === READABLE ? this.readAddress : this.writeAddress;
    let sizes = part === READABLE ? this.readBytes : this.writeBytes;
    let count = part === READABLE ? this.readCount : this.writeCount;
    let total = totals[part];
    let lastEnd = count === 0 ? -1 : gpas[count - 1] + sizes[count - 1];
    let next = index;
    for (let walked = 0; walked < entries; walked++) {
      if (next >= entries) return this.#fail(CHAIN_FAULT.NEXT_RANGE);
      const at = start + next * 4;
      const low = table[at];
      const high = table[at + 1];
      const bytes = table[at + 2];
      const word = table[at + 3];
      // 2^53 and more: a place where no region can be.
      const gpa = high > 0x1f_ffff ? Number.POSITIVE_INFINITY : high * 2 ** 32 + low;
      if ((word & DESC.INDIRECT) !== 0) {
        if (!direct) return this.#fail(CHAIN_FAULT.NESTED_INDIRECT);
        this.#keep(part, count);
        totals[part] = total;
        cells[GPA] = gpa;
        cells[BYTES] = bytes;
        return this.#indirect(word);
      }
      if ((word & DESC.WRITE) !== 0) {
        if (part === READABLE) {
          this.#keep(READABLE, count);
          totals[READABLE] = total;
          part = WRITABLE;
          gpas = this.writeGpa;
          addresses = this.writeAddress;
          sizes = this.writeBytes;
          count = this.writeCount;
          total = totals[WRITABLE];
          lastEnd = -1;
        }
      } else if (part === WRITABLE) return this.#fail(CHAIN_FAULT.READABLE_AFTER_WRITABLE);
      // A descriptor of length 0 is skipped (protocols 2.5 row 11).
      if (bytes !== 0) {
        total += bytes;
        if (total > bytesMax) return this.#fail(CHAIN_FAULT.TOO_MANY_BYTES);
        const end = gpa + bytes;
        if (gpa >= from && end <= to && gpa !== lastEnd && count < SEGMENTS_MAX) {
          gpas[count] = gpa;
          addresses[count] = gpa + toAddress;
          sizes[count] = bytes;
          count++;
        } else {
          cells[GPA] = gpa;
          cells[BYTES] = bytes;
          this.#keep(part, count);
          const fault = this.#inOneRegion() ? this.#append(part) : this.#addSplit(part);
          if (fault !== CHAIN_FAULT.NONE) return this.#fail(fault);
          count = part === READABLE ? this.readCount : this.writeCount;
          from = regions[this.#region];
          to = regions[this.#region + 1];
          toAddress = regions[this.#region + 2] - from;
        }
        lastEnd = end;
      }
      if ((word & DESC.NEXT) === 0) {
        this.#keep(part, count);
        totals[part] = total;
        return WALK.OK;
      }
      next = word >>> 16;
    }
    this.#fail(direct ? CHAIN_FAULT.LOOP : CHAIN_FAULT.INDIRECT_LOOP);
    return direct ? WALK.BREAK_RING : WALK.FAIL_REQUEST;
  }

  /** Writes a part's number of segments back from a local variable. */
  #keep(part: number, count: number): void {
    if (part === READABLE) this.readCount = count;
    else this.writeCount = count;
  }

  /** Follows the indirect table the cells describe. */
  #indirect(word: number): number {
    const cells = this.#cells;
    const bytes = cells[BYTES];
    if ((word & DESC.NEXT) !== 0) return this.#fail(CHAIN_FAULT.INDIRECT_WITH_NEXT);
    if (bytes === 0 || bytes % DESC_BYTES !== 0 || bytes > INDIRECT_ENTRIES_MAX * DESC_BYTES) {
      return this.#fail(CHAIN_FAULT.INDIRECT_BYTES);
    }
    const entries = bytes / DESC_BYTES;
    if (!this.#inOneRegion()) {
      if (!this.#copyTable()) return this.#fail(CHAIN_FAULT.INDIRECT_ADDRESS);
      return this.#follow(this.#scratch().u32, 0, entries, 0, false);
    }
    const regions = this.memory.table;
    cells[GPA] = cells[GPA] - regions[this.#region] + regions[this.#region + 2];
    if (cells[GPA] % 4 !== 0) {
      copyMemory(this.#scratch().address, cells[GPA], bytes);
      return this.#follow(this.#scratch().u32, 0, entries, 0, false);
    }
    const window = this.memory.windowAt(cells, GPA);
    return this.#follow(window.u32, (cells[GPA] - window.base) / 4, entries, 0, false);
  }

  #scratch(): NativeMemory {
    this.#table ??= NativeMemory.borrow(INDIRECT_ENTRIES_MAX * DESC_BYTES);
    return this.#table;
  }

  /** Copies a table that crosses into adjacent regions. */
  #copyTable(): boolean {
    const gpa = this.#cells[GPA];
    const bytes = this.#cells[BYTES];
    const scratch = this.#scratch();
    for (let done = 0; done < bytes; ) {
      const step = Math.min(bytes - done, this.memory.bytesFrom(gpa + done));
      const address = step === 0 ? 0 : this.memory.address(gpa + done, step);
      if (address === 0) return false;
      copyMemory(scratch.address + done, address, step);
      done += step;
    }
    return true;
  }

  /** Whether the range in the cells lies in one region, which is `#region` then. */
  #inOneRegion(): boolean {
    const cells = this.#cells;
    const regions = this.memory.table;
    const gpa = cells[GPA];
    let at = this.#region;
    if (!(gpa >= regions[at] && gpa < regions[at + 1])) {
      at = this.memory.locate(cells, GPA);
      if (at < 0) return false;
      this.#region = at;
    }
    return gpa + cells[BYTES] <= regions[at + 1];
  }

  /** Appends the part of the buffer that lies in each region, one after the other. */
  #addSplit(part: number): number {
    const cells = this.#cells;
    let left = cells[BYTES];
    while (left > 0) {
      const step = Math.min(left, this.memory.bytesFrom(cells[GPA]));
      cells[BYTES] = step;
      if (step === 0 || !this.#inOneRegion()) return CHAIN_FAULT.ADDRESS;
      const fault = this.#append(part);
      if (fault !== CHAIN_FAULT.NONE) return fault;
      cells[GPA] += step;
      left -= step;
    }
    return CHAIN_FAULT.NONE;
  }

  /** Appends the range in the cells, inside `#region`; joins it to the last segment when that ends there. */
  #append(part: number): number {
    const gpas = part === READABLE ? this.readGpa : this.writeGpa;
    const sizes = part === READABLE ? this.readBytes : this.writeBytes;
    const n = part === READABLE ? this.readCount : this.writeCount;
    const gpa = this.#cells[GPA];
    const bytes = this.#cells[BYTES];
    const regions = this.memory.table;
    // Never over a region border, where our addresses do not go on: the last segment has to begin in this region.
    if (n > 0 && gpas[n - 1] + sizes[n - 1] === gpa && gpas[n - 1] >= regions[this.#region]) {
      sizes[n - 1] += bytes;
      return CHAIN_FAULT.NONE;
    }
    if (n === SEGMENTS_MAX) return CHAIN_FAULT.TOO_MANY_SEGMENTS;
    const addresses = part === READABLE ? this.readAddress : this.writeAddress;
    gpas[n] = gpa;
    addresses[n] = gpa - regions[this.#region] + regions[this.#region + 2];
    sizes[n] = bytes;
    this.#keep(part, n + 1);
    return CHAIN_FAULT.NONE;
  }
}
