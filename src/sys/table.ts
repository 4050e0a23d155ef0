/**
 * Fixed-size records in an arena, addressed by slot.
 *
 *     slot  →  segments[slot >>> shift] [ (slot & mask) * stride  + 1 + word ]
 *                                                                 └ word 0 is the table's: LIVE, or the next free slot
 *
 * No operation allocates, except that a view is made for each new segment. A slot is reused after `free` (last freed,
 * first reused); numbers that must never come again are taken from a Counter and kept in the record.
 */
import type { Arena, Entry } from './arena.ts';
import { arenaError, ENTRY, KIND, SEGMENT_WORDS } from './arena-layout.ts';

/** Head word of a record in use; free ones hold the next free slot + 1. */
const LIVE = 0xffff_ffff;
/** Slots are Smis, and slot + 2 fits the links of hash-index.ts. */
export const SLOTS_MAX = 2 ** 30;

export class Table {
  /** Views of the segments, for loops that cannot afford a call per word; use with `shift`, `mask`, `stride`. */
  readonly segments: Uint32Array[];
  readonly shift: number;
  readonly mask: number;
  /** Words from one record to the next. */
  readonly stride: number;
  readonly #entry: Entry;
  readonly #header: Uint32Array;
  readonly #at: number;

  /**
   * Opens table `name`, or makes it.
   * @param recordWords u32 words per record, all the caller's
   * @param cap most records at a time; `allocate` answers -1 beyond
   * @throws ARENA_LAYOUT, ARENA_FULL; RangeError for a shape no table can have
   */
  constructor(
    readonly arena: Arena,
    readonly name: string,
    readonly recordWords: number,
    readonly cap: number,
  ) {
    this.stride = recordWords + 1;
    if (!(recordWords >= 1 && this.stride <= SEGMENT_WORDS)) throw new RangeError(`records of ${recordWords} words`);
    if (!(cap >= 1 && cap <= SLOTS_MAX)) throw new RangeError(`table of ${cap} records`);
    this.shift = 31 - Math.clz32(SEGMENT_WORDS / this.stride);
    this.mask = (1 << this.shift) - 1;
    this.#entry = arena.entry(name, KIND.TABLE, recordWords, cap);
    this.#header = this.#entry.header;
    this.#at = this.#entry.at;
    this.segments = arena.segmentsOf(this.#entry.number);
  }

  /** A slot with a zeroed record, or -1: the cap is reached or memory is short (ENFILE either way). */
  allocate(): number {
    const header = this.#header;
    const at = this.#at;
    let slot = header[at + ENTRY.FREE] - 1;
    if (slot < 0) {
      slot = header[at + ENTRY.HIGH];
      if (slot >= this.cap) return -1;
      if (slot >>> this.shift === this.segments.length && !this.#grow()) return -1;
      header[at + ENTRY.HIGH] = slot + 1;
    } else {
      header[at + ENTRY.FREE] = this.segments[slot >>> this.shift][(slot & this.mask) * this.stride];
    }
    const segment = this.segments[slot >>> this.shift];
    const word = (slot & this.mask) * this.stride;
    for (let i = word + this.stride - 1; i > word; i--) segment[i] = 0;
    segment[word] = LIVE;
    header[at + ENTRY.COUNT] = header[at + ENTRY.COUNT] + 1;
    return slot;
  }

  /** Gives a slot back. False (and nothing happens) when it is not in use. */
  free(slot: number): boolean {
    if (!this.live(slot)) return false;
    const header = this.#header;
    const at = this.#at;
    this.segments[slot >>> this.shift][(slot & this.mask) * this.stride] = header[at + ENTRY.FREE];
    header[at + ENTRY.FREE] = slot + 1;
    header[at + ENTRY.COUNT] = header[at + ENTRY.COUNT] - 1;
    return true;
  }

  /** True for a slot in use; any number may be asked, also one a guest made up. */
  live(slot: number): boolean {
    if (!(slot >= 0 && slot < this.#header[this.#at + ENTRY.HIGH])) return false;
    return this.segments[slot >>> this.shift][(slot & this.mask) * this.stride] === LIVE;
  }

  /** Word `word` of the record. The slot must be live. */
  get(slot: number, word: number): number {
    return this.segments[slot >>> this.shift][(slot & this.mask) * this.stride + 1 + word];
  }

  set(slot: number, word: number, value: number): void {
    this.segments[slot >>> this.shift][(slot & this.mask) * this.stride + 1 + word] = value;
  }

  /** The view that holds the record; its first word is at `wordAt(slot)`. */
  view(slot: number): Uint32Array {
    return this.segments[slot >>> this.shift];
  }

  wordAt(slot: number): number {
    return (slot & this.mask) * this.stride + 1;
  }

  /** The first live slot >= `from`, or -1: `for (let s = t.next(0); s >= 0; s = t.next(s + 1))`. Freeing on the way is fine. */
  next(from: number): number {
    const high = this.#header[this.#at + ENTRY.HIGH];
    for (let slot = from; slot < high; slot++) if (this.live(slot)) return slot;
    return -1;
  }

  /** Records in use. */
  get count(): number {
    return this.#header[this.#at + ENTRY.COUNT];
  }

  /** Empties the table. Memory is kept for the next records. */
  clear(): void {
    for (let slot = this.next(0); slot >= 0; slot = this.next(slot + 1)) this.free(slot);
  }

  /** After a crash in the middle of an operation: makes free list and count agree with the records. Walks all slots. */
  recover(): void {
    const header = this.#header;
    const room = this.segments.length << this.shift;
    if (header[this.#at + ENTRY.HIGH] > room) header[this.#at + ENTRY.HIGH] = room;
    let free = 0;
    let count = 0;
    for (let slot = header[this.#at + ENTRY.HIGH] - 1; slot >= 0; slot--) {
      if (this.live(slot)) count++;
      else {
        this.segments[slot >>> this.shift][(slot & this.mask) * this.stride] = free;
        free = slot + 1;
      }
    }
    header[this.#at + ENTRY.FREE] = free;
    header[this.#at + ENTRY.COUNT] = count;
  }

  /** A copy of all records with their head words, slot by slot; for `restore`. Cold path. */
  records(): Uint32Array {
    const words = new Uint32Array(this.#header[this.#at + ENTRY.HIGH] * this.stride);
    for (let i = 0; i < this.segments.length; i++) {
      const from = i * (this.mask + 1) * this.stride;
      const until = Math.min(words.length, from + (this.mask + 1) * this.stride);
      if (until > from) words.set(this.segments[i].subarray(0, until - from), from);
    }
    return words;
  }

  /**
   * Fills an empty table with `records()` of another one of the same shape, slots unchanged.
   * @throws ARENA_FULL when memory is short
   */
  restore(words: Uint32Array): void {
    const perSegment = (this.mask + 1) * this.stride;
    for (let from = 0; from < words.length; from += perSegment) {
      if (from / perSegment === this.segments.length && !this.#grow())
        throw arenaError('ARENA_FULL', { what: 'record' });
      this.segments[from / perSegment].set(words.subarray(from, from + perSegment));
    }
    this.#header[this.#at + ENTRY.HIGH] = words.length / this.stride;
    this.recover();
  }

  #grow(): boolean {
    const segment = this.arena.grow(this.#entry.number);
    if (segment === null) return false;
    this.segments.push(segment);
    return true;
  }
}
