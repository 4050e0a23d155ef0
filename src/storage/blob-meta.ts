/**
 * The chunk table of a blob: `<id>.blob.meta` in the cache directory (rafs-format 6.3), fetched from the blob when the
 * first chunk is missing, validated once per opening (rafs-format 9, items 28 to 30), and then read entry by entry
 * with pread: a blob may have 16 million chunks, which must not sit in memory.
 */
import { closeSync, constants, fstatSync, openSync, readSync, renameSync, unlinkSync } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import {
  align4096,
  CCT_HEADER_BYTES,
  CHUNK_FLAG,
  type ChunkInfo,
  chunkDataBytes,
  chunkInfoBytes,
  decodeCctHeader,
  decodeChunkInfo,
  hasChunkTable,
} from './blob-layout.ts';
import { cacheError, openIfThere, temporaryName } from './cache-files.ts';
import { CODECS, compressorOf } from './codecs.ts';
import { storageError } from './errors.ts';
import type { BlobInfo } from './types.ts';

/** Entries are read in pages of this many: 4 to 6 KiB. */
const PAGE_ENTRIES = 256;
/** Pages kept, 64 x 6 KiB: reads are local, and a page is one pread. */
const PAGES_MAX = 64;
/** Entries validated in one turn of the event loop, about 3 ms. */
const VALIDATE_ENTRIES_PER_TURN = 16_384;

/** Reads `bytes` at `offset` of the blob with the caller's retry policy. */
export type ReadBlob = (offset: number, bytes: number) => Promise<Buffer>;

export class BlobMeta {
  private readonly pages = new Map<number, Buffer>();
  private readonly entryBytes: number;

  private constructor(
    private readonly info: BlobInfo,
    private readonly path: string,
    private readonly fd: number,
  ) {
    this.entryBytes = chunkInfoBytes(info.features);
  }

  /**
   * Opens the cached table, or fetches it. A cached file that does not fit the blob entry is replaced.
   * @throws BLOB_META when the blob's own table is invalid, cache errors when it cannot be stored, fetch errors
   */
  static async open(info: BlobInfo, path: string, read: ReadBlob): Promise<BlobMeta> {
    if (!hasChunkTable(info)) throw refusal(info, 'the image lists no chunk table for this blob');
    const cached = await BlobMeta.openCached(info, path);
    if (cached !== null) return cached;
    const bytes = await read(info.ciOffset, info.ciCompressedSize + CCT_HEADER_BYTES);
    const header = bytes.subarray(info.ciCompressedSize);
    const rule = checkHeader(info, header);
    if (rule !== null) throw refusal(info, rule);
    const table = await decodeTable(info, bytes.subarray(0, info.ciCompressedSize));
    await store(path, table, header);
    const meta = new BlobMeta(info, path, openSync(path, constants.O_RDONLY));
    try {
      await meta.validate();
      return meta;
    } catch (error) {
      meta.close();
      throw error;
    }
  }

  /** null when there is no usable file. */
  private static async openCached(info: BlobInfo, path: string): Promise<BlobMeta | null> {
    let fd = -1;
    try {
      fd = openIfThere(path, constants.O_RDONLY);
    } catch (error) {
      throw cacheError(path, error);
    }
    if (fd < 0) return null;
    const meta = new BlobMeta(info, path, fd);
    try {
      if (meta.checkFile() === null) {
        await meta.validate();
        return meta;
      }
    } catch {
      // Fetched anew below: whoever wrote this file, the blob is the authority.
    }
    meta.close();
    return null;
  }

  /** Entry of chunk `index` (< chunk count); validated when the table was opened. */
  chunk(index: number): ChunkInfo {
    const page = Math.floor(index / PAGE_ENTRIES);
    return decodeChunkInfo(this.page(page), (index % PAGE_ENTRIES) * this.entryBytes, this.info.features);
  }

  get chunkCount(): number {
    return this.info.chunkCount;
  }

  close(): void {
    closeSync(this.fd);
    this.pages.clear();
  }

  private page(page: number): Buffer {
    const known = this.pages.get(page);
    if (known !== undefined) return known;
    const from = page * PAGE_ENTRIES;
    const entries = Math.min(PAGE_ENTRIES, this.info.chunkCount - from);
    const bytes = this.read(from * this.entryBytes, entries * this.entryBytes);
    for (const oldest of this.pages.keys()) {
      if (this.pages.size < PAGES_MAX) break;
      this.pages.delete(oldest);
    }
    this.pages.set(page, bytes);
    return bytes;
  }

  private read(offset: number, bytes: number): Buffer {
    const buffer = Buffer.allocUnsafeSlow(bytes);
    const got = readSync(this.fd, buffer, 0, bytes, offset);
    if (got !== bytes) throw storageError('CACHE_FILE', { path: this.path, rule: `truncated at ${offset + got}` });
    return buffer;
  }

