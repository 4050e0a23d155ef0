/**
 * Small chunks of a range, decoded side by side as they will lie in the cache file: one write and one look at the chunk
 * map for many of them, into memory that is used again. A chunk alone costs 60 µs of the main thread, one of a batch 15.
 */

import type { ChunkCache } from './cache/chunk-cache.ts';
import type { ChunkInstaller } from './chunk-installer.ts';
import { DECODERS_INTO } from './codecs/codecs.ts';
import type { PlannedChunk } from './fetch-plan.ts';
import { CHUNK_FLAG } from './tables/blob-layout.ts';
import type { BlobInfo } from './types.ts';

/** Decoded bytes of one batch: a millisecond of zstd. */
export const BATCH_BYTES = 1 << 20;
const WORTH_BYTES = BATCH_BYTES / 2;
/** What may lie between chunks that start on blocks; it belongs to none. Where they do not (RAFS v5), a small one fits in. */
const GAP_BYTES_MAX = 4095;

/** Rooms that nobody uses at present. */
const rooms: Buffer[] = [];
/** So many are kept: a reader mostly waits for one range, which has one room for what arrives and one for its chunks. */
const ROOMS_KEPT_MAX = 2;

/** Memory of BATCH_BYTES, used again and again: new pages cost as much as filling them. */
export function takeRoom(): Buffer {
  return rooms.pop() ?? Buffer.allocUnsafeSlow(BATCH_BYTES);
}

/** Nothing uses its bytes any more. */
export function giveRoom(room: Buffer): void {
  if (rooms.length < ROOMS_KEPT_MAX) rooms.push(room);
}

export class ChunkBatch {
  private chunks: PlannedChunk[] = [];
  /** In the blob's uncompressed space. */
  private from = 0;
  private end = 0;
  private readonly gapBytesMax: number;

  /**
   * @param room of BATCH_BYTES, this batch's alone
   * @param kept told of each chunk that readers can have now
   */
  constructor(
    private readonly info: BlobInfo,
    private readonly cache: ChunkCache,
    private readonly installer: ChunkInstaller,
    private readonly room: Buffer,
    private readonly kept: (chunk: PlannedChunk) => void,
  ) {
    this.gapBytesMax = info.described === true ? 0 : GAP_BYTES_MAX;
  }

  /**
   * Takes a chunk in; what does not fit beside it is written first.
   * @returns false for chunks that are not for a batch, or whose bytes are wrong: to be installed alone
   * @throws as `flush`
   */
  async add(chunk: PlannedChunk, stored: Buffer): Promise<boolean> {
    const { info } = chunk;
    const decode = DECODERS_INTO[info.flags & CHUNK_FLAG.COMPRESSED ? this.info.compressor : 'none'];
    const isAlone = info.unit !== undefined || (info.flags & CHUNK_FLAG.ENCRYPTED) !== 0 || this.cache.files.isRaw;
    if (isAlone || decode === null || info.uncompressedSize > this.room.length) return false;
    const at = info.uncompressedOffset;
    const isBeside = at >= this.end && at - this.end <= this.gapBytesMax;
    const isFull = at + info.uncompressedSize - this.from > this.room.length;
    if (this.chunks.length > 0 && (!isBeside || isFull)) await this.flush();
    if (this.chunks.length === 0) this.from = this.end = at;
    const bytes = this.room.subarray(at - this.from, at - this.from + info.uncompressedSize);
    try {
      decode(stored, bytes);
      await this.installer.verify(chunk, bytes);
    } catch {
      return false;
    }
    this.room.fill(0, this.end - this.from, at - this.from);
    this.end = at + info.uncompressedSize;
    this.chunks.push(chunk);
    return true;
  }

  /** True when it holds a chunk that `isSuch`. */
  has(isSuch: (index: number) => boolean): boolean {
    return this.chunks.some(({ index }) => isSuch(index));
  }

  /** As much as makes one write cheap. */
  get isWorthWriting(): boolean {
    return this.end - this.from >= WORTH_BYTES;
  }

  /** Writes what has been taken in. @throws CLOSED, CACHE_IO when nothing takes the chunks */
  async flush(): Promise<void> {
    const { chunks } = this;
    if (chunks.length === 0) return;
    this.chunks = [];
    this.installer.throwIfClosed();
    await this.cache.putAll(chunks, this.from, this.room.subarray(0, this.end - this.from));
    for (const chunk of chunks) this.kept(chunk);
  }
}
