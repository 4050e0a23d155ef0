/**
 * Which chunks of an image were read, in the order of their first read: written by the device thread, read by main.
 *
 *     [entries u32][unused u32][node u32, chunk of the file u32] × entries
 *
 * A chunk is written down once, under the file it was first read through. A bit per chunk of the image keeps it so; all
 * that a read of known chunks costs is the look at it. A full log stays as it is.
 */
import type { BlobHandle } from '../storage/types.ts';

/** A megabyte a mount: 131,071 chunks. An image of fewer gets less: garbage of 1 MiB a mount piles up unseen by its collector. */
const LOG_BYTES_MAX = 1 << 20;
const HEAD_WORDS = 2;
const ENTRY_WORDS = 2;

export interface AccessEntry {
  node: number;
  /** Number of the chunk inside its file. */
  k: number;
}

/** A log with room for every chunk of `blobs`, as far as that is within LOG_BYTES_MAX. */
export function newAccessLog(blobs: readonly { chunkCount: number }[]): SharedArrayBuffer {
  const chunks = blobs.reduce((sum, { chunkCount }) => sum + chunkCount, 0);
  return new SharedArrayBuffer(Math.min((HEAD_WORDS + chunks * ENTRY_WORDS) * 4, LOG_BYTES_MAX));
}

/** The device thread's side. */
export class AccessRecorder {
  private readonly words: Int32Array;
  private readonly seen: readonly Uint8Array[];
  private entries = 0;

  /** @param blobs in blob-table order */
  constructor(log: SharedArrayBuffer, blobs: readonly BlobHandle[]) {
    this.words = new Int32Array(log);
    this.seen = blobs.map(({ chunkCount }) => new Uint8Array(Math.ceil(chunkCount / 8)));
  }

  /** Chunk `index` of `blob` is read as chunk `k` of file `node`; the index is checked. */
  touch(blob: number, index: number, node: number, k: number): void {
    const bits = this.seen[blob];
    const bit = 1 << (index & 7);
    if ((bits[index >>> 3] & bit) !== 0) return;
    bits[index >>> 3] |= bit;
    const at = HEAD_WORDS + this.entries * ENTRY_WORDS;
    if (at + ENTRY_WORDS > this.words.length) return;
    this.words[at] = node;
    this.words[at + 1] = k;
    Atomics.store(this.words, 0, ++this.entries);
  }
}

/** What was written down so far. */
export function readAccessLog(log: SharedArrayBuffer): AccessEntry[] {
  const words = new Uint32Array(log);
  const most = Math.floor((words.length - HEAD_WORDS) / ENTRY_WORDS);
  const count = Math.min(most, Atomics.load(words, 0));
  return Array.from({ length: count }, (_, i) => {
    const at = HEAD_WORDS + i * ENTRY_WORDS;
    return { node: words[at], k: words[at + 1] };
  });
}
