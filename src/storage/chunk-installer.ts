/**
 * The last three stages of a fetch: decode, verify, write. Takes the stored bytes of one unit (a chunk, a batch, a zran
 * range) and puts the chunks that come out of it into the cache. What is wrong with a chunk is an error of that chunk
 * alone.
 */
import { explain } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import type { ChunkCache } from './cache/chunk-cache.ts';
import { type Decoding, decodeUnit, isBad, memberOf, verifyChunk } from './codecs/decode-chunk.ts';
import type { PlannedChunk } from './fetch-plan.ts';
import type { PendingChunks } from './pending-chunks.ts';
import type { StoreStats } from './stats.ts';

/** Bytes that are wrong this often are wrong at their source; a cache or a line on the way spoils one or two. */
const TRIES_MAX = 4;

export class ChunkInstaller {
  constructor(
    private readonly blob: Decoding,
    private readonly validate: boolean,
    private readonly cache: ChunkCache,
    private readonly pending: PendingChunks,
    private readonly stats: StoreStats,
    private readonly log: Logger,
    readonly throwIfClosed: () => void,
  ) {}

  /**
   * Settles every chunk of the unit. Bytes that do not decode or verify are fetched again, `TRIES_MAX` times altogether.
   * @param again fetches the unit's stored bytes anew
   * @throws what ends the whole range: the blob was closed, nothing takes the chunk, the second fetch failed
   */
  async install(chunks: readonly PlannedChunk[], stored: Buffer, again: () => Promise<Buffer>): Promise<void> {
    let left = chunks;
    let bytes = stored;
    for (let tries = 1; left.length > 0; tries++) {
      const failed = await this.attempt(left, bytes);
      const isLast = tries === TRIES_MAX;
      for (const { chunk, error } of failed) if (isLast || !isBad(error)) this.pending.settle(chunk.index, error);
      const bad = failed.filter(({ error }) => isBad(error));
      if (bad.length === 0) return;
      this.stats.badChunks += bad.length;
      if (isLast) return;
      this.log.warn(`blob ${this.blob.info.id}: ${explain(bad[0].error)}; fetching it once more`);
      left = bad.map(({ chunk }) => chunk);
      bytes = await again();
    }
  }

  /** Installs what is right; the rest with its errors. */
  private async attempt(
    chunks: readonly PlannedChunk[],
    stored: Buffer,
  ): Promise<{ chunk: PlannedChunk; error: unknown }[]> {
    let bytes: Buffer;
    try {
      bytes = await decodeUnit(this.blob, chunks[0], stored);
    } catch (error) {
      return chunks.map((chunk) => ({ chunk, error }));
    }
    const failed: { chunk: PlannedChunk; error: unknown }[] = [];
    const good: { chunk: PlannedChunk; own: Buffer }[] = [];
    for (const chunk of chunks) {
      const own = memberOf(chunk, bytes);
      try {
        await this.verify(chunk, own);
        good.push({ chunk, own });
      } catch (error) {
        failed.push({ chunk, error });
      }
    }
    // Stored bytes of which a part is wrong do not replace others, on which bits that are set may count.
    const storedIn = failed.length === 0 ? await this.cache.putStored(chunks[0], stored) : null;
    for (const { chunk, own } of good) {
      this.throwIfClosed();
      await this.cache.put(chunk, own, storedIn, this.pending.isWanted(chunk.index));
      this.pending.settle(chunk.index);
    }
    return failed;
  }

  /** @throws what `verifyChunk` throws, and what reading the digest throws: the bootstrap's chunk table may be bad */
  async verify(chunk: PlannedChunk, bytes: Buffer): Promise<void> {
    const expected = this.validate ? await this.digestOf(chunk.index) : null;
    await verifyChunk(this.blob.info, chunk, bytes, { validate: this.validate, expected });
  }

  /** The image's word counts before the blob's. */
  private async digestOf(index: number): Promise<Uint8Array | null> {
    return this.pending.digestsOf(index)(index) ?? this.blob.digestOf(index);
  }
}
