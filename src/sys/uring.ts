/**
 * io_uring for the few syscalls that may block: fsync, and reads whose pages are not in the cache.
 *
 *     submit: SQE written ─► tail (Atomics) ─► io_uring_enter        one call per submission: these are rare
 *     reap:   eventfd readable ─► CQEs between head and tail ─► (ticket, result)
 *
 * Heads and tails are shared with the kernel and follow the same rules as vrings: Atomics only. The kernel copies
 * iovecs at submission (IORING_FEAT_SUBMIT_STABLE is demanded), so a scratch iovec array may be reused at once.
 */
import { errno } from './errno.ts';
import { bind, interrupted, result, viewOf, whole } from './libc.ts';
import { NativeMemory } from './native-memory.ts';

const cSetup = bind('syscall', 'long', ['long', 'u64', 'ptr']);
const cEnter = bind('syscall', 'long', ['long', 'long', 'u64', 'u64', 'u64', 'ptr', 'size']);
const cRegister = bind('syscall', 'long', ['long', 'long', 'u64', 'ptr', 'u64']);
const cMmap = bind('mmap', 'i64', ['ptr', 'size', 'int', 'int', 'int', 'i64']);
const cMunmap = bind('munmap', 'int', ['ptr', 'size']);
const cClose = bind('close', 'int', ['int']);

const SYS_io_uring_setup = 425;
const SYS_io_uring_enter = 426;
const SYS_io_uring_register = 427;
const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;
const OFF_SQ_RING = 0;
const OFF_SQES = 0x1000_0000;
const FEAT_SINGLE_MMAP = 1;
const FEAT_SUBMIT_STABLE = 4;
const REGISTER_EVENTFD = 4;
const OP = { READV: 1, FSYNC: 3 } as const;
const FSYNC_DATASYNC = 1;
const SQE_WORDS = 16;

/** Requests in flight at once. A guest rarely has more fsyncs open; beyond it the caller parks elsewhere or blocks. */
export const URING_ENTRIES = 256;
const CQES_BYTES = URING_ENTRIES * 2 * 16;
const RING_BYTES_MAX = 64 * 1024;

/** Why io_uring cannot be used, in words a person can act on. */
export function uringRefusal(code: number): string {
  if (code === -errno.EPERM) return 'io_uring is switched off (sysctl kernel.io_uring_disabled, or a seccomp filter)';
  if (code === -errno.ENOSYS) return 'this kernel has no io_uring';
  return `io_uring_setup failed with errno ${-code}`;
}

export class Uring {
  private readonly sq: Uint32Array;
  private readonly sqes: Uint32Array;
  private readonly cqes: Int32Array;
  private readonly sqTail: number;
  private readonly sqMask: number;
  private readonly sqArray: number;
  private readonly cqHead: number;
  private readonly cqTail: number;
  private readonly cqMask: number;
  private readonly cqesAt: number;
  /** Submitted and not yet reaped. */
  inFlight = 0;

  private constructor(
    readonly fd: number,
    private readonly ringAddress: number,
    private readonly ringBytes: number,
    private readonly sqesAddress: number,
    params: NativeMemory,
  ) {
    const p = params.u32;
    const buffer = viewOf(ringAddress, ringBytes);
    this.sq = new Uint32Array(buffer);
    this.cqes = new Int32Array(buffer);
    this.sqes = new Uint32Array(viewOf(sqesAddress, URING_ENTRIES * 64));
    this.sqTail = (p[11] as number) >> 2;
    this.sqMask = this.sq[(p[12] as number) >> 2] as number;
    this.sqArray = (p[16] as number) >> 2;
    this.cqHead = (p[20] as number) >> 2;
    this.cqTail = (p[21] as number) >> 2;
    this.cqMask = this.sq[(p[22] as number) >> 2] as number;
    this.cqesAt = (p[25] as number) >> 2;
  }

