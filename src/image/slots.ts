/**
 * The ring of slots in which chunks wait for their compression: memory shared by the builder's thread and the helper
 * threads. A slot holds as many chunks as fit, since waking a thread for each 4 KiB file would cost more than
 * compressing it.
 *
 *   EMPTY ──builder fills──► READY ──anyone claims──► CLAIMED ──► DONE ──builder writes, in ring order──► EMPTY
 *
 * Every transition is one Atomics operation on the slot's state word. The result does not depend on who claims what.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { alignUp } from '../common/u64.ts';
import { CODECS, compressedBytesMax } from '../storage/codecs/codecs.ts';
import type { Compressor } from '../storage/types.ts';

export const SLOT = { EMPTY: 0, READY: 1, CLAIMED: 2, DONE: 3, FAILED: 4 } as const;

/** Chunks one slot takes at most; 4096 of 256 bytes fill 1 MiB. */
const SLOT_CHUNKS_MAX = 4096;
/** A slot takes a megabyte of small chunks, or one of the largest. */
const SLOT_BYTES_MIN = 1 << 20;
/** Memory for slots, input and output together; three are needed to keep two threads busy. */
const RING_BYTES = 32 << 20;
const RING_SLOTS_MIN = 3;
const RING_SLOTS_MAX = 16;

/** What a helper thread needs: structured-clonable. */
export interface RingMemory {
  compressor: Compressor;
  slots: number;
  slotBytes: number;
  /** Words: stop flag, doorbell, then one state and one chunk count per slot. */
  control: SharedArrayBuffer;
  sizes: SharedArrayBuffer;
  data: SharedArrayBuffer;
}

const STOP = 0;
const DOORBELL = 1;
const CONTROL_WORDS = 2;

export interface Slot {
  /** Chunks, back to back. */
  input: Uint8Array;
  /** Stored bytes, back to back; untouched by the compressor `none`, which stores the input. */
  output: Uint8Array;
  /** Bytes of each chunk, before and after; equal = stored raw. */
  sizes: Uint32Array;
  stored: Uint32Array;
}

export function newRing(compressor: Compressor, chunkSize: number): RingMemory {
  const slotBytes = Math.max(chunkSize, SLOT_BYTES_MIN);
  const fitting = Math.floor(RING_BYTES / (2 * slotBytes));
  const slots = Math.min(Math.max(fitting, RING_SLOTS_MIN), RING_SLOTS_MAX);
  return {
    compressor,
    slots,
    slotBytes,
    control: new SharedArrayBuffer((CONTROL_WORDS + 2 * slots) * 4),
    sizes: new SharedArrayBuffer(slots * SLOT_CHUNKS_MAX * 2 * 4),
    data: new SharedArrayBuffer(slots * (slotBytes + outputBytes(slotBytes))),
  };
}

/** Room for the compressed form of every chunk of a slot, also of those that do not shrink. */
function outputBytes(slotBytes: number): number {
  return alignUp(compressedBytesMax(slotBytes, SLOT_CHUNKS_MAX), 4096);
}

/** Typed access to a ring; builder and helpers each make their own. */
export class Ring {
  readonly slots: Slot[] = [];
  readonly #control: Int32Array;

  constructor(readonly memory: RingMemory) {
    const { data, sizes, slotBytes } = memory;
    const outBytes = outputBytes(slotBytes);
    this.#control = new Int32Array(memory.control);
    for (let i = 0; i < memory.slots; i++) {
      const sizesAt = i * SLOT_CHUNKS_MAX * 2 * 4;
      this.slots.push({
        input: new Uint8Array(data, i * (slotBytes + outBytes), slotBytes),
        output: new Uint8Array(data, i * (slotBytes + outBytes) + slotBytes, outBytes),
        sizes: new Uint32Array(sizes, sizesAt, SLOT_CHUNKS_MAX),
        stored: new Uint32Array(sizes, sizesAt + SLOT_CHUNKS_MAX * 4, SLOT_CHUNKS_MAX),
      });
    }
  }

  state(slot: number): number {
    return Atomics.load(this.#control, CONTROL_WORDS + slot);
  }

  setState(slot: number, state: number): void {
    Atomics.store(this.#control, CONTROL_WORDS + slot, state);
    Atomics.notify(this.#control, CONTROL_WORDS + slot);
  }

  chunks(slot: number): number {
    return this.#control[CONTROL_WORDS + this.slots.length + slot];
  }

  setChunks(slot: number, count: number): void {
    this.#control[CONTROL_WORDS + this.slots.length + slot] = count;
  }

  /** True when the slot has no room for `bytes` more behind `used`. */
  full(slot: number, used: number, bytes: number): boolean {
    return used + bytes > this.memory.slotBytes || this.chunks(slot) === SLOT_CHUNKS_MAX;
  }

  /** Claims slot `slot` if it is READY. */
  claim(slot: number): boolean {
    const at = CONTROL_WORDS + slot;
    return Atomics.compareExchange(this.#control, at, SLOT.READY, SLOT.CLAIMED) === SLOT.READY;
  }

  /** Blocks while the slot is CLAIMED. False after `timeoutMs`. */
  awaitClaimed(slot: number, timeoutMs: number): boolean {
    return Atomics.wait(this.#control, CONTROL_WORDS + slot, SLOT.CLAIMED, timeoutMs) !== 'timed-out';
  }

  /** Publishes a filled slot and wakes one helper. */
  publish(slot: number): void {
    this.setState(slot, SLOT.READY);
    Atomics.add(this.#control, DOORBELL, 1);
    Atomics.notify(this.#control, DOORBELL, 1);
  }

  /** Tells the helpers to end. */
  stop(): void {
    Atomics.store(this.#control, STOP, 1);
    Atomics.add(this.#control, DOORBELL, 1);
    Atomics.notify(this.#control, DOORBELL);
  }

  /**
   * A helper's life: compress whatever is READY, sleep on the doorbell, end when told to. A turn of the event loop after
   * each slot lets native packages free the buffers they handed out; they never do while this thread only computes.
   */
  async serve(): Promise<void> {
    for (;;) {
      const bell = Atomics.load(this.#control, DOORBELL);
      let worked = false;
      for (let slot = 0; slot < this.slots.length; slot++) {
        if (Atomics.load(this.#control, STOP) !== 0) return;
        if (!this.claim(slot)) continue;
        worked = true;
        this.compress(slot);
        await nextTurn();
      }
      if (!worked && Atomics.load(this.#control, STOP) === 0) Atomics.wait(this.#control, DOORBELL, bell);
    }
  }

  /** Compresses a claimed slot and marks it DONE, or FAILED when the codec threw. */
  compress(slot: number): void {
    const { input, output, sizes, stored } = this.slots[slot];
    const codec = CODECS[this.memory.compressor];
    const raw = this.memory.compressor === 'none';
    let from = 0;
    let to = 0;
    try {
      for (let i = 0; i < this.chunks(slot); i++) {
        stored[i] = sizes[i];
        if (!raw) {
          const chunk = input.subarray(from, from + sizes[i]);
          const bytes = codec.compressInto(output.subarray(to), chunk);
          // Upstream stores what does not shrink as it is (rafs-format 3.2).
          if (bytes < sizes[i]) stored[i] = bytes;
          else output.set(chunk, to);
        }
        from += sizes[i];
        to += stored[i];
      }
      this.setState(slot, SLOT.DONE);
    } catch {
      this.setState(slot, SLOT.FAILED);
    }
  }
}
