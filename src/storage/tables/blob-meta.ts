/**
 * The chunk table of a blob: `<id>.blob.meta` in the cache directory (rafs-format 6.3), fetched from the blob when the
 * first chunk is missing, validated once per opening (rafs-format 9, items 28 to 30), and then read entry by entry
 * with pread: a blob may have 16 million chunks, which must not sit in memory.
 */
import { closeSync, constants, fstatSync, readSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { codeOf } from '../../common/app-error.ts';
import { openIfThere } from '../cache/cache-names.ts';
import { cipherOf } from '../codecs/cipher.ts';
import { storageError } from '../errors.ts';
import type { BlobInfo } from '../types.ts';
import { Contexts, type ContextTable, checkMember } from './blob-contexts.ts';
import {
  align4096,
  CCT_HEADER_BYTES,
  type CctHeader,
  CHUNK_FLAG,
  type ChunkInfo,
  chunkDataBytes,
  chunkInfoBytes,
  decodeCctHeader,
  decodeChunkInfo,
  FEATURE,
  hasChunkTable,
} from './blob-layout.ts';
import { checkHeader, checkMetaDigest, countedBy, decodeTable, refusal } from './blob-meta-rules.ts';
import { isStreamed, tableParts } from './blob-meta-stream.ts';
import { type Part, TableFile } from './table-file.ts';

/** Entries are read in pages of this many: 4 to 6 KiB. */
const PAGE_ENTRIES = 256;
/** Pages kept, 64 x 6 KiB: reads are local, and a page is one pread. */
const PAGES_MAX = 64;
/** Entries validated in one turn of the event loop, about 3 ms. */
const VALIDATE_ENTRIES_PER_TURN = 16_384;
/** Contexts are read one by one, 2 µs each. */
const VALIDATE_CONTEXTS_PER_TURN = 2048;

/** Reads `bytes` at `offset` of the blob with the caller's retry policy. */
export type ReadBlob = (offset: number, bytes: number) => Promise<Buffer>;

export class BlobMeta {
  /** Null for a blob whose chunks are all stored alone. */
  readonly contexts: Contexts | null;
  private readonly pages = new Map<number, Buffer>();
  private readonly entryBytes: number;
  private readonly storedEnd: number;
  /** Stored sizes are upper bounds, which may reach beyond the blob (rafs-format 3.2, stargz). */
  private readonly isEstimated: boolean;

  private constructor(
    private readonly info: BlobInfo,
    private readonly path: string,
    private readonly fd: number,
    contexts: ContextTable | null,
  ) {
    this.entryBytes = chunkInfoBytes(info.features);
    this.storedEnd = chunkDataBytes(info);
    this.isEstimated = info.compressor === 'gzip' && !(info.features & FEATURE.CHUNK_INFO_V2);
    this.contexts = contexts === null ? null : new Contexts(contexts, (offset, bytes) => this.read(offset, bytes));
  }

  /**
   * Opens the cached table, or fetches it. A cached file that does not fit the blob entry is replaced.
   * @param read of the object that holds the table: the blob, or its meta blob
   * @param path of the cached table; '' = there is no cache
   * @throws BLOB_META when the blob's own table is invalid, fetch errors
   */
  static async open(info: BlobInfo, path: string, read: ReadBlob): Promise<BlobMeta> {
    if (!hasChunkTable(info)) throw refusal(info, 'the image lists no chunk table for this blob');
    const found = openCached(path);
    const cached = await BlobMeta.ofCached(info, path, found);
    if (cached !== null) return cached;
    try {
      return await BlobMeta.fetch(info, path, read, found);
    } catch (error) {
      // Bytes that were damaged on their way look like an invalid table.
      if (!['BLOB_META', 'DECODE'].includes(codeOf(error))) throw error;
      return await BlobMeta.fetch(info, path, read, found);
    } finally {
      if (found >= 0) closeSync(found);
    }
  }

  /** @param bad the unusable file of that name, -1 = none */
  private static async fetch(info: BlobInfo, path: string, read: ReadBlob, bad: number): Promise<BlobMeta> {
    const fileBytes = align4096(info.ciUncompressedSize) + CCT_HEADER_BYTES;
    const { header, parts } = isStreamed(info) ? await streamed(info, read) : await whole(info, read);
    const decoded = decodeCctHeader(header);
    const own = countedBy(info, decoded);
    const contexts = checkHeader(own, decoded);
    if (typeof contexts === 'string') throw refusal(info, contexts);
    const file = await TableFile.write(path, parts, fileBytes);
    const meta = new BlobMeta(own, path, file.fd, contexts);
    try {
      await meta.validate();
      file.publish(bad);
      return meta;
    } catch (error) {
      meta.close();
      throw error;
    } finally {
      file.end();
    }
  }

  /** Owns the descriptor, or is null when the file cannot be used. */
  private static async ofCached(info: BlobInfo, path: string, fd: number): Promise<BlobMeta | null> {
    if (fd < 0) return null;
    try {
      const header = headerOf(info, path, fd);
      const own = countedBy(info, header);
      const contexts = checkHeader(own, header);
      if (typeof contexts === 'string') return null;
      const meta = new BlobMeta(own, path, fd, contexts);
      await meta.validate();
      return meta;
    } catch {
      // Fetched anew: whoever wrote this file, the blob is the authority.
      return null;
    }
  }

  /**
   * Entry of chunk `index` (< chunk count), validated when the table was opened. Compressed offset and size are what
   * has to be fetched for it.
   */
  chunk(index: number): ChunkInfo {
    return this.located(this.entry(index));
  }

  /** As `chunk`, for its uncompressed side: what is stored may be the unit's. */
  entry(index: number): ChunkInfo {
    const page = Math.floor(index / PAGE_ENTRIES);
    return decodeChunkInfo(this.page(page), (index % PAGE_ENTRIES) * this.entryBytes, this.info.features);
  }

  /** Number of the chunk that starts at this place of the uncompressed blob, or -1: entries are in that order. */
  chunkAt(uncompressedOffset: number): number {
    let low = 0;
    let high = this.info.chunkCount - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const at = this.entry(middle).uncompressedOffset;
      if (at === uncompressedOffset) return middle;
      if (at < uncompressedOffset) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  private located(info: ChunkInfo): ChunkInfo {
    if (this.isEstimated) {
      info.compressedSize = Math.min(info.compressedSize, Math.max(0, this.storedEnd - info.compressedOffset));
    }
    if (this.contexts === null || !(info.flags & (CHUNK_FLAG.ZRAN | CHUNK_FLAG.BATCH))) return info;
    const unit = this.contexts.unit(info.high);
    info.unit = unit;
    info.compressedSize = unit.storedBytes;
    if (unit.kind === 'zran') info.compressedOffset = unit.storedOffset;
    return info;
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
    return readExactly(this.fd, this.path, offset, bytes);
  }

  /** Every entry, in order: a table that lets two chunks overlap could undo a digest that was checked. */
  private async validate(): Promise<void> {
    const { info, contexts, storedEnd } = this;
    for (let index = 0; index < (contexts?.table.count ?? 0); index++) {
      const rule = contexts?.check(index, storedEnd) ?? null;
      if (rule !== null) throw refusal(info, rule);
      if (index % VALIDATE_CONTEXTS_PER_TURN === VALIDATE_CONTEXTS_PER_TURN - 1) await nextTurn();
    }
    const limits = { storedEnd, uncompressedEnd: align4096(info.uncompressedSize) };
    let end = 0;
    for (let from = 0; from < info.chunkCount; from += VALIDATE_ENTRIES_PER_TURN) {
      const entries = Math.min(VALIDATE_ENTRIES_PER_TURN, info.chunkCount - from);
      const bytes = this.read(from * this.entryBytes, entries * this.entryBytes);
      for (let i = 0; i < entries; i++) {
        const chunk = decodeChunkInfo(bytes, i * this.entryBytes, info.features);
        const rule = chunk.uncompressedOffset < end ? 'overlaps the one before' : this.checkChunk(chunk, limits);
        if (rule !== null) throw refusal(info, `chunk ${from + i} ${rule}`);
        end = chunk.uncompressedOffset + chunk.uncompressedSize;
      }
      if (from + entries < info.chunkCount) await nextTurn();
    }
  }

  /** Item 30. */
  private checkChunk(chunk: ChunkInfo, limits: { storedEnd: number; uncompressedEnd: number }): string | null {
    const { info } = this;
    const { flags } = chunk;
    if (flags & CHUNK_FLAG.ENCRYPTED && info.cipher === 0) return 'has flags its blob has not';
    if (chunk.uncompressedSize > info.chunkSize) return `is ${chunk.uncompressedSize} bytes long`;
    if (chunk.uncompressedOffset + chunk.uncompressedSize > limits.uncompressedEnd) return 'ends behind the blob';
    if (flags & (CHUNK_FLAG.ZRAN | CHUNK_FLAG.BATCH)) return checkMember(chunk, this.contexts, limits.storedEnd);
    if (flags & CHUNK_FLAG.HAS_CRC32 && chunk.low === 0) return 'promises a CRC and has none';
    if (chunk.compressedSize === 0) return 'has no stored bytes';
    const storedBytes = this.isEstimated ? 1 : chunk.compressedSize;
    if (chunk.compressedOffset + storedBytes > limits.storedEnd) return 'ends behind the chunk data';
    const isRaw = (flags & (CHUNK_FLAG.COMPRESSED | CHUNK_FLAG.ENCRYPTED)) === 0;
    if (isRaw && chunk.compressedSize !== chunk.uncompressedSize) return 'is raw and has two sizes';
    return null;
  }
}

/** Descriptor of the cached table; -1 = none that can be read. */
function openCached(path: string): number {
  try {
    return path === '' ? -1 : openIfThere(path, constants.O_RDONLY);
  } catch {
    return -1;
  }
}

/** A table on its way into the cache: its header, and what its file is made of. */
interface Fetched {
  header: Buffer;
  parts: () => AsyncIterable<Part>;
}

async function streamed(info: BlobInfo, read: ReadBlob): Promise<Fetched> {
  const header = await read(info.ciOffset + info.ciCompressedSize, CCT_HEADER_BYTES);
  return { header, parts: () => tableParts(info, header, read) };
}

/** In one request. */
async function whole(info: BlobInfo, read: ReadBlob): Promise<Fetched> {
  const bytes = await read(info.ciOffset, info.ciCompressedSize + CCT_HEADER_BYTES);
  checkMetaDigest(info, bytes);
  const cipher = cipherOf(info);
  const plain = (unit: Buffer) => (cipher === null ? unit : cipher.decrypt(unit));
  const header = plain(bytes.subarray(info.ciCompressedSize));
  async function* parts(): AsyncGenerator<Part> {
    yield { bytes: await decodeTable(info, plain(bytes.subarray(0, info.ciCompressedSize))), at: 0 };
    yield { bytes: header, at: align4096(info.ciUncompressedSize) };
  }
  return { header, parts };
}

/** Header of a cached file; null when that has another length than such a file. */
function headerOf(info: BlobInfo, path: string, fd: number): CctHeader | null {
  const headerAt = align4096(info.ciUncompressedSize);
  if (fstatSync(fd).size !== headerAt + CCT_HEADER_BYTES) return null;
  return decodeCctHeader(readExactly(fd, path, headerAt, CCT_HEADER_BYTES));
}

function readExactly(fd: number, path: string, offset: number, bytes: number): Buffer {
  const buffer = Buffer.allocUnsafeSlow(bytes);
  const got = readSync(fd, buffer, 0, bytes, offset);
  if (got !== bytes) throw storageError('CACHE_FILE', { path, rule: `truncated at ${offset + got}` });
  return buffer;
}
