/**
 * Prefetch of one mount, within a bandwidth, in two stages: what readers will want at once (traces, lists) by several
 * streams beside them, then everything else by one or two behind them. It ends when all is there, the disk is short, or
 * the mount goes.
 */
import { statfs } from 'node:fs/promises';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { codeOf, explain } from '../../common/app-error.ts';
import type { Logger } from '../../common/log.ts';
import { BATCH_BYTES } from '../chunk-batch.ts';
import { GAP_BYTES_MAX } from '../fetch-plan.ts';
import { BEHIND_MAX, SOON_MAX } from '../gate.ts';
import type { PrefetchTarget } from '../store.ts';
import type { WantedChunk } from '../types.ts';
import type { Manner, StreamOptions } from './blob-prefetch.ts';
import { PlannedRanges, type Work } from './planned-ranges.ts';
import { Pace } from './prefetch-pace.ts';

/** Chunks of one open blob, or all that it has. */
export interface PrefetchItem {
  handle: number;
  chunks: readonly WantedChunk[] | 'all';
}

/** Who goes first at the gate, and so which stage. */
export type Stage = Manner['rank'];

export interface PrefetchOptions {
  /** Streams at a time; the gate lets fewer in at once. */
  threads: number;
  /** Least length of merged requests. */
  mergingBytes: number;
  /** 0 = no limit. */
  bytesPerSecond: number;
  /** Directory whose file system must keep some room; null = nothing to look after. */
  workDir: string | null;
  /** Readers wait for the plan at most this long. */
  planMs: number;
  /** It is for all that the image has. */
  isWhole: boolean;
}

export type PrefetchState = 'running' | 'done' | 'stopped' | 'disk short' | 'failed';

/** Numbers of one mount's prefetch; read at any time. */
export interface PrefetchProgress {
  state: PrefetchState;
  isWhole: boolean;
  bytes: number;
  /** Of the requests that are being answered. */
  underWayBytes: number;
  requests: number;
  workers: number;
  /** Sum over all requests. */
  requestMs: number;
  beganAtMs: number;
  /** 0 while it runs. */
  endedAtMs: number;
  /** Resolves when something is under way, when it ends, or `planMs` later. */
  begun: Promise<void>;
}

/**
 * Requests are at least this long where there is that much to fetch: at 100 MB/s 20 ms, in which the other stream's round
 * trip passes. Streams decode what arrives, so that nobody waits for the end of a long one.
 */
const RANGE_BYTES_MIN = 2 << 20;
/** Of a background stream: what a request of a reader's own brings in the same time, at 100 MB/s and 5 ms. */
const NEAR_BYTES = 512 << 10;
/**
 * What is wanted at once lies all over a blob: gaps are read over where a round trip costs more, up to a quarter, and a
 * reader that comes to what is under way always waits for it.
 */
const SOON: Manner = {
  rank: 'soon',
  batchBytes: 64 << 20,
  rangeBytes: RANGE_BYTES_MIN,
  gapBytes: 256 << 10,
  gapShare: 0.25,
  nearBytes: Number.POSITIVE_INFINITY,
  isPromised: true,
};
const STREAMS: Record<Stage, number> = { soon: SOON_MAX, behind: BEHIND_MAX };
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

/** For readers there is nothing to give way to: they want the same. */
const UNPACED = { isBusy: false };

/** Of one stream. Ranges of what is wanted at once are short and few; the others use one room again and again. */
function newMemory({ rank, rangeBytes }: Manner): Memory {
  const room = rank === 'soon' ? null : Buffer.allocUnsafeSlow(rangeBytes);
  return { room, batchRoom: Buffer.allocUnsafeSlow(BATCH_BYTES) };
}

export class Prefetch {
  readonly progress: PrefetchProgress;
  private readonly ending = new AbortController();
  private readonly paces: Record<Stage, Map<unknown, Pace>> = { soon: new Map(), behind: new Map() };
  /** Ranges of this pass that did not come, or not as a whole. */
  private left = 0;
  private lastError: unknown = null;
  /** Resolves when nothing of it runs any more. */
  readonly ended: Promise<void>;
  /** Resolves when all that will be fetched at once is promised to its readers, or `planMs` later. */
  readonly planned: Promise<void>;
  private isPlanned: () => void = () => {};
  private isBegun: () => void = () => {};

