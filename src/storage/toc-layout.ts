/**
 * The tail of a blob as data (rafs-format 3.1, 3.8): TOC entries and the "backwards tar" headers that follow each part.
 * No I/O here.
 */
import { putU64, u64 } from '../common/u64.ts';
import type { Broken } from './blob-layout.ts';

// ---- TOC (3.8)

export const TOC_ENTRY_BYTES = 128;
/** Entries plus the tar header behind them; smallest and largest that readers accept. */
export const TOC_BYTES_MIN = 512;
export const TOC_BYTES_MAX = 0x1_0000;
export const TOC_FLAG = { NONE: 1, ZSTD: 2, LZ4_BLOCK: 4 } as const;
const TOC_FLAG_MASK = 0xf;
export const TOC = {
  FLAGS: 0,
  NAME: 8,
  DIGEST: 24,
  OFFSET: 56,
  STORED_SIZE: 64,
  UNCOMPRESSED_SIZE: 72,
} as const;
const TOC_NAME_BYTES = 16;
const TOC_DIGEST_BYTES = 32;

/** Names of parts, in the order their entries are written; the TOC's own name appears as a tar header only. */
export const PART = {
  DATA: 'image.blob',
  META: 'blob.meta',
  META_HEADER: 'blob.meta.header',
  DIGESTS: 'blob.digest',
  BOOTSTRAP: 'image.boot',
  TOC: 'rafs.blob.toc',
} as const;

export interface TocEntry {
  flags: number;
  name: string;
  /** SHA-256 of the uncompressed content; not of the content for `image.blob` (3.8). */
  digest: Uint8Array;
  offset: number;
  storedSize: number;
  uncompressedSize: number;
}

/** Writes one entry; the 128 bytes at `at` must be zero already. */
export function encodeTocEntry(bytes: Uint8Array, at: number, entry: TocEntry): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  view.setUint32(at + TOC.FLAGS, entry.flags, true);
  for (let i = 0; i < entry.name.length; i++) bytes[at + TOC.NAME + i] = entry.name.charCodeAt(i);
  bytes.set(entry.digest, at + TOC.DIGEST);
  putU64(view, at + TOC.OFFSET, entry.offset);
  putU64(view, at + TOC.STORED_SIZE, entry.storedSize);
  putU64(view, at + TOC.UNCOMPRESSED_SIZE, entry.uncompressedSize);
}

/** u64 fields above 2^53-1 come out as -1; `checkTocEntry` refuses them. */
export function decodeTocEntry(bytes: Uint8Array, at: number): TocEntry {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    flags: view.getUint32(at + TOC.FLAGS, true),
    name: paddedText(bytes, at + TOC.NAME, TOC_NAME_BYTES),
    digest: bytes.slice(at + TOC.DIGEST, at + TOC.DIGEST + TOC_DIGEST_BYTES),
    offset: u64(view, at + TOC.OFFSET),
    storedSize: u64(view, at + TOC.STORED_SIZE),
    uncompressedSize: u64(view, at + TOC.UNCOMPRESSED_SIZE),
  };
}

/** Syntax of an entry against the blob's length (9, item 34). */
export function checkTocEntry(entry: TocEntry, blobBytes: number): Broken {
  const known = entry.flags === TOC_FLAG.NONE || entry.flags === TOC_FLAG.ZSTD || entry.flags === TOC_FLAG.LZ4_BLOCK;
  if (!known || (entry.flags & ~TOC_FLAG_MASK) !== 0) return `TOC entry: flags ${entry.flags}`;
  if (!/^[\x21-\x7e]+$/.test(entry.name)) return 'TOC entry: name';
  if (Math.min(entry.offset, entry.storedSize, entry.uncompressedSize) < 0) return 'TOC entry: size';
  // Builders of 2.2 stored the end of the data as offset of image.blob; it is never used as a range (3.8).
  if (entry.name !== PART.DATA && entry.offset + entry.storedSize > blobBytes) return `TOC entry ${entry.name}: range`;
  return null;
}

// ---- backwards tar (3.1)

export const TAR_HEADER_BYTES = 512;
const TAR = { NAME: 0, SIZE: 124, MTIME: 136, CHECKSUM: 148, TYPE: 156, MAGIC: 257 } as const;
const TAR_NAME_BYTES = 100;
const TAR_NUMBER_DIGITS = 11;
const TAR_CHECKSUM_DIGITS = 7;
/** GNU magic with its version field: "ustar", two spaces, NUL (the NUL is the zeroed byte). */
const TAR_MAGIC = 'ustar  ';

/** The 512 bytes that follow a part of `sizeBytes`. @throws RangeError when the size needs more than 11 octal digits. */
export function encodeTarHeader(name: string, sizeBytes: number): Uint8Array {
  const size = sizeBytes.toString(8).padStart(TAR_NUMBER_DIGITS, '0');
  if (size.length > TAR_NUMBER_DIGITS) throw new RangeError(`${sizeBytes} bytes do not fit a tar header`);
  const header = new Uint8Array(TAR_HEADER_BYTES);
  putText(header, TAR.NAME, name);
  putText(header, TAR.SIZE, size);
  putText(header, TAR.MTIME, '0'.repeat(TAR_NUMBER_DIGITS));
  putText(header, TAR.TYPE, '0');
  putText(header, TAR.MAGIC, TAR_MAGIC);
  putText(header, TAR.CHECKSUM, tarChecksum(header, 0).toString(8).padStart(TAR_CHECKSUM_DIGITS, '0'));
  return header;
}

/** Name and size of the header at `at`, or the broken rule (9, item 35). */
export function decodeTarHeader(bytes: Uint8Array, at: number): { name: string; sizeBytes: number } | string {
  if (at < 0 || at + TAR_HEADER_BYTES > bytes.length) return 'tar header: truncated';
  const sum = octal(bytes, at + TAR.CHECKSUM, TAR_CHECKSUM_DIGITS + 1);
  if (sum !== tarChecksum(bytes, at)) return 'tar header: checksum';
  const sizeBytes = octal(bytes, at + TAR.SIZE, TAR_NUMBER_DIGITS + 1);
  if (sizeBytes < 0) return 'tar header: size';
  return { name: paddedText(bytes, at + TAR.NAME, TAR_NAME_BYTES), sizeBytes };
}

/** Sum of all bytes, the checksum field counted as eight spaces. */
function tarChecksum(bytes: Uint8Array, at: number): number {
  let sum = 8 * 0x20;
  for (let i = 0; i < TAR_HEADER_BYTES; i++) {
    if (i < TAR.CHECKSUM || i >= TAR.CHECKSUM + 8) sum += bytes[at + i];
  }
  return sum;
}

/** Octal digits up to a NUL or space; -1 when there are none or another byte stands there. */
function octal(bytes: Uint8Array, at: number, length: number): number {
  let value = 0;
  for (let i = 0; i < length; i++) {
    const byte = bytes[at + i];
    if (byte === 0 || byte === 0x20) return i === 0 ? -1 : value;
    if (byte < 0x30 || byte > 0x37) return -1;
    value = value * 8 + byte - 0x30;
  }
  return value;
}

function putText(bytes: Uint8Array, at: number, text: string): void {
  for (let i = 0; i < text.length; i++) bytes[at + i] = text.charCodeAt(i);
}

function paddedText(bytes: Uint8Array, at: number, length: number): string {
  let end = at;
  while (end < at + length && bytes[end] !== 0) end++;
  return Buffer.from(bytes.buffer, bytes.byteOffset + at, end - at).toString('latin1');
}
