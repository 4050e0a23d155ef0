/**
 * Slow syscalls of the device thread: io_uring where the kernel allows it, the main thread's `fs.*` where it does not.
 * The ring is set up at the first use: most daemons of read-only pods never need it.
 */

import type { AsyncIo } from '../fuse/request.ts';
import { fill, IOVECS, lastFilledBytes, type Segments } from '../fuse/segments.ts';
import { errno } from '../sys/errno.ts';
import { close, dupCloexec } from '../sys/io.ts';
import { Uring, uringRefusal } from '../sys/uring.ts';
import { drain, POLL, pollOne } from '../sys/wait.ts';
import type { FromDevice } from './control.ts';

export class DeviceIo implements AsyncIo {
  private ring: Uring | null = null;
  private refused = false;
  /** Operations that `settle` has waited for in vain. */
  private stuck = 0;
  /** Descriptors main works on, by ticket. */
  private readonly lent = new Map<number, number>();

  /**
   * @param eventFd signalled by the kernel when something is done; the loop then calls `reap`
   * @param post sends to the main thread
   * @param complete is told each ticket and its result
   */
  constructor(
    private readonly eventFd: number,
    private readonly post: (message: FromDevice) => void,
    private readonly log: (level: 'warn' | 'info', text: string) => void,
    private readonly complete: (ticket: number, result: number) => void,
  ) {}

  private uring(): Uring | null {
    if (this.ring !== null || this.refused) return this.ring;
    const made = Uring.create(this.eventFd);
    if (typeof made === 'number') {
      this.refused = true;
      this.log('info', `${uringRefusal(made)}: the main thread does fsync, and reads may block`);
      return null;
    }
    this.ring = made;
    return made;
  }

  fsync(fd: number, dataOnly: boolean, ticket: number): number {
    const ring = this.uring();
    if (ring !== null && ring.fsync(fd, dataOnly, ticket) === 0) return 0;
    return this.byMain(dataOnly ? 'fdatasync' : 'fsync', fd, ticket);
  }

  syncfs(fd: number, ticket: number): number {
    return this.byMain('syncfs', fd, ticket);
  }

  /** Main gets a descriptor of its own: the guest may close the file, and another take its number, before main runs. */
  private byMain(op: 'fsync' | 'fdatasync' | 'syncfs', fd: number, ticket: number): number {
    const own = dupCloexec(fd);
    if (own < 0) return own;
    this.lent.set(ticket, own);
    this.post({ type: 'io', ticket, op, fd: own });
    return 0;
  }

  /** Main is done with `ticket`. */
  byMainDone(ticket: number): void {
    const own = this.lent.get(ticket);
    if (own === undefined) return;
    this.lent.delete(ticket);
    close(own);
  }

  read(fd: number, data: Segments, bytes: number, offset: number, ticket: number): number {
    const ring = this.uring();
    if (ring === null) return -errno.EOPNOTSUPP;
    const count = fill(data, 0, bytes);
    // A read the iovecs do not cover would come back short, which a guest takes for end of file.
    if (count === 0 || lastFilledBytes() < Math.min(bytes, data.bytes)) return -errno.EOPNOTSUPP;
    return ring.readv(fd, IOVECS, count, offset, ticket) === 0 ? 0 : -errno.EOPNOTSUPP;
  }

  /** Hands out what the kernel finished. */
  reap(): void {
    this.ring?.reap(this.complete);
    this.stuck = Math.min(this.stuck, this.inFlight);
  }

  /**
   * Waits for operations under way, at most `waitMs`: before a ring stops, so that the kernel does not write to a guest
   * that was told nobody writes any more. Operations on a stuck disk stay behind; their regions stay pinned. They are
   * waited for once: a device is reset ring by ring, and its frontend waits for all of them.
   */
  settle(waitMs: number): void {
    const until = performance.now() + waitMs;
    for (this.reap(); this.inFlight > this.stuck; this.reap()) {
      const leftMs = Math.ceil(until - performance.now());
      if (leftMs <= 0) {
        this.stuck = this.inFlight;
        return;
      }
      pollOne(this.eventFd, POLL.IN, leftMs);
      drain(this.eventFd);
    }
  }

  /** Operations the kernel still works on. */
  get inFlight(): number {
    return this.ring?.inFlight ?? 0;
  }
}