  /**
   * Starts at once.
   * @param items makes the list of a stage anew for every pass
   * @param targetOf undefined for handles that are closed
   */
  constructor(
    private readonly items: (stage: Stage) => Iterable<PrefetchItem>,
    private readonly targetOf: (handle: number, owner: object) => PrefetchTarget | undefined,
    private readonly options: PrefetchOptions,
    private readonly log: Logger,
  ) {
    this.progress = {
      state: 'running',
      isWhole: options.isWhole,
      bytes: 0,
      underWayBytes: 0,
      requests: 0,
      workers: 0,
      requestMs: 0,
      beganAtMs: Date.now(),
      endedAtMs: 0,
      begun: new Promise((resolve) => {
        this.isBegun = resolve;
      }),
    };
    this.planned = new Promise((resolve) => {
      this.isPlanned = resolve;
    });
    const late = setTimeout(() => {
      this.isPlanned();
      this.isBegun();
    }, options.planMs);
    void Promise.all([this.planned, this.progress.begun]).then(() => clearTimeout(late));
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
      for (const stage of ['soon', 'behind'] as const) await this.pass(stage);
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
    this.isBegun();
    progress.endedAtMs = Date.now();
    this.ending.abort(new Error(why));
    if (state === 'done' || state === 'stopped') this.log.info(`prefetch ${state}: ${why}`);
    else this.log.warn(`prefetch ended, ${state}: ${why}; chunks are fetched when they are read`);
  }

  /** Goes once over everything of a stage. */
  private async pass(stage: Stage): Promise<void> {
    const manner = this.mannerOf(stage);
    const ranges = stage === 'soon' ? new PlannedRanges(this.ranges(manner), this.isPlanned) : this.ranges(manner);
    this.progress.workers = Math.max(1, Math.min(this.options.threads, STREAMS[stage]));
    const work = async (): Promise<void> => {
      let memory: Memory | null = null;
      for (;;) {
        const { value, done } = await ranges.next();
        if (done === true) return;
        memory ??= newMemory(manner);
        await this.fetch(value, manner, memory);
      }
    };
    await Promise.all(Array.from({ length: this.progress.workers }, work));
  }

  private mannerOf(stage: Stage): Manner {
    // Within a bandwidth it takes its time, which readers have not got.
    if (stage === 'soon') return { ...SOON, isPromised: this.options.bytesPerSecond === 0 };
    const rangeBytes = Math.min(RANGE_BYTES_MAX, Math.max(RANGE_BYTES_MIN, this.options.mergingBytes));
    return {
      rank: stage,
      batchBytes: rangeBytes,
      rangeBytes,
      gapBytes: GAP_BYTES_MAX,
      gapShare: 0.1,
      nearBytes: NEAR_BYTES,
      isPromised: false,
    };
  }

  private async *ranges(manner: Manner): AsyncGenerator<Work> {
    for (const { handle, chunks } of this.items(manner.rank)) {
      await nextTurn();
      const target = this.targetOf(handle, this);
      if (target === undefined) continue;
      const pace = this.paceOf(manner.rank, target);
      try {
        await pace.hold(this.ending.signal);
        for await (const range of target.behind.ranges(chunks, target.digests, manner)) {
          if (this.ending.signal.aborted) {
            target.behind.drop(range);
            return;
          }
          yield { ...range, behind: target.behind, pace };
        }
      } catch (error) {
        this.failed(error);
      }
      // Their prefetch may end before they come.
      if (target.behind.othersChunks > 0) this.left++;
      if (this.ending.signal.aborted) return;
    }
  }

  private async fetch(work: Work, manner: Manner, memory: Memory): Promise<void> {
    const { progress } = this;
    const { signal } = this.ending;
    const { behind, pace } = work;
    await pace.hold(signal);
    const startedAt = performance.now();
    progress.underWayBytes += work.range.bytes;
    this.isBegun();
    try {
      if (signal.aborted || !(await this.hasDisk(work.range.bytes))) return;
      const { bytes, requests, isWhole } = await behind.stream(work, { manner, pace, signal, ...memory });
      progress.bytes += bytes;
      progress.requests += requests;
      if (!isWhole) this.left++;
    } catch (error) {
      this.failed(error);
    } finally {
      progress.underWayBytes -= work.range.bytes;
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

  /** One for all blobs of a host, so that they share the bandwidth. */
  private paceOf(stage: Stage, { gate }: PrefetchTarget): Pace {
    const paces = this.paces[stage];
    const pace = paces.get(gate) ?? new Pace(stage === 'behind' ? gate : UNPACED, this.options.bytesPerSecond);
    paces.set(gate, pace);
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
