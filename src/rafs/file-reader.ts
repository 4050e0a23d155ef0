/**
 * READ of an image's file: from the chunk list to the guest's pages.
 *
 * Two passes over the chunks of the range. The first validates each and tests its bit; if one is missing the read is
 * parked and the missing chunks of one blob are asked for (several blobs: one after the other). The second merges
 * neighbours that lie side by side in one cache file into runs, each read by one preadv. What is not in memory is read
 * by the kernel meanwhile: a slow disk under the cache directory holds nobody up either. Chunks that no cache file takes
 * come out of the blob's spill (`spill-bits.ts`), from where they may go again: such a read looks at the clock.
 */
import type { ReadArgs } from '../fuse/args.ts';
import { S } from '../fuse/flags.ts';
import { PARKED, RESUME, type Request } from '../fuse/request.ts';
import { readInto, zero } from '../fuse/segments.ts';
import { SpillView } from '../storage/cache/spill-bits.ts';
import { ChunkPlaces } from '../storage/chunk-places.ts';
import type { BlobHandle, WantedChunk } from '../storage/types.ts';
import { errno, errnoName } from '../sys/errno.ts';
import { RWF_NOWAIT } from '../sys/io.ts';
import { AccessRecorder } from './access-log.ts';
import { ChunkRecord, HOLE, type InodeRecord, type Metadata } from './metadata.ts';
import type { Nodes } from './nodes.ts';
import type { RafsOptions } from './rafs-options.ts';
import { ReadAhead } from './read-ahead.ts';

/**
 * Runs of one read beyond one per blob: a fetch that succeeds and leaves its bits clear is not asked for ever, and a
 * disk that never has the pages ready is waited for in the end.
 */
const SPARE_ATTEMPTS = 3;
const BLOCK_BYTES = 4096;
/** Of `copy`, besides counts, PARKED and errnos: somebody cut the cache file. */
const CUT = -0x10000;
/** Chunks that go while they are copied are copied again, this often in one go. */
const SPILL_COPIES_MAX = 4;

export class FileReader {
  private readonly ready: Uint8Array[];
  private readonly places: readonly ChunkPlaces[];
  private readonly blobs: readonly BlobHandle[];
  private readonly fetch: RafsOptions['fetch'];
  private readonly chunk = new ChunkRecord();
  /** 1: the file system of this blob's cache knows no reads that do not wait (tmpfs of old kernels). */
  private readonly waits: Uint8Array;
  private readonly attemptsMax: number;
  private readonly spills: readonly SpillView[];
  private readonly recorder: AccessRecorder | null;
  private readonly readAheads: ReadAhead;
  /** It is known where the loaded chunk lies. */
  private isPlaced = false;
  /** The read needs a chunk that only its spill has. */
  private isSpilled = false;

  constructor(
    private readonly metadata: Metadata,
    private readonly nodes: Nodes,
    options: RafsOptions,
  ) {
    this.blobs = options.blobs;
    this.fetch = options.fetch;
    this.waits = new Uint8Array(options.blobs.length);
    this.attemptsMax = options.blobs.length + SPARE_ATTEMPTS;
    this.ready = options.blobs.map((blob) => new Uint8Array(blob.ready));
    this.places = options.blobs.map((blob) => new ChunkPlaces(blob.places));
    this.readAheads = new ReadAhead(metadata.chunkSize);
    this.recorder = options.trace === undefined ? null : new AccessRecorder(options.trace, options.blobs);
    this.spills = options.blobs.map(({ spill }) => new SpillView(spill));
  }

  /** Serves READ of the loaded `file`: bytes in request.data (short at end of file), -errno, or PARKED. */
  read(request: Request, args: ReadArgs, file: InodeRecord): number {
    const type = file.mode & S.IFMT;
    if (type !== S.IFREG) return type === S.IFDIR ? -errno.EISDIR : -errno.EINVAL;
    const { offset } = args;
    if (offset < 0) return -errno.EINVAL;
    if (offset >= file.size) return 0;
    const bytes = Math.min(args.size, request.data.bytes, file.size - offset);
    if (bytes === 0) return 0;
    for (let copies = 0; copies < SPILL_COPIES_MAX; copies++) {
      const clock = this.spillClock();
      const missing = this.firstMissing(file, offset, bytes);
      if (missing < 0) return missing;
      if (missing > 0) return this.park(request, file, offset, bytes, missing - 1);
      const copied = this.copy(request, file, offset, bytes);
      if (this.isSpilled && copied !== PARKED && clock !== this.spillClock()) continue;
      return copied === CUT ? this.refetch(request, file, offset, bytes) : copied;
    }
    return this.nodes.refused(file.node, 'uncached chunks go faster than they can be copied');
  }

  /** One for all blobs of the store. */
  private spillClock(): number {
    return this.spills.length === 0 ? 0 : this.spills[0].now();
  }