  /** Sets up a ring whose completions signal `eventFd`. Returns the ring, or -errno (see uringRefusal). */
  static create(eventFd: number): Uring | number {
    const params = new NativeMemory(4096);
    const fd = result(cSetup(SYS_io_uring_setup, URING_ENTRIES, params.address));
    if (fd < 0) return fail(params, fd);
    const features = params.u32[5] as number;
    if ((features & FEAT_SINGLE_MMAP) === 0 || (features & FEAT_SUBMIT_STABLE) === 0)
      return fail(params, -errno.ENOSYS, fd);
    const sqBytes = (params.u32[16] as number) + (params.u32[0] as number) * 4;
    const cqBytes = (params.u32[25] as number) + CQES_BYTES;
    const ringBytes = Math.min(Math.max(sqBytes, cqBytes), RING_BYTES_MAX);
    const ring = cMmap(0, ringBytes, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, OFF_SQ_RING);
    if (ring === -1) return fail(params, result(-1), fd);
    const sqes = cMmap(0, URING_ENTRIES * 64, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, OFF_SQES);
    if (sqes === -1) return fail(params, result(-1), fd);
    const uring = new Uring(fd, ring, ringBytes, sqes, params);
    params.u32[0] = eventFd;
    const registered = result(cRegister(SYS_io_uring_register, fd, REGISTER_EVENTFD, params.address, 1));
    params.free();
    if (registered < 0) {
      uring.close();
      return registered;
    }
    return uring;
  }

  /** Starts fsync (or fdatasync); 0 or -errno. `ticket` comes back from `reap`. */
  fsync(fd: number, dataOnly: boolean, ticket: number): number {
    return this.submit(OP.FSYNC, fd, 0, 0, 0, dataOnly ? FSYNC_DATASYNC : 0, ticket);
  }

  /** Starts preadv of `count` iovecs; 0 or -errno. */
  readv(fd: number, iovecs: number, count: number, offset: number, ticket: number): number {
    if (!whole(iovecs) || !whole(count) || !whole(offset)) return -errno.EINVAL;
    return this.submit(OP.READV, fd, iovecs, count, offset, 0, ticket);
  }

  private submit(
    op: number,
    fd: number,
    address: number,
    length: number,
    offset: number,
    flags: number,
    ticket: number,
  ): number {
    if (this.inFlight >= URING_ENTRIES || !whole(ticket)) return -errno.EAGAIN;
    const tail = Atomics.load(this.sq, this.sqTail);
    const index = tail & this.sqMask;
    const sqe = this.sqes;
    const at = index * SQE_WORDS;
    sqe.fill(0, at, at + SQE_WORDS);
    sqe[at] = op;
    sqe[at + 1] = fd;
    put64(sqe, at + 2, offset);
    put64(sqe, at + 4, address);
    sqe[at + 6] = length;
    sqe[at + 7] = flags;
    put64(sqe, at + 8, ticket);
    this.sq[this.sqArray + index] = index;
    Atomics.store(this.sq, this.sqTail, (tail + 1) >>> 0);
    let n: number;
    do n = cEnter(SYS_io_uring_enter, this.fd, 1, 0, 0, 0, 0);
    while (interrupted(n));
    if (n !== 1) {
      // The kernel took nothing: the entry is ours again, and nobody else submits on this ring.
      const code = n < 0 ? result(-1) : -errno.EAGAIN;
      Atomics.store(this.sq, this.sqTail, tail);
      return code;
    }
    this.inFlight++;
    return 0;
  }

  /** Hands each completion to `done`; returns how many there were. `done` may submit again. */
  reap(done: (ticket: number, result: number) => void): number {
    let count = 0;
    for (;;) {
      const head = Atomics.load(this.sq, this.cqHead);
      if (head === Atomics.load(this.sq, this.cqTail)) return count;
      const at = this.cqesAt + (head & this.cqMask) * 4;
      const ticket = (this.sq[at + 1] as number) * 0x1_0000_0000 + (this.sq[at] as number);
      const value = this.cqes[at + 2] as number;
      Atomics.store(this.sq, this.cqHead, (head + 1) >>> 0);
      this.inFlight--;
      count++;
      done(ticket, value);
    }
  }

  close(): void {
    cMunmap(this.ringAddress, this.ringBytes);
    cMunmap(this.sqesAddress, URING_ENTRIES * 64);
    cClose(this.fd);
  }
}

function put64(words: Uint32Array, at: number, value: number): void {
  const high = Math.floor(value / 0x1_0000_0000);
  words[at] = value - high * 0x1_0000_0000;
  words[at + 1] = high;
}

function fail(params: NativeMemory, code: number, fd = -1): number {
  params.free();
  if (fd >= 0) cClose(fd);
  return code;
}
