/**
 * The device side of a split virtqueue (protocols 2.1, 2.2, 2.4).
 *
 * Indexes, flags and event words are touched only with Atomics: `Atomics.store` is the full fence that keeps
 * "store used.idx, load used_event" and "store avail_event, load avail.idx" in order (a plain store does not:
 * `ordering.test.ts`). Descriptors and ring entries are read plainly, once, after the index that made them valid.
 */
import { errnoText } from '../sys/errno.ts';
import { populateWrite } from '../sys/memory.ts';
import type { InflightJournal } from './inflight.ts';
import type { GuestMemory } from './memory.ts';
import { type Broken, QUEUE_SIZE_MAX } from './messages.ts';
import { BROKEN, EMPTY, RING_FAULT, type Vring } from './vring.ts';

export const DESC_BYTES = 16;
export const DESC = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;
export const AVAIL_NO_INTERRUPT = 1;
export const USED_NO_NOTIFY = 1;

/** Bytes of the three parts of a ring of `size` entries. */
export function descBytes(size: number): number {
  return DESC_BYTES * size;
}
export function availBytes(size: number): number {
  return 6 + 2 * size;
}
export function usedBytes(size: number): number {
  return 6 + 8 * size;
}

/** u16 positions shared by the avail and used parts. */
const FLAGS = 0;
const IDX = 1;
const AVAIL_RING = 2;

/** Where a ring lies, as raw addresses. */
export interface RingAddresses {
  desc: number;
  avail: number;
  used: number;
}

/** Null when the addresses follow the alignment rules of protocols 2.1. */
export function checkRingAlignment(desc: number, avail: number, used: number): Broken {
  if (desc % DESC_BYTES !== 0) return 'descriptor table is not aligned to 16';
  if (avail % 2 !== 0) return 'available ring is not aligned to 2';
  return used % 4 === 0 ? null : 'used ring is not aligned to 4';
}

/** Makes a ring's pages present; without this a hole on a full tmpfs would be a SIGBUS. The broken rule or null. */
export function populateRing(size: number, at: RingAddresses): Broken {
  const parts = [
    [at.desc, descBytes(size)],
    [at.avail, availBytes(size)],
    [at.used, usedBytes(size)],
  ];
  for (const [address, bytes] of parts) {
    const done = populateWrite(address, bytes);
    if (done < 0) return `ring memory cannot be populated: ${errnoText(done)}`;
  }
  return null;
}

export interface RingStart {
  memory: GuestMemory;
  size: number;
  at: RingAddresses;
  /** Next available index, from SET_VRING_BASE. Ignored when `journal` is given: see `recover`. */
  base: number;
  eventIdx: boolean;
  journal: InflightJournal | null;
  /** The ring goes on where it stopped: heads fetched before are still in flight. */
  resume: boolean;
}

const NOTHING_16 = new Uint16Array(0);
const NOTHING_32 = new Uint32Array(0);

export class SplitRing implements Vring {
  size = 0;
  fault: number = RING_FAULT.STOPPED;
  inFlight = 0;
  /** Descriptor table: four u32 words per descriptor. Of length 0 while stopped. */
  descriptors: Uint32Array = NOTHING_32;
  #avail: Uint16Array = NOTHING_16;
  #used: Uint16Array = NOTHING_16;
  #usedEntries: Uint32Array = NOTHING_32;
  #mask = 0;
  #nextAvail = 0;
  #seenAvail = 0;
  #nextUsed = 0;
  #unpublished = 0;
  #signalledUsed = 0;
  #signalAlways = true;
  #eventIdx = false;
  #kicksOff = false;
  #taken = new Uint8Array(0);
  #journal: InflightJournal | null = null;
  #replay = NOTHING_16;
  #replayAt = 0;
  #replayCount = 0;

  /** Index of the next head that will be fetched: the answer of GET_VRING_BASE. */
  get nextAvail(): number {
    return this.#nextAvail;
  }

