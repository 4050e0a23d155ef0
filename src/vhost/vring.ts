/**
 * What the device side of a virtqueue offers, whatever its layout (protocols 2.2 and 2.3). `split.ts` implements it;
 * a packed ring fits behind the same interface.
 *
 * One turn of a device loop:
 *
 *     disableKicks()
 *     while ((head = ring.next()) >= 0) … complete(head, bytes)   at once or any time later, in any order
 *     if (ring.publish()) signal the call descriptor
 *     if (ring.enableKicks()) go on, more has come; else sleep
 */

/** Answers of `next` that are not a head. */
export const EMPTY = -1;
export const BROKEN = -2;

/** Why a ring was given up, for the log. Only this ring stops; the device goes on (protocols 1.7 rule 7). */
export const RING_FAULT = {
  NONE: 0,
  AVAIL_JUMP: 1,
  HEAD_RANGE: 2,
  DUPLICATE_HEAD: 3,
  CHAIN_LOOP: 4,
  MEMORY_GONE: 5,
  BAD_JOURNAL: 6,
  /** Not started, or stopped by the frontend: no fault of anybody. */
  STOPPED: 7,
} as const;

const FAULT_TEXT: readonly string[] = [
  'no fault',
  'avail.idx jumped by more than the queue size',
  'head index outside the descriptor table',
  'head made available while it was in flight',
  'descriptor chain loops',
  'ring no longer lies in guest memory',
  'in-flight region contradicts the ring',
  'ring is stopped',
];

export function ringFaultText(fault: number): string {
  return FAULT_TEXT[fault] ?? `fault ${fault}`;
}

export interface Vring {
  /** Queue size. */
  readonly size: number;
  /** One of RING_FAULT; anything but NONE makes `next` answer BROKEN for ever. */
  readonly fault: number;
  /** Heads taken by `next` and not completed yet. */
  readonly inFlight: number;
  /** The next available head, marked as in flight; EMPTY or BROKEN. */
  next(): number;
  /**
   * Puts `head` on the used ring with `bytes` written into its writable part; visible after `publish`.
   * @returns false when the head is not in flight: it was completed before, or belongs to an earlier life of the ring
   */
  complete(head: number, bytes: number): boolean;
  /** Makes all completions visible at once. True: the driver wants to be signalled. */
  publish(): boolean;
  /** Asks for kicks. True: heads came meanwhile, look again instead of sleeping. */
  enableKicks(): boolean;
  /** Tells the driver not to kick while we poll. */
  disableKicks(): void;
  /** Gives the ring up (a chain that cannot be walked). */
  breakRing(fault: number): void;
}
