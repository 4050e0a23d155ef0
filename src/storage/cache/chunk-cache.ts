/**
 * Where the chunks of one open blob end up: in its cache file, or in its spill when that takes nothing. A cache that cannot
 * be written is trouble of ours that no reader gets to see: it is logged, tried again with every fetch, and used again
 * from the moment it works.
 */
import { read, write } from 'node:fs';
import { promisify } from 'node:util';
import { codeOf, explain } from '../../common/app-error.ts';
import type { Logger } from '../../common/log.ts';
import { storageError } from '../errors.ts';
import type { PlannedChunk } from '../fetch-plan.ts';
import type { StoreStats } from '../stats.ts';
import type { CacheFiles } from './cache-files.ts';
import { cacheError } from './cache-io.ts';
import type { CacheKeeper } from './cache-keeper.ts';
import type { ChunkMap } from './chunk-map.ts';
import type { NoFiles } from './no-files.ts';
import type { PrivateFiles } from './private-files.ts';
import type { BlobSpill } from './spill.ts';

const readAt = promisify(read);
const writeAt = promisify(write);
const NOTHING = { bytesRead: 0 };

/** Trouble that comes and goes (a disk that is nearly full) is told this often. */
const TELL_AGAIN_MS = 60_000;

/** Shared with other processes, of one mount alone, or none. */
export type BlobFiles = CacheFiles | PrivateFiles | NoFiles;

export class ChunkCache {
  /** Why the files take nothing at present; null = they do, or there are none. */
  private failure: unknown = null;
  private toldAtMs = Number.NEGATIVE_INFINITY;
  private told: unknown = null;
  /** Unproven chunks found wrong, or that nothing can check. */
  private readonly refuted = new Set<number>();

  constructor(
    private readonly blobId: string,
    readonly files: BlobFiles,
    readonly spill: BlobSpill,
    /** Of the directory; null = it has no limits. */
    private readonly keeper: CacheKeeper | null,
    private readonly stats: StoreStats,
    private readonly log: Logger,
  ) {}

  /** Makes or opens the files as far as that is possible now. Never throws. */
  attach(): void {
    try {
      this.files.attach();
      this.failure = null;
    } catch (error) {
      this.failure = error;
      this.tell(error);
    }
  }

  /** The device thread can read the chunk. */
  isReady(chunk: number): boolean {
    return this.files.map.isReady(chunk) || this.spill.has(chunk);
  }

  /** As `isReady`, or by now in the file. */
  look(chunk: number): boolean {
    if (this.isReady(chunk)) return true;
    const { map } = this.files;
    map.refresh(chunk, chunk);
    if (!map.isReady(chunk)) return false;
    this.stats.chunksFromOthers++;
    return true;
  }

  /** As `look` for neighbours, with one look at the file: those of `chunks` that nobody has. */
  absentOf(chunks: readonly PlannedChunk[]): PlannedChunk[] {
    const absent = chunks.filter(({ index }) => !this.isReady(index));
    if (absent.length === 0) return absent;
    const { map } = this.files;
    let first = absent[0].index;
    let last = first;
    for (const { index } of absent) {
      first = Math.min(first, index);
      last = Math.max(last, index);
    }
    map.refresh(first, last);
    const still = absent.filter(({ index }) => !map.isReady(index));
    this.stats.chunksFromOthers += absent.length - still.length;
    return still;
  }

  /** The file says it has the chunk, and nobody here has checked that yet. */
  isUnproven(chunk: number): boolean {
    return !this.refuted.has(chunk) && this.files.map.isUnproven(chunk);
  }

  /** An unproven chunk is right. @param map of the file in which it was found so */
  accept(map: ChunkMap, chunk: number): void {
    if (!this.files.isRaw) this.stats.chunksFromOthers++;
    map.accept(chunk);
  }

  /** @param isWrong false for an unproven chunk that cannot be checked: others may know better */
  async refute(chunk: number, isWrong: boolean): Promise<void> {
    this.refuted.add(chunk);
    try {
      if (isWrong) await this.files.map.refute(chunk);
    } catch (error) {
      this.tell(cacheError(this.files.dataPath, error));
    }
  }

  /** Bytes of the data file; null when it has fewer, or they cannot be read. */
  async readFile(offset: number, bytes: number): Promise<Buffer | null> {
    const buffer = Buffer.allocUnsafeSlow(bytes);
    for (let done = 0; done < bytes; ) {
      const { bytesRead } = await readAt(this.files.dataFd, buffer, done, bytes - done, offset + done).catch(
        () => NOTHING,
      );
      if (bytesRead === 0) return null;
      done += bytesRead;
    }
    return buffer;
  }

  /** False while what is fetched stays in memory: reading ahead would only push out what readers need. */
  get isWritable(): boolean {
    return this.files.isWritable && this.failure === null && this.keeper?.takes(0) !== false;
  }

