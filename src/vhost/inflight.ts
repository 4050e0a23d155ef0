/**
 * The in-flight region: which requests were taken and not answered, kept in a file the frontend holds, so that the next
 * process can finish them after a crash (protocols 1.11, split rings).
 *
 *     file: | queue 0: header 16 bytes, entries 16 bytes each | pad to 64 | queue 1 … |
 *
 * Replay means at-least-once: requests that were executed but not published run again. A file server has to journal
 * replies of operations that cannot be repeated before it offers this to a real guest.
 */
import { errnoText } from '../sys/errno.ts';
import { close, ftruncate } from '../sys/io.ts';
import { addSeals, fileSizeBytes, MappedRange, memfdCreate, populateWrite, SEAL } from '../sys/memory.ts';

const QUEUE_ALIGN_BYTES = 64;
const QUEUE_HEAD_BYTES = 16;
const ENTRY_BYTES = 16;
const VERSION = 1;

/** Positions in the queue header, in u16 words; the u64 of features at 0 stays 0. */
const HEAD_VERSION = 4;
const HEAD_DESC_NUM = 5;
const HEAD_LAST_BATCH = 6;
const HEAD_USED_IDX = 7;

/** Bytes of one queue's part of the region. */
export function inflightQueueBytes(queueSize: number): number {
  const bytes = QUEUE_HEAD_BYTES + queueSize * ENTRY_BYTES;
  return Math.ceil(bytes / QUEUE_ALIGN_BYTES) * QUEUE_ALIGN_BYTES;
}

/** A mapped in-flight file. */
export class InflightRegion {
  private constructor(
    readonly range: MappedRange,
    readonly at: number,
    readonly queues: number,
    readonly queueSize: number,
  ) {}

  /** A zeroed, sealed file for this many queues: a descriptor the caller owns, or -errno (GET_INFLIGHT_FD). */
  static create(queues: number, queueSize: number): { fd: number; bytes: number } | number {
    const bytes = queues * inflightQueueBytes(queueSize);
    const fd = memfdCreate('vhost-inflight');
    if (fd < 0) return fd;
    const done = ftruncate(fd, bytes);
    if (done < 0) {
      close(fd);
      return done;
    }
    // A file the frontend could shrink would kill this process with SIGBUS.
    addSeals(fd, SEAL.SHRINK | SEAL.GROW | SEAL.SEAL);
    return { fd, bytes };
  }

  /** Maps the file of SET_INFLIGHT_FD. The broken rule instead when there is one. */
  static map(fd: number, offset: number, bytes: number, queues: number, queueSize: number): InflightRegion | string {
    if (offset % 8 !== 0) return 'in-flight offset is not a multiple of 8';
    const needed = queues * inflightQueueBytes(queueSize);
    if (bytes < needed) return `in-flight region of ${bytes} bytes, ${needed} needed`;
    const sizeBytes = fileSizeBytes(fd);
    if (sizeBytes < 0) return `in-flight file: ${errnoText(sizeBytes)}`;
    if (sizeBytes < offset + needed) return `in-flight file of ${sizeBytes} bytes ends before the region`;
    const mapped = MappedRange.map(fd, offset, needed);
    if (typeof mapped === 'number') return `in-flight region cannot be mapped: ${errnoText(mapped)}`;
    const populated = populateWrite(mapped.at, needed);
    if (populated === 0) return new InflightRegion(mapped.range, mapped.at, queues, queueSize);
    mapped.range.vacate();
    mapped.range.release();
    return `in-flight region cannot be populated: ${errnoText(populated)}`;
  }

  /** The journal of queue `index`, null when the region has none for it. */
  journal(index: number): InflightJournal | null {
    if (index >= this.queues) return null;
    const at = this.at + index * inflightQueueBytes(this.queueSize);
    const window = this.range.window(at);
    return new InflightJournal(window.u8.buffer, at - window.base, this.queueSize);
  }

  /** Unmaps. Journals made from it must not be used any more. */
  release(): void {
    if (this.range.vacate() === 0) this.range.release();
  }
}

/** One split queue's journal. Heads are below the queue size of the region: a longer ring does not start with it. */
export class InflightJournal {
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  #counter = 0;

