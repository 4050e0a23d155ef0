/**
 * Prefetch of one blob: large ranges, streamed, of which only the chunks about to arrive are spoken for.
 *
 *   bytes of the range   ████████████████▒▒▒▒▒▒░░░░░░░░░░░░░░░░░░░░░░
 *                        installed       │ near: a reader joins
 *                        arrived up to here    └ not spoken for: a reader fetches for itself, the stream skips it
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Blob } from '../blob.ts';
import { ChunkBatch } from '../chunk-batch.ts';
import { describedDigest } from '../described-chunks.ts';
import { storageError } from '../errors.ts';
import {
  type FetchRange,
  HEADER_GAP_BYTES,
  mergeChunks,
  type PlannedChunk,
  RANGE_CHUNKS_MAX,
  unitKey,
} from '../fetch-plan.ts';
import type { ChunkDigests, WantedChunk } from '../types.ts';
import type { Pace } from './prefetch-pace.ts';
import { RangeArrivals } from './range-arrivals.ts';

/** How ranges are made and streamed, by who goes first at the gate. */
export interface Manner {
  rank: 'soon' | 'behind';
  /** Chunks are taken from the list in batches of this many stored bytes, and put in the order of their places. */
  batchBytes: number;
  rangeBytes: number;
  /** Bytes nobody asked for that a range may read over at once, and as a part of a batch. */
  gapBytes: number;
  gapShare: number;
  /** A reader that comes to a chunk at most this far behind the stream waits for it; another fetches for itself. */
  nearBytes: number;
  /** Readers wait for ranges that have not been begun, too. */
  isPromised: boolean;
}
/** Chunks looked at in one turn of the event loop, about 2 ms. */
const LOOKED_AT_PER_TURN = 512;

/** A range to stream, and what its chunks are verified with. */
export interface PrefetchRange {
  range: FetchRange;
  digests: ChunkDigests;
}

export interface Streamed {
  bytes: number;
  requests: number;
  isWhole: boolean;
}

export interface StreamOptions {
  manner: Manner;
  pace: Pace;
  signal: AbortSignal;
  /** Memory to use again, as long as the longest range, or longer; null = each range has its own. */
  room: Buffer | null;
  /** Of BATCH_BYTES. */
  batchRoom: Buffer;
}

export class BlobPrefetch {
  /** Chunks passed over because somebody else prefetches them. */
  othersChunks = 0;

  /** @param owner one for all that belongs to one mount's prefetch */
  constructor(
    private readonly blob: Blob,
    private readonly owner: object,
  ) {}

  /**
   * What of `wanted` is missing and not on its way, as ranges; a chunk alone may be longer than `rangeBytes`.
   * @param wanted in the order to fetch; `all` = every chunk that can be verified
   * @param digests of the image that prefetches; not used where the image describes its chunks
   * @throws what opening the blob's tables throws, CHUNK for senseless descriptions
   */
  async *ranges(
    wanted: Iterable<WantedChunk> | 'all',
    digests: ChunkDigests,
    manner: Manner,
  ): AsyncGenerator<PrefetchRange> {
    let batch = new Batch();
    let looked = 0;
    for await (const [chunk, own] of this.planned(wanted, digests)) {
      if (++looked % LOOKED_AT_PER_TURN === 0) await nextTurn();
      if (!this.isFree(chunk.index) || batch.has(chunk.index)) continue;
      if (!batch.takes(chunk, manner.batchBytes)) {
        yield* this.claim(batch, manner);
        batch = new Batch();
      }
      batch.add(chunk, own);
    }
    yield* this.claim(batch, manner);
  }

  /**
   * Streams one range that `ranges` gave out.
   * @returns what it took; not whole when another process is at some of the chunks, so that they must be looked at again
   * @throws what ends a range: network, cache
   */
  stream(work: PrefetchRange, options: StreamOptions): Promise<Streamed> {
    // The blob's files stay open until nothing writes to them any more.
    return this.blob.tracked(() => this.streamLocked(work, options));
  }

