/**
 * The driver side of a split virtqueue, for tests and benchmarks (protocols 2.6): the mirror of `split.ts`.
 *
 * Two levels: `add` builds chains the way drivers do; `setDescriptor`, `setAvailable` and `publish` put anything on the
 * ring, and allocate nothing, which benchmarks need.
 */
import { close } from '../sys/io.ts';
import { drain, eventfd, notify, POLL, pollOne } from '../sys/wait.ts';
import type { GuestRam } from './guest-ram.ts';
import { availBytes, DESC, DESC_BYTES, descBytes, USED_NO_NOTIFY, usedBytes } from './split.ts';

/** One buffer of a chain. */
export interface ChainBuffer {
  gpa: number;
  bytes: number;
  writable: boolean;
}

export interface DriverRingOptions {
  /** Region of the guest memory the ring lies in. */
  region?: number;
  /** First index, as after a resume. */
  base?: number;
}

export class DriverRing {
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  /** eventfds of the queue; owned by the ring. */
  readonly kickFd = eventfd();
  readonly callFd = eventfd();
  readonly errFd = eventfd();
  /** Bytes written of the last used entry taken. */
  usedBytes = 0;
  eventIdx = true;
  readonly #descriptors: Uint32Array;
  readonly #avail: Uint16Array;
  readonly #used: Uint16Array;
  readonly #entries: Uint32Array;
  readonly #free: number[] = [];
  readonly #chains = new Map<number, number[]>();
  readonly #indirect: number[] = [];
  #availIdx: number;
  #published: number;
  #usedIdx: number;