  constructor(
    buffer: ArrayBufferLike,
    at: number,
    readonly queueSize: number,
  ) {
    const bytes = inflightQueueBytes(queueSize);
    this.#u8 = new Uint8Array(buffer, at, bytes);
    this.#u16 = new Uint16Array(buffer, at, bytes / 2);
    this.#u32 = new Uint32Array(buffer, at, bytes / 4);
  }

  /**
   * Called when the ring starts: formats a fresh queue, or finishes a half-published batch and collects what was in
   * flight, oldest first.
   * @param usedIdx used.idx as it stands in guest memory
   * @param heads filled with the heads to run again
   * @returns their number, or -1 when the region contradicts the ring
   */
  recover(usedIdx: number, ringSize: number, heads: Uint16Array): number {
    const u16 = this.#u16;
    if (u16[HEAD_VERSION] === 0) {
      u16[HEAD_DESC_NUM] = this.queueSize;
      u16[HEAD_USED_IDX] = usedIdx;
      Atomics.store(u16, HEAD_VERSION, VERSION);
      return 0;
    }
    if (u16[HEAD_VERSION] !== VERSION || u16[HEAD_DESC_NUM] !== this.queueSize) return -1;
    if (!this.#finishBatch(usedIdx)) return -1;
    return this.#collect(ringSize, heads);
  }

  #finishBatch(usedIdx: number): boolean {
    const behind = (usedIdx - this.#u16[HEAD_USED_IDX]) & 0xffff;
    if (behind > this.queueSize) return false;
    let head = this.#u16[HEAD_LAST_BATCH];
    for (let i = 0; i < behind; i++) {
      if (head >= this.queueSize) return false;
      Atomics.store(this.#u8, entryAt(head), 0);
      head = this.#u16[entryAt(head) / 2 + 3];
    }
    Atomics.store(this.#u16, HEAD_USED_IDX, usedIdx);
    return true;
  }

  #collect(ringSize: number, heads: Uint16Array): number {
    const found: number[] = [];
    for (let head = 0; head < this.queueSize; head++) {
      if (this.#u8[entryAt(head)] === 0) continue;
      if (head >= ringSize) return -1;
      found.push(head);
    }
    found.sort((a, b) => this.#counterOf(a) - this.#counterOf(b));
    for (const [i, head] of found.entries()) {
      heads[i] = head;
      this.#counter = Math.max(this.#counter, this.#counterOf(head) + 1);
    }
    return found.length;
  }

  #counterOf(head: number): number {
    const at = entryAt(head) / 4 + 2;
    return this.#u32[at] + this.#u32[at + 1] * 2 ** 32;
  }

  /** `head` was taken from the ring. */
  fetched(head: number): void {
    const at = entryAt(head);
    const counter = this.#counter++;
    this.#u32[at / 4 + 2] = counter % 2 ** 32;
    this.#u32[at / 4 + 3] = Math.floor(counter / 2 ** 32);
    Atomics.store(this.#u8, at, 1);
  }

  /** `head` joins the batch that the next `published` ends. */
  completing(head: number): void {
    const u16 = this.#u16;
    u16[entryAt(head) / 2 + 3] = u16[HEAD_LAST_BATCH];
    Atomics.store(u16, HEAD_LAST_BATCH, head);
  }

  /** used.idx is now `usedIdx`, which published the last `batch` completions. */
  published(usedIdx: number, batch: number): void {
    const u16 = this.#u16;
    let head = u16[HEAD_LAST_BATCH];
    // The frontend can write here too: a bad link ends the walk instead of leaving the array.
    for (let i = 0; i < batch && head < this.queueSize; i++) {
      Atomics.store(this.#u8, entryAt(head), 0);
      head = u16[entryAt(head) / 2 + 3];
    }
    Atomics.store(u16, HEAD_USED_IDX, usedIdx);
  }
}

/** Byte offset of a head's entry: inflight u8 @0, next u16 @6, counter u64 @8. */
function entryAt(head: number): number {
  return QUEUE_HEAD_BYTES + head * ENTRY_BYTES;
}
