/**
 * One open blob on the main thread: brings chunks into its cache file, each once however many readers ask.
 *
 *   fetch(wanted) ─ ready? ─ in flight? join ─ else queue ─┐  (one turn of the event loop collects)
 *                                                          ▼
 *   fetch-queue.ts: plan ─▶ lock per chunk ─▶ read range ─▶ decode ─▶ verify ─▶ write data ─▶ set bit ─▶ unlock
 *
 * Invariants: a bit is set only after verified bytes are written; nothing that failed is remembered, so that the next
 * read tries again; a lock is never waited for while another is held, and dies with the process.
 */
import { setMaxListeners } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { codeOf } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import type { CacheKeeper } from './cache/cache-keeper.ts';
import { type BlobFiles, ChunkCache } from './cache/chunk-cache.ts';
import { ChunkLocks } from './cache/chunk-locks.ts';
import type { BlobSpill } from './cache/spill.ts';
import { UnprovenChunks } from './cache/unproven-chunks.ts';
import { ChunkInstaller } from './chunk-installer.ts';
import { cipherOf } from './codecs/cipher.ts';
import { CODECS } from './codecs/codecs.ts';
import type { Decoding } from './codecs/decode-chunk.ts';
import { isBad } from './codecs/decode-chunk.ts';
import { describedDigest, ownTable } from './described-chunks.ts';
import { storageError } from './errors.ts';
import type { PlannedChunk } from './fetch-plan.ts';
import { FetchQueue } from './fetch-queue.ts';
import { PendingChunks } from './pending-chunks.ts';
import { PlacedChunks } from './placed-chunks.ts';
import type { RangeArrivals, UnitChunks } from './prefetch/range-arrivals.ts';
import type { StoreStats } from './stats.ts';
import { hasBlobDigests } from './tables/blob-digests.ts';
import { hasChunkTable } from './tables/blob-layout.ts';
import type { BlobMeta } from './tables/blob-meta.ts';
import { isStreamed } from './tables/blob-meta-stream.ts';
import { BlobTables, type ReadRange } from './tables/blob-tables.ts';
import type { BlobInfo, ChunkDigests, WantedChunk } from './types.ts';

/** A chunk that went from memory before its reader came is brought again, this often; then the reader asks anew. */
const BRING_TRIES = 4;

const NONE_FOUND: ReadonlyMap<WantedChunk, PlannedChunk> = new Map();

export interface BlobOptions {
  validate: boolean;
  amplifyIoBytes: number;
  keeper: CacheKeeper | null;
}

export interface BlobReads {
  /** With retries, for readers that wait. */
  demand: ReadRange;
  /** One attempt, for prefetch of what readers will want within the second. */
  soon: ReadRange;
  /** One attempt, when nobody else needs the place. */
  behind: ReadRange;
  /** Of the object that holds the chunk table: the blob itself, or its meta blob. With retries, and one attempt ahead. */
  meta: ReadRange;
  metaAhead: ReadRange;
  /** The bytes of a read were wrong: the next ones shall come from the server itself. */
  doubt: () => void;
}

export class Blob {
  readonly pending = new PendingChunks();
  /** Chunks of ranges that prefetch streams, or is about to, and for whom. */
  readonly claimed = new Map<number, object>();
  /** Those of `claimed` that will be fetched at once: a reader of one waits for that, as `pending` says. */
  readonly promised = new Set<number>();
  /** Settles when it is known what is promised; null = it is. */
  private planning: Promise<void> | null = null;
  /** Ranges on their way in. */
  readonly arriving = new Set<RangeArrivals>();
  readonly queue: FetchQueue;
  readonly locks: ChunkLocks;
  readonly tables: BlobTables;
  readonly installer: ChunkInstaller;
  readonly cache: ChunkCache;
  readonly placed: PlacedChunks;
  readonly unproven: UnprovenChunks;
  private readonly closing = new AbortController();
  private running = 0;
  private drained: (() => void) | null = null;

