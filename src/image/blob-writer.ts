/**
 * Writes a v6 data blob, part by part, in the order of rafs-format 3.1:
 *
 *   1 chunk data | 2 tar | 3 chunk infos | 4 CCT header | 5 tar | 6 digests | 7 tar | 8 bootstrap | 9 tar | 10 TOC | 11 tar
 *
 * 2, 5 and 9 with the bootstrap inlined or a TOC, 6, 7, 10 and 11 with a TOC. Each tar header follows its part. What the
 * blob table will say about the blob is collected on the way.
 */
import { CHUNK_FLAG } from '../rafs/chunk-entry.ts';
import { BLOB_ID_BYTES } from '../rafs/v6/blob-table-layout.ts';
import { CODECS } from '../storage/codecs/codecs.ts';
import { DIGEST_BYTES, DIGESTS } from '../storage/codecs/digests.ts';
import {
  type ChunkInfo,
  COMPRESSED_BLOB_BYTES_MAX,
  chunkInfoBytes,
  encodeCctHeader,
  encodeChunkInfo,
  encodeTarHeader,
  encodeToc,
  FEATURE,
  PART,
  TOC_FLAG,
  type TocEntry,
} from '../storage/tables/blob-layout.ts';
import type { BlobInfo, Compressor, Digester } from '../storage/types.ts';
import type { ChunkStore } from './chunk-store.ts';
import { imageError } from './errors.ts';
import type { OutputFile } from './output.ts';

export interface BlobSettings {
  chunkSize: number;
  compressor: Compressor;
  digester: Digester;
  /** `--features blob-toc` */
  toc: boolean;
  /** `--blob-inline-meta` */
  inlineMeta: boolean;
}

/** The id an inlined bootstrap gives its own blob, whose real one depends on it (3.10). */
const ID_OF_ITSELF = 'x'.repeat(BLOB_ID_BYTES);

export class BlobWriter {
  readonly #out: OutputFile;
  readonly #settings: BlobSettings;
  readonly #toc: TocEntry[] = [];
  readonly info: BlobInfo;

  constructor(out: OutputFile, settings: BlobSettings) {
    this.#out = out;
    this.#settings = settings;
    this.info = {
      index: 0,
      id: ID_OF_ITSELF,
      chunkCount: 0,
      chunkSize: settings.chunkSize,
      compressor: settings.compressor,
      digester: settings.digester,
      features: features(settings),
      compressedSize: 0,
      uncompressedSize: 0,
      ciCompressor: 0,
      ciOffset: 0,
      ciCompressedSize: 0,
      ciUncompressedSize: 0,
      tocSize: 0,
      tocDigest: null,
      cipher: 0,
      extra: new Uint8Array(0),
    };
  }

  /** Part 1: stored chunks, back to back. @returns the compressed offset of the first */
  chunks(bytes: Uint8Array): number {
    const offset = this.#out.position;
    if (offset + bytes.length > COMPRESSED_BLOB_BYTES_MAX) throw imageError('BLOB_LIMIT', { rule: 'compressed size' });
    this.#out.write(bytes);
    return offset;
  }

