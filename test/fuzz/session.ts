/**
 * A hostile guest and its VMM: one vhost-user session with hiprio and two request queues over memory that lives as long
 * as the run.
 *
 *     gpa 1 MiB ┌ rings ┐┌ probe buffers ┐┌ arena of the case ┐      gpa 4 GiB ┌ guard ┐  8 GiB ┌ removable ┐
 *               └────────────── 16 MiB, named by descriptors ──┘               └ never ┘        └───────────┘
 *
 * Queue 1 belongs to the case: descriptors are written by hand. Queues 0 and 2 are for probes, which must be answered
 * correctly whatever the case does to queue 1. No byte of the guard is ever named, and flips keep clear of the high half
 * of addresses, so a change there is always the device's doing.
 */
import { IN_HEADER_BYTES, OUT_HEADER_BYTES } from '../../src/fuse/wire/layout.ts';
import { drain, POLL, pollOne } from '../../src/sys/wait.ts';
import { DriverRing } from '../../src/vhost/driver-ring.ts';
import { featureSet, PROTOCOL, VIRTIO } from '../../src/vhost/features.ts';
import { Frontend } from '../../src/vhost/frontend.ts';
import { GuestRam } from '../../src/vhost/guest-ram.ts';
import { DESC, DESC_BYTES } from '../../src/vhost/split.ts';
import { expect, Finding } from './finding.ts';

export const RAM_GPA = 0x10_0000;
export const RAM_BYTES = 16 * 2 ** 20;
export const GUARD_GPA = 2 ** 32;
export const GUARD_BYTES = 64 * 1024;
/** A region that cases take away under requests. */
export const REMOVABLE_GPA = 2 ** 33;
export const REMOVABLE_BYTES = 2 ** 20;
export const QUEUE_SIZE = 64;
const ARENA_BYTES = 4 * 2 ** 20;
/** A flip of the low half of an address in the arena stays in the arena. */
const ARENA_ALIGN = 0x1_0000;
const GUARD_BYTE = 0xa5;
const INTACT = Buffer.alloc(GUARD_BYTES, GUARD_BYTE);
const PROBE_BYTES = 4096;
export const QUEUES = { HIPRIO: 0, CASE: 1, PROBE: 2 } as const;
/** A request that needs nothing from elsewhere is answered within this. */
export const ANSWER_MS = 1000;
const GETATTR = 3;
const INIT = 26;
/** fuse_attr_out: mode. */
const ATTR_MODE = 76;
const DIRECTORY = 4;

export interface Reply {
  error: number;
  body: Buffer;
}

/** A used entry of the case's queue. */
export interface Used {
  head: number;
  bytes: number;
}

export interface Buffers {
  gpa: number;
  bytes: number;
  writable: boolean;
}

export class Guest {
  readonly ram = new GuestRam([
    { gpa: RAM_GPA, bytes: RAM_BYTES },
    { gpa: GUARD_GPA, bytes: GUARD_BYTES },
    { gpa: REMOVABLE_GPA, bytes: REMOVABLE_BYTES },
  ]);

  constructor() {
    this.ram.bytes(GUARD_GPA, GUARD_BYTES).fill(GUARD_BYTE);
  }

  assertGuard(): void {
    const guard = this.ram.bytes(GUARD_GPA, GUARD_BYTES);
    const at = (): number => guard.findIndex((byte) => byte !== GUARD_BYTE);
    expect(INTACT.equals(guard), () => `guard page changed at ${at()}: no descriptor ever named it`);
  }
}

export class Session {
  readonly frontend: Frontend;
  readonly rings: DriverRing[] = [];
  readonly arena: number;
  readonly ram: GuestRam;
  /** Guest address of the last indirect table. */
  table = 0;
  readonly #probe: number;
  #next: number;
  #unique = 2n;