  private async streamLocked({ range, digests }: PrefetchRange, options: StreamOptions): Promise<Streamed> {
    const { blob } = this;
    blob.attach();
    this.demandWritable();
    const locked = blob.locks.take(range.chunks);
    // One look at what other processes have done meanwhile; from now on they leave these chunks to us.
    const indexes = range.chunks.map(({ index }) => index);
    blob.files.map.refresh(Math.min(...indexes), Math.max(...indexes));
    const locks = { isHeld: true };
    const give = () => {
      if (locks.isHeld) blob.locks.give(locked);
      locks.isHeld = false;
    };
    try {
      const isPromised = (index: number) => blob.promised.has(index) && blob.pending.has(index);
      const missing = range.chunks.filter(
        ({ index }) => locked.has(index) && (isPromised(index) || this.isAbsent(index)),
      );
      const isAll = missing.length === range.chunks.length;
      const parts = isAll ? [range] : mergeChunks(missing, range.bytes * options.manner.gapShare, range.bytes);
      for (const part of parts) await this.streamPart(part, digests, options, give);
      const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
      return { bytes, requests: parts.length, isWhole: locked.size === range.chunks.length };
    } finally {
      give();
    }
  }

  /** A range that `ranges` gave out is done with. Who waits for more of it than has come asks for himself. */
  drop({ range }: Pick<PrefetchRange, 'range'>): void {
    const { blob } = this;
    for (const { index } of range.chunks) {
      blob.claimed.delete(index);
      if (this.keepPromise(index)) blob.pending.settle(index, storageError('GIVEN_UP', { blobId: blob.info.id }));
    }
  }

  /** True when a reader waits for something of a range that has not been begun. */
  isAwaited({ range }: Pick<PrefetchRange, 'range'>): boolean {
    const { promised, pending } = this.blob;
    return pending.isAnyWanted && range.chunks.some(({ index }) => promised.has(index) && pending.has(index));
  }

  /** A chunk is promised no longer; true when a reader waits for it. */
  private keepPromise(index: number): boolean {
    return this.blob.promised.delete(index) && this.blob.pending.has(index);
  }

  private async streamPart(part: FetchRange, digests: ChunkDigests, options: StreamOptions, give: () => void) {
    const { blob } = this;
    const { pace, signal, manner } = options;
    const read = blob.reads[manner.rank];
    /** Chunks spoken for, not settled yet. */
    const mine = new Set<number>();
    let next = 0;
    let seen = 0;
    /** What is decoded must not wait for more to come. */
    let isDue = false;
    const isAnyWanted = () => blob.pending.isAnyWanted && [...mine].some((index) => blob.pending.isWanted(index));
    const speakFor = (count: number) => {
      const { chunks, offset } = part;
      for (; next < chunks.length && chunks[next].info.compressedOffset - offset <= count + manner.nearBytes; next++) {
        const { index } = chunks[next];
        const isAwaited = this.keepPromise(index);
        if (!isAwaited && !this.isAbsent(index)) continue;
        if (!isAwaited) blob.pending.addAhead(index, digests);
        mine.add(index);
      }
    };
    const batch = new ChunkBatch(blob.info, blob.cache, blob.installer, options.batchRoom, ({ index }) => {
      mine.delete(index);
      blob.pending.settle(index);
    });
    const arrivals = new RangeArrivals(
      part,
      {
        isWanted: (unit) => unit.some(({ index }) => blob.pending.isWanted(index)),
        install: async (unit, stored) => {
          const left = unit.filter(({ index }) => mine.has(index));
          if (left.length === 0) return;
          if (!(await batch.add(left[0], stored))) {
            await blob.install(left, stored, read, signal);
            for (const { index } of left) mine.delete(index);
          } else if (blob.pending.isWanted(left[0].index)) {
            await batch.flush();
          }
          this.demandWritable();
        },
        idle: () => (batch.isWorthWriting || isAnyWanted() || isDue ? batch.flush() : Promise.resolve()),
        arrived: (count) => {
          speakFor(count);
          isDue = count === part.bytes;
          pace.spend(count - seen);
          seen = count;
          if (!pace.isHeldUp || isAnyWanted()) return undefined;
          // Whoever waits for one of the chunks elsewhere must not wait for our readers, too.
          give();
          isDue = true;
          return pace.hold(signal, isAnyWanted);
        },
      },
      options.room,
    );
    blob.arriving.add(arrivals);
    try {
      speakFor(0);
      await read(part.offset, part.bytes, signal, arrivals);
    } finally {
      blob.arriving.delete(arrivals);
      await arrivals.installed().finally(() => {
        for (const index of mine) blob.pending.settle(index, storageError('GIVEN_UP', { blobId: blob.info.id }));
      });
    }
  }

