/**
 * A FUSE client over virtqueues that allocates nothing per request: memory, descriptor chains and buffers of each slot
 * are made before the row starts.
 *
 *     slot s ── head s of the request ring ── indirect table k ─┬─ header, arguments, pages to write   (readable)
 *                                                                └─ out header, reply, pages to read    (writable)
 *
 * Chains have the form Linux gives them: header, one buffer of arguments, single pages. Pages descend in memory, so that
 * no device can join them.
 */
import { OPS, type OpName } from '../src/fuse/opcodes.ts';
import { IN_HEADER_BYTES, OUT_HEADER_BYTES } from '../src/fuse/wire/layout.ts';
import { populateWrite } from '../src/sys/memory.ts';
import { DriverRing } from '../src/vhost/driver-ring.ts';
import { featureSet, PROTOCOL, VIRTIO } from '../src/vhost/features.ts';
import { Frontend } from '../src/vhost/frontend.ts';
import { GuestRam } from '../src/vhost/guest-ram.ts';
import { DESC, DESC_BYTES } from '../src/vhost/split.ts';

export const SLOTS = 64;
/** Shapes of chains a slot has at most: rows of several messages. */
export const SHAPES = 5;
/** Largest READ. */
export const DATA_BYTES = 2 ** 20;
const PAGE_BYTES = 4096;
const RING_SIZE = 128;
/** header, arguments, out header, reply, pages. */
const TABLE_ENTRIES = 4 + DATA_BYTES / PAGE_BYTES;
const ARGS_AT = 64;
const OUT_AT = PAGE_BYTES;
const BODY_AT = OUT_AT + 64;
const GPA = 0x10_0000;
/** What Linux offers, less NO_OPEN and NO_OPENDIR: with these nydusd would open the file again for each READ. */
const INIT_FLAGS = 0x7bff_fffb & ~((1 << 17) | (1 << 24));
const INIT_MINOR = 38;
const MAX_READAHEAD = 128 * 1024;
const REPLY_TIMEOUT_MS = 10_000;

/** Bytes of each part of a chain. */
export interface Shape {
  args: number;
  inData?: number;
  /** -1: no reply at all (FORGET). */
  reply: number;
  outData?: number;
}

/** A node as the guest knows it. */
export interface Node {
  low: number;
  high: number;
}

let clients = 0;

export class BenchClient {
  /** The null file system's replies have the form of an answer, not its content. */
  trusting = false;
  /** Tells the names apart that clients create in one directory. */
  readonly number = ++clients;
  readonly frontend: Frontend;
  readonly ram: GuestRam;
  readonly hiprio: DriverRing;
  readonly ring: DriverRing;
  /** All of guest memory, index = (gpa - GPA) / width. */
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly u8: Uint8Array;
  /** Words of: request header, arguments, reply header, reply body of each slot. */
  readonly header = new Uint32Array(SLOTS);
  readonly args = new Uint32Array(SLOTS);
  readonly out = new Uint32Array(SLOTS);
  readonly body = new Uint32Array(SLOTS);
  /** First word of each slot's data area; its pages are used from the last to the first. */
  readonly data = new Uint32Array(SLOTS);
  readonly #table = new Uint32Array(SLOTS * SHAPES);
  readonly #tableBytes = new Uint32Array(SLOTS * SHAPES);
  readonly #forgetAt = new Uint32Array(RING_SIZE);
  #forgets = 0;
  #forgetsDone = 0;
  #unique = 2;

  constructor(socket: string) {
    this.frontend = Frontend.connect(socket);
    const bytes = SLOTS * (DATA_BYTES + 2 * PAGE_BYTES + SHAPES * TABLE_ENTRIES * DESC_BYTES) + 2 ** 20;
    const rounded = Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
    this.ram = new GuestRam([{ gpa: GPA, bytes: rounded }]);
    populateWrite(this.ram.address(GPA), rounded);
    const { buffer, byteOffset } = this.ram.bytes(GPA, PAGE_BYTES);
    this.u8 = new Uint8Array(buffer, byteOffset, rounded);
    this.u32 = new Uint32Array(buffer, byteOffset, rounded / 4);
    this.i32 = new Int32Array(buffer, byteOffset, rounded / 4);
    this.hiprio = new DriverRing(this.ram, RING_SIZE);
    this.ring = new DriverRing(this.ram, RING_SIZE);
    this.#place();
    this.#connect();
  }

