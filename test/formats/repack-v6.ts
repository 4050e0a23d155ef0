/**
 * Writer of the tests for v6 images that no builder here makes: takes a plain image without compression and stores its
 * chunks another way. Inodes name chunks by number and by their place in the uncompressed blob, which stay; what changes
 * is the blob, its entry in the bootstrap, and the bootstrap's chunk table (rafs-format 2.5, 2.13, 3.2-3.6, 3.12, 4.6).
 */
import {
  CHUNK_ENTRY,
  CHUNK_ENTRY_BYTES,
  type ChunkEntry,
  decodeChunkEntry,
  encodeChunkEntry,
  newChunkEntry,
} from '../../src/rafs/chunk-entry.ts';
import { COMPRESSOR_FLAG, FLAG } from '../../src/rafs/flags.ts';
import { encodeBlobEntry, encodeDeviceSlot } from '../../src/rafs/v6/blob-table-layout.ts';
import {
  BLOCK_BYTES,
  DEVICE_SLOT_OFFSET,
  decodeExtSuperblock,
  EXT,
  EXT_SUPERBLOCK_OFFSET,
} from '../../src/rafs/v6/layout.ts';
import { type BlobCipher, CIPHER_AES_128_XTS, cipherOf } from '../../src/storage/codecs/cipher.ts';
import { CODECS } from '../../src/storage/codecs/codecs.ts';
import { crc32c, DIGESTS } from '../../src/storage/codecs/digests.ts';
import { type ExpectedChunk, expectedChunks, parseBlobTable } from '../../src/storage/fixtures.testing.ts';
import { CONTEXT_BYTES } from '../../src/storage/tables/blob-contexts.ts';
import {
  CHUNK_FLAG,
  type ChunkInfo,
  chunkInfoBytes,
  encodeCctHeader,
  encodeChunkInfo,
  FEATURE,
} from '../../src/storage/tables/blob-layout.ts';
import type { BlobInfo, Compressor } from '../../src/storage/types.ts';

export interface Packed {
  boot: Buffer;
  /** Blob files by id. */
  blobs: Map<string, Buffer>;
}

export interface Packing {
  compressor: Compressor;
  /** 0 = every chunk alone. */
  batchBytes: number;
  encrypted: boolean;
}

/** Key and IV as a blob entry has them. */
const SECRETS = Buffer.concat([DIGESTS.sha256.digest(Buffer.from('key')), Buffer.alloc(16, 7)]);

/** A chunk to be packed; `alone` when it is its file's only one, which batches are made of. */
export interface PlainChunk extends ExpectedChunk {
  alone: boolean;
}

interface Unit {
  stored: Buffer;
  compressed: boolean;
}

/** Stores the chunks of a plain image (compressor none, one blob) as `packing` says. */
export function repack(plainBoot: Buffer, plainBlob: Buffer, packing: Packing): Packed {
  const boot = Buffer.from(plainBoot);
  const [info] = parseBlobTable(boot);
  const entries = chunkEntries(boot);
  const chunks = expectedChunks(info, plainBlob).map((chunk) => ({
    ...chunk,
    alone: entries.get(chunk.index)?.entry.fileOffset === 0 && chunk.bytes.length < info.chunkSize,
  }));
  const features =
    FEATURE.ALIGNED |
    FEATURE.CAP_TAR_TOC |
    (packing.batchBytes > 0 ? FEATURE.BATCH | FEATURE.CHUNK_INFO_V2 : 0) |
    (packing.encrypted ? FEATURE.ENCRYPTED | FEATURE.CHUNK_INFO_V2 : 0);
  const cipher = packing.encrypted ? { cipher: CIPHER_AES_128_XTS, extra: SECRETS } : {};
  const blob: BlobInfo = { ...info, features, compressor: packing.compressor, extra: Buffer.alloc(48), ...cipher };
  const data = packChunks(chunks, packing, cipherOf(blob));
  const file = finishBlob(blob, data, packing);
  blob.id = DIGESTS.sha256.digest(file).toString('hex');
  for (const [index, { at, entry }] of entries) {
    const stored = data.infos[index];
    const isBatch = (stored.flags & CHUNK_FLAG.BATCH) !== 0;
    entry.flags = CHUNK_FLAG.HAS_CRC32 | (isBatch ? 0 : stored.flags & (CHUNK_FLAG.COMPRESSED | CHUNK_FLAG.ENCRYPTED));
    entry.compressedOffset = isBatch ? 0 : stored.compressedOffset;
    entry.compressedSize = isBatch ? 0 : stored.compressedSize;
    encodeChunkEntry(viewOf(boot), at, entry);
  }
  putBlob(boot, blob, packing);
  return { boot, blobs: new Map([[blob.id, file]]) };
}

