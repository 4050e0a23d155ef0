/**
 * Prefetch of one mount: a list of what to fetch is gone through in its order by one or two streams at a time, behind
 * all readers and within a bandwidth. It ends when everything is there, the disk is short, or the mount goes.
 */
import { statfs } from 'node:fs/promises';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { codeOf, explain } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import type { BlobPrefetch, PrefetchRange, StreamOptions } from './blob-prefetch.ts';
import { BATCH_BYTES } from './chunk-batch.ts';
import { BEHIND_MAX } from './gate.ts';
import { Pace } from './prefetch-pace.ts';
import type { PrefetchTarget } from './store.ts';
import type { WantedChunk } from './types.ts';

/** Chunks of one open blob, or all that it has. */
export interface PrefetchItem {
  handle: number;
  chunks: readonly WantedChunk[] | 'all';
}

export interface PrefetchOptions {
  /** Streams at a time; more than `BEHIND_MAX` wait for each other. */
  threads: number;
  /** Least length of merged requests. */
  mergingBytes: number;
  /** 0 = no limit. */
  bytesPerSecond: number;
  /** Directory whose file system must keep some room; null = nothing to look after. */
  workDir: string | null;
}

export type PrefetchState = 'running' | 'done' | 'stopped' | 'disk short' | 'failed';

/** Numbers of one mount's prefetch; read at any time. */
export interface PrefetchProgress {
  state: PrefetchState;
  bytes: number;
  requests: number;
  workers: number;
  /** Sum over all requests. */
  requestMs: number;
  beganAtMs: number;
  /** 0 while it runs. */
  endedAtMs: number;
}

/**
 * Requests are at least this long where there is that much to fetch: at 100 MB/s 20 ms, in which the other stream's round
 * trip passes. Streams decode what arrives, so that nobody waits for the end of a long one.
 */
const RANGE_BYTES_MIN = 2 << 20;
/** And at most this long: each stream holds as much memory. */
const RANGE_BYTES_MAX = 8 << 20;
/** Room that prefetch leaves on the disk of the cache: readers need it more. */
const DISK_RESERVE_BYTES = 256 << 20;
/** Of a small file system this part. */
const DISK_RESERVE_SHARE = 0.05;
/** Pauses between passes over what is left, each twice as long as the one before. */
const PASS_PAUSE_MS = 500;
const PASS_PAUSE_MAX_MS = 30_000;
/** Passes in a row that brought nothing: some ten minutes. */
const IDLE_PASSES_MAX = 24;
/** The error that no other range would fare better with. */
const DISK_ERROR = 'UNCACHED';

type Memory = Pick<StreamOptions, 'room' | 'batchRoom'>;

export class Prefetch {
  readonly progress: PrefetchProgress;
  private readonly ending = new AbortController();
  private readonly paces = new Map<unknown, Pace>();
  /** Ranges of this pass that did not come, or not as a whole. */
  private left = 0;
  private lastError: unknown = null;
  /** Resolves when nothing of it runs any more. */
  readonly ended: Promise<void>;

  /**
   * Starts at once.
   * @param items makes the list anew for every pass
   * @param targetOf undefined for handles that are closed
   */
  constructor(
    private readonly items: () => Iterable<PrefetchItem>,
    private readonly targetOf: (handle: number) => PrefetchTarget | undefined,
    private readonly options: PrefetchOptions,
    private readonly log: Logger,
  ) {
    const workers = Math.max(1, Math.min(options.threads, BEHIND_MAX));
    this.progress = {
      state: 'running',
      bytes: 0,
      requests: 0,
      workers,
      requestMs: 0,
      beganAtMs: Date.now(),
      endedAtMs: 0,
    };
    this.ended = this.run().catch((error: unknown) => this.end('failed', explain(error)));
  }

  /** Ends it. */
  async stop(): Promise<void> {
    this.ending.abort(new Error('prefetch stopped'));
    await this.ended;
  }