  /** The cache file is shorter than its bits promise: they are void for this range, and storage is asked to look. */
  private refetch(request: Request, file: InodeRecord, offset: number, bytes: number): number {
    const { chunk } = this;
    const { chunkSize } = this.metadata;
    const end = Math.ceil((offset + bytes) / chunkSize);
    for (let k = Math.floor(offset / chunkSize); k < end; k++) {
      if (this.loadChunk(file, k) < 0 || chunk.offset === HOLE) continue;
      Atomics.and(this.ready[chunk.blob], chunk.index >>> 3, 0xff ^ (0x80 >>> (chunk.index & 7)));
    }
    const missing = this.firstMissing(file, offset, bytes);
    return missing > 0 ? this.park(request, file, offset, bytes, missing - 1) : -errno.EIO;
  }

  /** 0 when all chunks of the range are in the cache, 1 + the blob of the first that is not, or -EIO. */
  private firstMissing(file: InodeRecord, offset: number, bytes: number): number {
    const { chunkSize } = this.metadata;
    const end = Math.ceil((offset + bytes) / chunkSize);
    this.isSpilled = false;
    for (let k = Math.floor(offset / chunkSize); k < end; k++) {
      const loaded = this.loadChunk(file, k);
      if (loaded < 0) return loaded;
      const { chunk } = this;
      if (chunk.offset !== HOLE) this.recorder?.touch(chunk.blob, chunk.index, file.node, k);
      if (this.isCached()) continue;
      if (!this.isReady()) return chunk.blob + 1;
      this.isSpilled = true;
    }
    return 0;
  }

  /** Loads chunk `k` and checks it against its blob: 0 or -EIO. */
  private loadChunk(file: InodeRecord, k: number): number {
    const { chunk } = this;
    const found = this.metadata.chunk(file, k, chunk);
    if (found < 0) return this.nodes.failed(found, file.node);
    if (chunk.offset === HOLE) return 0;
    const blob = this.blobs[chunk.blob];
    if (chunk.index >= blob.chunkCount) return this.nodes.refused(file.node, `chunk ${k}: no such chunk in its blob`);
    const blobEnd = Math.ceil(blob.uncompressedSize / BLOCK_BYTES) * BLOCK_BYTES;
    const used = this.used(file, k);
    // 0: old images do not know how long their blobs are.
    if (blobEnd !== 0 && chunk.offset + used > blobEnd)
      return this.nodes.refused(file.node, `chunk ${k}: outside its blob`);
    const places = this.places[chunk.blob];
    const bytes = places.bytes(chunk.index);
    this.isPlaced = bytes !== 0;
    return bytes === 0 || (bytes >= used && places.offset(chunk.index) === chunk.offset) ? 0 : this.misplaced(file, k);
  }

  private misplaced(file: InodeRecord, k: number): number {
    const { chunk } = this;
    const places = this.places[chunk.blob];
    const has = `${places.bytes(chunk.index)} bytes at byte ${places.offset(chunk.index)}`;
    const says = `${this.used(file, k)} at ${chunk.offset}`;
    return this.nodes.refused(
      file.node,
      `chunk ${k}: chunk ${chunk.index} of its blob is ${has}, the image says ${says}`,
    );
  }

  /** Bytes of chunk `k` that the file uses. */
  private used(file: InodeRecord, k: number): number {
    return Math.min(this.metadata.chunkSize, file.size - k * this.metadata.chunkSize);
  }

  private isReady(): boolean {
    const { blob, index } = this.chunk;
    return this.isCached() || (this.isPlaced && this.spills[blob].has(index));
  }

  /** A chunk counts once its place is known, with which `loadChunk` has compared it. */
  private isCached(): boolean {
    const { chunk } = this;
    if (chunk.offset === HOLE) return true;
    if (!this.isPlaced) return false;
    const bits = Atomics.load(this.ready[chunk.blob], chunk.index >>> 3);
    return (bits & (0x80 >>> (chunk.index & 7))) !== 0;
  }

  private copy(request: Request, file: InodeRecord, offset: number, bytes: number): number {
    const { chunk } = this;
    const { chunkSize } = this.metadata;
    let blob = 0;
    let fd = -1;
    let from = HOLE;
    let run = 0;
    let done = 0;
    while (done + run < bytes) {
      const position = offset + done + run;
      const k = Math.floor(position / chunkSize);
      const inside = position - k * chunkSize;
      const take = Math.min(chunkSize - inside, bytes - done - run);
      const loaded = this.loadChunk(file, k);
      if (loaded < 0) return loaded;
      const start = chunk.offset === HOLE ? HOLE : chunk.offset + inside;
      const source = start === HOLE ? -1 : this.sourceFd();
      const follows = source === fd && (start === HOLE || start === from + run);
      if (run > 0 && !follows) {
        const moved = this.move(request, file, done, run, blob, fd, from);
        if (moved < 0) return moved;
        done += run;
        run = 0;
      }
      if (run === 0) {
        blob = chunk.blob;
        fd = source;
        from = start;
      }
      run += take;
    }
    const moved = this.move(request, file, done, run, blob, fd, from);
    return moved < 0 ? moved : bytes;
  }

