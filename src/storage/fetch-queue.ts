/**
 * Chunks of one open blob that nobody is fetching yet: what one turn of the event loop has collected is planned together,
 * with what is read ahead, and fetched range by range, each chunk under its lock.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Blob } from './blob.ts';
import { type FetchRange, mergeChunks, type PlannedChunk, planFetch } from './fetch-plan.ts';
import { fetchRange } from './range-fetch.ts';
import { Speculation } from './speculation.ts';
import type { BlobMeta } from './tables/blob-meta.ts';
import { LOCK_WAIT_MS } from './tables/blob-tables.ts';

/** How often a lock that another process holds is looked at: twice as long each time, up to the second figure. */
const LOCK_POLL_MS = 2;
const LOCK_POLL_MAX_MS = 20;

export class FetchQueue {
  private chunks: PlannedChunk[] = [];
  private readonly speculation: Speculation;

  /** @param signal the blob is closed */
  constructor(
    private readonly blob: Blob,
    private readonly signal: AbortSignal,
  ) {
    this.speculation = new Speculation(blob.options.amplifyIoBytes);
  }

  /** A reader has come to the first chunk of a file. */
  beginsFile(): void {
    this.speculation.forFile();
  }

  /** Fetches the chunk with what else this turn of the event loop brings. */
  add(chunk: PlannedChunk): void {
    if (this.chunks.length === 0) setImmediate(() => this.flush());
    this.chunks.push(chunk);
  }

  /** Plans what one turn of the event loop has collected. */
  private flush(): void {
    const { blob, chunks: wanted } = this;
    this.chunks = [];
    void blob.tracked(async () => {
      try {
        this.signal.throwIfAborted();
        const isAlone = blob.info.described === true || blob.placed.isRenumbered;
        const meta = isAlone ? null : await blob.tables.open();
        for (const range of this.plan(meta, wanted)) void blob.tracked(() => this.run(range));
      } catch (error) {
        for (const chunk of wanted) blob.pending.settle(chunk.index, error);
      }
    });
  }

  /** @param meta null when only the wanted chunks are known, so that nothing can be read ahead */
  private plan(meta: BlobMeta | null, wanted: readonly PlannedChunk[]): FetchRange[] {
    const { cache, options, pending, promised } = this.blob;
    const offsets = wanted.map(({ info }) => info.compressedOffset);
    const digests = pending.digestsOf(wanted[0].index);
    // Those that only have to be checked ask the backend for nothing, and nothing is read ahead for them.
    const unproven = wanted.filter(({ index }) => cache.isUnproven(index));
    const plan = planFetch({
      wanted: unproven.length === 0 ? wanted : wanted.filter((chunk) => !unproven.includes(chunk)),
      isAwaited: (index) => pending.isWanted(index),
      chunkCount: meta?.chunkCount ?? 0,
      infoOf: (index) => (meta as BlobMeta).chunk(index),
      isMissing: (index) =>
        !cache.isReady(index) &&
        !cache.isUnproven(index) &&
        !pending.has(index) &&
        !promised.has(index) &&
        !this.blob.isUnverifiable(index, digests),
      windowBytes: options.amplifyIoBytes,
      // What lies between chunks that only their readers know would be read for nothing, and again for each.
      budgetBytes: meta === null ? 0 : this.speculation.budget(offsets, performance.now()),
    });
    this.speculation.charge(plan.charges, performance.now());
    for (const { index } of plan.extras) pending.addAhead(index, digests);
    return [...mergeChunks(unproven, 0), ...plan.ranges];
  }

  /** Settles every chunk of the range, one way or the other. */
  private async run(range: FetchRange): Promise<void> {
    try {
      await this.fetchOnce(range);
    } catch (error) {
      for (const { index } of range.chunks) this.blob.pending.settle(index, error);
    }
  }

  /** Fetches what no other process is fetching, and waits for the rest. */
  private async fetchOnce(planned: FetchRange): Promise<void> {
    const waitUntilMs = performance.now() + LOCK_WAIT_MS;
    const { locks, unproven } = this.blob;
    let rest: readonly PlannedChunk[] = planned.chunks;
    for (let pollMs = LOCK_POLL_MS; ; pollMs = Math.min(LOCK_POLL_MAX_MS, pollMs * 2)) {
      this.signal.throwIfAborted();
      rest = await unproven.settle(rest);
      const isLate = performance.now() > waitUntilMs;
      const locked = isLate ? new Set(rest.map(({ index }) => index)) : locks.take(rest);
      try {
        // Between the look at the map and the lock another process may have finished.
        const missing = await unproven.settle(rest.filter(({ index }) => locked.has(index)));
        const isAll = missing.length === planned.chunks.length;
        // What is left when others fetch the middle is not read over again.
        const ranges = isAll ? [planned] : mergeChunks(missing, 0);
        for (const range of ranges) await fetchRange(this.blob, range, this.signal);
      } finally {
        if (!isLate) locks.give(locked);
      }
      rest = rest.filter(({ index }) => !locked.has(index) && this.isStillWanted(index));
      if (rest.length === 0) return;
      await sleep(pollMs);
    }
  }

  /** Read-ahead of a chunk another process is at is dropped. */
  private isStillWanted(index: number): boolean {
    if (this.blob.pending.isWanted(index)) return true;
    this.blob.pending.settle(index);
    return false;
  }
}
