/** Real images for the tests of this room, with caches that fetch chunks out of the fixture blobs. */
import { closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { newSpillHandle } from '../storage/cache/spill-bits.ts';
import { ChunkPlaces, newPlaces } from '../storage/chunk-places.ts';
import { CODECS, compressorOf } from '../storage/codecs/codecs.ts';
import { DIGESTS } from '../storage/codecs/digests.ts';
import { BLOBS_DIR, FIXTURES } from '../storage/fixtures.testing.ts';
import { CHUNK_FLAG, chunkInfoBytes, decodeChunkInfo } from '../storage/tables/blob-layout.ts';
import type { BlobHandle, BlobInfo, ChunkDigests, WantedChunk } from '../storage/types.ts';

/** Every image, with the name of its expected tree. */
const CASES: readonly (readonly [name: string, tree: string])[] = readFileSync(
  join(FIXTURES, 'images/cases.tsv'),
  'utf8',
)
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => line.split('\t'))
  .map(([name, tree]) => [name, tree]);

/** Images whose chunks `FixtureBlobs` can bring; the others need the contexts that only storage reads. */
export const READABLE_CASES = CASES.filter(([name]) => !/batch|encrypt|zran/.test(name));
/** Those that are plain v6. */
export const V6_CASES = READABLE_CASES.filter(([name]) => /v6/.test(name) && !/tarfs|inline/.test(name));
export const V5_CASES = READABLE_CASES.filter(([name]) => /v5/.test(name));

export function bootPath(name: string): string {
  if (name.includes('.b')) return join(FIXTURES, 'images/boot', name);
  return join(FIXTURES, 'images/boot', name.startsWith('inline-') ? `${name}.blob` : `${name}.boot`);
}

/** The file that holds a blob's data: of images that lie in their blob, that one. */
function blobPath(id: string): string {
  const path = join(BLOBS_DIR, id);
  return existsSync(path) ? path : bootPath(id);
}

/** One path of an expected tree (the fixtures' README). */
export interface Expected {
  path: string;
  path_base64?: boolean;
  type: 'dir' | 'file' | 'symlink' | 'char' | 'block' | 'fifo' | 'socket';
  mode: string;
  uid: number;
  gid: number;
  mtime: number;
  nlink?: number;
  size?: number;
  sha256?: string;
  target?: string;
  target_base64?: boolean;
  rdev?: [number, number];
  xattrs?: Record<string, string>;
}

/** Expected tree by path (latin1 text of the path's bytes, so that every name is a key). */
export function expectedTree(tree: string): Map<string, Expected> {
  const records = JSON.parse(readFileSync(join(FIXTURES, 'images', tree), 'utf8')) as Expected[];
  return new Map(records.map((record) => [pathBytes(record).toString('latin1'), record]));
}

function pathBytes(record: Expected): Buffer {
  return Buffer.from(record.path, record.path_base64 ? 'base64' : 'utf8');
}

/** Blob caches in a temporary directory; `fetch` decodes and verifies chunks as storage does, but at once. */
export class FixtureBlobs {
  readonly handles: BlobHandle[];
  /** Chunks fetched so far, as blob:index. */
  readonly fetched: string[] = [];
  private readonly dir = mkdtempSync(join(tmpdir(), 'rafs-test-'));

  constructor(
    private readonly blobs: readonly BlobInfo[],
    private readonly digests: (blobIndex: number) => ChunkDigests,
  ) {
    this.handles = blobs.map((blob, i) => ({
      handle: 100 + i,
      dataFd: openSync(this.cachePath(i), 'w+'),
      ready: new SharedArrayBuffer(Math.ceil(blob.chunkCount / 8)),
      spill: newSpillHandle(blob.chunkCount),
      places: newPlaces(blob.chunkCount),
      chunkCount: blob.chunkCount,
      uncompressedSize: blob.uncompressedSize,
    }));
  }