  /** Parts 2 to 7, after the last chunk. A blob without chunks has none of them. */
  finishData(store: ChunkStore, uncompressedBytes: number): void {
    if (store.count === 0) return;
    const dataBytes = this.#out.position;
    this.info.chunkCount = store.count;
    this.info.uncompressedSize = uncompressedBytes;
    if (this.#tarHeaders) {
      this.#tarHeader(PART.DATA, dataBytes);
      // Upstream's digest covers the tar header too (3.8).
      this.#entry(PART.DATA, TOC_FLAG.RAW, this.#out.digest(), 0, dataBytes, uncompressedBytes);
    }
    this.#chunkTable(store);
    if (this.#settings.toc) this.#digests(store);
    this.info.compressedSize = this.#out.position;
  }

  /** Parts 8 and 9. */
  bootstrap(bytes: Buffer): void {
    const packed = this.#settings.toc ? CODECS.zstd.compress(bytes) : bytes;
    const smaller = packed.length < bytes.length;
    const stored = smaller ? packed : bytes;
    const offset = this.#out.position;
    this.#out.write(stored);
    this.#tarHeader(PART.BOOTSTRAP, stored.length);
    const flags = smaller ? TOC_FLAG.ZSTD : TOC_FLAG.RAW;
    this.#entry(PART.BOOTSTRAP, flags, sha256(bytes), offset, stored.length, bytes.length);
  }

  /** Parts 10 and 11; what the blob table says about them does not reach an inlined bootstrap (3.10). */
  tableOfContents(): void {
    if (!this.#settings.toc) return;
    const toc = encodeToc(this.#toc);
    this.#out.write(toc);
    if (this.#settings.inlineMeta) return;
    this.info.tocSize = toc.length;
    this.info.tocDigest = sha256(toc);
    this.info.compressedSize = this.#out.position;
  }

  get #tarHeaders(): boolean {
    return this.#settings.toc || this.#settings.inlineMeta;
  }

  /** Parts 3 to 5. */
  #chunkTable(store: ChunkStore): void {
    const table = chunkInfos(store, this.info.features);
    const packed = CODECS[this.#settings.compressor].compress(table);
    const smaller = packed.length < table.length;
    const stored = smaller ? packed : table;
    this.info.ciCompressor = smaller ? CODECS[this.#settings.compressor].id : 0;
    this.info.ciOffset = this.#out.position;
    this.info.ciCompressedSize = stored.length;
    this.info.ciUncompressedSize = table.length;
    const header = encodeCctHeader({
      features: this.info.features,
      ciCompressor: this.info.ciCompressor,
      chunkCount: store.count,
      ciOffset: this.info.ciOffset,
      ciCompressedSize: stored.length,
      ciUncompressedSize: table.length,
      contextOffset: 0,
      contextSize: 0,
      contextCount: 0,
    });
    this.#out.write(stored);
    const headerOffset = this.#out.position;
    this.#out.write(header);
    if (!this.#tarHeaders) return;
    this.#tarHeader(PART.META, stored.length + header.length);
    const flags = CI_FLAGS[smaller ? this.#settings.compressor : 'none'];
    this.#entry(PART.META, flags, sha256(table), this.info.ciOffset, stored.length, table.length);
    this.#entry(PART.META_HEADER, TOC_FLAG.RAW, sha256(header), headerOffset, header.length, header.length);
  }

  /** Parts 6 and 7. */
  #digests(store: ChunkStore): void {
    const digests = store.digests.subarray(0, store.count * DIGEST_BYTES);
    const offset = this.#out.position;
    this.#out.write(digests);
    this.#tarHeader(PART.DIGEST, digests.length);
    this.#entry(PART.DIGEST, TOC_FLAG.RAW, sha256(digests), offset, digests.length, digests.length);
  }

  #tarHeader(name: string, sizeBytes: number): void {
    this.#out.write(encodeTarHeader(name, sizeBytes));
  }

  #entry(name: string, flags: number, digest: Buffer, offset: number, storedSize: number, uncompressedSize: number) {
    this.#toc.push({ flags, name, digest, offset, storedSize, uncompressedSize });
  }
}

/** How the TOC says what the chunk table is stored as. */
const CI_FLAGS: Record<Compressor, number> = {
  none: TOC_FLAG.RAW,
  lz4_block: TOC_FLAG.LZ4,
  zstd: TOC_FLAG.ZSTD,
  // The builder never compresses with gzip; the format has no flag for it.
  gzip: 0,
};

/** Feature bits of a blob made here (3.11). */
function features(settings: BlobSettings): number {
  let bits = FEATURE.ALIGNED | FEATURE.CAP_TAR_TOC;
  if (settings.inlineMeta) bits |= FEATURE.INLINED_FS_META | FEATURE.HAS_TAR_HEADER;
  if (settings.toc) bits |= FEATURE.INLINED_CHUNK_DIGEST | FEATURE.HAS_TAR_HEADER | FEATURE.HAS_TOC;
  return bits;
}

function chunkInfos(store: ChunkStore, blobFeatures: number): Buffer {
  const entryBytes = chunkInfoBytes(blobFeatures);
  const table = Buffer.alloc(store.count * entryBytes);
  const info: ChunkInfo = {
    compressedOffset: 0,
    compressedSize: 0,
    uncompressedOffset: 0,
    uncompressedSize: 0,
    flags: 0,
    low: 0,
    high: 0,
  };
  for (let chunk = 0; chunk < store.count; chunk++) {
    info.compressedOffset = store.compressedOffset[chunk];
    info.compressedSize = store.compressedSize[chunk];
    info.uncompressedOffset = store.uncompressedOffset[chunk];
    info.uncompressedSize = store.uncompressedSize[chunk];
    info.flags = info.compressedSize === info.uncompressedSize ? 0 : CHUNK_FLAG.COMPRESSED;
    encodeChunkInfo(table, chunk * entryBytes, blobFeatures, info);
  }
  return table;
}

function sha256(bytes: Uint8Array): Buffer {
  return DIGESTS.sha256.digest(bytes);
}
