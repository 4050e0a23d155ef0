/** The account of one blob's speculation: bytes fetched beyond what readers asked for, of which some were for nothing. */
import assert from 'node:assert/strict';

/**
 * Speculative bytes that may be outstanding for the file begun last, that is: fetched beyond the demand and not yet shown
 * useful. Less than the 1 MiB a cold read may fetch beyond its file.
 */
export const SPECULATION_BYTES_MAX = 768 << 10;
assert.ok(SPECULATION_BYTES_MAX < 1 << 20);
/** A longer window than the default is somebody's wish, and has that many; of it so many at most, which are memory while they come. */
const WINDOW_BYTES_DEFAULT = 1 << 20;
const WISHED_BYTES_MAX = 8 << 20;
/** Speculation this old is forgiven: later reads have nothing to do with it. */
const FORGIVEN_AFTER_MS = 10_000;

/** Speculative bytes of a range that ends at byte `end` of the blob. */
export interface Charge {
  end: number;
  bytes: number;
}

export class Speculation {
  private outstanding: (Charge & { atMs: number })[] = [];
  private readonly bytesMax: number;

  /** @param windowBytes `amplify_io` */
  constructor(windowBytes: number) {
    const isWished = windowBytes > WINDOW_BYTES_DEFAULT;
    this.bytesMax = isWished ? Math.min(windowBytes, WISHED_BYTES_MAX) : SPECULATION_BYTES_MAX;
  }

  /**
   * Budget for a plan with demands at these compressed offsets. A demand exactly where an earlier range ended shows a
   * reader that goes straight on, and that its read-ahead was used. (One that merely comes close does not: readers
   * that skip would be given new read-ahead without end.)
   */
  budget(offsets: readonly number[], nowMs: number): number {
    this.outstanding = this.outstanding.filter(({ end, atMs }) => {
      return !offsets.includes(end) && nowMs - atMs < FORGIVEN_AFTER_MS;
    });
    const spent = this.outstanding.reduce((sum, { bytes }) => sum + bytes, 0);
    return Math.max(0, this.bytesMax - spent);
  }

  /** A file is begun: what was fetched ahead for others does not count against it. */
  forFile(): void {
    this.outstanding = [];
  }

  charge(charges: readonly Charge[], nowMs: number): void {
    for (const { end, bytes } of charges) this.outstanding.push({ end, bytes, atMs: nowMs });
  }
}