  private checkFile(): string | null {
    const headerAt = align4096(this.info.ciUncompressedSize);
    const bytes = fstatSync(this.fd).size;
    if (bytes !== headerAt + CCT_HEADER_BYTES) return `${bytes} bytes`;
    return checkHeader(this.info, this.read(headerAt, CCT_HEADER_BYTES));
  }

  /** Every entry, in order: a table that lets two chunks overlap could undo a digest that was checked. */
  private async validate(): Promise<void> {
    const { info } = this;
    const limits = { compressedEnd: chunkDataBytes(info), uncompressedEnd: align4096(info.uncompressedSize) };
    let end = 0;
    for (let from = 0; from < info.chunkCount; from += VALIDATE_ENTRIES_PER_TURN) {
      const entries = Math.min(VALIDATE_ENTRIES_PER_TURN, info.chunkCount - from);
      const bytes = this.read(from * this.entryBytes, entries * this.entryBytes);
      for (let i = 0; i < entries; i++) {
        const chunk = decodeChunkInfo(bytes, i * this.entryBytes, info.features);
        const rule = chunk.uncompressedOffset < end ? 'overlaps the one before' : checkChunk(info, chunk, limits);
        if (rule !== null) throw refusal(info, `chunk ${from + i} ${rule}`);
        end = chunk.uncompressedOffset + chunk.uncompressedSize;
      }
      if (from + entries < info.chunkCount) await nextTurn();
    }
  }
}

/** Item 28: the header must say what the image's blob entry says. */
function checkHeader(info: BlobInfo, bytes: Buffer): string | null {
  const header = decodeCctHeader(bytes);
  if (header === null) return 'header without its magic';
  if (header.chunkCount !== info.chunkCount)
    return `header counts ${header.chunkCount} chunks, image ${info.chunkCount}`;
  if (header.ciCompressor !== info.ciCompressor) return `header names compressor ${header.ciCompressor}`;
  if (header.ciOffset !== info.ciOffset) return `header names offset ${header.ciOffset}, image ${info.ciOffset}`;
  if (header.ciCompressedSize !== info.ciCompressedSize) return `header names ${header.ciCompressedSize} stored bytes`;
  if (header.ciUncompressedSize !== info.ciUncompressedSize) return `header names ${header.ciUncompressedSize} bytes`;
  // Entries without contexts only: zran and batch are refused before (`blob-slots.ts`).
  if (info.ciUncompressedSize !== info.chunkCount * chunkInfoBytes(info.features))
    return 'table size does not fit count';
  return null;
}

/** Item 29: decoded with the declared size as a hard cap. */
async function decodeTable(info: BlobInfo, stored: Buffer): Promise<Buffer> {
  const compressor = compressorOf(info.ciCompressor);
  if (compressor === null) throw refusal(info, `unknown table compressor ${info.ciCompressor}`);
  return CODECS[compressor].decompressAsync(stored, info.ciUncompressedSize);
}

/** Item 30 for one entry of a blob without zran, batch and encryption. */
function checkChunk(
  info: BlobInfo,
  chunk: ChunkInfo,
  limits: { compressedEnd: number; uncompressedEnd: number },
): string | null {
  const isCompressed = (chunk.flags & CHUNK_FLAG.COMPRESSED) !== 0;
  if (chunk.flags & (CHUNK_FLAG.ZRAN | CHUNK_FLAG.BATCH | CHUNK_FLAG.ENCRYPTED)) return 'has flags its blob has not';
  if (chunk.uncompressedSize > info.chunkSize) return `is ${chunk.uncompressedSize} bytes long`;
  if (chunk.uncompressedOffset + chunk.uncompressedSize > limits.uncompressedEnd) return 'ends behind the blob';
  if (chunk.compressedOffset + chunk.compressedSize > limits.compressedEnd) return 'ends behind the chunk data';
  if (chunk.compressedSize === 0) return 'has no stored bytes';
  if (!isCompressed && chunk.compressedSize !== chunk.uncompressedSize) return 'is raw and has two sizes';
  if (chunk.flags & CHUNK_FLAG.HAS_CRC32 && chunk.low === 0) return 'promises a CRC and has none';
  return null;
}

/** Writes the cache form next to its place and moves it there complete. */
async function store(path: string, table: Buffer, header: Buffer): Promise<void> {
  const temporary = temporaryName(path);
  let file: FileHandle | null = null;
  try {
    // The directory may have been removed since the blob was opened.
    await mkdir(dirname(path), { recursive: true });
    file = await open(temporary, 'wx', 0o644);
    await writeAll(file, table, 0);
    await writeAll(file, header, align4096(table.length));
    await file.close();
    file = null;
    // Whoever has the old file open keeps it.
    renameSync(temporary, path);
  } catch (error) {
    throw cacheError(path, error);
  } finally {
    await file?.close().catch(() => {});
    try {
      unlinkSync(temporary);
    } catch {
      // Moved away, never made, or its directory is gone.
    }
  }
}

async function writeAll(file: FileHandle, bytes: Buffer, at: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}

function refusal(info: BlobInfo, rule: string) {
  return storageError('BLOB_META', { blobId: info.id, rule });
}
