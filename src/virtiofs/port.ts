/**
 * From a descriptor chain to the FUSE session and back (protocols 2.5 rows 12-17, 3.3, 4.1).
 *
 *     ring.next() → walk → header and arguments copied once → session.handle → reply copied → ring.complete
 *                                                                  └─ PARKED: ring, head and guest ranges kept
 *
 * The payload of WRITE and the space of READ stay where they are: the session gets their raw addresses. A parked
 * request keeps guest-physical ranges only; they are translated again when it is answered.
 */
import { MAX_WRITE_BYTES } from '../fuse/init.ts';
import { OPS, OPS_BY_CODE } from '../fuse/opcodes.ts';
import { PARKED_MAX } from '../fuse/park-table.ts';
import { PARKED, REPLY_BODY_BYTES_MAX, REQUEST_BYTES_MAX, type Request } from '../fuse/request.ts';
import { type Port, REACH, type Session } from '../fuse/session.ts';
import type { Stats } from '../fuse/stats.ts';
import { STAT } from '../fuse/stats-layout.ts';
import { IN_HEADER, IN_HEADER_BYTES, OUT_HEADER_BYTES } from '../fuse/wire/layout.ts';
import { copyMemory } from '../sys/io.ts';
import { type ChainWalker, chainFaultText, WALK } from '../vhost/chain.ts';
import type { GuestMemory } from '../vhost/memory.ts';
import type { SplitRing } from '../vhost/split.ts';
import { RING_FAULT, ringFaultText } from '../vhost/vring.ts';

const WRITE_ARGS_END = IN_HEADER_BYTES + 40;
/** What INIT agrees on counts for reads, too: one of 32 MiB would ask for 8,192 chunks of 4 KiB at a time. */
const READ_BYTES_MAX = MAX_WRITE_BYTES;
/** Below this a word loop beats the 220 ns of a native memcpy. */
const COPY_LOOP_BYTES_MAX = 2048;
/** Lines about bad chains per session: a hostile guest must not fill the log. */
const FAULTS_LOGGED_MAX = 32;

/**
 * Segments of all parked requests, 12 bytes each: twice what a full table of READs of 1 MiB into pages of 4 KiB has. One
 * indirect table can have 32,768, and a full table of those would be 1.6 GB.
 */
const KEPT_SEGMENTS_MAX = 2 * PARKED_MAX * 257;

/** One queue as the port sees it. */
export interface Queue {
  readonly index: number;
  readonly ring: SplitRing;
  /** True between ring start and stop: heads may be returned. */
  running: boolean;
  /** Grows whenever what was in flight is void (a start elsewhere, disconnect). */
  life: number;
  /** Replies were completed and wait for `publish`. */
  dirty: boolean;
}

/** The transport's part of a parked request. */
interface Kept {
  queue: Queue;
  life: number;
  head: number;
  /** Guest-physical address and bytes of each writable segment. */
  gpa: Float64Array;
  bytes: Uint32Array;
  total: number;
  pin: number;
}

/** What another process needs to answer a request parked here: guest addresses only. */
export interface SavedRequest {
  queue: number;
  head: number;
  gpa: Float64Array;
  bytes: Uint32Array;
  total: number;
}

export class VirtioPort implements Port {
  /** Set right after construction: session and port need each other. */
  session!: Session;
  private readonly kept: (Kept | null)[] = new Array(PARKED_MAX).fill(null);
  private keptSegments = 0;
  private queue: Queue | null = null;
  private head = 0;
  private faultsLogged = 0;

  constructor(
    private readonly memory: GuestMemory,
    private readonly walker: ChainWalker,
    private readonly stats: Stats,
    private readonly log: (level: 'warn', text: string) => void,
  ) {}

  /** Serves up to `most` requests of `queue`; returns how many there were. */
  drain(queue: Queue, most: number): number {
    const ring = queue.ring;
    let served = 0;
    while (served < most) {
      const head = ring.next();
      if (head < 0) {
        if (ring.fault !== RING_FAULT.NONE) this.broke(queue);
        break;
      }
      served++;
      this.queue = queue;
      this.head = head;
      this.serve(queue, ring, head);
    }
    return served;
  }