  /** Connects, shares memory, starts three queues and does INIT. @throws Finding when that is not answered */
  constructor(
    readonly guest: Guest,
    socketPath: string,
    readonly answerMs: number,
  ) {
    const ram = guest.ram;
    this.ram = ram;
    ram.regions[0]!.next = RAM_GPA;
    ram.bytes(RAM_GPA, 64 * 1024).fill(0);
    this.frontend = Frontend.connect(socketPath);
    this.frontend.timeoutMs = answerMs;
    try {
      this.frontend.negotiate(
        featureSet(VIRTIO.VERSION_1, VIRTIO.INDIRECT_DESC, VIRTIO.EVENT_IDX, VIRTIO.PROTOCOL_FEATURES),
        featureSet(PROTOCOL.MQ, PROTOCOL.REPLY_ACK, PROTOCOL.CONFIGURE_MEM_SLOTS, PROTOCOL.STATUS),
      );
      this.frontend.shareMemory(ram);
      for (let i = 0; i < 3; i++) {
        const ring = new DriverRing(ram, QUEUE_SIZE);
        this.rings.push(ring);
        this.frontend.startRing(i, ring);
      }
      this.#probe = ram.alloc(2 * PROBE_BYTES * 3, 64);
      this.arena = ram.alloc(ARENA_BYTES, ARENA_ALIGN);
      this.#next = this.arena;
      this.#init();
    } catch (error) {
      this.close();
      throw error instanceof Finding ? error : new Finding(`a new session does not come up: ${String(error)}`);
    }
  }

  /** Factor of the times within which answers must come. */
  get patience(): number {
    return this.answerMs / ANSWER_MS;
  }

  get ring(): DriverRing {
    return this.rings[QUEUES.CASE]!;
  }

