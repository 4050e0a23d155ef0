/**
 * A FUSE session: one request in, one reply out, whatever the transport.
 *
 *     transport ── request copied ──► handle() ─► OPS row ─► file system
 *         ▲                              │
 *         └── reply bytes ◄── header ◄───┴─► PARKED … complete(ticket) later
 *
 * Invariants: a request that throws is answered EIO and logged; every request but FORGET, BATCH_FORGET and INTERRUPT
 * gets exactly one reply; nothing but INIT (and what has no reply) is served before INIT.
 */
import { errno } from '../sys/errno.ts';
import type { InitArgs, InterruptArgs } from './args.ts';
import { decodeExtensions } from './extensions.ts';
import type { FileSystem } from './file-system.ts';
import { INIT } from './flags.ts';
import { type InitPolicy, negotiate, putInitOut } from './init.ts';
import { OP_NAMES, OPCODE_COUNT, OPS, OPS_BY_CODE, type OpSpec, type SessionOps } from './opcodes.ts';
import { PARKED_MAX, ParkTable } from './park-table.ts';
import { type AsyncIo, PARKED, type Parking, RESUME, Request } from './request.ts';
import type { Stats } from './stats.ts';
import { STAT } from './stats-layout.ts';
import type { Trace } from './trace.ts';
import { IN_HEADER, IN_HEADER_BYTES, INIT_OUT_BYTES, OUT_HEADER, OUT_HEADER_BYTES } from './wire/layout.ts';

/** What a session needs of the thing that carries its messages. */
export interface Port {
  /** Remembers the transport's part of the request being served under `slot`. False: there is no room, nothing is kept. */
  keep(slot: number, pins: boolean): boolean;
  /** Whether the slot's reply can be sent now: one of REACH. */
  reach(slot: number): number;
  /** Brings it back into the request (`data`, `replySpace`); only after `reach` said NOW. False: it cannot be answered any more. */
  restore(slot: number, request: Request): boolean;
  /** True when what the kernel wrote for a slot that pins may have missed the guest: regions of its memory were replaced. */
  isLost(slot: number): boolean;
  /** The slot's request is answered or dropped. */
  drop(slot: number): void;
  /** The transport's part of a slot as plain data, for another process; null when there is none. */
  save(slot: number): unknown;
  /** Takes that part over under `slot`. False: its queue is not here. */
  load(slot: number, saved: unknown): boolean;
  /** Sends the `bytes` of reply of a restored slot. */
  reply(slot: number, request: Request, bytes: number): void;
}

/** Answers of `Port.reach`. */
export const REACH = {
  NOW: 0,
  /** The queue is stopped and may go on where it was: the result is kept until `resumeDeferred`. */
  LATER: 1,
  /** The queue or the VMM is gone: nothing may be sent, the request is forgotten. */
  NEVER: 2,
} as const;

export type SessionLog = (level: 'error' | 'warn' | 'info', text: string) => void;

const ERROR_MIN = -511;
/** Lines per session about one kind of bad request: a hostile guest must not fill the log. */
const LINES_MAX = 16;

export class Session implements Parking, SessionOps {
  readonly request = new Request();
  readonly parked: ParkTable;
  /** Set while tracing: one line per request and reply. */
  trace: Trace | null = null;
  private unknownLogged = 0;
  private badLogged = 0;

  constructor(
    /** Replaced only before INIT, by one that was saved. */
    public fs: FileSystem,
    private readonly port: Port,
    private readonly policy: InitPolicy,
    io: AsyncIo,
    readonly stats: Stats,
    private readonly log: SessionLog,
  ) {
    this.request.parking = this;
    this.parked = new ParkTable(stats.shared);
    stats.servesAt(this.request.memory.address);
    this.request.io = io;
    this.request.rootAttrMs = policy.rootAttrMs;
  }

  get initialized(): boolean {
    return this.request.negotiated.minor !== 0;
  }