  /** Heads seen in the available ring and not fetched yet. */
  get waiting(): number {
    return (this.#seenAvail - this.#nextAvail) & 0xffff;
  }

  /** used.idx as published last. */
  get usedIdx(): number {
    return (this.#nextUsed - this.#unpublished) & 0xffff;
  }

  /** used.idx in guest memory at these addresses, to tell a resumed ring from a new one. */
  static usedIdxAt(memory: GuestMemory, used: number): number {
    const window = memory.window(used);
    return Atomics.load(window.u16, (used - window.base) / 2 + IDX);
  }

  /** Attaches to a ring; sizes and addresses have been checked. False: `fault` says why it is broken from the start. */
  start(how: RingStart): boolean {
    this.size = how.size;
    this.#mask = how.size - 1;
    this.#eventIdx = how.eventIdx;
    this.#journal = how.journal;
    this.fault = RING_FAULT.NONE;
    this.attach(how.memory, how.at);
    const usedIdx = Atomics.load(this.#used, IDX);
    if (!how.resume) {
      this.#taken = new Uint8Array(how.size);
      this.inFlight = 0;
    }
    this.#unpublished = 0;
    this.#nextUsed = usedIdx;
    this.#signalledUsed = usedIdx;
    this.#signalAlways = true;
    this.#nextAvail = how.base & 0xffff;
    this.#replayAt = 0;
    this.#replayCount = 0;
    // Each head has its place in the journal: behind the end there is none.
    if (how.journal !== null && how.journal.queueSize < how.size) this.fault = RING_FAULT.BAD_JOURNAL;
    else if (how.journal !== null && !how.resume) this.#recover(how.journal, usedIdx);
    this.#seenAvail = this.#nextAvail;
    this.#kicksOff = true;
    this.enableKicks();
    return this.fault === RING_FAULT.NONE;
  }

  /** With a journal the base is used.idx plus what was in flight, whatever SET_VRING_BASE said (protocols rule 8). */
  #recover(journal: InflightJournal, usedIdx: number): void {
    this.#replay = new Uint16Array(QUEUE_SIZE_MAX);
    const count = journal.recover(usedIdx, this.size, this.#replay);
    if (count < 0) {
      this.fault = RING_FAULT.BAD_JOURNAL;
      return;
    }
    this.#replayCount = count;
    for (let i = 0; i < count; i++) this.#taken[this.#replay[i]] = 1;
    this.inFlight = count;
    this.#nextAvail = (usedIdx + count) & 0xffff;
  }

  /** Finds the ring again after the memory table changed. */
  attach(memory: GuestMemory, at: RingAddresses): void {
    const size = this.size;
    const desc = memory.window(at.desc);
    this.descriptors = new Uint32Array(desc.u8.buffer, at.desc - desc.base, size * 4);
    const avail = memory.window(at.avail);
    this.#avail = new Uint16Array(avail.u8.buffer, at.avail - avail.base, 3 + size);
    const used = memory.window(at.used);
    this.#used = new Uint16Array(used.u8.buffer, at.used - used.base, 3 + 4 * size);
    this.#usedEntries = new Uint32Array(used.u8.buffer, at.used - used.base, 1 + 2 * size);
  }

  /** Lets go of guest memory. Heads stay marked as in flight, for a resumed start. */
  stop(): void {
    this.breakRing(RING_FAULT.STOPPED);
  }

  next(): number {
    if (this.fault !== RING_FAULT.NONE) return BROKEN;
    if (this.#replayAt < this.#replayCount) return this.#replay[this.#replayAt++];
    if (this.#nextAvail === this.#seenAvail) {
      const seen = Atomics.load(this.#avail, IDX);
      const pending = (seen - this.#nextAvail) & 0xffff;
      if (pending === 0) return EMPTY;
      if (pending > this.size) return this.#broken(RING_FAULT.AVAIL_JUMP);
      this.#seenAvail = seen;
    }
    const head = this.#avail[AVAIL_RING + (this.#nextAvail & this.#mask)];
    if (head >= this.size) return this.#broken(RING_FAULT.HEAD_RANGE);
    if (this.#taken[head] !== 0) return this.#broken(RING_FAULT.DUPLICATE_HEAD);
    this.#taken[head] = 1;
    this.inFlight++;
    this.#nextAvail = (this.#nextAvail + 1) & 0xffff;
    if (this.#journal !== null) this.#journal.fetched(head);
    return head;
  }

  complete(head: number, bytes: number): boolean {
    if (this.fault !== RING_FAULT.NONE || this.#taken[head] !== 1) return false;
    this.#taken[head] = 0;
    this.inFlight--;
    const at = 1 + 2 * (this.#nextUsed & this.#mask);
    this.#usedEntries[at] = head;
    this.#usedEntries[at + 1] = bytes;
    this.#nextUsed = (this.#nextUsed + 1) & 0xffff;
    this.#unpublished++;
    if (this.#journal !== null) this.#journal.completing(head);
    return true;
  }

  publish(): boolean {
    if (this.#unpublished === 0 || this.fault !== RING_FAULT.NONE) return false;
    Atomics.store(this.#used, IDX, this.#nextUsed);
    if (this.#journal !== null) this.#journal.published(this.#nextUsed, this.#unpublished);
    this.#unpublished = 0;
    return this.#wantsSignal();
  }

  #wantsSignal(): boolean {
    const old = this.#signalledUsed;
    this.#signalledUsed = this.#nextUsed;
    if (this.#signalAlways) {
      this.#signalAlways = false;
      return true;
    }
    if (!this.#eventIdx) return (Atomics.load(this.#avail, FLAGS) & AVAIL_NO_INTERRUPT) === 0;
    const usedEvent = Atomics.load(this.#avail, AVAIL_RING + this.size);
    return ((this.#nextUsed - usedEvent - 1) & 0xffff) < ((this.#nextUsed - old) & 0xffff);
  }

  /** The next publish signals whatever the driver asked for: its call descriptor changed. */
  signalNext(): void {
    this.#signalAlways = true;
  }

  enableKicks(): boolean {
    if (this.fault !== RING_FAULT.NONE) return false;
    if (this.#eventIdx) Atomics.store(this.#used, 2 + 4 * this.size, this.#nextAvail);
    else if (this.#kicksOff) Atomics.store(this.#used, FLAGS, 0);
    this.#kicksOff = false;
    return this.#replayAt < this.#replayCount || Atomics.load(this.#avail, IDX) !== this.#nextAvail;
  }

  /** With EVENT_IDX nothing is to be done: avail_event stays behind, and the driver kicks when passing it only. */
  disableKicks(): void {
    if (this.#kicksOff || this.#eventIdx || this.fault !== RING_FAULT.NONE) return;
    Atomics.store(this.#used, FLAGS, USED_NO_NOTIFY);
    this.#kicksOff = true;
  }

  breakRing(fault: number): void {
    this.fault = fault;
    this.descriptors = NOTHING_32;
    this.#avail = NOTHING_16;
    this.#used = NOTHING_16;
    this.#usedEntries = NOTHING_32;
  }

  #broken(fault: number): number {
    this.breakRing(fault);
    return BROKEN;
  }
}
