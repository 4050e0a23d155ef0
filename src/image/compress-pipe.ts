/**
 * Chunks in, stored chunks out, in order: the builder's side of the slot ring. While helpers compress, the builder
 * reads and digests; when the ring is full it compresses too, so a machine with one core works the same, only slower.
 */
import { availableParallelism } from 'node:os';
import type { Worker } from 'node:worker_threads';
import type { Compressor } from '../storage/types.ts';
import { helperEnded, startHelper } from './compress-worker.ts';
import { imageError } from './errors.ts';
import { newRing, Ring, SLOT } from './slots.ts';

/** The largest chunk takes zstd 100 ms; a claimed slot that is not done after this long will never be. */
const HELPER_STALL_MS = 60_000;
/** Reading, digesting and writing keep up with this many compressing threads. */
const HELPERS_MAX = 3;

/** Takes stored chunks that follow one another: their numbers, how long each is (there may be more sizes), and all their bytes. */
export type StoredChunks = (chunks: readonly number[], sizes: Uint32Array, bytes: Uint8Array) => void;

export class CompressPipe {
  readonly #ring: Ring;
  readonly #emit: StoredChunks;
  readonly #helperEntry: string | URL | null;
  /** Chunk numbers of each slot's chunks. */
  readonly #numbers: number[][];
  readonly #helpers: Worker[] = [];
  #slot = 0;
  #used = 0;

  /** @param helperEntry what helper threads load (`startHelper`), one a CPU beside this one; null: no helpers */
  constructor(compressor: Compressor, chunkSize: number, emit: StoredChunks, helperEntry: string | URL | null) {
    this.#ring = new Ring(newRing(compressor, chunkSize));
    this.#emit = emit;
    this.#helperEntry = compressor === 'none' ? null : helperEntry;
    this.#numbers = this.#ring.slots.map(() => []);
  }

  /** Where the next chunk of `bytes` bytes is to be put. Valid until the next call; `keep` makes it stay. */
  room(bytes: number): Uint8Array {
    if (this.#ring.full(this.#slot, this.#used, bytes)) this.#handOver();
    return this.#ring.slots[this.#slot].input.subarray(this.#used, this.#used + bytes);
  }

  /** The bytes in the last `room` are chunk number `chunk`. */
  keep(chunk: number, bytes: number): void {
    const count = this.#ring.chunks(this.#slot);
    this.#ring.slots[this.#slot].sizes[count] = bytes;
    this.#ring.setChunks(this.#slot, count + 1);
    this.#numbers[this.#slot].push(chunk);
    this.#used += bytes;
  }

  /** Emits everything that is still under way. */
  finish(): void {
    // What is left fits one slot: no helper is started for it.
    if (this.#ring.chunks(this.#slot) > 0) this.#publish();
    for (let i = 0; i < this.#ring.slots.length; i++) {
      this.#retire(this.#slot);
      this.#slot = (this.#slot + 1) % this.#ring.slots.length;
    }
  }

  /**
   * Ends the helpers, and waits until they are gone: a process that exits while a thread loads a native module aborts.
   * Call it after an error too.
   */
  async close(): Promise<void> {
    this.#ring.stop();
    await Promise.all(this.#helpers.splice(0).map(helperEnded));
  }

  #handOver(): void {
    this.#startHelpers();
    this.#publish();
  }

  #publish(): void {
    this.#ring.publish(this.#slot);
    this.#slot = (this.#slot + 1) % this.#ring.slots.length;
    this.#used = 0;
    this.#retire(this.#slot);
  }

  /** Not before there is work for them: a small tree is done before a thread has started. */
  #startHelpers(): void {
    if (this.#helpers.length > 0 || this.#helperEntry === null) return;
    const helpers = Math.min(availableParallelism() - 1, HELPERS_MAX);
    for (let i = 0; i < helpers; i++) this.#helpers.push(startHelper(this.#helperEntry, this.#ring.memory));
  }

  /** Waits until the slot is done, working meanwhile, and emits its chunks. */
  #retire(slot: number): void {
    while (this.#ring.state(slot) !== SLOT.DONE) {
      const state = this.#ring.state(slot);
      if (state === SLOT.EMPTY) return;
      if (state === SLOT.FAILED) throw imageError('WORKER', { why: 'the compressor failed' });
      if (this.#claimOldest(slot)) continue;
      if (state === SLOT.CLAIMED && !this.#ring.awaitClaimed(slot, HELPER_STALL_MS)) {
        throw imageError('WORKER', { why: `no answer within ${HELPER_STALL_MS} ms` });
      }
    }
    this.#emitSlot(slot);
    this.#ring.setChunks(slot, 0);
    this.#numbers[slot].length = 0;
    this.#ring.setState(slot, SLOT.EMPTY);
  }

  /** Compresses one READY slot here, oldest first. False when there is none. */
  #claimOldest(from: number): boolean {
    const count = this.#ring.slots.length;
    for (let i = 0; i < count; i++) {
      const slot = (from + i) % count;
      if (!this.#ring.claim(slot)) continue;
      this.#ring.compress(slot);
      return true;
    }
    return false;
  }

  #emitSlot(slot: number): void {
    const { input, output, stored } = this.#ring.slots[slot];
    let bytes = 0;
    for (let i = 0; i < this.#ring.chunks(slot); i++) bytes += stored[i];
    const from = this.#ring.memory.compressor === 'none' ? input : output;
    this.#emit(this.#numbers[slot], stored, from.subarray(0, bytes));
  }
}
