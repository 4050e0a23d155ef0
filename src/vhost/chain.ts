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

export class ChainWalker {
  /** Segment i of the readable part: guest address, raw address, bytes. */
  readonly readGpa = new Float64Array(SEGMENTS_MAX);
  readonly readAddress = new Float64Array(SEGMENTS_MAX);
  readonly readBytes = new Uint32Array(SEGMENTS_MAX);
  readCount = 0;
  readTotal = 0;
  readonly writeGpa = new Float64Array(SEGMENTS_MAX);
  readonly writeAddress = new Float64Array(SEGMENTS_MAX);
  readonly writeBytes = new Uint32Array(SEGMENTS_MAX);
  writeCount = 0;
  writeTotal = 0;
  /** One of CHAIN_FAULT after a walk that was not OK. */
  fault: number = CHAIN_FAULT.NONE;
  /** Tables that cannot be read in place (unaligned, or crossing regions) are copied here first. */
  #table: NativeMemory | null = null;

  /** @param bytesMax limit of the readable and of the writable part, in bytes */
  constructor(
    readonly memory: GuestMemory,
    readonly bytesMax: number = CHAIN_BYTES_MAX,
  ) {
    if (!(bytesMax > 0 && bytesMax <= CHAIN_BYTES_MAX)) throw new RangeError(`bytesMax ${bytesMax}`);
  }

  /** Gives back native memory; the walker must not be used any more. */
  free(): void {
    this.#table?.free();
    this.#table = null;
  }

  /** Walks the chain of `head`, which `ring.next()` returned. One of WALK. */
  walk(ring: SplitRing, head: number): number {
    this.readCount = 0;
    this.readTotal = 0;
    this.writeCount = 0;
    this.writeTotal = 0;
    this.fault = CHAIN_FAULT.NONE;
    const table = ring.descriptors;
    const size = ring.size;
    let index = head;
    for (let walked = 0; walked < size; walked++) {
      if (index >= size) return this.#fail(CHAIN_FAULT.NEXT_RANGE);
      const at = index * 4;
      const low = table[at];
      const high = table[at + 1];
      const bytes = table[at + 2];
      const word = table[at + 3];
      if ((word & DESC.INDIRECT) !== 0) return this.#indirect(word, low, high, bytes);
      const fault = this.#add(low, high, bytes, word & DESC.WRITE);
      if (fault !== CHAIN_FAULT.NONE) return this.#fail(fault);
      if ((word & DESC.NEXT) === 0) return WALK.OK;
      index = word >>> 16;
    }
    this.#fail(CHAIN_FAULT.LOOP);
    return WALK.BREAK_RING;
  }

