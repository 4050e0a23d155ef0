/**
 * Chunks that no cache file takes: the directory is full, read-only or gone, there is none (`dummycache`), or it keeps
 * stored bytes, which the device thread cannot decode. They stay in memory for the readers that wait for them, in one
 * memfd a blob at their uncompressed offsets, and the longest unused go when all blobs of a store together hold too much.
 */
import { closeSync, writeSync } from 'node:fs';
import { errnoName } from '../../sys/errno.ts';
import { fallocate } from '../../sys/io.ts';
import { memfdCreate } from '../../sys/memory.ts';
import { storageError } from '../errors.ts';
import { CHUNK_BYTES_MAX } from '../tables/blob-layout.ts';
import { newSpillClock, newSpillHandle, type SpillHandle, SpillView } from './spill-bits.ts';

/**
 * Of one store. A read of 1 MiB spans two of the longest chunks; others may come in between before the device thread has
 * copied them.
 */
export const SPILL_BYTES_MAX = 4 * CHUNK_BYTES_MAX;

const PAGE_BYTES = 4096;
/** FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE. */
const PUNCH = 1 | 2;

interface Kept {
  spill: BlobSpill;
  /** Numbers of the chunk: images without extended blob table may give it several. */
  chunks: number[];
  offset: number;
  bytes: number;
}

/** Of all blobs of a store. */
export class Spill {
  private readonly clock = newSpillClock();
  /** The longest unused first. */
  private readonly kept = new Set<Kept>();
  private bytes = 0;

  open(chunkCount: number): BlobSpill {
    return new BlobSpill(this, newSpillHandle(chunkCount, this.clock));
  }

  /** @internal of `BlobSpill` */
  add(kept: Kept): void {
    this.bytes += kept.bytes;
    this.kept.add(kept);
  }

  /** @internal */
  makeRoom(bytes: number): void {
    for (const kept of this.kept) {
      if (this.bytes + bytes <= SPILL_BYTES_MAX) return;
      kept.spill.drop(kept);
    }
  }

  /** @internal */
  touch(kept: Kept): void {
    if (this.kept.delete(kept)) this.kept.add(kept);
  }

  /** @internal */
  remove(kept: Kept): void {
    if (this.kept.delete(kept)) this.bytes -= kept.bytes;
  }
}

export class BlobSpill {
  private readonly view: SpillView;
  private readonly byChunk = new Map<number, Kept>();
  /** How many kept chunks touch a page that is not theirs alone. */
  private readonly edgePages = new Map<number, number>();
  private fd = -1;

  constructor(
    private readonly all: Spill,
    readonly handle: SpillHandle,
  ) {
    this.view = new SpillView(handle);
  }

  has(chunk: number): boolean {
    return this.byChunk.has(chunk);
  }

  /**
   * Keeps a chunk for a while; the longest unused of any blob go for it.
   * @throws CACHE_IO when there is no memory
   */
  put(chunk: number, offset: number, bytes: Buffer): void {
    if (this.byChunk.has(chunk)) return;
    this.all.makeRoom(bytes.length);
    const kept = { spill: this, chunks: [chunk], offset, bytes: bytes.length };
    for (const page of edgePagesOf(kept)) this.edgePages.set(page, (this.edgePages.get(page) ?? 0) + 1);
    this.byChunk.set(chunk, kept);
    this.all.add(kept);
    try {
      const fd = this.openFile();
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(fd, bytes, done, bytes.length - done, offset + done);
      }
    } catch (error) {
      this.drop(kept);
      throw error;
    }
    this.view.set(chunk);
  }

  /** `chunk` is another number of `first`, when that is here. */
  alias(first: number, chunk: number): void {
    const kept = this.byChunk.get(first);
    if (kept === undefined || this.byChunk.has(chunk)) return;
    kept.chunks.push(chunk);
    this.byChunk.set(chunk, kept);
    this.view.set(chunk);
  }

  /** The chunk is in use: others go first. */
  touch(chunk: number): void {
    const kept = this.byChunk.get(chunk);
    if (kept !== undefined) this.all.touch(kept);
  }

  /** @internal of `Spill`. Order: bits, clock, bytes (`spill-bits.ts`). */
  drop(kept: Kept): void {
    this.all.remove(kept);
    for (const chunk of kept.chunks) {
      this.byChunk.delete(chunk);
      this.view.clear(chunk);
    }
    this.view.tick();
    if (this.fd < 0) return;
    // A page that a neighbour still uses is left to it.
    const [first, last] = [
      Math.floor(kept.offset / PAGE_BYTES),
      Math.floor((kept.offset + kept.bytes - 1) / PAGE_BYTES),
    ];
    const isOthers = (page: number) => this.edgePages.has(page);
    for (const page of edgePagesOf(kept)) {
      const users = (this.edgePages.get(page) ?? 1) - 1;
      if (users === 0) this.edgePages.delete(page);
      else this.edgePages.set(page, users);
    }
    const from = (isOthers(first) ? first + 1 : first) * PAGE_BYTES;
    const end = (isOthers(last) ? last : last + 1) * PAGE_BYTES;
    if (end > from) fallocate(this.fd, PUNCH, from, end - from);
  }

  /** The device thread must not touch the blob any more. */
  close(): void {
    for (const kept of new Set(this.byChunk.values())) this.all.remove(kept);
    this.byChunk.clear();
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
  }

  private openFile(): number {
    if (this.fd >= 0) return this.fd;
    const fd = memfdCreate('nydusd-spill');
    if (fd < 0) throw storageError('CACHE_IO', { path: '(memory)', call: 'memfd_create', errno: errnoName(-fd) });
    this.fd = fd;
    this.view.setFd(fd);
    return fd;
  }
}

/** The first and the last page of a chunk, where they are not all its own. */
function edgePagesOf({ offset, bytes }: Kept): Set<number> {
  const pages = new Set<number>();
  const end = offset + bytes;
  if (offset % PAGE_BYTES !== 0) pages.add(Math.floor(offset / PAGE_BYTES));
  if (end % PAGE_BYTES !== 0) pages.add(Math.floor(end / PAGE_BYTES));
  return pages;
}