  /** Where the loaded chunk is read from. */
  private sourceFd(): number {
    const { blob } = this.chunk;
    return this.isSpilled && !this.isCached() ? this.spills[blob].fd : this.blobs[blob].dataFd;
  }

  /**
   * Moves one run into the guest's pages: 0, -errno, PARKED when the disk has to be waited for, or CUT: the file is
   * shorter than its chunk map says.
   */
  private move(
    request: Request,
    file: InodeRecord,
    skip: number,
    bytes: number,
    blob: number,
    fd: number,
    from: number,
  ): number {
    if (from === HOLE) {
      const zeroed = zero(request.data, skip, bytes);
      return Math.min(zeroed, 0);
    }
    const isMemory = fd !== this.blobs[blob].dataFd;
    let flags = isMemory || this.waits[blob] === 1 || request.attempt >= this.attemptsMax ? 0 : RWF_NOWAIT;
    let done = 0;
    while (done < bytes) {
      const n = readInto(request.data, skip + done, bytes - done, fd, from + done, flags);
      if (n > 0) {
        // Short may mean "what is in memory"; the next round tells.
        done += n;
      } else if (flags !== 0 && (n === -errno.EAGAIN || n === -errno.EOPNOTSUPP)) {
        if (n === -errno.EOPNOTSUPP) this.waits[blob] = 1;
        else if (this.readAhead(request, fd, bytes - done, from + done)) return PARKED;
        flags = 0;
      } else if (n < 0) {
        return this.nodes.refused(file.node, `cache file of blob ${blob} cannot be read at ${from}: ${errnoName(n)}`);
      } else {
        return CUT;
      }
    }
    return 0;
  }

  /**
   * Parks until the kernel has read the range; the guest's pages take it meanwhile, and the read that runs again finds
   * it in the page cache and puts it where it belongs. False: this thread has to wait itself.
   */
  private readAhead(request: Request, fd: number, bytes: number, offset: number): boolean {
    const ticket = request.parking.park(RESUME.RERUN, true);
    if (ticket === 0) return false;
    if (request.io.read(fd, request.data, bytes, offset, ticket) === 0) return true;
    request.parking.unpark(ticket);
    return false;
  }

  /** Parks the read and asks for its missing chunks of blob `blob`. */
  private park(request: Request, file: InodeRecord, offset: number, bytes: number, blob: number): number {
    if (request.attempt >= this.attemptsMax) {
      return this.nodes.refused(file.node, `chunks of blob ${blob} are not in the cache although they were fetched`);
    }
    const chunks = this.missing(file, offset, bytes, blob);
    const ticket = request.parking.park(RESUME.RERUN, false);
    if (ticket === 0) return -errno.EBUSY;
    const { chunkSize } = this.metadata;
    const asked = Math.ceil((offset + bytes) / chunkSize) - Math.floor(offset / chunkSize);
    const absent = chunks.reduce((count, { isAhead }) => (isAhead ? count : count + 1), 0);
    this.fetch(ticket, this.blobs[blob].handle, chunks, absent < asked);
    return PARKED;
  }

  /**
   * The missing chunks of one blob, each once: files of zeros name one chunk many times. With those of the range come the
   * rest of a short file, and of a long one more when its reader goes straight on.
   */
  private missing(file: InodeRecord, offset: number, bytes: number, blob: number): WantedChunk[] {
    const { chunkSize } = this.metadata;
    const wanted = new Map<number, WantedChunk>();
    const end = Math.ceil((offset + bytes) / chunkSize);
    let first = -1;
    for (let k = Math.floor(offset / chunkSize); k < end; k++) {
      if (this.collect(wanted, file, k, blob, false) && first < 0) first = k;
    }
    const chunks = Math.ceil(file.size / chunkSize);
    if (first < 0 || chunks === 1 || !this.readAheads.missed(file.node, first, end, chunks))
      return [...wanted.values()];
    for (let k = this.readAheads.from; k < this.readAheads.to; k++) this.collect(wanted, file, k, blob, true);
    return [...wanted.values()];
  }

  /** Adds chunk `k` to `wanted` when it is missing and of this blob. */
  private collect(
    wanted: Map<number, WantedChunk>,
    file: InodeRecord,
    k: number,
    blob: number,
    isAhead: boolean,
  ): boolean {
    const { chunk } = this;
    if (this.loadChunk(file, k) < 0 || chunk.offset === HOLE || chunk.blob !== blob || this.isReady()) return false;
    const { index, offset: uncompressedOffset } = chunk;
    const known = wanted.get(index);
    if (isAhead && known !== undefined) return false;
    const used = Math.max(this.used(file, k), known?.bytes ?? 0);
    const source = this.metadata.source(file, k, chunk);
    const found = { chunkIndex: index, uncompressedOffset, bytes: used, startsFile: k === 0, isAhead };
    wanted.set(index, source === null ? found : { ...found, source });
    return true;
  }
}