  #place(): void {
    const word = (gpa: number): number => (gpa - GPA) / 4;
    for (let slot = 0; slot < SLOTS; slot++) {
      const at = this.ram.alloc(2 * PAGE_BYTES, PAGE_BYTES);
      this.header[slot] = word(at);
      this.args[slot] = word(at + ARGS_AT);
      this.out[slot] = word(at + OUT_AT);
      this.body[slot] = word(at + BODY_AT);
      this.data[slot] = word(this.ram.alloc(DATA_BYTES, PAGE_BYTES));
      for (let k = 0; k < SHAPES; k++) this.#table[slot * SHAPES + k] = this.ram.alloc(TABLE_ENTRIES * DESC_BYTES);
    }
    for (let i = 0; i < RING_SIZE; i++) {
      const at = this.ram.alloc(64, 64);
      this.#forgetAt[i] = word(at);
      this.hiprio.setDescriptor(i, at, IN_HEADER_BYTES + 8, 0, 0);
    }
  }

  #connect(): void {
    const { frontend } = this;
    frontend.negotiate(
      featureSet(VIRTIO.VERSION_1, VIRTIO.INDIRECT_DESC, VIRTIO.PROTOCOL_FEATURES, VIRTIO.EVENT_IDX),
      featureSet(PROTOCOL.MQ, PROTOCOL.REPLY_ACK),
    );
    frontend.shareMemory(this.ram);
    for (const [i, ring] of [this.hiprio, this.ring].entries()) frontend.startRing(i, ring);
    this.hiprio.disableInterrupts();
    this.shape(0, 0, { args: 64, reply: 64 });
    const args = this.args[0];
    this.u32.fill(0, args, args + 16);
    this.u32[args] = 7;
    this.u32[args + 1] = INIT_MINOR;
    this.u32[args + 2] = MAX_READAHEAD;
    this.u32[args + 3] = INIT_FLAGS;
    this.u32[args + 4] = 0x1ff;
    this.must('INIT', { low: 0, high: 0 }, 64);
  }

  /** Prepares table `k` of `slot`. */
  shape(slot: number, k: number, { args, inData = 0, reply, outData = 0 }: Shape): void {
    const table = this.#table[slot * SHAPES + k];
    const buffers: [word: number, bytes: number, flags: number][] = [[this.header[slot], IN_HEADER_BYTES, 0]];
    if (args > 0) buffers.push([this.args[slot], args, 0]);
    for (let done = 0; done < inData; done += PAGE_BYTES) buffers.push([this.page(slot, done), PAGE_BYTES, 0]);
    if (reply >= 0) buffers.push([this.out[slot], OUT_HEADER_BYTES, DESC.WRITE]);
    if (reply > 0) buffers.push([this.body[slot], reply, DESC.WRITE]);
    for (let done = 0; done < outData; done += PAGE_BYTES)
      buffers.push([this.page(slot, done), PAGE_BYTES, DESC.WRITE]);
    for (const [i, [word, bytes, flags]] of buffers.entries()) {
      const last = i === buffers.length - 1;
      this.ring.setIndirect(table, i, GPA + word * 4, bytes, flags | (last ? 0 : DESC.NEXT), last ? 0 : i + 1);
    }
    this.#tableBytes[slot * SHAPES + k] = buffers.length * DESC_BYTES;
  }

  /** Word of the page that holds byte `offset` of the slot's data. */
  page(slot: number, offset: number): number {
    const index = Math.floor(offset / PAGE_BYTES);
    return this.data[slot] + ((DATA_BYTES / PAGE_BYTES - 1 - index) * PAGE_BYTES) / 4;
  }

  /** Puts a request with chain `k` of `slot` into the available ring; `bytes` with header, arguments and data. */
  queue(slot: number, k: number, op: number, nodeLow: number, nodeHigh: number, bytes: number): void {
    const at = this.header[slot];
    const words = this.u32;
    words[at] = bytes;
    words[at + 1] = op;
    words[at + 2] = this.#unique;
    words[at + 3] = 0;
    words[at + 4] = nodeLow;
    words[at + 5] = nodeHigh;
    words[at + 6] = 0;
    words[at + 7] = 0;
    words[at + 8] = 1;
    words[at + 9] = 0;
    this.#unique = (this.#unique + 2) >>> 0;
    const shape = slot * SHAPES + k;
    this.ring.setDescriptor(slot, this.#table[shape], this.#tableBytes[shape], DESC.INDIRECT, 0);
    this.ring.setAvailable(slot);
  }

  /** Bytes of the reply in `slot`, header included. */
  replyBytes(slot: number): number {
    return this.u32[this.out[slot]];
  }

  /** Error word of the reply in `slot`; checks lengths and unique. nydusd leaves used.len 0, which Linux does not look at. */
  errorOf(slot: number): number {
    const out = this.out[slot];
    const words = this.u32;
    if (words[out + 2] !== words[this.header[slot] + 2]) throw new Error('reply to another request');
    const used = this.ring.usedBytes;
    if (used !== 0 && words[out] !== used) throw new Error(`out.len ${words[out]}, used.len ${used}`);
    return this.i32[out + 1];
  }

  /** FORGET of one lookup on the hiprio ring. */
  forget(nodeLow: number, nodeHigh: number): void {
    while (this.#forgets - this.#forgetsDone >= RING_SIZE - 1) this.reapForgets();
    const head = this.#forgets++ % RING_SIZE;
    const at = this.#forgetAt[head];
    const words = this.u32;
    words[at] = IN_HEADER_BYTES + 8;
    words[at + 1] = OPS.FORGET.op;
    words[at + 2] = this.#unique;
    words[at + 3] = 0;
    words[at + 4] = nodeLow;
    words[at + 5] = nodeHigh;
    for (let i = 6; i < 10; i++) words[at + i] = 0;
    words[at + 10] = 1;
    words[at + 11] = 0;
    this.#unique = (this.#unique + 2) >>> 0;
    this.hiprio.setAvailable(head);
    this.hiprio.submit();
  }

  reapForgets(): void {
    while (this.hiprio.takeUsed() >= 0) this.#forgetsDone++;
  }

  /** All FORGETs were taken back by the device. */
  settleForgets(): void {
    const until = performance.now() + REPLY_TIMEOUT_MS;
    while (this.#forgets !== this.#forgetsDone) {
      this.reapForgets();
      if (performance.now() > until) throw new Error('FORGETs are not returned');
    }
  }

  /** One request of slot 0, chain 0, arguments in place; waits. Error word. */
  call(op: OpName, node: Node, argBytes: number): number {
    this.queue(0, 0, OPS[op].op, node.low, node.high, IN_HEADER_BYTES + argBytes);
    this.ring.submit();
    const head = this.ring.waitUsed(REPLY_TIMEOUT_MS);
    if (head !== 0) throw new Error(`${op}: no reply`);
    return this.errorOf(0);
  }

  must(op: OpName, node: Node, argBytes: number): void {
    const error = this.call(op, node, argBytes);
    if (error !== 0) throw new Error(`${op} answered ${error}`);
  }

  /** Writes a NUL-terminated name at byte `skip` of the slot's arguments; bytes with NUL. */
  putName(slot: number, name: string, skip = 0): number {
    const at = this.args[slot] * 4 + skip;
    for (let i = 0; i < name.length; i++) this.u8[at + i] = name.charCodeAt(i);
    this.u8[at + name.length] = 0;
    return name.length + 1;
  }

  /** LOOKUP of a path below `from`, held (not forgotten). @throws when it is not there */
  walk(from: Node, path: string): Node {
    let node = from;
    for (const part of path.split('/').filter((p) => p !== '')) {
      this.shape(0, 0, { args: part.length + 1, reply: 128 });
      this.putName(0, part);
      this.must('LOOKUP', node, part.length + 1);
      const body = this.body[0];
      node = { low: this.u32[body], high: this.u32[body + 1] };
      if (node.low === 0 && node.high === 0) throw new Error(`${path}: negative`);
    }
    return node;
  }

  /** OPEN or OPENDIR; the handle's words. */
  open(op: 'OPEN' | 'OPENDIR', node: Node, flags: number): Node {
    this.shape(0, 0, { args: 8, reply: 16 });
    this.u32[this.args[0]] = flags;
    this.u32[this.args[0] + 1] = 0;
    this.must(op, node, 8);
    return { low: this.u32[this.body[0]], high: this.u32[this.body[0] + 1] };
  }

  release(op: 'RELEASE' | 'RELEASEDIR', node: Node, fh: Node): void {
    this.shape(0, 0, { args: 24, reply: 0 });
    const args = this.args[0];
    this.u32.fill(0, args, args + 6);
    this.u32[args] = fh.low;
    this.u32[args + 1] = fh.high;
    this.must(op, node, 24);
  }

  close(): void {
    this.frontend.close();
    this.hiprio.close();
    this.ring.close();
    this.ram.free();
  }
}