  /**
   * Keeps the stored bytes of a chunk's unit, where the file takes such.
   * @returns the map of the file that has them now; null = none has
   */
  async putStored({ info }: PlannedChunk, stored: Buffer): Promise<ChunkMap | null> {
    if (!this.files.isRaw) return null;
    const { map } = this.files;
    return (await this.tried(stored.length, () => this.write(map, info.compressedOffset, stored))) ? map : null;
  }

  /**
   * Keeps a chunk's verified bytes, in the file if that is possible.
   * @param storedIn what `putStored` said of its unit
   * @param isWanted false: nobody waits for it, so a file that has it is enough
   * @throws CACHE_IO when not even memory takes them
   */
  async put({ index, info }: PlannedChunk, bytes: Buffer, storedIn: ChunkMap | null, isWanted: boolean): Promise<void> {
    this.stats.chunksFetched++;
    const { isRaw } = this.files;
    const isKept = isRaw
      ? storedIn !== null && (await this.tried(0, () => this.mark(storedIn, [index])))
      : await this.isWritten([index], info.uncompressedOffset, bytes);
    if (!isKept) this.stats.chunksUncached++;
    if (!isKept || (isRaw && isWanted)) this.keepInMemory(index, info.uncompressedOffset, bytes);
  }

  /** @throws CACHE_IO */
  keepInMemory(index: number, offset: number, bytes: Buffer): void {
    try {
      this.spill.put(index, offset, bytes);
    } catch (error) {
      throw cacheError('(memory)', error);
    }
  }

  /**
   * Keeps chunks whose verified bytes lie side by side, in one write. Not for files that take stored bytes.
   * @param offset of the first in the blob's uncompressed space
   * @throws as `put`
   */
  async putAll(chunks: readonly PlannedChunk[], offset: number, bytes: Buffer): Promise<void> {
    const indexes = chunks.map(({ index }) => index);
    if (await this.isWritten(indexes, offset, bytes)) {
      this.stats.chunksFetched += chunks.length;
      return;
    }
    for (const chunk of chunks) {
      const { uncompressedOffset, uncompressedSize } = chunk.info;
      await this.put(chunk, bytes.subarray(uncompressedOffset - offset).subarray(0, uncompressedSize), null, true);
    }
  }

  /** `chunk` is another number of `first`, which is ready. */
  async alias(first: number, chunk: number): Promise<void> {
    if (this.files.map.isReady(first)) await this.files.map.markReady(chunk);
    else this.spill.alias(first, chunk);
  }

  close(): void {
    this.spill.close();
    this.files.close();
  }

  private isWritten(indexes: readonly number[], offset: number, bytes: Buffer): Promise<boolean> {
    return this.tried(bytes.length, async () => {
      const { map } = this.files;
      await this.write(map, offset, bytes);
      await this.mark(map, indexes);
    });
  }

  /** Does something to the files; false when they take nothing, which is told. */
  private async tried(bytes: number, change: () => Promise<void>): Promise<boolean> {
    // The end of a file that was cut, written first, would hide that.
    this.files.renewIfCut();
    if (!this.files.isWritable || this.keeper?.takes(bytes) === false) return false;
    try {
      await change();
      this.keeper?.wrote(bytes);
      this.worksAgain();
      return true;
    } catch (error) {
      this.failure = cacheError(this.files.dataPath, error);
      this.tell(this.failure);
      return false;
    }
  }

  private async mark(map: ChunkMap, indexes: readonly number[]): Promise<void> {
    await map.markAllReady(indexes);
    this.demandSame(map);
    for (const index of indexes) this.refuted.delete(index);
  }

  /** @param map of the file that is written to: one made anew meanwhile has another */
  private async write(map: ChunkMap, offset: number, bytes: Buffer): Promise<void> {
    const { files } = this;
    for (let done = 0; done < bytes.length; ) {
      done += (await writeAt(files.dataFd, bytes, done, bytes.length - done, offset + done)).bytesWritten;
    }
    // A write makes a cut file long again, and zeros of what its bits promise.
    files.renewIfCut();
    this.demandSame(map);
  }

  /** A bit says something of the file that its chunk was written to, and of no other. @throws CACHE_FILE */
  private demandSame(map: ChunkMap): void {
    if (map === this.files.map) return;
    throw storageError('CACHE_FILE', { path: this.files.dataPath, rule: 'was cut while a chunk was written to it' });
  }

  private worksAgain(): void {
    this.failure = null;
    if (this.told === null) return;
    this.told = null;
    this.log.info(`blob ${this.blobId}: its cache works again`);
  }

  private tell(error: unknown): void {
    const now = performance.now();
    const isNew = this.told === null || codeOf(this.told) !== codeOf(error);
    this.told = error;
    if (!isNew && now - this.toldAtMs < TELL_AGAIN_MS) return;
    this.toldAtMs = now;
    this.log.warn(`cache of blob ${this.blobId}: ${explain(error)}; what is missing is served uncached until then`);
  }
}