  cachePath(index: number): string {
    return join(this.dir, `${index}.blob.data`);
  }

  /** Brings chunks into the cache file and sets their bits. */
  fetch(handle: number, chunks: readonly WantedChunk[]): void {
    const index = handle - 100;
    const blob = this.blobs[index];
    const file = readFileSync(blobPath(blob.id));
    if (blob.described) {
      for (const wanted of chunks) this.store(index, wanted, decodeSource(blob, file, wanted));
      return;
    }
    const table = tableOf(blob, file);
    const digestOf = this.digests(index);
    for (const wanted of chunks) {
      const info = decodeChunkInfo(table, wanted.chunkIndex * chunkInfoBytes(blob.features), blob.features);
      const at = info.compressedOffset;
      const bytes = file.subarray(at, at + info.compressedSize);
      const compressed = (info.flags & CHUNK_FLAG.COMPRESSED) !== 0;
      const data = compressed ? CODECS[blob.compressor].decompress(bytes, info.uncompressedSize) : bytes;
      const digest = digestOf(wanted.chunkIndex);
      if (info.uncompressedOffset !== wanted.uncompressedOffset || info.uncompressedSize < wanted.bytes) {
        throw new Error(`chunk ${wanted.chunkIndex}: the bootstrap expects it elsewhere`);
      }
      if (digest === null || !DIGESTS[blob.digester].digest(data).equals(digest)) {
        throw new Error(`chunk ${wanted.chunkIndex}: digest`);
      }
      this.store(index, wanted, data);
    }
  }

  private store(index: number, { chunkIndex, uncompressedOffset }: WantedChunk, data: Uint8Array): void {
    const { dataFd, ready, places } = this.handles[index];
    writeSync(dataFd, data, 0, data.length, uncompressedOffset);
    new ChunkPlaces(places).set(chunkIndex, uncompressedOffset, data.length);
    Atomics.or(new Uint8Array(ready), chunkIndex >> 3, 0x80 >> (chunkIndex & 7));
    this.fetched.push(`${index}:${chunkIndex}`);
  }

  close(): void {
    for (const { dataFd } of this.handles) closeSync(dataFd);
    rmSync(this.dir, { recursive: true });
  }
}

function tableOf(blob: BlobInfo, file: Buffer): Buffer {
  const stored = file.subarray(blob.ciOffset, blob.ciOffset + blob.ciCompressedSize);
  const isRaw = stored.length === blob.ciUncompressedSize;
  return isRaw ? stored : CODECS[compressorOf(blob.ciCompressor) ?? 'none'].decompress(stored, blob.ciUncompressedSize);
}

/** Where the chunks of a blob with a plain table lie. */
export function placesOf(blob: BlobInfo): SharedArrayBuffer {
  const table = tableOf(blob, readFileSync(blobPath(blob.id)));
  const places = new ChunkPlaces(newPlaces(blob.chunkCount));
  for (let i = 0; i < blob.chunkCount; i++) {
    const info = decodeChunkInfo(table, i * chunkInfoBytes(blob.features), blob.features);
    places.set(i, info.uncompressedOffset, info.uncompressedSize);
  }
  return places.shared;
}

/** A chunk that the bootstrap describes. */
function decodeSource(blob: BlobInfo, file: Buffer, { chunkIndex, bytes, source }: WantedChunk): Buffer {
  if (source === undefined) throw new Error(`chunk ${chunkIndex}: no source`);
  const { compressedOffset, compressedSize, uncompressedSize, compressed, digest } = source;
  const stored = file.subarray(compressedOffset, compressedOffset + compressedSize);
  const data = compressed ? CODECS[blob.compressor].decompress(stored, uncompressedSize) : stored;
  if (data.length < bytes) throw new Error(`chunk ${chunkIndex}: too short`);
  if (digest !== null && !DIGESTS[blob.digester].digest(data).equals(digest)) {
    throw new Error(`chunk ${chunkIndex}: digest`);
  }
  return data;
}
