/**
 * What the backend role needs from the device that uses it, and the choices it leaves to it.
 */
import type { BackendRing } from './backend-ring.ts';

/** What the device above the library does. All calls come from inside `onReadable`, `onKick` or `close`. */
export interface BackendOwner {
  /**
   * The kick descriptor `ring.kickFd` has to be waited for (level-triggered; `onKick(ring.index)` when readable).
   * @returns 0, or -errno when it cannot be waited for: the frontend's message is refused then
   */
  watchKick(ring: BackendRing): number;
  /** Stop waiting for `ring.kickFd`: it is closed next. */
  unwatchKick(ring: BackendRing): void;
  /** The ring is started, and serves when `ring.serving`. `resumed`: it goes on where it stopped, parked requests too. */
  ringStarted(ring: BackendRing, resumed: boolean): void;
  /** `ring.serving` may have changed. Scan the ring when it serves: there may be no further kick. */
  ringEnabled(ring: BackendRing): void;
  /** Last chance to complete requests: after this call nothing may be written. Parked ones may survive a resume. */
  ringStopping(ring: BackendRing): void;
  /** The memory table changed; addresses kept from before are void. */
  memoryChanged(): void;
  /**
   * `device`: RESET_DEVICE, sessions end. `status`: status 0, which QEMU sends at every stop, a pause included, so that
   * only a new FUSE_INIT tells whether the guest started anew.
   */
  reset(cause: 'device' | 'status'): void;
  /** The connection is over, everything is closed, memory is unmapped. */
  disconnected(reason: string): void;
  /** One line about something the frontend or the guest did wrong. */
  warn(text: string): void;
}

export interface BackendOptions {
  /** Answer of GET_QUEUE_NUM, hiprio included. Messages for more rings are accepted all the same. */
  queues: number;
  /** Device config space; null: CONFIG is not offered. */
  config: Uint8Array | null;
  /** Offer INFLIGHT_SHMFD: only for a device that survives running a request twice. */
  offerInflight: boolean;
}