  /**
   * Serves the request whose private copy (`request.bytes` of header and arguments), `data` and `replySpace` the
   * transport has set. Returns the bytes of the reply, header first in `request.reply` (a bulk reply's body is in
   * `request.data` already); 0 when there is none; PARKED.
   */
  handle(): number {
    const request = this.request;
    const words = request.memory.u32;
    request.attempt = 0;
    request.sinceMs = 0;
    request.uniqueLow = words[IN_HEADER.UNIQUE] as number;
    request.uniqueHigh = words[IN_HEADER.UNIQUE + 1] as number;
    if (request.bytes < IN_HEADER_BYTES) return this.malformed();
    request.opcode = words[IN_HEADER.OPCODE] as number;
    return this.run();
  }

  /** Answers the request in `request.memory` with `code`, unserved. As handle. */
  refuse(code: number): number {
    const { request } = this;
    const words = request.memory.u32;
    request.uniqueLow = words[IN_HEADER.UNIQUE] as number;
    request.uniqueHigh = words[IN_HEADER.UNIQUE + 1] as number;
    request.opcode = words[IN_HEADER.OPCODE] as number;
    request.nodeLow = words[IN_HEADER.NODEID] as number;
    request.nodeHigh = words[IN_HEADER.NODEID + 1] as number;
    this.stats.count(request.opcode, request, code);
    return this.putError(code);
  }

  private run(): number {
    const request = this.request;
    const words = request.memory.u32;
    request.nodeLow = words[IN_HEADER.NODEID] as number;
    request.nodeHigh = words[IN_HEADER.NODEID + 1] as number;
    request.uid = words[IN_HEADER.UID] as number;
    request.gid = words[IN_HEADER.GID] as number;
    request.pid = words[IN_HEADER.PID] as number;
    request.bulkReply = false;
    const op = request.opcode;
    const spec = op < OPCODE_COUNT ? OPS_BY_CODE[op] : undefined;
    if (spec === undefined) return this.unknown(op);
    if (this.trace !== null) this.trace.received(request, OP_NAMES[op] as string);
    let result: number;
    try {
      result = this.dispatch(spec);
    } catch (error) {
      result = this.threw(op, error);
    }
    words[IN_HEADER.OPCODE] = 0; // nobody is being served: see `inflight.ts`
    if (result === PARKED) return PARKED;
    this.stats.count(op, request, result);
    if (spec.reply === 'none') {
      if (result < 0) this.stats.add(STAT.badRequests, 1);
      return 0;
    }
    return this.finish(spec, result);
  }

  private dispatch(spec: OpSpec<never>): number {
    const request = this.request;
    const extensions = decodeExtensions(request);
    if (extensions < 0) return extensions;
    if (request.argsEnd - IN_HEADER_BYTES < spec.argBytes) return -errno.EINVAL;
    if (!this.initialized && spec.op !== OPS.INIT.op && spec.reply !== 'none') return -errno.EIO;
    request.bulkReply = spec.reply === 'data';
    const args = spec.args;
    const decoded = spec.decode(request, args);
    if (decoded < 0) return decoded;
    return spec.run(this.fs, args, request, this);
  }

  /** Turns a handler's result into a header (and counts bytes); returns the reply's length. */
  private finish(spec: OpSpec<never>, result: number): number {
    const request = this.request;
    if (result < 0) return this.putError(result);
    let body = spec.reply === 'empty' ? 0 : result;
    if (body > request.replySpace) {
      // The guest's buffer is too small for what it asked: its mistake, its error; nothing is cut silently.
      return this.putError(-errno.EIO);
    }
    if (spec.op === OPS.READ.op) this.stats.add(STAT.bytesRead, result);
    else if (spec.op === OPS.WRITE.op) this.stats.add(STAT.bytesWritten, request.reply.u32[4] as number);
    if (body < 0) body = 0;
    const out = request.reply.u32;
    out[OUT_HEADER.LEN] = OUT_HEADER_BYTES + body;
    out[OUT_HEADER.ERROR] = 0;
    out[OUT_HEADER.UNIQUE] = request.uniqueLow;
    out[OUT_HEADER.UNIQUE + 1] = request.uniqueHigh;
    if (this.trace !== null) this.trace.sent(request, OUT_HEADER_BYTES + body);
    return OUT_HEADER_BYTES + body;
  }