/** The same data as an external object: raw, every chunk where the index says; a CRC is all that vouches for it. */
export function externalize(plainBoot: Buffer, plainBlob: Buffer): Packed {
  const boot = Buffer.from(plainBoot);
  const [info] = parseBlobTable(boot);
  const file = Buffer.alloc(info.uncompressedSize);
  for (const { uncompressedOffset, bytes } of expectedChunks(info, plainBlob)) bytes.copy(file, uncompressedOffset);
  for (const { at, entry } of chunkEntries(boot).values()) {
    const { uncompressedOffset: place, uncompressedSize: size } = entry;
    boot.fill(0, at, at + CHUNK_ENTRY.BLOB_INDEX);
    const crc32 = crc32c(file.subarray(place, place + size));
    const raw = { ...entry, compressedOffset: place, compressedSize: size, flags: CHUNK_FLAG.HAS_CRC32, crc32 };
    encodeChunkEntry(viewOf(boot), at, raw);
  }
  const blob: BlobInfo = {
    ...info,
    id: DIGESTS.sha256.digest(file).toString('hex'),
    features: FEATURE.EXTERNAL | FEATURE.ALIGNED | FEATURE.CAP_TAR_TOC,
    compressor: 'none',
    compressedSize: file.length,
    extra: Buffer.alloc(48),
  };
  putBlob(boot, blob, { compressor: 'none', batchBytes: 0, encrypted: false });
  return { boot, blobs: new Map([[blob.id, file]]) };
}

export interface PackedChunks {
  /** Chunk data of the blob. */
  data: Buffer;
  infos: ChunkInfo[];
  contexts: { storedBytes: number; bytes: number }[];
}

/**
 * Chunk data and chunk infos. Batches by the builder's rule: only chunks below half a batch, and never past its size.
 * @param compress another version of the same compressor
 */
export function packChunks(
  chunks: readonly PlainChunk[],
  { compressor, batchBytes }: Pick<Packing, 'compressor' | 'batchBytes'>,
  cipher: BlobCipher | null,
  compress: (bytes: Buffer) => Buffer = CODECS[compressor].compress,
): PackedChunks {
  const pieces: Buffer[] = [];
  const infos: ChunkInfo[] = [];
  const contexts: PackedChunks['contexts'] = [];
  let end = 0;
  let open: { members: ChunkInfo[]; pieces: Buffer[]; bytes: number } = { members: [], pieces: [], bytes: 0 };
  const write = (stored: Buffer) => {
    pieces.push(stored);
    end += stored.length;
    // Members of a tar lie between headers; stored sizes of gzip chunks are guesses that reach over those (3.2).
    if (compressor === 'gzip') {
      pieces.push(Buffer.alloc(TAR_GAP_BYTES));
      end += TAR_GAP_BYTES;
    }
  };
  const flush = () => {
    if (open.members.length === 0) return;
    const { stored } = storedUnit(Buffer.concat(open.pieces), compressor, cipher, compress);
    for (const member of open.members) member.compressedOffset = end;
    contexts.push({ storedBytes: stored.length, bytes: open.bytes });
    write(stored);
    open = { members: [], pieces: [], bytes: 0 };
  };
  const encrypted = cipher === null ? 0 : CHUNK_FLAG.ENCRYPTED;
  for (const { bytes, uncompressedOffset, alone } of chunks) {
    const size = bytes.length;
    const common = { uncompressedOffset, uncompressedSize: size };
    if (alone && size < batchBytes / 2) {
      if (open.bytes + size >= batchBytes) flush();
      const flags = CHUNK_FLAG.COMPRESSED | CHUNK_FLAG.BATCH | encrypted;
      const place = { compressedOffset: 0, compressedSize: 0, low: open.bytes, high: contexts.length };
      const member = { ...common, ...place, flags };
      open.members.push(member);
      open.pieces.push(bytes);
      open.bytes += size;
      infos.push(member);
      continue;
    }
    flush();
    const { stored, compressed } = storedUnit(bytes, compressor, cipher, compress);
    const flags = (compressed ? CHUNK_FLAG.COMPRESSED : 0) | encrypted | CHUNK_FLAG.HAS_CRC32;
    const gap = stored.length + (compressor === 'gzip' ? TAR_GAP_BYTES : 0);
    const guess = size + 23 + Math.floor(size / 16_384) * 5 + 128;
    const compressedSize = compressor === 'gzip' ? Math.min(gap, guess) : stored.length;
    infos.push({ ...common, compressedOffset: end, compressedSize, flags, low: crc32c(bytes), high: 0 });
    write(stored);
  }
  flush();
  return { data: Buffer.concat(pieces), infos, contexts };
}

