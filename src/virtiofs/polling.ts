/**
 * How long the device thread looks at its rings before it blocks.
 *
 * At depth 1 nearly all latency is the wake-up (60-70 us p50 for every peer); a request that comes within the window is
 * answered within 1 us instead. The window follows how long the thread really slept:
 *
 *     slept less than WINDOW_US_MAX  → the next request would have come in time: grow; the first SHORT_SLEEPS_MIN - 1
 *                                      are not believed, a FORGET right behind its LOOKUP looks like that too
 *     slept longer                   → polling was wasted: shrink, and stop at once below WINDOW_US_MIN
 *
 * At 1,000 requests/s the gaps are ten times the largest window, so it stays off; idle costs nothing.
 */

/** Twice the wake-up it saves: polling longer costs more CPU than the wake-up itself. */
export const WINDOW_US_MAX = 100;
/** First window after a short sleep. */
export const WINDOW_US_MIN = 20;

/** Short sleeps in a row that open the window. */
export const SHORT_SLEEPS_MIN = 3;

export class Polling {
  /** Microseconds to poll before the next block; 0 = block at once. */
  windowUs = 0;

  private shortSleeps = 0;

  constructor(private readonly enabled: boolean) {}

  /** A request came while polling: keep what works, and widen while requests keep coming. */
  hit(): void {
    if (this.windowUs < WINDOW_US_MAX) this.windowUs = Math.min(this.windowUs * 2, WINDOW_US_MAX);
  }

  /** The thread polled in vain (if the window was open) and then slept `sleptUs` until something came. */
  slept(sleptUs: number): void {
    if (!this.enabled) return;
    if (sleptUs <= WINDOW_US_MAX) {
      if (++this.shortSleeps < SHORT_SLEEPS_MIN) return;
      this.windowUs = Math.min(Math.max(this.windowUs * 2, WINDOW_US_MIN), WINDOW_US_MAX);
    } else {
      this.shortSleeps = 0;
      this.windowUs = this.windowUs / 4 < WINDOW_US_MIN ? 0 : this.windowUs / 4;
    }
  }
}