  constructor(
    readonly info: BlobInfo,
    readonly files: BlobFiles,
    readonly spill: BlobSpill,
    readonly options: BlobOptions,
    readonly reads: BlobReads,
    stats: StoreStats,
    log: Logger,
  ) {
    this.cache = new ChunkCache(info.id, files, spill, options.keeper, stats, log);
    this.cache.attach();
    this.locks = new ChunkLocks(() => files.lockFd);
    this.placed = new PlacedChunks(info);
    this.tables = new BlobTables(
      this.placed.isRenumbered ? ownTable(info) : info,
      files.metaPath,
      this.locks,
      reads.meta,
      reads.doubt,
      this.closing.signal,
    );
    const decoding: Decoding = {
      info,
      cipher: cipherOf(info),
      entryOf: (unit) => this.tables.entryOf(unit),
      digestOf: (chunk) => this.tables.digestOf(chunk),
    };
    const { validate } = options;
    this.installer = new ChunkInstaller(decoding, validate, this.cache, this.pending, stats, log, () =>
      this.throwIfClosed(),
    );
    this.unproven = new UnprovenChunks(decoding, validate, this.cache, this.pending, stats, log);
    this.queue = new FetchQueue(this, this.closing.signal);
    // One listener per request under way: more than ten are no leak here.
    setMaxListeners(0, this.closing.signal);
  }

  /**
   * Resolves when the device thread can read all wanted chunks but those that are `isAhead`, which come when they do.
   * @param digests of the image whose reader waits
   * @throws CHUNK when the image and the blob disagree, else the first error of plan, fetch, decode, verify
   */
  async fetch(asked: readonly WantedChunk[], digests: ChunkDigests): Promise<void> {
    this.throwIfClosed();
    this.files.renewIfCut();
    for (const { chunkIndex } of asked) {
      if (chunkIndex >= 0 && chunkIndex < this.info.chunkCount) continue;
      throw storageError('CHUNK', { blobId: this.info.id, chunk: chunkIndex, rule: 'is not in the blob' });
    }
    const wanted = asked.filter(({ isAhead }) => isAhead !== true);
    let ahead = asked.filter(({ isAhead }) => isAhead === true);
    const found = await this.tracked(() => this.place(wanted));
    for (let tries = 1; tries <= BRING_TRIES; tries++) {
      const absent = wanted.filter(({ chunkIndex }) => !this.cache.look(chunkIndex));
      // What was to come behind them is wanted all the same when they have come meanwhile.
      if (absent.length === 0 && ahead.length === 0) break;
      this.attach();
      await this.tracked(() => this.bring(absent, found, ahead, digests));
      ahead = [];
    }
    for (const { chunkIndex } of wanted) this.spill.touch(chunkIndex);
  }

  /**
   * Brings what the first miss would wait for, the chunk table, a connection and a codec, unless everything is there already.
   * Nobody is told when that fails, and large tables wait until they are needed.
   */
  prepare(): void {
    const { info } = this;
    const isNeeded = info.described !== true && hasChunkTable(info) && !isStreamed(info);
    if (!isNeeded || this.files.map.countReady() === info.chunkCount) return;
    const work = this.tracked(async () => {
      const coming = this.tables.prepare(this.reads.metaAhead);
      await nextTurn();
      CODECS[info.compressor].load();
      await coming;
    });
    work.catch(() => {});
  }

  /** Until `known`, readers do not fetch for themselves what may be promised to them in a moment. */
  awaitPlan(known: Promise<void>): void {
    this.planning = known;
    void known.finally(() => {
      if (this.planning === known) this.planning = null;
    });
  }

  /**
   * Makes known where chunks lie, also those that are in the cache already. Returns those it had to look for.
   * @throws CHUNK when the image says otherwise
   */
  private async place(wanted: readonly WantedChunk[]): Promise<ReadonlyMap<WantedChunk, PlannedChunk>> {
    if (wanted.every((chunk) => this.placed.isKnown(chunk))) return NONE_FOUND;
    const meta = this.info.described === true ? null : await this.tables.open();
    return new Map(wanted.map((chunk) => [chunk, this.placed.find(meta, chunk)]));
  }

