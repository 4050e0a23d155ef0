/**
 * Test helpers: a finished image as a source of entries (which rebuilds its source tree without touching a disk), and
 * the filled cache file of a blob, which is what the kernel takes as its device.
 */
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { S_IFLNK, S_IFMT, S_IFREG } from '../rafs/v6/inode-layout.ts';
import { ImageWalker, type WalkEntry } from '../rafs/walk.ts';
import { CODECS, compressorOf } from '../storage/codecs/codecs.ts';
import { CHUNK_FLAG, chunkInfoBytes, decodeChunkInfo } from '../storage/tables/blob-layout.ts';
import type { BlobInfo } from '../storage/types.ts';
import type { BuildOptions } from './build.ts';
import type { ByteText, FileContent, ImageSource, SourceEntry } from './source.ts';

/** Options of a build that leaves everything at its default, into directory `dir`. */
export function defaults(dir: string): BuildOptions {
  return {
    chunkSize: 0x10_0000,
    compressor: 'zstd',
    digester: 'blake3',
    whiteouts: 'oci',
    explicitIds: true,
    toc: false,
    inlineMeta: false,
    blobId: null,
    blob: { dir },
    bootstrap: { path: join(dir, 'boot') },
    prefetchPolicy: 'none',
    patterns: [],
    helperEntry: null,
  };
}

/** The uncompressed image of a blob: each chunk at its uncompressed offset. */
export function filledData(blob: BlobInfo, file: Buffer): Buffer {
  const data = Buffer.alloc(blob.uncompressedSize);
  eachChunk(blob, file, (bytes, offset) => data.set(bytes, offset));
  return data;
}

/** As `filledData`, into a sparse file: `<id>.blob.data` of a filled cache. */
export function writeFilledData(blob: BlobInfo, file: Buffer, path: string): void {
  const fd = openSync(path, 'w');
  ftruncateSync(fd, blob.uncompressedSize);
  eachChunk(blob, file, (bytes, offset) => writeSync(fd, bytes, 0, bytes.length, offset));
  closeSync(fd);
}

function eachChunk(blob: BlobInfo, file: Buffer, each: (bytes: Buffer, offset: number) => void): void {
  const stored = file.subarray(blob.ciOffset, blob.ciOffset + blob.ciCompressedSize);
  const table = CODECS[compressorOf(blob.ciCompressor) ?? 'none'].decompress(stored, blob.ciUncompressedSize);
  for (let i = 0; i < blob.chunkCount; i++) {
    const info = decodeChunkInfo(table, i * chunkInfoBytes(blob.features), blob.features);
    const codec = CODECS[(info.flags & CHUNK_FLAG.COMPRESSED) !== 0 ? blob.compressor : 'none'];
    const bytes = file.subarray(info.compressedOffset, info.compressedOffset + info.compressedSize);
    each(codec.decompress(bytes, info.uncompressedSize), info.uncompressedOffset);
  }
}

export class FinishedImage implements ImageSource {
  readonly inOrder = false;
  readonly #entries = new Map<ByteText, WalkEntry>();
  readonly #data: Buffer[];
  readonly #chunkSize: number;

  constructor(bootstrap: string, blobDir: string) {
    const image = new ImageWalker(bootstrap);
    this.#data = image.blobs.map((blob) => filledData(blob, readFileSync(join(blobDir, blob.id))));
    this.#chunkSize = image.metadata.chunkSize;
    // Chunk lists are read on demand from the open image, so they are asked for before it is closed.
    for (const entry of image.walk()) {
      const chunks = entry.chunks();
      this.#entries.set(entry.path.toString('latin1'), { ...entry, chunks: () => chunks });
    }
    image.close();
  }

  *entries(): Generator<SourceEntry> {
    for (const [path, entry] of this.#entries) yield sourceEntry(path, entry);
  }

  open(path: ByteText): FileContent {
    const chunks = this.#entries.get(path)?.chunks() ?? [];
    return {
      read: (into, at) => {
        let done = 0;
        // Reads start at multiples of the build's chunk size, which may be several of the image's.
        for (let k = Math.floor(at / this.#chunkSize); done < into.length && k < chunks.length; k++) {
          const { blob, uncompressedOffset, bytes } = chunks[k];
          const skip = Math.max(0, at - k * this.#chunkSize);
          const part = this.#data[blob].subarray(uncompressedOffset + skip, uncompressedOffset + bytes);
          const fitting = part.subarray(0, into.length - done);
          into.set(fitting, done);
          done += fitting.length;
        }
        return done;
      },
      isHole: () => false,
      close: () => {},
    };
  }
}

/** What a directory walk of the unpacked image would say. */
export function sourceEntry(path: ByteText, { inode, target, xattrs }: WalkEntry): SourceEntry {
  const type = inode.mode & S_IFMT;
  return {
    path,
    mode: inode.mode,
    uid: inode.uid,
    gid: inode.gid,
    sizeBytes: type === S_IFREG || type === S_IFLNK ? inode.size : 0,
    mtime: inode.mtime,
    mtimeNs: inode.mtimeNs,
    rdevMajor: isDevice(type) ? (inode.u >>> 8) & 0xfff : 0,
    rdevMinor: isDevice(type) ? (inode.u & 0xff) | ((inode.u >>> 12) & ~0xff) : 0,
    target: target === null ? null : target.toString('latin1'),
    xattrs: [...xattrs].map(([name, value]) => ({ name, value })).sort((a, b) => (a.name < b.name ? -1 : 1)),
    linkKey: type === S_IFREG && inode.nlink > 1 ? String(inode.node) : null,
  };
}

function isDevice(type: number): boolean {
  return type === 0o020000 || type === 0o060000;
}
