/**
 * Counters of each file of one image, for `iostats_files`, `access_pattern` and `latest_read_files` (kata-contract 4.5).
 * A hash table in shared memory: made by the main thread, written by the device thread, read by anyone.
 */
import { FOPS, SIZE_BOUNDS_BYTES, sizeBucketOf } from './stats-layout.ts';

/** Files counted of one image; a guest that reads more of them than this has no pattern worth recording. */
const FILES_MAX = 65_536;

const SIZES = SIZE_BOUNDS_BYTES.length + 1;
/** Words of an entry. */
const W = {
  /** The guest's local number; 0 = free. */
  NODE: 0,
  FIRST_SECONDS: 1,
  FIRST_NANOS: 2,
  READS: 3,
  BYTES_READ: 4,
  OPERATIONS: 5,
  SIZES: 6,
  HITS: 6 + SIZES,
  ERRORS: 6 + SIZES + FOPS.length,
  WORDS: 6 + SIZES + 2 * FOPS.length,
} as const;

/** What was counted of one file. */
export interface FileCounts {
  node: number;
  firstSeconds: number;
  firstNanos: number;
  reads: number;
  bytesRead: number;
  operations: number;
  readSizes: number[];
  hits: number[];
  errors: number[];
}

export class FileStats {
  private readonly values: Float64Array;
  private readonly slots: number;
  private used = 0;

  constructor(readonly shared: SharedArrayBuffer) {
    this.values = new Float64Array(shared);
    this.slots = this.values.length / W.WORDS;
  }

  /** A table for an image of `inodes` inodes. Pages of files that nobody reads cost no memory. */
  static create(inodes: number): FileStats {
    const files = Math.max(1, Math.min(inodes, FILES_MAX));
    // At most half full, a power of two.
    const slots = 2 ** Math.ceil(Math.log2(2 * files));
    return new FileStats(new SharedArrayBuffer(slots * W.WORDS * 8));
  }

  /** Counts one operation on `node`. @param fop its position in FOPS, or -1 */
  count(node: number, fop: number, isRead: boolean, result: number): void {
    if (fop < 0) return;
    const at = this.find(node);
    if (at < 0) return;
    const { values } = this;
    values[at + W.OPERATIONS]!++;
    values[at + W.HITS + fop]!++;
    if (result < 0) {
      values[at + W.ERRORS + fop]!++;
    } else if (isRead) {
      values[at + W.READS]!++;
      values[at + W.BYTES_READ]! += result;
      values[at + W.SIZES + sizeBucketOf(result)]!++;
    }
  }

  /** Entry of `node`, made at its first operation; -1 when the table is full. */
  private find(node: number): number {
    const mask = this.slots - 1;
    let slot = (Math.imul(node, 0x9e37_79b1) >>> 8) & mask;
    for (;;) {
      const at = slot * W.WORDS;
      const there = this.values[at + W.NODE] as number;
      if (there === node) return at;
      if (there === 0) return this.add(at, node);
      slot = (slot + 1) & mask;
    }
  }

  private add(at: number, node: number): number {
    if (this.used >= this.slots / 2) return -1;
    this.used++;
    const nowMs = Date.now();
    const seconds = Math.floor(nowMs / 1000);
    this.values[at + W.FIRST_SECONDS] = seconds;
    this.values[at + W.FIRST_NANOS] = (nowMs - seconds * 1000) * 1e6;
    this.values[at + W.NODE] = node;
    return at;
  }

  /** Every file with an operation, in no order. */
  *list(): Generator<FileCounts> {
    const numbers = (from: number, count: number): number[] => Array.from(this.values.subarray(from, from + count));
    for (let at = 0; at < this.values.length; at += W.WORDS) {
      const node = this.values[at + W.NODE] as number;
      if (node === 0) continue;
      yield {
        node,
        firstSeconds: this.values[at + W.FIRST_SECONDS] as number,
        firstNanos: this.values[at + W.FIRST_NANOS] as number,
        reads: this.values[at + W.READS] as number,
        bytesRead: this.values[at + W.BYTES_READ] as number,
        operations: this.values[at + W.OPERATIONS] as number,
        readSizes: numbers(at + W.SIZES, SIZES),
        hits: numbers(at + W.HITS, FOPS.length),
        errors: numbers(at + W.ERRORS, FOPS.length),
      };
    }
  }
}
