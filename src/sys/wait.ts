/**
 * Waiting without an event loop: epoll for the device thread, poll for tools and tests, eventfds and pipes to be woken by.
 */
import { errno } from './errno.ts';
import { bind, interrupted, result, whole } from './libc.ts';
import { NativeMemory } from './native-memory.ts';

const cEpollCreate1 = bind('epoll_create1', 'int', ['int']);
const cEpollCtl = bind('epoll_ctl', 'int', ['int', 'int', 'int', 'ptr']);
const cEpollWait = bind('epoll_wait', 'int', ['int', 'ptr', 'int', 'int']);
const cEventfd = bind('eventfd', 'int', ['uint', 'int']);
const cPipe2 = bind('pipe2', 'int', ['ptr', 'int']);
const cPoll = bind('poll', 'int', ['ptr', 'u64', 'int']);
const cRead = bind('read', 'i64', ['int', 'ptr', 'size']);
const cWrite = bind('write', 'i64', ['int', 'ptr', 'size']);
const cClose = bind('close', 'int', ['int']);

export const EPOLL = { IN: 1, OUT: 4, ERR: 8, HUP: 0x10, RDHUP: 0x2000 } as const;
export const POLL = { IN: 1, OUT: 4, ERR: 8, HUP: 0x10, NVAL: 0x20 } as const;

const CLOEXEC = 0o2000000;
const NONBLOCK = 0o4000;
const EPOLL_CTL = { ADD: 1, DEL: 2, MOD: 3 } as const;
/** struct epoll_event is packed on x86-64 only. */
const EVENT_BYTES = process.arch === 'x64' ? 12 : 16;
const TOKEN = EVENT_BYTES - 8;

/** Offset 0: one epoll_event, pipe pair or eventfd value; from DRAIN on: what is read to be thrown away. */
const scratch = new NativeMemory(8192);
const DRAIN = 4096;
const DRAIN_BYTES = 4096;
const ONE = 64;
scratch.u32[ONE / 4] = 1;

/**
 * An epoll descriptor whose events carry a number chosen by the caller. Level-triggered.
 * All calls return 0, a count or -errno.
 */
export class Epoll {
  readonly fd: number;
  readonly #events: NativeMemory;

  /**
   * @param eventsMax events taken out per wait
   * @throws RangeError when no descriptor is left
   */
  constructor(readonly eventsMax: number) {
    this.fd = result(cEpollCreate1(CLOEXEC));
    if (this.fd < 0) throw new RangeError(`epoll_create1: errno ${-this.fd}`);
    this.#events = new NativeMemory(eventsMax * EVENT_BYTES);
  }

  #control(operation: number, fd: number, events: number, token: number): number {
    if (!whole(fd) || !whole(events) || !whole(token) || token > 0xffff_ffff) return -errno.EINVAL;
    scratch.view.setUint32(0, events, true);
    scratch.view.setUint32(TOKEN, token, true);
    scratch.view.setUint32(TOKEN + 4, 0, true);
    return result(cEpollCtl(this.fd, operation, fd, scratch.address));
  }

  /** Watches `fd` for `events` (bits of EPOLL); `token` (u32) comes back with them. -EPERM: the file cannot be waited for. */
  add(fd: number, events: number, token: number): number {
    return this.#control(EPOLL_CTL.ADD, fd, events, token);
  }

  modify(fd: number, events: number, token: number): number {
    return this.#control(EPOLL_CTL.MOD, fd, events, token);
  }

  /** To be called before `fd` is closed: a duplicate held by a peer would keep it in the set. */
  remove(fd: number): number {
    return this.#control(EPOLL_CTL.DEL, fd, 0, 0);
  }

  /** Waits at most `timeoutMs` (-1: for ever) and returns the number of events. A signal ends it early with 0. */
  wait(timeoutMs: number): number {
    const n = cEpollWait(this.fd, this.#events.address, this.eventsMax, timeoutMs);
    return interrupted(n) ? 0 : result(n);
  }

  /** Token of event `i` of the last wait. */
  tokenAt(i: number): number {
    return this.#events.view.getUint32(i * EVENT_BYTES + TOKEN, true);
  }

  /** Event bits of event `i` of the last wait. */
  eventsAt(i: number): number {
    return this.#events.view.getUint32(i * EVENT_BYTES, true);
  }

  close(): void {
    cClose(this.fd);
    this.#events.free();
  }
}

/** A non-blocking, close-on-exec eventfd with counter 0, or -errno. */
export function eventfd(): number {
  return result(cEventfd(0, CLOEXEC | NONBLOCK));
}

/** Adds 1 to an eventfd (or puts 8 bytes into a pipe). 0 also when the counter or pipe is full: it is readable then. */
export function notify(fd: number): number {
  let n: number;
  do n = cWrite(fd, scratch.address + ONE, 8);
  while (interrupted(n));
  const done = result(n);
  return done >= 0 || done === -errno.EAGAIN ? 0 : done;
}

/**
 * Empties an eventfd, or up to 4 KiB of a pipe. The descriptor has to be non-blocking.
 * @returns bytes read (0: end of file, a pipe whose writer is gone), or -errno (-EAGAIN: there was nothing)
 */
export function drain(fd: number): number {
  let n: number;
  do n = cRead(fd, scratch.address + DRAIN, DRAIN_BYTES);
  while (interrupted(n));
  return result(n);
}

/** pipe2(2), close-on-exec: `ends[0]` reads, `ends[1]` writes. */
export function pipe(ends: Int32Array, nonBlocking = false): number {
  const done = result(cPipe2(scratch.address, CLOEXEC | (nonBlocking ? NONBLOCK : 0)));
  if (done === 0) ends.set(scratch.i32.subarray(0, 2));
  return done;
}

/**
 * Waits for one descriptor with poll(2).
 * @returns ready bits of POLL, 0 after `timeoutMs` (-1: never), or -errno
 */
export function pollOne(fd: number, events: number, timeoutMs: number): number {
  scratch.i32[0] = fd;
  scratch.u16[2] = events;
  scratch.u16[3] = 0;
  const n = cPoll(scratch.address, 1, timeoutMs);
  if (n > 0) return scratch.u16[3];
  return interrupted(n) ? 0 : result(n);
}