  private async run(): Promise<void> {
    let pauseMs = PASS_PAUSE_MS;
    for (let idle = 0; idle < IDLE_PASSES_MAX; idle++) {
      const before = this.progress.bytes;
      this.left = 0;
      await this.pass();
      if (this.progress.state !== 'running') return;
      if (this.ending.signal.aborted) return this.end('stopped', 'its mount goes');
      if (this.left === 0)
        return this.end('done', `${this.progress.bytes} bytes in ${this.progress.requests} requests`);
      if (this.progress.bytes > before) {
        idle = 0;
        pauseMs = PASS_PAUSE_MS;
      }
      await sleep(pauseMs, undefined, { signal: this.ending.signal }).catch(() => {});
      pauseMs = Math.min(PASS_PAUSE_MAX_MS, pauseMs * 2);
    }
    this.end('failed', `${this.left} ranges do not come: ${explain(this.lastError)}`);
  }

  private end(state: PrefetchState, why: string): void {
    const { progress } = this;
    if (progress.state !== 'running') return;
    progress.state = state;
    progress.endedAtMs = Date.now();
    this.ending.abort(new Error(why));
    if (state === 'done' || state === 'stopped') this.log.info(`prefetch ${state}: ${why}`);
    else this.log.warn(`prefetch ended, ${state}: ${why}; chunks are fetched when they are read`);
  }

  /** Goes once over everything. */
  private async pass(): Promise<void> {
    const ranges = this.ranges();
    const work = async (): Promise<void> => {
      const memory = { room: Buffer.allocUnsafeSlow(this.rangeBytes), batchRoom: Buffer.allocUnsafeSlow(BATCH_BYTES) };
      for (;;) {
        const { value, done } = await ranges.next();
        if (done === true) return;
        await this.fetch(value, memory);
      }
    };
    await Promise.all(Array.from({ length: this.progress.workers }, work));
  }

  private get rangeBytes(): number {
    return Math.min(RANGE_BYTES_MAX, Math.max(RANGE_BYTES_MIN, this.options.mergingBytes));
  }

  private async *ranges(): AsyncGenerator<PrefetchRange & { behind: BlobPrefetch; pace: Pace }> {
    for (const { handle, chunks } of this.items()) {
      await nextTurn();
      const target = this.targetOf(handle);
      if (target === undefined) continue;
      const pace = this.paceOf(target);
      try {
        await pace.hold(this.ending.signal);
        for await (const range of target.behind.ranges(chunks, target.digests, this.rangeBytes)) {
          if (this.ending.signal.aborted) return;
          yield { ...range, behind: target.behind, pace };
        }
      } catch (error) {
        this.failed(error);
      }
      if (this.ending.signal.aborted) return;
    }
  }

  private async fetch(work: PrefetchRange & { behind: BlobPrefetch; pace: Pace }, memory: Memory): Promise<void> {
    const { progress } = this;
    const { signal } = this.ending;
    const { behind, pace } = work;
    await pace.hold(signal);
    const startedAt = performance.now();
    try {
      if (signal.aborted || !(await this.hasDisk(work.range.bytes))) return;
      const { bytes, requests, isWhole } = await behind.stream(work, { pace, signal, ...memory });
      progress.bytes += bytes;
      progress.requests += requests;
      if (!isWhole) this.left++;
    } catch (error) {
      this.failed(error);
    } finally {
      behind.drop(work);
    }
    progress.requestMs += performance.now() - startedAt;
  }

  private failed(error: unknown): void {
    if (this.ending.signal.aborted) return;
    this.left++;
    this.lastError = error;
    if (codeOf(error) === DISK_ERROR) this.end('disk short', explain(error));
    else this.log.debug(`prefetch: ${explain(error)}`);
  }

  private paceOf({ gate }: PrefetchTarget): Pace {
    const pace = this.paces.get(gate) ?? new Pace(gate, this.options.bytesPerSecond);
    this.paces.set(gate, pace);
    return pace;
  }

  private async hasDisk(bytes: number): Promise<boolean> {
    const { workDir } = this.options;
    if (workDir === null) return true;
    const { bavail, blocks, bsize } = await statfs(workDir);
    const reserve = Math.min(DISK_RESERVE_BYTES, blocks * bsize * DISK_RESERVE_SHARE);
    if (bavail * bsize - bytes > reserve) return true;
    this.end('disk short', `${bavail * bsize} bytes are free in ${workDir}, ${Math.round(reserve)} stay so`);
    return false;
  }
}