  /** A bare error header. Codes no guest may see (ENOSYS from a host call passes only through the table) become EIO. */
  private putError(code: number): number {
    const request = this.request;
    request.bulkReply = false;
    const out = request.reply.u32;
    out[OUT_HEADER.LEN] = OUT_HEADER_BYTES;
    request.reply.i32[OUT_HEADER.ERROR] = code < ERROR_MIN ? -errno.EIO : code;
    out[OUT_HEADER.UNIQUE] = request.uniqueLow;
    out[OUT_HEADER.UNIQUE + 1] = request.uniqueHigh;
    if (this.trace !== null) this.trace.sent(request, OUT_HEADER_BYTES);
    return OUT_HEADER_BYTES;
  }

  private malformed(): number {
    this.request.memory.u32[IN_HEADER.OPCODE] = 0;
    this.stats.add(STAT.badRequests, 1);
    if (this.badLogged++ < LINES_MAX) this.log('warn', 'guest sent a request whose length cannot be: answered EINVAL');
    return this.putError(-errno.EINVAL);
  }

  private unknown(op: number): number {
    this.request.memory.u32[IN_HEADER.OPCODE] = 0;
    this.stats.add(STAT.unknownOpcodes, 1);
    if (this.unknownLogged++ < LINES_MAX) this.log('warn', `guest sent unknown opcode ${op}: answered ENOSYS`);
    return this.putError(-errno.ENOSYS);
  }

  private threw(op: number, error: unknown): number {
    this.stats.add(STAT.exceptions, 1);
    this.log(
      'error',
      `${OP_NAMES[op]} threw, answered EIO: ${error instanceof Error ? error.stack?.slice(0, 600) : error}`,
    );
    return -errno.EIO;
  }

  // -- Parking ---------------------------------------------------------------------------------------------------

  park(resume: number, pins: boolean): number {
    if (this.request.sinceMs === 0) this.request.sinceMs = this.stats.nowMs;
    const ticket = this.parked.park(this.request, resume, pins);
    if (ticket === 0) return 0;
    const slot = this.parked.slotOf(ticket);
    if (!this.port.keep(slot, pins)) {
      this.parked.release(slot);
      return 0;
    }
    this.stats.add(STAT.parkedTotal, 1);
    this.stats.values[STAT.parkedNow] = this.parked.count;
    return ticket;
  }

  unpark(ticket: number): void {
    const slot = this.parked.slotOf(ticket);
    if (slot >= 0) this.release(slot);
  }

  /** A parked request's wait is over with `result` (0 or a count, or -errno): answers it, or runs it again. */
  complete(ticket: number, result: number): void {
    const slot = this.parked.slotOf(ticket);
    if (slot < 0) return; // answered or dropped meanwhile: interrupted, umounted, VMM gone
    this.answer(slot, result);
  }

  private answer(slot: number, result: number): void {
    const reach = this.port.reach(slot);
    if (reach === REACH.LATER) {
      this.parked.defer(slot, result);
      return;
    }
    if (reach === REACH.NEVER) {
      this.release(slot);
      this.stats.add(STAT.droppedReplies, 1);
      return;
    }
    const request = this.request;
    const resume = this.parked.resumeOf(slot);
    this.parked.restore(slot, request);
    const words = request.memory.u32;
    request.uniqueLow = words[IN_HEADER.UNIQUE] as number;
    request.uniqueHigh = words[IN_HEADER.UNIQUE + 1] as number;
    request.opcode = words[IN_HEADER.OPCODE] as number;
    if (!this.port.restore(slot, request)) {
      words[IN_HEADER.OPCODE] = 0;
      this.release(slot);
      this.stats.add(STAT.droppedReplies, 1);
      return;
    }
    const spec = OPS_BY_CODE[request.opcode] as OpSpec<never>;
    let bytes: number;
    if (result >= 0 && (resume === RESUME.RERUN || this.port.isLost(slot))) {
      request.attempt++;
      bytes = this.run();
      if (bytes === PARKED) {
        this.release(slot); // it waits under a new ticket
        return;
      }
    } else {
      words[IN_HEADER.OPCODE] = 0;
      request.nodeLow = words[IN_HEADER.NODEID] as number;
      request.nodeHigh = words[IN_HEADER.NODEID + 1] as number;
      this.stats.count(request.opcode, request, result);
      request.bulkReply = spec.reply === 'data' && result >= 0;
      bytes = this.finish(spec, result);
    }
    this.port.reply(slot, request, bytes);
    this.release(slot);
  }

