/**
 * Chunks that the cache file claims to have and nobody here has checked: another process put them there while validation
 * is on, or a boot that is over did. Their bytes are looked at before the first use; what is wrong is fetched again.
 * Chunks of a compressed cache always come this way, since the device thread cannot read them from there: they are decoded
 * into memory.
 */
import { codeOf } from '../../common/app-error.ts';
import type { Logger } from '../../common/log.ts';
import { type Decoding, decodeUnit, isBad, memberOf, verifyChunk } from '../codecs/decode-chunk.ts';
import { type PlannedChunk, unitKey } from '../fetch-plan.ts';
import type { PendingChunks } from '../pending-chunks.ts';
import type { StoreStats } from '../stats.ts';
import type { ChunkCache } from './chunk-cache.ts';

export class UnprovenChunks {
  /** The unit decoded last: its members come one after the other. */
  private unit: { key: string; bytes: Promise<Buffer | null> } | null = null;

  constructor(
    private readonly blob: Decoding,
    private readonly validate: boolean,
    private readonly cache: ChunkCache,
    private readonly pending: PendingChunks,
    private readonly stats: StoreStats,
    private readonly log: Logger,
  ) {}

  /** Settles those of `chunks` that the cache has by now; the others are still missing. */
  async settle(chunks: readonly PlannedChunk[]): Promise<PlannedChunk[]> {
    const missing: PlannedChunk[] = [];
    const absent = this.cache.absentOf(chunks);
    if (absent.length < chunks.length) {
      for (const { index } of chunks) if (this.cache.isReady(index)) this.pending.settle(index);
    }
    for (const chunk of absent) {
      if (this.cache.isUnproven(chunk.index) && (await this.check(chunk))) this.pending.settle(chunk.index);
      else missing.push(chunk);
    }
    this.unit = null;
    return missing;
  }

  private async check(chunk: PlannedChunk): Promise<boolean> {
    const { index, info } = chunk;
    const { cache } = this;
    const { map } = cache.files;
    const validate = this.validate || !cache.files.isRaw || map.isSuspect(index);
    let expected: Uint8Array | null = null;
    try {
      if (validate) expected = this.pending.digestsOf(index)(index) ?? (await this.blob.digestOf(index));
    } catch (error) {
      // Who asked for it has gone: that is an error of this chunk alone, which fetching it will show.
      if (codeOf(error) === 'GIVEN_UP') return false;
      throw error;
    }
    if (validate && expected === null) {
      await cache.refute(index, false);
      return false;
    }
    try {
      const bytes = await this.bytesOf(chunk);
      if (bytes !== null) {
        await verifyChunk(this.blob.info, chunk, bytes, { validate, expected });
        if (cache.files.isRaw) cache.keepInMemory(index, info.uncompressedOffset, bytes);
        cache.accept(map, index);
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

  /** A chunk's bytes as the cache has them; null when it has fewer. @throws DECODE */
  private async bytesOf(chunk: PlannedChunk): Promise<Buffer | null> {
    const { info } = chunk;
    if (!this.cache.files.isRaw) return this.cache.readFile(info.uncompressedOffset, info.uncompressedSize);
    const key = unitKey(chunk);
    if (this.unit?.key !== key) this.unit = { key, bytes: this.decoded(chunk) };
    const bytes = await this.unit.bytes;
    return bytes === null ? null : memberOf(chunk, bytes);
  }

  private async decoded(chunk: PlannedChunk): Promise<Buffer | null> {
    const stored = await this.cache.readFile(chunk.info.compressedOffset, chunk.info.compressedSize);
    return stored === null ? null : decodeUnit(this.blob, chunk, stored);
  }
}