  #init(): void {
    const body = Buffer.alloc(64);
    for (const [i, word] of [7, 45, 128 * 1024, 0x7bff_fffb, 0x1ff].entries()) body.writeUInt32LE(word, i * 4);
    const reply = this.call(QUEUES.PROBE, INIT, 0n, body, 64);
    expect(reply.error === 0, () => `INIT of a new session answered ${reply.error}`);
  }

  /** Memory of the case, from the start again. */
  resetArena(): void {
    this.#next = this.arena;
  }

  /** Bytes of the arena, with a gap before and behind. */
  take(bytes: number, align = 1): number {
    const gpa = Math.ceil((this.#next + 64) / align) * align;
    this.#next = gpa + bytes;
    if (this.#next > this.arena + ARENA_BYTES) throw new RangeError('arena is used up');
    return gpa;
  }

  unique(): bigint {
    return (this.#unique += 2n);
  }

  /** A request on a probe queue, one at a time. @throws Finding when it is not answered well formed and in time */
  call(queue: number, op: number, nodeid: bigint, args: Buffer, replyBytes: number, answerMs = this.answerMs): Reply {
    const ring = this.rings[queue]!;
    const unique = this.unique();
    const request = this.#probe + queue * 2 * PROBE_BYTES;
    const reply = request + PROBE_BYTES;
    this.ram.write(request, requestBytes(op, unique, nodeid, args));
    const head = ring.addIndirect([
      { gpa: request, bytes: IN_HEADER_BYTES + args.length, writable: false },
      { gpa: reply, bytes: OUT_HEADER_BYTES + replyBytes, writable: true },
    ]);
    ring.submit();
    const got = this.#interrupted(ring, answerMs);
    if (got < 0 && ring.takeUsed() >= 0) throw new Finding(`queue ${queue}: answer without the interrupt asked for`);
    expect(got >= 0, () => `queue ${queue} did not answer opcode ${op} within ${answerMs} ms`);
    expect(got === head, () => `queue ${queue} used head ${got}, only ${head} was available`);
    return decodeReply(Buffer.from(this.ram.read(reply, ring.usedBytes)), ring.usedBytes, unique);
  }

  /** A request without a reply, on the case's queue. */
  tell(op: number, nodeid: bigint, args: Buffer): void {
    this.resetArena();
    const bytes = requestBytes(op, this.unique(), nodeid, args);
    const at = this.take(bytes.length, 8);
    this.ram.write(at, bytes);
    this.submit([this.chain([{ gpa: at, bytes: bytes.length, writable: false }], [0], false)]);
    const { used } = this.collect(1);
    expect(used.length === 1 && used[0]!.bytes === 0, () => `opcode ${op} was not taken`);
  }

  /** Asks for an interrupt once and looks again only when it came: the next used entry, or -1. */
  #interrupted(ring: DriverRing, timeoutMs: number): number {
    const deadline = performance.now() + timeoutMs;
    ring.enableInterrupts();
    for (;;) {
      const head = ring.takeUsed();
      if (head >= 0) return head;
      const leftMs = Math.ceil(deadline - performance.now());
      if (leftMs <= 0 || pollOne(ring.callFd, POLL.IN, leftMs) <= 0) return -1;
      drain(ring.callFd);
    }
  }

  /** Other queues answer: GETATTR of the root, correctly unless the case may have ended the FUSE session. */
  probe(mayHaveEnded = false): void {
    for (const queue of [QUEUES.PROBE, QUEUES.HIPRIO]) {
      const { error, body } = this.call(queue, GETATTR, 1n, Buffer.alloc(16), 104);
      if (mayHaveEnded && error !== 0) continue;
      const good = error === 0 && body.length === 104 && body.readUInt32LE(ATTR_MODE) >> 12 === DIRECTORY;
      expect(good, () => `GETATTR of the root answered ${error}, ${body.toString('hex')}`);
    }
  }

  /** Writes `buffers` as a chain of the case's queue: direct descriptors from `heads`, or an indirect table. */
  chain(buffers: readonly Buffers[], heads: readonly number[], indirect: boolean): number {
    const table = indirect ? this.take(buffers.length * DESC_BYTES, 16) : 0;
    this.table = table;
    for (const [i, { gpa, bytes, writable }] of buffers.entries()) {
      const last = i === buffers.length - 1;
      const flags = (writable ? DESC.WRITE : 0) | (last ? 0 : DESC.NEXT);
      if (indirect) this.ring.setIndirect(table, i, gpa, bytes, flags, last ? 0 : i + 1);
      else this.ring.setDescriptor(heads[i]!, gpa, bytes, flags, last ? 0 : heads[i + 1]!);
    }
    if (indirect) this.ring.setDescriptor(heads[0]!, table, buffers.length * DESC_BYTES, DESC.INDIRECT, 0);
    return heads[0]!;
  }

  /** Makes heads of the case's queue available. */
  submit(heads: readonly number[]): void {
    for (const head of heads) this.ring.setAvailable(head);
    this.ring.publish();
    this.ring.kick();
  }

  /** Waits until `count` entries came back or the ring was declared broken. `look` is called all the time. */
  collect(count: number, how: { timeoutMs?: number; look?: () => void } = {}): { used: Used[]; broken: boolean } {
    const { timeoutMs = 10 * this.answerMs, look } = how;
    const used: Used[] = [];
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      this.ring.enableInterrupts();
      for (let head = this.ring.takeUsed(); head >= 0; head = this.ring.takeUsed()) {
        used.push({ head, bytes: this.ring.usedBytes });
      }
      const broken = pollOne(this.ring.errFd, POLL.IN, 0) > 0;
      if (used.length >= count || broken || performance.now() > deadline) return { used, broken };
      look?.();
      if (pollOne(this.ring.callFd, POLL.IN, look === undefined ? 20 : 0) > 0) drain(this.ring.callFd);
    }
  }

  close(): void {
    this.frontend.close();
    for (const ring of this.rings) ring.close();
  }
}

/** fuse_in_header and arguments. */
export function requestBytes(op: number, unique: bigint, nodeid: bigint, args: Buffer, announced?: number): Buffer {
  const bytes = Buffer.alloc(IN_HEADER_BYTES + args.length);
  bytes.writeUInt32LE((announced ?? bytes.length) >>> 0, 0);
  bytes.writeUInt32LE(op >>> 0, 4);
  bytes.writeBigUInt64LE(unique, 8);
  bytes.writeBigUInt64LE(nodeid, 16);
  args.copy(bytes, IN_HEADER_BYTES);
  return bytes;
}

/** Checks what every reply must be (protocols 4.1). @throws Finding */
export function decodeReply(bytes: Buffer, usedBytes: number, unique: bigint): Reply {
  expect(usedBytes >= OUT_HEADER_BYTES, () => `used.len ${usedBytes} where a reply is required`);
  const len = bytes.readUInt32LE(0);
  const error = bytes.readInt32LE(4);
  expect(len === usedBytes, () => `out.len ${len}, used.len ${usedBytes}`);
  expect(bytes.readBigUInt64LE(8) === unique, () => `reply to ${bytes.readBigUInt64LE(8)} instead of ${unique}`);
  expect(error <= 0 && error > -512, () => `error ${error}`);
  expect(
    error === 0 || len === OUT_HEADER_BYTES,
    () => `error ${error} with a body of ${len - OUT_HEADER_BYTES} bytes`,
  );
  return { error, body: bytes.subarray(OUT_HEADER_BYTES) };
}