  private serve(queue: Queue, ring: SplitRing, head: number): void {
    const walker = this.walker;
    const walked = walker.walk(ring, head);
    if (walked !== WALK.OK) {
      this.badChain(queue, head, walked);
      return;
    }
    const request = this.session.request;
    if (walker.readTotal < IN_HEADER_BYTES) {
      this.refuse(queue, head, `a request of ${walker.readTotal} bytes`);
      return;
    }
    this.copyIn(request, IN_HEADER_BYTES, 0);
    const words = request.memory.u32;
    const opcode = words[IN_HEADER.OPCODE] as number;
    let bytes = words[IN_HEADER.LEN] as number;
    const spec = OPS_BY_CODE[opcode];
    const needsReply = spec === undefined || spec.reply !== 'none';
    if (needsReply && walker.writeTotal < OUT_HEADER_BYTES) {
      this.refuse(queue, head, `opcode ${opcode} with ${walker.writeTotal} bytes for a reply`);
      return;
    }
    const space = walker.writeTotal - OUT_HEADER_BYTES;
    if (bytes < IN_HEADER_BYTES || bytes > walker.readTotal) bytes = 0; // a length that lies: malformed, answered EINVAL
    request.replySpace = Math.min(space, REPLY_BODY_BYTES_MAX);
    if (opcode === OPS.WRITE.op && bytes > WRITE_ARGS_END) {
      request.data.set(walker.readAddress, walker.readBytes, 0, walker.readCount, WRITE_ARGS_END, bytes);
      bytes = WRITE_ARGS_END;
    } else if (opcode === OPS.READ.op) {
      request.data.set(
        walker.writeAddress,
        walker.writeBytes,
        0,
        walker.writeCount,
        OUT_HEADER_BYTES,
        walker.writeTotal,
      );
      request.replySpace = Math.min(space, READ_BYTES_MAX);
    } else request.data.clear();
    if (bytes > REQUEST_BYTES_MAX) bytes = 0; // longer than any request and than the private copy
    if (bytes > IN_HEADER_BYTES) this.copyIn(request, bytes, IN_HEADER_BYTES);
    request.bytes = bytes;
    const reply = this.session.handle();
    if (reply === PARKED) return;
    if (reply > 0) this.copyOut(request, reply, walker.writeAddress, walker.writeBytes, walker.writeCount);
    ring.complete(head, reply <= walker.writeTotal ? reply : 0);
    queue.dirty = true;
  }

  /** Copies bytes [from, to) of the readable part to the same place of the private copy. */
  private copyIn(request: Request, to: number, from: number): void {
    const { readBytes, readCount } = this.walker;
    let start = 0;
    for (let i = 0; i < readCount && start < to; i++) {
      const length = readBytes[i] as number;
      const end = start + length;
      if (end > from) {
        const skip = from > start ? from - start : 0;
        const take = Math.min(end, to) - start - skip;
        this.fromGuest(request, i, skip, start + skip, take);
      }
      start = end;
    }
  }

  /** Copies `bytes` of readable segment `i`, from its byte `skip` on, to byte `at` of the private copy. */
  private fromGuest(request: Request, i: number, skip: number, at: number, bytes: number): void {
    const addresses = this.walker.readAddress;
    if (bytes > COPY_LOOP_BYTES_MAX) {
      copyMemory(request.memory.address + at, (addresses[i] as number) + skip, bytes);
      return;
    }
    const window = this.memory.windowAt(addresses, i);
    const offset = (addresses[i] as number) - window.base + skip;
    if (((offset | at | bytes) & 3) === 0) {
      const source = window.u32;
      const target = request.memory.u32;
      let s = offset >>> 2;
      const end = (at + bytes) >>> 2;
      for (let t = at >>> 2; t < end; t++) target[t] = source[s++] as number;
    } else {
      const source = window.u8;
      const target = request.memory.u8;
      for (let i = 0; i < bytes; i++) target[at + i] = source[offset + i] as number;
    }
  }

  /** Copies the reply (only its header when the body is in place already) to writable segments. */
  private copyOut(request: Request, bytes: number, address: Float64Array, length: Uint32Array, count: number): void {
    const total = request.bulkReply ? OUT_HEADER_BYTES : bytes;
    let done = 0;
    for (let i = 0; i < count && done < total; i++) {
      const left = total - done;
      const room = length[i] as number;
      const take = Math.min(room, left);
      this.toGuest(request, address, i, done, take);
      done += take;
    }
  }

  /** Copies `bytes` of the reply from its byte `at` on to the start of segment `i`. */
  private toGuest(request: Request, addresses: Float64Array, i: number, at: number, bytes: number): void {
    if (bytes > COPY_LOOP_BYTES_MAX) {
      copyMemory(addresses[i] as number, request.reply.address + at, bytes);
      return;
    }
    const window = this.memory.windowAt(addresses, i);
    const offset = (addresses[i] as number) - window.base;
    if (((offset | at | bytes) & 3) === 0) {
      const source = request.reply.u32;
      const target = window.u32;
      let t = offset >>> 2;
      const end = (at + bytes) >>> 2;
      for (let s = at >>> 2; s < end; s++) target[t++] = source[s] as number;
    } else {
      const source = request.reply.u8;
      const target = window.u8;
      for (let i = 0; i < bytes; i++) target[offset + i] = source[at + i] as number;
    }
  }

  // -- bad guests ---------------------------------------------------------------------------------------------------

  private badChain(queue: Queue, head: number, walked: number): void {
    const why = chainFaultText(this.walker.fault);
    if (walked === WALK.BREAK_RING) {
      queue.ring.breakRing(RING_FAULT.CHAIN_LOOP);
      this.broke(queue);
      return;
    }
    this.refuse(queue, head, `a bad chain: ${why}`);
  }

