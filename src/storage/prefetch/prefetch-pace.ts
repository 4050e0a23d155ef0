/**
 * When prefetch goes on. Between any two pieces that arrive it gives way to readers and keeps to its bandwidth, unless
 * a reader waits for the very bytes that it brings.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Gate } from '../gate.ts';

/** A reader may come to wait for what a held-up stream brings: it is looked for this often. */
const LOOK_MS = 10;
/** Work in the background that has been held up this long for readers takes one step: they must not stop it for ever. */
const PATIENCE_MS = 1_000;

export class Pace {
  /** The bytes so far have taken their time by then. */
  private paidUntilMs = 0;

  /** @param bytesPerSecond 0 = as fast as the network */
  constructor(
    private readonly gate: Pick<Gate, 'isBusy'>,
    private readonly bytesPerSecond: number,
  ) {}

  /** Charges `bytes` to the bandwidth. */
  spend(bytes: number): void {
    if (this.bytesPerSecond === 0) return;
    this.paidUntilMs = Math.max(this.paidUntilMs, performance.now()) + (bytes / this.bytesPerSecond) * 1000;
  }

  get isHeldUp(): boolean {
    return this.gate.isBusy || this.paidUntilMs > performance.now();
  }

  /** Resolves when there is room for more, when `isWanted`, or when the signal fires; never rejects. */
  async hold(signal: AbortSignal, isWanted: () => boolean = () => false): Promise<void> {
    const patientUntilMs = performance.now() + PATIENCE_MS;
    while (this.isHeldUp && !signal.aborted && !isWanted()) {
      const isImpatient = performance.now() > patientUntilMs;
      if (isImpatient && this.paidUntilMs <= performance.now()) return;
      await sleep(LOOK_MS);
    }
  }
}