  private async bring(
    absent: readonly WantedChunk[],
    found: ReadonlyMap<WantedChunk, PlannedChunk>,
    ahead: readonly WantedChunk[],
    digests: ChunkDigests,
  ): Promise<void> {
    if (this.planning !== null) await this.planning;
    const isDescribed = this.info.described === true;
    const meta = isDescribed ? null : await this.tables.open();
    if (meta !== null && absent.some(({ startsFile }) => startsFile === true)) this.queue.beginsFile();
    const placed = absent.map((chunk) => found.get(chunk) ?? this.placed.find(meta, chunk));
    const come = Promise.all(absent.map((chunk, i) => this.demandAs(placed[i], chunk, digests)));
    if (this.options.amplifyIoBytes > 0 && this.cache.isWritable) {
      for (const chunk of ahead) this.readAhead(meta, chunk, digests);
    }
    await come;
  }

  /** Goes into the plan of those that are wanted, which has this file's next chunks in it. */
  private readAhead(meta: BlobMeta | null, wanted: WantedChunk, digests: ChunkDigests): void {
    try {
      const chunk = this.placed.find(meta, wanted);
      const { index } = chunk;
      if (this.pending.has(index) || this.promised.has(index)) return;
      if (this.cache.isReady(index) || this.cache.isUnproven(index)) return;
      this.queue.add(chunk);
      this.pending.addAhead(index, describedDigest(wanted, digests));
    } catch {
      // Its reader is told, should one come.
    }
  }

  /** Aborts what is under way (its readers get CLOSED) and closes the files when it has ended. */
  async close(): Promise<void> {
    this.closing.abort(storageError('CLOSED', { blobId: this.info.id }));
    if (this.running > 0) {
      await new Promise<void>((resolve) => {
        this.drained = resolve;
      });
    }
    await this.tables.close();
    this.cache.close();
  }

  /**
   * A dictionary blob has chunks that an image never names: nothing could vouch for them, so nobody fetches them ahead.
   */
  isUnverifiable(index: number, digests: ChunkDigests): boolean {
    if (!this.options.validate || hasBlobDigests(this.info)) return false;
    try {
      return digests(index) === null;
    } catch {
      return true;
    }
  }

  private async demandAs(chunk: PlannedChunk, wanted: WantedChunk, digests: ChunkDigests): Promise<void> {
    await this.demand(chunk, describedDigest(wanted, digests));
    if (chunk.index !== wanted.chunkIndex) await this.cache.alias(chunk.index, wanted.chunkIndex);
  }

  private demand(chunk: PlannedChunk, digests: ChunkDigests): Promise<void> {
    const isAhead = this.pending.isAhead(chunk.index);
    const known = this.pending.join(chunk.index, digests);
    if (known !== null) {
      // It may have arrived, and wait for company.
      for (const arrivals of this.arriving) arrivals.hurry();
      // Bytes fetched ahead may have been bad long before this reader came: it gets a fetch of its own.
      return known.catch((error: unknown) => {
        if (!(isAhead && isBad(error)) && codeOf(error) !== 'GIVEN_UP') throw error;
        return this.demand(chunk, digests);
      });
    }
    if (this.cache.isReady(chunk.index)) return Promise.resolve();
    if (this.promised.has(chunk.index)) {
      this.pending.addAhead(chunk.index, digests);
      return this.demand(chunk, digests);
    }
    this.queue.add(chunk);
    return this.pending.add(chunk.index, digests);
  }

  /** Settles every chunk of a unit that has arrived. @throws as `ChunkInstaller.install` */
  install(unit: UnitChunks, stored: Buffer, read: ReadRange, signal: AbortSignal): Promise<void> {
    const { compressedOffset, compressedSize } = unit[0].info;
    return this.installer.install(unit, stored, () => {
      this.reads.doubt();
      return read(compressedOffset, compressedSize, signal);
    });
  }

  /** Makes the cache's files ready to take chunks. @throws CLOSED: their descriptors' numbers may be others' by now */
  attach(): void {
    this.throwIfClosed();
    this.cache.attach();
  }

  /** Counts work that uses the files, so that `close` can wait for its end. */
  async tracked<T>(work: () => Promise<T>): Promise<T> {
    this.running++;
    try {
      return await work();
    } finally {
      this.running--;
      if (this.running === 0) this.drained?.();
    }
  }

  throwIfClosed(): void {
    this.closing.signal.throwIfAborted();
  }
}