  /** Nothing of a bad chain is left to be used by mistake. */
  #fail(fault: number): number {
    this.fault = fault;
    this.readCount = 0;
    this.writeCount = 0;
    this.readTotal = 0;
    this.writeTotal = 0;
    return WALK.FAIL_REQUEST;
  }

  #indirect(word: number, low: number, high: number, bytes: number): number {
    if ((word & DESC.NEXT) !== 0) return this.#fail(CHAIN_FAULT.INDIRECT_WITH_NEXT);
    if (bytes === 0 || bytes % DESC_BYTES !== 0 || bytes > INDIRECT_ENTRIES_MAX * DESC_BYTES) {
      return this.#fail(CHAIN_FAULT.INDIRECT_BYTES);
    }
    const gpa = high * 2 ** 32 + low;
    const address = high > 0x1f_ffff ? 0 : this.memory.address(gpa, bytes);
    if (address !== 0 && address % 4 === 0) {
      const window = this.memory.window(address);
      return this.#walkTable(window.u32, (address - window.base) / 4, bytes / DESC_BYTES);
    }
    if (high > 0x1f_ffff || !this.#copyTable(gpa, bytes)) return this.#fail(CHAIN_FAULT.INDIRECT_ADDRESS);
    return this.#walkTable(this.#scratch().u32, 0, bytes / DESC_BYTES);
  }

  #scratch(): NativeMemory {
    this.#table ??= new NativeMemory(INDIRECT_ENTRIES_MAX * DESC_BYTES);
    return this.#table;
  }

  #copyTable(gpa: number, bytes: number): boolean {
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

  #walkTable(table: Uint32Array, start: number, entries: number): number {
    let index = 0;
    for (let walked = 0; walked < entries; walked++) {
      if (index >= entries) return this.#fail(CHAIN_FAULT.NEXT_RANGE);
      const at = start + index * 4;
      const low = table[at];
      const high = table[at + 1];
      const bytes = table[at + 2];
      const word = table[at + 3];
      if ((word & DESC.INDIRECT) !== 0) return this.#fail(CHAIN_FAULT.NESTED_INDIRECT);
      const fault = this.#add(low, high, bytes, word & DESC.WRITE);
      if (fault !== CHAIN_FAULT.NONE) return this.#fail(fault);
      if ((word & DESC.NEXT) === 0) return WALK.OK;
      index = word >>> 16;
    }
    return this.#fail(CHAIN_FAULT.INDIRECT_LOOP);
  }

  /** Appends one descriptor's buffer. A descriptor of length 0 is skipped (protocols 2.5 row 11). */
  #add(low: number, high: number, bytes: number, writable: number): number {
    if (writable === 0 && this.writeCount !== 0) return CHAIN_FAULT.READABLE_AFTER_WRITABLE;
    if (bytes === 0) return CHAIN_FAULT.NONE;
    if (high > 0x1f_ffff) return CHAIN_FAULT.ADDRESS;
    const gpa = high * 2 ** 32 + low;
    const address = this.memory.address(gpa, bytes);
    if (address === 0) return this.#addSplit(gpa, bytes, writable);
    return writable === 0 ? this.#addRead(gpa, address, bytes) : this.#addWrite(gpa, address, bytes);
  }

  #addSplit(gpa: number, bytes: number, writable: number): number {
    for (let done = 0; done < bytes; ) {
      const step = Math.min(bytes - done, this.memory.bytesFrom(gpa + done));
      const address = step === 0 ? 0 : this.memory.address(gpa + done, step);
      if (address === 0) return CHAIN_FAULT.ADDRESS;
      const fault =
        writable === 0 ? this.#addRead(gpa + done, address, step) : this.#addWrite(gpa + done, address, step);
      if (fault !== CHAIN_FAULT.NONE) return fault;
      done += step;
    }
    return CHAIN_FAULT.NONE;
  }

  #addRead(gpa: number, address: number, bytes: number): number {
    const n = this.readCount;
    this.readTotal += bytes;
    if (this.readTotal > this.bytesMax) return CHAIN_FAULT.TOO_MANY_BYTES;
    if (n > 0) {
      const last = this.readBytes[n - 1];
      const start = this.readGpa[n - 1];
      const adjoins = start + last === gpa && this.readAddress[n - 1] + last === address;
      // Two regions can be neighbours in our address space too; a segment that is translated again has to lie in one.
      if (adjoins && this.memory.address(start, last + bytes) !== 0) {
        this.readBytes[n - 1] = last + bytes;
        return CHAIN_FAULT.NONE;
      }
    }
    if (n === SEGMENTS_MAX) return CHAIN_FAULT.TOO_MANY_SEGMENTS;
    this.readGpa[n] = gpa;
    this.readAddress[n] = address;
    this.readBytes[n] = bytes;
    this.readCount = n + 1;
    return CHAIN_FAULT.NONE;
  }

  #addWrite(gpa: number, address: number, bytes: number): number {
    const n = this.writeCount;
    this.writeTotal += bytes;
    if (this.writeTotal > this.bytesMax) return CHAIN_FAULT.TOO_MANY_BYTES;
    if (n > 0) {
      const last = this.writeBytes[n - 1];
      const start = this.writeGpa[n - 1];
      const adjoins = start + last === gpa && this.writeAddress[n - 1] + last === address;
      // Two regions can be neighbours in our address space too; a segment that is translated again has to lie in one.
      if (adjoins && this.memory.address(start, last + bytes) !== 0) {
        this.writeBytes[n - 1] = last + bytes;
        return CHAIN_FAULT.NONE;
      }
    }
    if (n === SEGMENTS_MAX) return CHAIN_FAULT.TOO_MANY_SEGMENTS;
    this.writeGpa[n] = gpa;
    this.writeAddress[n] = address;
    this.writeBytes[n] = bytes;
    this.writeCount = n + 1;
    return CHAIN_FAULT.NONE;
  }
}