  private async *planned(
    wanted: Iterable<WantedChunk> | 'all',
    digests: ChunkDigests,
  ): AsyncGenerator<[PlannedChunk, ChunkDigests]> {
    const { blob } = this;
    if (blob.info.described === true) {
      if (wanted === 'all') return;
      for (const chunk of wanted) {
        const own = blob.placed.find(null, chunk);
        const { chunkIndex } = chunk;
        if (own.index !== chunkIndex && blob.files.map.isReady(own.index))
          await blob.cache.alias(own.index, chunkIndex);
        yield [own, describedDigest(chunk, digests)];
      }
      return;
    }
    const meta = await blob.tables.open();
    if (wanted === 'all') {
      // The blob's own numbers are not the image's.
      if (blob.placed.isRenumbered) return;
      const { places } = blob.placed;
      for (let index = 0; index < meta.chunkCount; index++) {
        blob.throwIfClosed();
        // Readers come to what is fetched, and shall not have to ask where it lies.
        if (places.bytes(index) === 0) places.learn(meta, index);
        // Most are there already when a pass is made again.
        if (blob.files.map.isReady(index) || blob.isUnverifiable(index, digests)) continue;
        yield [{ index, info: meta.chunk(index) }, digests];
      }
      return;
    }
    for (const chunk of wanted) {
      blob.throwIfClosed();
      yield [blob.placed.find(meta, chunk), digests];
    }
  }

  /** In the order of their first chunks in the list. */
  private *claim(batch: Batch, manner: Manner): Generator<PrefetchRange> {
    const { batchBytes, gapShare, rangeBytes, gapBytes } = manner;
    const places = new Map(batch.chunks.map(({ index }, place) => [index, place]));
    const placeOf = ({ chunks }: FetchRange) => Math.min(...chunks.map(({ index }) => places.get(index) ?? 0));
    const joining = { freeGapBytes: HEADER_GAP_BYTES };
    const ranges = mergeChunks(batch.chunks, batchBytes * gapShare, rangeBytes, gapBytes, joining);
    const inOrder = ranges.map((range) => ({ range, place: placeOf(range) })).sort((a, b) => a.place - b.place);
    const { claimed, promised, pending } = this.blob;
    for (const { range } of inOrder) {
      for (const { index } of range.chunks) {
        claimed.set(index, this.owner);
        if (manner.isPromised && !pending.has(index)) promised.add(index);
      }
      yield { range, digests: batch.digestOf };
    }
  }

  /** What only stays in memory pushes out what readers need. */
  private demandWritable(): void {
    const { cache, files } = this.blob;
    if (!cache.isWritable) throw storageError('UNCACHED', { path: files.dataPath });
  }

  private isFree(index: number): boolean {
    const { blob } = this;
    if (blob.files.map.isReady(index) || blob.cache.isUnproven(index)) return false;
    const owner = blob.claimed.get(index);
    if (owner !== undefined && owner !== this.owner) this.othersChunks++;
    return owner === undefined;
  }

  private isAbsent(index: number): boolean {
    const { pending, cache } = this.blob;
    return !pending.has(index) && !cache.isReady(index) && !cache.isUnproven(index);
  }
}

/** Chunks that become one range, or a few. */
class Batch {
  readonly chunks: PlannedChunk[] = [];
  private bytes = 0;
  private last: PlannedChunk | null = null;
  private readonly digests = new Map<number, ChunkDigests>();
  readonly digestOf: ChunkDigests = (index) => this.digests.get(index)?.(index) ?? null;

  get isEmpty(): boolean {
    return this.chunks.length === 0;
  }

  /** True when there is room; always for more of the unit added last, whose bytes come anyway. */
  takes(chunk: PlannedChunk, bytesMax: number): boolean {
    if (this.last === null || isOneUnit(this.last, chunk)) return true;
    return this.chunks.length < RANGE_CHUNKS_MAX && this.bytes + chunk.info.compressedSize <= bytesMax;
  }

  has(index: number): boolean {
    return this.digests.has(index);
  }

  add(chunk: PlannedChunk, digests: ChunkDigests): void {
    if (this.last === null || !isOneUnit(this.last, chunk)) this.bytes += chunk.info.compressedSize;
    this.last = chunk;
    this.chunks.push(chunk);
    this.digests.set(chunk.index, digests);
  }
}

function isOneUnit(a: PlannedChunk, b: PlannedChunk): boolean {
  return a.info.unit !== undefined && b.info.unit !== undefined && unitKey(a) === unitKey(b);
}