  constructor(
    readonly ram: GuestRam,
    readonly size: number,
    options: DriverRingOptions = {},
  ) {
    const region = options.region ?? 0;
    this.desc = ram.alloc(descBytes(size), DESC_BYTES, region);
    this.avail = ram.alloc(availBytes(size), 2, region);
    this.used = ram.alloc(usedBytes(size), 4, region);
    const at = (gpa: number, bytes: number): Uint8Array => ram.bytes(gpa, bytes);
    const desc = at(this.desc, descBytes(size));
    this.#descriptors = new Uint32Array(desc.buffer, desc.byteOffset, size * 4);
    const avail = at(this.avail, availBytes(size));
    this.#avail = new Uint16Array(avail.buffer, avail.byteOffset, 3 + size);
    const used = at(this.used, usedBytes(size));
    this.#used = new Uint16Array(used.buffer, used.byteOffset, 3 + 4 * size);
    this.#entries = new Uint32Array(used.buffer, used.byteOffset, 1 + 2 * size);
    for (let i = size - 1; i >= 0; i--) this.#free.push(i);
    this.#availIdx = options.base ?? 0;
    this.#published = this.#availIdx;
    this.#usedIdx = this.#availIdx;
    Atomics.store(this.#avail, 1, this.#availIdx);
    Atomics.store(this.#used, 1, this.#usedIdx);
  }

  /** avail.idx, published or not. */
  get availIdx(): number {
    return this.#availIdx;
  }

  /** Index of the next used entry to take. */
  get usedIdx(): number {
    return this.#usedIdx;
  }

  /** Descriptors left for `add`. */
  get freeCount(): number {
    return this.#free.length;
  }

  /** Writes descriptor `index` of the table itself. */
  setDescriptor(index: number, gpa: number, bytes: number, flags: number, next: number): void {
    putDescriptor(this.#descriptors, index * 4, gpa, bytes, flags, next);
  }

  /** Writes a descriptor of an indirect table at `table`. */
  setIndirect(table: number, index: number, gpa: number, bytes: number, flags: number, next: number): void {
    const words = new Uint32Array(4);
    putDescriptor(words, 0, gpa, bytes, flags, next);
    this.ram.write(table + index * DESC_BYTES, new Uint8Array(words.buffer));
  }

  /** Puts `head` into the available ring; visible after `publish`. */
  setAvailable(head: number): void {
    this.#avail[2 + (this.#availIdx & (this.size - 1))] = head;
    this.#availIdx = (this.#availIdx + 1) & 0xffff;
  }

  /** Writes avail.idx as it is told to, for tests of hostile drivers. */
  forceAvailIdx(idx: number): void {
    this.#availIdx = idx & 0xffff;
    Atomics.store(this.#avail, 1, this.#availIdx);
  }

  /** Queues a chain of direct descriptors; its head. @throws RangeError when the table is full */
  addDirect(buffers: readonly ChainBuffer[]): number {
    if (buffers.length === 0 || buffers.length > this.#free.length) throw new RangeError('descriptor table is full');
    const taken = buffers.map(() => this.#free.pop() as number);
    for (const [i, { gpa, bytes, writable }] of buffers.entries()) {
      const last = i === buffers.length - 1;
      const flags = (writable ? DESC.WRITE : 0) | (last ? 0 : DESC.NEXT);
      this.setDescriptor(taken[i], gpa, bytes, flags, last ? 0 : taken[i + 1]);
    }
    this.#chains.set(taken[0], taken);
    this.setAvailable(taken[0]);
    return taken[0];
  }

  /** Queues a chain through an indirect table, the way Linux does for every request; its head. */
  addIndirect(buffers: readonly ChainBuffer[], table?: number): number {
    const head = this.#free.pop();
    if (head === undefined) throw new RangeError('descriptor table is full');
    const at = table ?? this.#tableFor(head, buffers.length);
    for (const [i, { gpa, bytes, writable }] of buffers.entries()) {
      const last = i === buffers.length - 1;
      this.setIndirect(at, i, gpa, bytes, (writable ? DESC.WRITE : 0) | (last ? 0 : DESC.NEXT), last ? 0 : i + 1);
    }
    this.setDescriptor(head, at, buffers.length * DESC_BYTES, DESC.INDIRECT, 0);
    this.#chains.set(head, [head]);
    this.setAvailable(head);
    return head;
  }

  /** Indirect tables of up to 16 entries are kept per head; longer ones are allocated each time. */
  #tableFor(head: number, entries: number): number {
    if (entries > 16) return this.ram.alloc(entries * DESC_BYTES);
    this.#indirect[head] ??= this.ram.alloc(16 * DESC_BYTES);
    return this.#indirect[head];
  }

  /** Makes everything queued visible. True: the device wants a kick. */
  publish(): boolean {
    const old = this.#published;
    this.#published = this.#availIdx;
    Atomics.store(this.#avail, 1, this.#availIdx);
    if (!this.eventIdx) return (Atomics.load(this.#used, 0) & USED_NO_NOTIFY) === 0;
    const event = Atomics.load(this.#used, 2 + 4 * this.size);
    return ((this.#availIdx - event - 1) & 0xffff) < ((this.#availIdx - old) & 0xffff);
  }

  kick(): void {
    notify(this.kickFd);
  }

  /** Publishes, and kicks when the device wants it. */
  submit(): boolean {
    const wanted = this.publish();
    if (wanted) this.kick();
    return wanted;
  }

  /** Takes the next used entry: its head (`usedBytes` has the length), or -1. Descriptors become free again. */
  takeUsed(): number {
    if (Atomics.load(this.#used, 1) === this.#usedIdx) return -1;
    const at = 1 + 2 * (this.#usedIdx & (this.size - 1));
    const head = this.#entries[at];
    this.usedBytes = this.#entries[at + 1];
    this.#usedIdx = (this.#usedIdx + 1) & 0xffff;
    const chain = this.#chains.get(head);
    if (chain !== undefined) {
      this.#chains.delete(head);
      this.#free.push(...chain);
    }
    return head;
  }

  /** Asks to be interrupted by the next used entry. */
  enableInterrupts(): void {
    Atomics.store(this.#avail, 2 + this.size, this.#usedIdx);
    Atomics.store(this.#avail, 0, 0);
  }

  /** Asks not to be interrupted (without EVENT_IDX), or only in half a lap of the index (with it). */
  disableInterrupts(): void {
    Atomics.store(this.#avail, 2 + this.size, (this.#usedIdx + 0x8000) & 0xffff);
    Atomics.store(this.#avail, 0, 1);
  }

  /** Waits for a used entry: its head, or -1 after `timeoutMs`. `pump` runs a device of the same thread meanwhile. */
  waitUsed(timeoutMs: number, pump?: () => void): number {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      this.enableInterrupts();
      pump?.();
      const head = this.takeUsed();
      if (head >= 0) return head;
      const leftMs = Math.ceil(deadline - performance.now());
      if (leftMs <= 0) return -1;
      if (pollOne(this.callFd, POLL.IN, pump === undefined ? leftMs : 1) > 0) drain(this.callFd);
    }
  }

  close(): void {
    for (const fd of [this.kickFd, this.callFd, this.errFd]) close(fd);
  }
}

function putDescriptor(words: Uint32Array, at: number, gpa: number, bytes: number, flags: number, next: number): void {
  words[at] = gpa % 2 ** 32;
  words[at + 1] = Math.floor(gpa / 2 ** 32);
  words[at + 2] = bytes;
  words[at + 3] = flags + next * 0x10000;
}