  /** Returns the head with length 0: nothing was executed, nothing can be said. */
  private refuse(queue: Queue, head: number, what: string): void {
    this.stats.add(STAT.badRequests, 1);
    this.say(`queue ${queue.index}: guest sent ${what}; returned unserved`);
    queue.ring.complete(head, 0);
    queue.dirty = true;
  }

  private broke(queue: Queue): void {
    if (!queue.running) return;
    queue.running = false;
    queue.life++;
    this.stats.add(STAT.brokenRings, 1);
    this.say(`queue ${queue.index} is broken until it is set up again: ${ringFaultText(queue.ring.fault)}`);
    this.onBroken(queue);
  }

  /** Set by the device: signals the ring's ERR descriptor. */
  onBroken: (queue: Queue) => void = () => {};

  private say(text: string): void {
    if (this.faultsLogged++ < FAULTS_LOGGED_MAX) this.log('warn', text);
  }

  // -- Port ---------------------------------------------------------------------------------------------------------

  keep(slot: number, pins: boolean): boolean {
    const queue = this.queue as Queue;
    const { writeGpa, writeBytes, writeCount, writeTotal } = this.walker;
    const earlier = this.rerunning;
    const segments = earlier === null ? writeCount : earlier.gpa.length;
    if (this.keptSegments + segments > KEPT_SEGMENTS_MAX) return false;
    this.keptSegments += segments;
    // A rerun that parks again keeps its ranges: the walker has moved on to other chains meanwhile.
    this.kept[slot] = {
      queue,
      life: queue.life,
      head: this.head,
      gpa: earlier === null ? writeGpa.slice(0, writeCount) : earlier.gpa,
      bytes: earlier === null ? writeBytes.slice(0, writeCount) : earlier.bytes,
      total: earlier === null ? writeTotal : earlier.total,
      pin: pins ? this.memory.pin() : -1,
    };
    return true;
  }

  private rerunning: Kept | null = null;
  private addresses = new Float64Array(0);

  reach(slot: number): number {
    const kept = this.kept[slot] as Kept;
    if (kept.life !== kept.queue.life) return REACH.NEVER;
    return kept.queue.running ? REACH.NOW : REACH.LATER;
  }

  restore(slot: number, request: Request): boolean {
    const kept = this.kept[slot] as Kept;
    const count = kept.gpa.length;
    if (this.addresses.length < count) this.addresses = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const address = this.memory.address(kept.gpa[i] as number, kept.bytes[i] as number);
      if (address === 0) {
        // Its memory was unplugged: the head goes back unanswered, exactly once.
        this.finish(kept, 0);
        return false;
      }
      this.addresses[i] = address;
    }
    this.queue = kept.queue;
    this.head = kept.head;
    this.rerunning = kept;
    const space = kept.total - OUT_HEADER_BYTES;
    const isRead = (request.memory.u32[IN_HEADER.OPCODE] as number) === OPS.READ.op;
    request.replySpace = Math.min(space, isRead ? READ_BYTES_MAX : REPLY_BODY_BYTES_MAX);
    if (isRead) request.data.set(this.addresses, kept.bytes, 0, count, OUT_HEADER_BYTES, kept.total);
    else request.data.clear();
    return true;
  }

  isLost(slot: number): boolean {
    const { pin } = this.kept[slot] as Kept;
    return pin >= 0 && !this.memory.isCurrent(pin);
  }

  reply(slot: number, request: Request, bytes: number): void {
    const kept = this.kept[slot] as Kept;
    this.copyOut(request, bytes, this.addresses, kept.bytes, kept.gpa.length);
    this.finish(kept, bytes);
  }

  private finish(kept: Kept, bytes: number): void {
    kept.queue.ring.complete(kept.head, bytes);
    kept.queue.dirty = true;
  }

  drop(slot: number): void {
    const kept = this.kept[slot];
    if (kept === null || kept === undefined) return;
    if (kept.pin >= 0) this.memory.unpin(kept.pin);
    this.kept[slot] = null;
    this.keptSegments -= kept.gpa.length;
    // A park that the rerun takes back is not its end.
    if (this.rerunning === kept) this.rerunning = null;
  }

  save(slot: number): SavedRequest {
    const { queue, head, gpa, bytes, total } = this.kept[slot] as Kept;
    return { queue: queue.index, head, gpa, bytes, total };
  }

  load(slot: number, saved: unknown): boolean {
    const { queue: index, head, gpa, bytes, total } = saved as SavedRequest;
    const queue = this.queueAt(index);
    if (queue === undefined) return false;
    this.keptSegments += gpa.length;
    this.kept[slot] = { queue, life: queue.life, head, gpa, bytes, total, pin: -1 };
    return true;
  }

  /** Set by the device: its queue of this index. */
  queueAt: (index: number) => Queue | undefined = () => undefined;

  /** True when nobody can take the slot's answer any more. */
  isGone(slot: number): boolean {
    const kept = this.kept[slot];
    return kept === null || kept === undefined || kept.life !== kept.queue.life;
  }
}
