/**
 * Finds a table's record by words of the record itself.
 *
 * Linear hashing: bucket heads are words in the arena, records of one bucket are chained through a word of their own.
 * When there are more entries than buckets, an insert splits exactly one bucket in two, so that growth never stops the
 * world: the dearest insert walks two short chains and now and then maps a segment.
 *
 *     buckets   0 1 2 3 | 4 5 …          n buckets, base = greatest power of two <= n
 *               └ split ┘                bucket(h) = h mod 2·base if that is < n, else h mod base
 *
 * Buckets are not given back; they cost 4 bytes for each record there ever was at a time.
 */
import type { Arena, Entry } from './arena.ts';
import { arenaError, ENTRY, KIND, SEGMENT_WORDS } from './arena-layout.ts';
import type { Table } from './table.ts';

/** Words of a key. */
export const KEY_WORDS_MAX = 6;
/** A record's link word: not in the index; last of its chain; otherwise slot + NEXT of the next one. */
const ABSENT = 0;
const LAST = 1;
const NEXT = 2;
const SHIFT = 31 - Math.clz32(SEGMENT_WORDS);
const MASK = SEGMENT_WORDS - 1;

export class HashIndex {
  /** The key `find` looks for. A typed array, because a u32 above 2^31 given as an argument may become a heap object. */
  readonly key = new Uint32Array(KEY_WORDS_MAX);
  readonly #buckets: Uint32Array[];
  readonly #entry: Entry;
  readonly #header: Uint32Array;
  readonly #state: number;
  readonly #seed: number;

  /**
   * Opens index `name` over `table`, or makes it.
   * @param keyAt first key word in the record
   * @param keyWords words of the key, at most KEY_WORDS_MAX
   * @param linkAt a word of the record that belongs to this index (0 in a new record = not in the index)
   * @throws ARENA_LAYOUT, ARENA_FULL (also for lack of memory), RangeError
   */
  constructor(
    readonly arena: Arena,
    readonly name: string,
    readonly table: Table,
    readonly keyAt: number,
    readonly keyWords: number,
    readonly linkAt: number,
  ) {
    if (!(keyWords >= 1 && keyWords <= KEY_WORDS_MAX)) throw new RangeError(`key of ${keyWords} words`);
    if (keyAt + keyWords > table.recordWords || linkAt >= table.recordWords) throw new RangeError('key outside record');
    this.#entry = arena.entry(name, KIND.INDEX, 1, table.cap);
    this.#header = this.#entry.header;
    this.#state = this.#entry.at + ENTRY.STATE;
    this.#seed = arena.seed;
    this.#buckets = arena.segmentsOf(this.#entry.number);
    if (this.#buckets.length === 0) {
      if (!this.#grow()) throw arenaError('ARENA_FULL', { what: 'index' });
      this.#header[this.#state] = 1;
    }
  }

  /** Slot of the record whose key words equal `this.key`, or -1. */
  find(): number {
    const { table, keyAt, keyWords, linkAt, key } = this;
    const bucket = this.#bucketOf(this.#hash(key, 0));
    let link = this.#buckets[bucket >>> SHIFT][bucket & MASK];
    while (link >= NEXT) {
      const slot = link - NEXT;
      const words = table.view(slot);
      const at = table.wordAt(slot);
      let i = 0;
      while (i < keyWords && words[at + keyAt + i] === key[i]) i++;
      if (i === keyWords) return slot;
      link = words[at + linkAt];
    }
    return -1;
  }

  /** Adds a record whose key words are set and not yet in the index. */
  insert(slot: number): void {
    const bucket = this.#bucketOf(this.#hashOf(slot));
    this.#push(bucket, slot);
    this.#header[this.#entry.at + ENTRY.COUNT] = this.#header[this.#entry.at + ENTRY.COUNT] + 1;
    if (this.count > this.#header[this.#state]) this.#split();
  }

  /** Takes a record out; its key words must be those it was inserted with. False when it was not in. */
  remove(slot: number): boolean {
    const { table, linkAt } = this;
    const own = table.get(slot, linkAt);
    if (own === ABSENT) return false;
    const bucket = this.#bucketOf(this.#hashOf(slot));
    const heads = this.#buckets[bucket >>> SHIFT];
    let link = heads[bucket & MASK];
    if (link === slot + NEXT) heads[bucket & MASK] = own;
    else {
      let before = -1;
      while (link >= NEXT && link !== slot + NEXT) {
        before = link - NEXT;
        link = table.get(before, linkAt);
      }
      if (link < NEXT) return false;
      table.set(before, linkAt, own);
    }
    table.set(slot, linkAt, ABSENT);
    this.#header[this.#entry.at + ENTRY.COUNT] = this.count - 1;
    return true;
  }

  /** True when the (live) record is in the index. */
  has(slot: number): boolean {
    return this.table.get(slot, this.linkAt) !== ABSENT;
  }

  /** Records in the index. */
  get count(): number {
    return this.#header[this.#entry.at + ENTRY.COUNT];
  }

  /** Builds the index again from the live records that were in it: after a crash, or when they came out of a dump. */
  rebuild(): void {
    const buckets = this.#header[this.#state];
    for (let i = 0; i < buckets; i++) this.#buckets[i >>> SHIFT][i & MASK] = 0;
    this.#header[this.#entry.at + ENTRY.COUNT] = 0;
    for (let slot = this.table.next(0); slot >= 0; slot = this.table.next(slot + 1)) {
      if (this.has(slot)) this.insert(slot);
    }
  }

  #push(bucket: number, slot: number): void {
    const heads = this.#buckets[bucket >>> SHIFT];
    const head = heads[bucket & MASK];
    this.table.set(slot, this.linkAt, head >= NEXT ? head : LAST);
    heads[bucket & MASK] = slot + NEXT;
  }

  /** Makes one bucket more and moves to it what belongs there. Without memory the chains just get longer. */
  #split(): void {
    const n = this.#header[this.#state];
    if (n >>> SHIFT === this.#buckets.length && !this.#grow()) return;
    const base = 1 << (31 - Math.clz32(n));
    const from = n - base;
    const heads = this.#buckets[from >>> SHIFT];
    let link = heads[from & MASK];
    heads[from & MASK] = LAST;
    this.#header[this.#state] = n + 1;
    while (link >= NEXT) {
      const slot = link - NEXT;
      link = this.table.get(slot, this.linkAt);
      this.#push((this.#hashOf(slot) & (2 * base - 1)) === n ? n : from, slot);
    }
  }

  #bucketOf(hash: number): number {
    const n = this.#header[this.#state];
    const base = 1 << (31 - Math.clz32(n));
    const bucket = hash & (2 * base - 1);
    return bucket < n ? bucket : hash & (base - 1);
  }

  #hashOf(slot: number): number {
    return this.#hash(this.table.view(slot), this.table.wordAt(slot) + this.keyAt);
  }

  /** Multiply and fold per word, avalanche at the end: neighbouring inode numbers fall into unrelated buckets. */
  #hash(words: Uint32Array, at: number): number {
    let h = this.#seed | 0;
    for (let i = 0; i < this.keyWords; i++) {
      h = Math.imul(h ^ words[at + i], 0x9e37_79b1);
      h ^= h >>> 15;
    }
    h = Math.imul(h ^ (h >>> 16), 0x85eb_ca6b);
    h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35);
    return h ^ (h >>> 16);
  }

  #grow(): boolean {
    const segment = this.arena.grow(this.#entry.number);
    if (segment === null) return false;
    this.#buckets.push(segment);
    return true;
  }
}
