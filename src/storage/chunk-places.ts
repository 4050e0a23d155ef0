/**
 * Where the chunks of an open blob lie in its uncompressed space, as far as that is known: from the blob's own table, or
 * from the first description of a chunk that an image gave. A cache file is found by an offset that comes from the
 * bootstrap, and one flipped bit there shows another chunk's bytes; so the device thread compares what a file's chunk
 * index says with this before it reads a cached chunk, and asks for what is not known yet.
 *
 * Main writes an offset, then the size that says the offset is there; what is written stays.
 */
import type { BlobMeta } from './tables/blob-meta.ts';

/** Table entries taken over at once: some 50 µs, and whoever reads one file of an image mostly reads its neighbours. */
const LEARNED_ENTRIES = 1024;
const OFFSET_BYTES = 8;
const SIZE_BYTES = 4;

/** Memory of the places of a blob's chunks: untouched, and so not there, until they are known. */
export function newPlaces(chunkCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(chunkCount * (OFFSET_BYTES + SIZE_BYTES));
}

/** Both threads' view; calls allocate nothing. */
export class ChunkPlaces {
  private readonly offsets: Float64Array;
  private readonly sizes: Int32Array;

  constructor(readonly shared: SharedArrayBuffer) {
    const chunkCount = shared.byteLength / (OFFSET_BYTES + SIZE_BYTES);
    this.offsets = new Float64Array(shared, 0, chunkCount);
    this.sizes = new Int32Array(shared, chunkCount * OFFSET_BYTES, chunkCount);
  }

  /** Uncompressed length of a chunk below the count; 0 while its place is not known. */
  bytes(chunk: number): number {
    return Atomics.load(this.sizes, chunk);
  }

  /** Byte in the uncompressed blob, once `bytes` is not 0. */
  offset(chunk: number): number {
    return this.offsets[chunk];
  }

  set(chunk: number, offset: number, bytes: number): void {
    this.offsets[chunk] = offset;
    Atomics.store(this.sizes, chunk, bytes);
  }

  /** Takes over what the blob's table says of a chunk and those around it. */
  learn(meta: BlobMeta, chunk: number): void {
    const from = chunk - (chunk % LEARNED_ENTRIES);
    const end = Math.min(meta.chunkCount, from + LEARNED_ENTRIES);
    for (let i = from; i < end; i++) {
      const { uncompressedOffset, uncompressedSize } = meta.entry(i);
      this.set(i, uncompressedOffset, uncompressedSize);
    }
  }
}

/**
 * Extents of chunks that images describe (RAFS v5): nothing but their digests tells them apart, and one that is put where
 * another lies would change what that one's readers see.
 */
export class ChunkExtents {
  /** Start, end and chunk of what touches a stretch of `bucketBytes`, one behind the other. */
  private readonly buckets = new Map<number, number[]>();

  /** @param bucketBytes as long as a chunk may be: each touches two stretches at most */
  constructor(private readonly bucketBytes: number) {}

  /** Notes a chunk's extent. @returns the chunk that has a part of it already, and then notes nothing; -1 = none */
  claim(chunk: number, offset: number, bytes: number): number {
    const end = offset + bytes;
    const first = Math.floor(offset / this.bucketBytes);
    const last = Math.floor((end - 1) / this.bucketBytes);
    for (let bucket = first; bucket <= last; bucket++) {
      const extents = this.buckets.get(bucket) ?? [];
      for (let i = 0; i < extents.length; i += 3) {
        if (extents[i + 2] === chunk) return -1;
        if (extents[i] < end && offset < extents[i + 1]) return extents[i + 2];
      }
    }
    for (let bucket = first; bucket <= last; bucket++) {
      const extents = this.buckets.get(bucket);
      if (extents === undefined) this.buckets.set(bucket, [offset, end, chunk]);
      else extents.push(offset, end, chunk);
    }
    return -1;
  }
}
