/**
 * Requests whose answer has to wait: each keeps a private copy of its header and arguments, never an address.
 *
 *     ticket = generation * PARKED_MAX + slot       a late completion with an old generation finds nobody
 *
 * The transport keeps its own part (queue, head, guest ranges) under the same slot number.
 */
import { assertBound } from './assert.ts';
import { RESUME, type Request } from './request.ts';
import { PARKED_IN_USE, PARKED_MAX, PARKED_REQUEST_BYTES_MAX, parkedIn } from './stats-layout.ts';
import { IN_HEADER_BYTES } from './wire/layout.ts';

export { PARKED_MAX } from './stats-layout.ts';

const WORDS = PARKED_REQUEST_BYTES_MAX / 4;
/** Counted no further. A read gives up after a few runs more than its image has blobs, of which there may be thousands. */
const ATTEMPTS_MAX = 0x7fff;

export class ParkTable {
  private readonly saved: Uint32Array;
  private readonly savedBytes = new Uint16Array(PARKED_MAX);
  private readonly resume = new Uint8Array(PARKED_MAX);
  private readonly attempts = new Int16Array(PARKED_MAX);
  private readonly sincesMs: Float64Array;
  private readonly pinned = new Uint8Array(PARKED_MAX);
  private readonly generation = new Float64Array(PARKED_MAX).fill(1);
  private readonly next: Int16Array;
  /** Result of a completion that could not be sent yet; NaN: none. */
  private readonly deferred = new Float64Array(PARKED_MAX).fill(Number.NaN);
  private free = 0;
  /** Slots in use. */
  count = 0;

  /** @param shared where `GET /api/v1/metrics/inflight` reads them */
  constructor(shared: SharedArrayBuffer) {
    ({ saved: this.saved, sincesMs: this.sincesMs, next: this.next } = parkedIn(shared));
    for (let i = 0; i < PARKED_MAX; i++) this.next[i] = i + 1 === PARKED_MAX ? -1 : i + 1;
  }

  /** Saves `request`; returns its ticket (> 0), or 0 when the table is full or the request is too long to park. */
  park(request: Request, resume: number, pins: boolean): number {
    const slot = this.free;
    if (slot < 0 || request.bytes > PARKED_REQUEST_BYTES_MAX) return 0;
    this.free = this.next[slot] as number;
    const words = request.memory.u32;
    const base = slot * WORDS;
    const count = (request.bytes + 3) >> 2;
    for (let i = 0; i < count; i++) this.saved[base + i] = words[i] as number;
    this.savedBytes[slot] = request.bytes;
    this.resume[slot] = resume;
    this.attempts[slot] = Math.min(request.attempt, ATTEMPTS_MAX);
    this.sincesMs[slot] = request.sinceMs;
    this.pinned[slot] = pins ? 1 : 0;
    this.deferred[slot] = Number.NaN;
    this.next[slot] = PARKED_IN_USE;
    this.count++;
    return (this.generation[slot] as number) * PARKED_MAX + slot;
  }

  /** Slot of a ticket, or -1 when it was answered or dropped meanwhile. */
  slotOf(ticket: number): number {
    const slot = ticket % PARKED_MAX;
    const generation = Math.floor(ticket / PARKED_MAX);
    return this.inUse(slot) && this.generation[slot] === generation ? slot : -1;
  }

  /** Keeps the result of a completion until the slot's queue runs again. The kernel is done with it: no longer pinned. */
  defer(slot: number, result: number): void {
    this.deferred[slot] = result;
    this.pinned[slot] = 0;
  }

  isDeferred(slot: number): boolean {
    return !Number.isNaN(this.deferred[slot]);
  }

  takeDeferred(slot: number): number {
    const result = this.deferred[slot] as number;
    this.deferred[slot] = Number.NaN;
    return result;
  }

  inUse(slot: number): boolean {
    return this.next[slot] === PARKED_IN_USE;
  }

  isPinned(slot: number): boolean {
    return this.pinned[slot] === 1;
  }

  resumeOf(slot: number): number {
    return this.resume[slot] as number;
  }

  /** Upper word of the nodeid: the member the request belongs to. */
  memberOf(slot: number): number {
    return this.saved[slot * WORDS + 5] as number;
  }

  /** True when the parked request has this unique. */
  hasUnique(slot: number, low: number, high: number): boolean {
    const base = slot * WORDS;
    return this.saved[base + 2] === low && this.saved[base + 3] === high;
  }

  /** Copies the saved request back into `request` (bytes and attempt); the session decodes it again. */
  restore(slot: number, request: Request): void {
    assertBound(this.inUse(slot), 'restore of a free slot');
    const words = request.memory.u32;
    const base = slot * WORDS;
    const bytes = this.savedBytes[slot] as number;
    const count = (bytes + 3) >> 2;
    for (let i = 0; i < count; i++) words[i] = this.saved[base + i] as number;
    request.bytes = bytes;
    request.attempt = this.attempts[slot] as number;
    request.sinceMs = this.sincesMs[slot] as number;
  }

  /** Gives the slot back; its ticket is void from now on. */
  release(slot: number): void {
    assertBound(this.inUse(slot), 'release of a free slot');
    this.generation[slot]!++;
    this.next[slot] = this.free;
    this.free = slot;
    this.count--;
  }

  /** Header and arguments of a slot, for the dump. */
  savedBytesOf(slot: number): Uint8Array {
    const at = this.saved.byteOffset + slot * PARKED_REQUEST_BYTES_MAX;
    return new Uint8Array(this.saved.buffer, at, this.savedBytes[slot]).slice();
  }

  /**
   * Takes over a request that another process had parked: it is to run again, as if for the first time.
   * @returns its slot, or -1 when the table is full or the bytes are no parked request
   */
  adopt(bytes: Uint8Array): number {
    const slot = this.free;
    if (slot < 0 || bytes.length < IN_HEADER_BYTES || bytes.length > PARKED_REQUEST_BYTES_MAX) return -1;
    this.free = this.next[slot] as number;
    this.next[slot] = PARKED_IN_USE;
    new Uint8Array(this.saved.buffer, this.saved.byteOffset + slot * PARKED_REQUEST_BYTES_MAX, bytes.length).set(bytes);
    this.savedBytes[slot] = bytes.length;
    this.resume[slot] = RESUME.RERUN;
    this.sincesMs[slot] = 0;
    this.attempts[slot] = -1; // `answer` counts it up to the first run
    this.pinned[slot] = 0;
    this.deferred[slot] = Number.NaN;
    this.count++;
    return slot;
  }
}
