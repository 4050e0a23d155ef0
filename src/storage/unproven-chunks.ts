/**
 * Chunks that the cache file claims to have and nobody here has checked: another process put them there while validation
 * is on, or a boot that is over did. Their bytes are looked at before the first use; what is wrong is fetched again.
 */
import type { Logger } from '../common/log.ts';
import type { ChunkCache } from './chunk-cache.ts';
import { type Decoding, isBad, verifyChunk } from './decode-chunk.ts';
import type { PlannedChunk } from './fetch-plan.ts';
import type { PendingChunks } from './pending-chunks.ts';
import type { StoreStats } from './stats.ts';

export class UnprovenChunks {
  constructor(
    private readonly blob: Decoding,
    private readonly cache: ChunkCache,
    private readonly pending: PendingChunks,
    private readonly stats: StoreStats,
    private readonly log: Logger,
  ) {}

  /** Settles those of `chunks` that the cache has by now; the others are still missing. */
  async settle(chunks: readonly PlannedChunk[]): Promise<PlannedChunk[]> {
    const missing: PlannedChunk[] = [];
    for (const chunk of chunks) {
      const isThere = this.cache.look(chunk.index) || (this.cache.isUnproven(chunk.index) && (await this.check(chunk)));
      if (isThere) this.pending.settle(chunk.index);
      else missing.push(chunk);
    }
    return missing;
  }

  private async check(chunk: PlannedChunk): Promise<boolean> {
    const { index, info } = chunk;
    const expected = this.pending.digestsOf(index)(index) ?? (await this.blob.digestOf(index));
    if (expected === null) {
      await this.cache.refute(index, false);
      return false;
    }
    const bytes = await this.cache.readFile(info.uncompressedOffset, info.uncompressedSize);
    try {
      if (bytes !== null) {
        await verifyChunk(this.blob.info, chunk, bytes, { validate: true, expected });
        this.cache.accept(index);
        return true;
      }
    } catch (error) {
      if (!isBad(error)) throw error;
    }
    this.stats.badChunks++;
    this.log.warn(`blob ${this.blob.info.id}: chunk ${index} is damaged in the cache; fetching it again`);
    await this.cache.refute(index, true);
    return false;
  }
}