  /** Answers what was completed while its queue was stopped. */
  resumeDeferred(): void {
    for (let slot = 0; slot < PARKED_MAX && this.parked.count > 0; slot++) {
      if (this.parked.inUse(slot) && this.parked.isDeferred(slot)) this.answer(slot, this.parked.takeDeferred(slot));
    }
  }

  private release(slot: number): void {
    this.port.drop(slot);
    this.parked.release(slot);
    this.stats.values[STAT.parkedNow] = this.parked.count;
  }

  /** Answers all parked requests of one member (null: of all) with `code`; those the kernel still works on finish by themselves. */
  failParkedOf(memberId: number | null, code: number): void {
    for (let slot = 0; slot < PARKED_MAX && this.parked.count > 0; slot++) {
      if (!this.parked.inUse(slot) || this.parked.isPinned(slot)) continue;
      if (memberId === null || this.parked.memberOf(slot) === memberId) this.answer(slot, code);
    }
  }

  /** Forgets parked requests without an answer where `gone(slot)` says that nobody can take one. Pinned ones stay until the kernel is done. */
  dropParked(gone: (slot: number) => boolean): void {
    for (let slot = 0; slot < PARKED_MAX; slot++) {
      if (this.parked.inUse(slot) && !this.parked.isPinned(slot) && gone(slot)) this.release(slot);
    }
  }

  /** The transport's part of a parked slot, for the dump. */
  transportOf(slot: number): unknown {
    return this.port.save(slot);
  }

  adoptTransport(slot: number, saved: unknown): boolean {
    return this.port.load(slot, saved);
  }

  /** Runs an adopted slot (see session-state.ts) for the first time here. */
  runAdopted(slot: number): void {
    this.stats.values[STAT.parkedNow] = this.parked.count;
    this.answer(slot, 0);
  }

  // -- INIT, INTERRUPT, DESTROY ------------------------------------------------------------------------------------

  /** INIT starts a session; a second one (guest reboot) voids the state of the first, mounts stay. */
  init(request: Request, args: InitArgs): number {
    const reply = negotiate(args, this.policy);
    if (reply.result < 0) {
      this.log('warn', `guest speaks FUSE ${args.major}.${args.minor}, which is not served: answered EPROTO`);
      return reply.result;
    }
    putInitOut(request.reply.u32, Request.BODY_WORD, reply);
    if (!reply.again) {
      if (this.initialized) this.fs.reset();
      const n = request.negotiated;
      n.minor = reply.minor;
      n.flags = reply.flags;
      n.flags2 = reply.flags2;
      n.maxWriteBytes = reply.maxWriteBytes;
      this.stats.values[STAT.initDone] = 1;
      const submounts = (reply.flags & INIT.SUBMOUNTS) !== 0 ? 'with' : 'without';
      this.log('info', `FUSE session starts: guest 7.${args.minor}, using 7.${reply.minor} ${submounts} submounts`);
    }
    return INIT_OUT_BYTES;
  }

  /**
   * What waits for a fetch is given up with EINTR; what runs is over before its INTERRUPT is seen. A sync goes on: local
   * file systems do not end fsync(2) for a signal with a handler, and a program that gets EINTR there takes its data for lost.
   */
  interrupt(request: Request, args: InterruptArgs): number {
    for (let slot = 0; slot < PARKED_MAX && this.parked.count > 0; slot++) {
      if (this.parked.inUse(slot) && this.parked.hasUnique(slot, args.uniqueLow, args.uniqueHigh)) {
        if (this.parked.resumeOf(slot) === RESUME.RERUN && !this.parked.isPinned(slot)) this.answer(slot, -errno.EINTR);
        break;
      }
    }
    request.sinceMs = 0; // answering the other one has changed it
    return 0;
  }

  destroySession(): number {
    this.endSession();
    return 0;
  }

  /** The guest is gone (DESTROY, VMM disconnected): its handles and lookups are void. */
  endSession(): void {
    if (!this.initialized) return;
    this.request.negotiated.minor = 0;
    this.stats.values[STAT.initDone] = 0;
    this.fs.reset();
  }
}
