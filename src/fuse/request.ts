/**
 * One FUSE request while it is being served. Each device thread has one Request and fills it again and again; nothing
 * of it may be kept past the handler except through `parking`.
 *
 * The header and arguments are a private copy (the guest may rewrite its own at any time); bulk data stays where it
 * is, described by `data`.
 */
import { errno } from '../sys/errno.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { Segments } from './segments.ts';
import { IN_HEADER_BYTES, OUT_HEADER_BYTES } from './wire/layout.ts';

/** Largest SETXATTR: header, setxattr_in, a name and 64 KiB of value; everything else is shorter. */
export const REQUEST_BYTES_MAX = 128 * 1024;

/** READDIR replies are cut here; guests ask for one page up to 6.12 and for what max_pages allows later. */
export const REPLY_BODY_BYTES_MAX = 128 * 1024;

/** A name inside the private copy, NUL-terminated: `address` for syscalls, `at`/`bytes` for JS (in `request.memory.u8`). */
export class Name {
  address = 0;
  at = 0;
  bytes = 0;
}

/** What INIT agreed on, for handlers. */
export interface Negotiated {
  /** 0 before INIT. */
  minor: number;
  flags: number;
  flags2: number;
  maxWriteBytes: number;
}

/** How a parked request goes on. */
export const RESUME = {
  /**
   * The completion's number is the result: reply bytes of a request without a body (0), or data bytes, or -errno. Data
   * that missed the guest (`Port.isLost`) makes it RERUN.
   */
  FINISH: 0,
  /** On success the request is decoded from its saved copy and run again with `attempt` + 1; on -errno it is answered so. */
  RERUN: 1,
} as const;

/** Handlers park through this; the transport implements it. */
export interface Parking {
  /**
   * Parks the request being served and returns its ticket (> 0), to be given to whoever will complete it; the handler
   * then returns PARKED. 0 when the table is full: the handler then answers -EBUSY (or blocks, for fsync).
   * @param resume one of RESUME
   * @param pins true when the kernel holds guest addresses meanwhile (io_uring): their regions stay mapped
   */
  park(resume: number, pins: boolean): number;
  /** Takes back the park of the request being served: what was to complete it could not be started. Its ticket is void. */
  unpark(ticket: number): void;
}

/** Syscalls that may block, done by io_uring (or by the main thread where the kernel refuses io_uring). */
export interface AsyncIo {
  /** Starts fsync or fdatasync of `fd`; `ticket` is completed with 0 or -errno. Returns 0, or -errno when it cannot start. */
  fsync(fd: number, dataOnly: boolean, ticket: number): number;
  /** Starts syncfs of the file system of `fd`; as fsync. */
  syncfs(fd: number, ticket: number): number;
  /**
   * Starts a read of file bytes [offset, offset + bytes) into `data` from its start; `ticket` (parked with pins) is
   * completed with the bytes read or -errno. Returns 0, or -EOPNOTSUPP where only a blocking read is left.
   */
  read(fd: number, data: Segments, bytes: number, offset: number, ticket: number): number;
}

/** Handlers return this after `parking.park`; no errno and no byte count equals it. */
export const PARKED = -0x1000_0000;

export class Request {
  /** Private copy of header and arguments. */
  readonly memory = new NativeMemory(REQUEST_BYTES_MAX);
  /** Reply: 16 bytes of header, then the body handlers write. */
  readonly reply = new NativeMemory(OUT_HEADER_BYTES + REPLY_BODY_BYTES_MAX);
  /** Word index of the reply body in `reply.u32`. */
  static readonly BODY_WORD = OUT_HEADER_BYTES / 4;
  /** Raw address of the reply body. */
  readonly bodyAddress = this.reply.address + OUT_HEADER_BYTES;

  /** Bytes in `memory`; a WRITE's data is not counted, it stays in `data`. */
  bytes = 0;
  opcode = 0;
  uniqueLow = 0;
  uniqueHigh = 0;
  /** nodeid = {high: member of the union, low: the member's own number}. */
  nodeLow = 0;
  nodeHigh = 0;
  uid = 0;
  gid = 0;
  pid = 0;
  /** Byte offset in `memory` where arguments end and extensions begin. */
  argsEnd = IN_HEADER_BYTES;

  /** Supplementary groups sent with a create: u32 gids at this raw address; count 0 = none sent. */
  groupsAddress = 0;
  groupCount = 0;
  /** Security context sent with a create; count 0 = none. */
  readonly contextName = new Name();
  contextAddress = 0;
  contextBytes = 0;

  /** Bytes the transport can take as reply body. */
  replySpace = 0;
  /** READ: where the data goes. WRITE: where it comes from. Valid for those two opcodes only. */
  readonly data = new Segments();
  /** True when the reply body is in `data` (READ), not in `reply`. */
  bulkReply = false;

  /** 0 on the first run, n on the n-th rerun of a parked request. */
  attempt = 0;
  /** When a parked request was taken up, in ms of `Stats`; 0: since the last look at the clock. */
  sinceMs = 0;
  /** `InitPolicy.rootAttrMs` of the session. */
  rootAttrMs = 0;
  negotiated: Negotiated = { minor: 0, flags: 0, flags2: 0, maxWriteBytes: 0 };
  parking: Parking = REFUSE_PARKING;
  io: AsyncIo = REFUSE_IO;
}

const REFUSE_PARKING: Parking = { park: () => 0, unpark: () => {} };
const REFUSE_IO: AsyncIo = {
  fsync: () => -errno.EOPNOTSUPP,
  syncfs: () => -errno.EOPNOTSUPP,
  read: () => -errno.EOPNOTSUPP,
};
