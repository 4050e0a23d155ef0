/**
 * Ranges of what readers will want at once: planned as fast as possible, however slowly they are fetched, so that all is
 * promised soon; given out in their order, but those that a reader waits for first.
 */
import type { BlobPrefetch, PrefetchRange } from './blob-prefetch.ts';
import type { Pace } from './prefetch-pace.ts';

/** A range, whose it is, and how fast it may come. */
export type Work = PrefetchRange & { behind: BlobPrefetch; pace: Pace };

export class PlannedRanges {
  private readonly left: Work[] = [];
  private isEnd = false;
  private failure: { error: unknown } | null = null;
  private wake: (() => void)[] = [];

  constructor(ranges: AsyncIterable<Work>, atEnd: () => void) {
    void this.collect(ranges).then(atEnd);
  }

  private async collect(ranges: AsyncIterable<Work>): Promise<void> {
    try {
      for await (const work of ranges) {
        this.left.push(work);
        this.wake.shift()?.();
      }
    } catch (error) {
      this.failure = { error };
    }
    this.isEnd = true;
    for (const wake of this.wake) wake();
  }

  /** @throws what planning threw, once all before it has been given out */
  async next(): Promise<{ value: Work; done: false } | { value: undefined; done: true }> {
    while (this.left.length === 0) {
      if (this.failure !== null) throw this.failure.error;
      if (this.isEnd) return { value: undefined, done: true };
      await new Promise<void>((resolve) => this.wake.push(resolve));
    }
    const awaited = this.left.findIndex((work) => work.behind.isAwaited(work));
    const [value] = this.left.splice(Math.max(0, awaited), 1);
    return { value, done: false };
  }
}