const TAR_GAP_BYTES = 1024;

/** Raw when it did not shrink; gzip members always are what they are. */
function storedUnit(
  bytes: Buffer,
  compressor: Compressor,
  cipher: BlobCipher | null,
  compress: (bytes: Buffer) => Buffer,
): Unit {
  const packed = compress(bytes);
  const compressed = compressor === 'gzip' || packed.length < bytes.length;
  const plain = compressed ? packed : bytes;
  return { stored: cipher === null ? plain : cipher.encrypt(plain), compressed };
}

/** The uncompressed CI table: chunk infos, then contexts. */
export function ciTable({ infos, contexts }: PackedChunks, features: number): Buffer {
  const entryBytes = chunkInfoBytes(features);
  const table = Buffer.alloc(infos.length * entryBytes + contexts.length * CONTEXT_BYTES);
  for (const [index, info] of infos.entries()) encodeChunkInfo(table, index * entryBytes, features, info);
  contexts.forEach(({ storedBytes, bytes }, index) => {
    const at = infos.length * entryBytes + index * CONTEXT_BYTES;
    table.writeUInt32LE(storedBytes, at);
    table.writeUInt32LE(bytes, at + 4);
  });
  return table;
}

/** Data, CI table and header; fills in what the entry says of them. */
function finishBlob(blob: BlobInfo, packed: PackedChunks, { compressor }: Packing): Buffer {
  const cipher = cipherOf(blob);
  const sealed = (bytes: Buffer) => (cipher === null ? bytes : cipher.encrypt(bytes));
  const table = ciTable(packed, blob.features);
  const by: Compressor = compressor === 'gzip' ? 'zstd' : compressor;
  const small = CODECS[by].compress(table);
  const isSmaller = small.length < table.length;
  const stored = sealed(isSmaller ? small : table);
  blob.ciCompressor = isSmaller ? CODECS[by].id : 0;
  blob.ciOffset = packed.data.length;
  blob.ciCompressedSize = stored.length;
  blob.ciUncompressedSize = table.length;
  const contextCount = packed.contexts.length;
  const header = encodeCctHeader({
    features: blob.features,
    ciCompressor: blob.ciCompressor,
    chunkCount: packed.infos.length,
    ciOffset: blob.ciOffset,
    ciCompressedSize: blob.ciCompressedSize,
    ciUncompressedSize: blob.ciUncompressedSize,
    contextOffset: contextCount === 0 ? 0 : table.length - contextCount * CONTEXT_BYTES,
    contextSize: contextCount * CONTEXT_BYTES,
    contextCount,
  });
  const file = Buffer.concat([packed.data, stored, sealed(header)]);
  blob.compressedSize = file.length;
  return file;
}

export function chunkEntries(boot: Buffer): Map<number, { at: number; entry: ChunkEntry }> {
  const { chunkTableOffset, chunkTableSize } = decodeExtSuperblock(viewOf(boot), EXT_SUPERBLOCK_OFFSET);
  const entries = new Map<number, { at: number; entry: ChunkEntry }>();
  for (let at = chunkTableOffset; at < chunkTableOffset + chunkTableSize; at += CHUNK_ENTRY_BYTES) {
    const entry = newChunkEntry();
    decodeChunkEntry(viewOf(boot), at, entry);
    entries.set(entry.index, { at, entry });
  }
  return entries;
}

function putBlob(boot: Buffer, blob: BlobInfo, { compressor, encrypted }: Packing): void {
  const view = viewOf(boot);
  const { flags, blobTableOffset } = decodeExtSuperblock(view, EXT_SUPERBLOCK_OFFSET);
  const compressors = Object.values(COMPRESSOR_FLAG).reduce((all, bit) => all | bit, 0);
  const kept = flags & ~(compressors | FLAG.ENCRYPTION_NONE | FLAG.INLINED_CHUNK_DIGEST);
  const cipher = encrypted ? FLAG.ENCRYPTION_AES_128_XTS : FLAG.ENCRYPTION_NONE;
  view.setUint32(EXT_SUPERBLOCK_OFFSET + EXT.FLAGS, kept | COMPRESSOR_FLAG[compressor] | cipher, true);
  boot.fill(0, DEVICE_SLOT_OFFSET, DEVICE_SLOT_OFFSET + 64);
  encodeDeviceSlot(boot, DEVICE_SLOT_OFFSET, {
    id: blob.id,
    blocks: blob.uncompressedSize / BLOCK_BYTES,
    mappedBlkaddr: 0,
  });
  boot.fill(0, blobTableOffset, blobTableOffset + 256);
  encodeBlobEntry(boot, blobTableOffset, blob);
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
