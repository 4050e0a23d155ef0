/**
 * One virtqueue of the backend: what the frontend said about it, its descriptors, and its life cycle (protocols 1.7).
 *
 *     stopped ──KICK, with NUM and ADDR known──▶ started ──ENABLE 1──▶ serving
 *        ▲                                           │ ▲────ENABLE 0──────┘
 *        └──GET_VRING_BASE, reset, disconnect────────┘
 *
 * A ring starts as soon as it has a kick descriptor and is described completely, not at the first kick: what is already
 * available is served without one. Taking that step early changes nothing else, since the avail ring is scanned.
 */
import { close } from '../sys/io.ts';
import { notify } from '../sys/wait.ts';
import type { InflightJournal } from './inflight.ts';
import type { GuestMemory } from './memory.ts';
import type { Broken } from './messages.ts';
import {
  availBytes,
  checkRingAlignment,
  descBytes,
  populateRing,
  type RingAddresses,
  SplitRing,
  usedBytes,
} from './split.ts';
import { RING_FAULT, ringFaultText } from './vring.ts';

/** Ring parts in the frontend's virtual addresses. */
export interface UserAddresses {
  desc: number;
  avail: number;
  used: number;
}

/** Where a ring stood when it was stopped: starting it there again resumes it. */
interface StopPoint extends UserAddresses {
  size: number;
  base: number;
  usedIdx: number;
}

export class BackendRing {
  /** Descriptors given by the frontend, -1 when absent. Owned by the ring. */
  kickFd = -1;
  callFd = -1;
  errFd = -1;
  /** The owner waits for `kickFd`. */
  watched = false;
  /** Queue size of SET_VRING_NUM, 0 before it. */
  size = 0;
  base = 0;
  user: UserAddresses | null = null;
  started = false;
  /** Ring state of SET_VRING_ENABLE, or true when protocol features were not acked. */
  enabled = false;
  /** Grows when the ring starts anew, not when it resumes: a parked request of an older epoch must never be completed. */
  epoch = 0;
  readonly vring = new SplitRing();
  journal: InflightJournal | null = null;
  #stopPoint: StopPoint | null = null;

  constructor(readonly index: number) {}

  /** Heads may be fetched now. */
  get serving(): boolean {
    return this.started && this.enabled && this.vring.fault === RING_FAULT.NONE;
  }

  /** All that a start needs is known. */
  get described(): boolean {
    return this.kickFd >= 0 && this.size > 0 && this.user !== null;
  }

  /** Sends the guest an interrupt. */
  signal(): void {
    if (this.callFd >= 0) notify(this.callFd);
  }

  /** Checks ring addresses against size, alignment and memory; makes the pages present. */
  place(memory: GuestMemory, user: UserAddresses): RingAddresses | string {
    if (this.size === 0) return 'ring address before ring size';
    const at = {
      desc: memory.userAddress(user.desc, descBytes(this.size)),
      avail: memory.userAddress(user.avail, availBytes(this.size)),
      used: memory.userAddress(user.used, usedBytes(this.size)),
    };
    if (at.desc === 0 || at.avail === 0 || at.used === 0) return 'ring part outside guest memory or across regions';
    return checkRingAlignment(at.desc, at.avail, at.used) ?? populateRing(this.size, at) ?? at;
  }

  /**
   * Starts a described ring. The broken rule, or null with `resumed` telling whether it goes on where it stopped.
   */
  start(memory: GuestMemory, eventIdx: boolean): { broken: Broken; resumed: boolean } {
    const user = this.user;
    if (user === null) return { broken: 'ring without addresses', resumed: false };
    const at = this.place(memory, user);
    if (typeof at === 'string') return { broken: at, resumed: false };
    const resumed = this.#resumes(user, SplitRing.usedIdxAt(memory, at.used));
    const { size, base, journal } = this;
    const good = this.vring.start({ memory, size, at, base, eventIdx, journal, resume: resumed });
    if (!good) return { broken: ringFaultText(this.vring.fault), resumed: false };
    this.started = true;
    this.#stopPoint = null;
    if (!resumed) this.epoch++;
    return { broken: null, resumed };
  }

  #resumes(user: UserAddresses, usedIdx: number): boolean {
    const point = this.#stopPoint;
    if (point === null || point.size !== this.size || point.base !== this.base || point.usedIdx !== usedIdx)
      return false;
    return point.desc === user.desc && point.avail === user.avail && point.used === user.used;
  }

  /** Finds a started ring again after the memory table changed; breaks it when it is gone. */
  reattach(memory: GuestMemory): void {
    if (!this.started || this.user === null || this.vring.fault !== RING_FAULT.NONE) return;
    const at = this.place(memory, this.user);
    if (typeof at === 'string') this.breakRing(RING_FAULT.MEMORY_GONE);
    else this.vring.attach(memory, at);
  }

  /** Gives up this ring only, and tells the frontend through its error descriptor. */
  breakRing(fault: number): void {
    this.vring.breakRing(fault);
    this.reportFault();
  }

  /** Signals the error descriptor. */
  reportFault(): void {
    if (this.errFd >= 0) notify(this.errFd);
  }

  /** Lets go of guest memory and of the kick descriptor. The next fetch index stays in `base`. */
  stop(): void {
    if (this.started) {
      const { vring, user } = this;
      const usable = vring.fault === RING_FAULT.NONE && user !== null;
      this.base = vring.nextAvail;
      this.#stopPoint = usable ? { ...user, size: this.size, base: this.base, usedIdx: vring.usedIdx } : null;
      vring.stop();
      this.started = false;
    }
    this.setKick(-1);
  }

  /** After a reset nothing can resume. */
  forgetStopPoint(): void {
    this.#stopPoint = null;
  }

  setKick(fd: number): void {
    if (this.kickFd >= 0) close(this.kickFd);
    this.kickFd = fd;
  }

  /** An interrupt may have gone to the old descriptor, so the new one is signalled at once and by the next publish. */
  setCall(fd: number): void {
    if (this.callFd >= 0) close(this.callFd);
    this.callFd = fd;
    if (!this.started) return;
    this.vring.signalNext();
    this.signal();
  }

  setErr(fd: number): void {
    if (this.errFd >= 0) close(this.errFd);
    this.errFd = fd;
  }

  /** Everything back to the beginning; closes all descriptors. */
  discard(): void {
    this.stop();
    this.setCall(-1);
    this.setErr(-1);
    this.#stopPoint = null;
    this.size = 0;
    this.base = 0;
    this.user = null;
    this.enabled = false;
    this.journal = null;
  }
}
