/**
 * The "backwards tar" around the parts of a blob (rafs-format 3.1, 3.9) and its table of contents (3.8). Each part
 * is followed, not preceded, by its 512-byte header, so a file is taken apart from its end.
 */
import { storageError } from '../errors.ts';

export const TAR_HEADER_BYTES = 512;
const TAR = { name: 0, nameBytes: 100, size: 124, mtime: 136, checksum: 148, type: 156, magic: 257 } as const;
const GNU_MAGIC = 'ustar  \0';
/** 11 octal digits; GNU tar and upstream write what is larger as a binary number behind this mark. */
const OCTAL_SIZE_MAX = 8 ** 11 - 1;
const BINARY_MARK = 0x8000_0000;

/** Names of the parts. */
export const PART = {
  DATA: 'image.blob',
  META: 'blob.meta',
  META_HEADER: 'blob.meta.header',
  DIGEST: 'blob.digest',
  BOOTSTRAP: 'image.boot',
  TOC: 'rafs.blob.toc',
} as const;

/** The tar header that follows a part of `size` bytes, byte for byte as rafs-format 3.1 gives it. */
export function encodeTarHeader(name: string, size: number): Buffer {
  if (!Number.isSafeInteger(size) || size < 0) throw new RangeError(`tar size ${size}`);
  if (name.length === 0 || name.length >= TAR.nameBytes) throw new RangeError(`tar name ${name}`);
  const header = Buffer.alloc(TAR_HEADER_BYTES);
  header.write(name, TAR.name, 'latin1');
  if (size <= OCTAL_SIZE_MAX) header.write(`${octal(size, 11)}\0`, TAR.size, 'latin1');
  else {
    header.writeUInt32BE(BINARY_MARK, TAR.size);
    header.writeBigUInt64BE(BigInt(size), TAR.size + 4);
  }
  header.write(`${octal(0, 11)}\0`, TAR.mtime, 'latin1');
  header.write('0', TAR.type, 'latin1');
  header.write(GNU_MAGIC, TAR.magic, 'latin1');
  header.write(`${octal(checksum(header), 7)}\0`, TAR.checksum, 'latin1');
  return header;
}

/** Name and size of a tar header; null when it is none (magic, checksum, size or name wrong). */
export function decodeTarHeader(header: Buffer): { name: string; size: number } | null {
  if (header.length !== TAR_HEADER_BYTES || header.toString('latin1', TAR.magic, TAR.magic + 5) !== 'ustar')
    return null;
  if (parseOctal(header, TAR.checksum, 8) !== checksum(header)) return null;
  const size = parseSize(header);
  const name = text(header, TAR.name, TAR.nameBytes);
  return size === null || name === null || name === '' ? null : { name, size };
}

/** Parts a blob can have at most, each with a header (rafs-format 9, rule 35). */
const PARTS_MAX = 8;

/**
 * Takes a file apart from its end: the parts with the offset and size of their data, last one first. It stops
 * without an error where no header stands, since blobs of older builders have none.
 * `read` gives exactly `bytes` bytes at `offset`, or throws.
 * @throws TOC when a size reaches before the start of the file.
 */
export function walkBackwards(
  fileBytes: number,
  read: (offset: number, bytes: number) => Buffer,
): { name: string; offset: number; size: number }[] {
  const parts: { name: string; offset: number; size: number }[] = [];
  let end = fileBytes;
  while (end >= TAR_HEADER_BYTES && parts.length < PARTS_MAX) {
    const header = decodeTarHeader(read(end - TAR_HEADER_BYTES, TAR_HEADER_BYTES));
    if (header === null) break;
    const offset = end - TAR_HEADER_BYTES - header.size;
    if (offset < 0)
      throw storageError('TOC', { rule: `part ${header.name} of ${header.size} bytes starts before the file` });
    parts.push({ name: header.name, offset, size: header.size });
    end = offset;
  }
  return parts;
}

export const TOC_ENTRY_BYTES = 128;
/** Legal sizes of the TOC with its header; one entry at least (rafs-format 3.8). */
export const TOC_BYTES_MAX = 0x1_0000;

/** How a part is stored. */
export const TOC_FLAG = { RAW: 1, ZSTD: 2, LZ4: 4 } as const;
const TOC = { flags: 0, name: 8, nameBytes: 16, digest: 24, offset: 56, stored: 64, uncompressed: 72 } as const;

export interface TocEntry {
  /** One of TOC_FLAG. */
  flags: number;
  name: string;
  /** SHA-256 of the uncompressed content (`image.blob`: of the data and its tar header; not to be verified). */
  digest: Buffer;
  offset: number;
  storedSize: number;
  uncompressedSize: number;
}

/** The entries followed by their own tar header, as they stand at the end of a blob. */
export function encodeToc(entries: readonly TocEntry[]): Buffer {
  const bytes = Buffer.alloc(entries.length * TOC_ENTRY_BYTES);
  entries.forEach((entry, index) => {
    const at = index * TOC_ENTRY_BYTES;
    bytes.writeUInt32LE(entry.flags, at + TOC.flags);
    if (entry.name.length > TOC.nameBytes) throw new RangeError(`TOC name ${entry.name}`);
    bytes.write(entry.name, at + TOC.name, 'latin1');
    entry.digest.copy(bytes, at + TOC.digest, 0, 32);
    bytes.writeBigUInt64LE(BigInt(entry.offset), at + TOC.offset);
    bytes.writeBigUInt64LE(BigInt(entry.storedSize), at + TOC.stored);
    bytes.writeBigUInt64LE(BigInt(entry.uncompressedSize), at + TOC.uncompressed);
  });
  return Buffer.concat([bytes, encodeTarHeader(PART.TOC, bytes.length)]);
}

/**
 * Decodes a TOC with its tar header (`tocSize` bytes at the end of a blob of `blobBytes`).
 * @throws TOC with the broken rule of rafs-format 9, rule 34.
 */
export function decodeToc(bytes: Buffer, blobBytes: number): TocEntry[] {
  const refuse = (rule: string) => storageError('TOC', { rule });
  if (bytes.length <= TAR_HEADER_BYTES || bytes.length > TOC_BYTES_MAX || bytes.length % TOC_ENTRY_BYTES !== 0) {
    throw refuse(`size ${bytes.length}`);
  }
  const header = decodeTarHeader(bytes.subarray(bytes.length - TAR_HEADER_BYTES));
  if (header?.name !== PART.TOC || header.size !== bytes.length - TAR_HEADER_BYTES)
    throw refuse('tar header missing or wrong');
  const entries: TocEntry[] = [];
  for (let at = 0; at < header.size; at += TOC_ENTRY_BYTES) entries.push(decodeEntry(bytes, at, blobBytes));
  return entries;
}

function decodeEntry(bytes: Buffer, at: number, blobBytes: number): TocEntry {
  const flags = bytes.readUInt32LE(at + TOC.flags) & 0xf;
  const name = text(bytes, at + TOC.name, TOC.nameBytes);
  const offset = Number(bytes.readBigUInt64LE(at + TOC.offset));
  const storedSize = Number(bytes.readBigUInt64LE(at + TOC.stored));
  const uncompressedSize = Number(bytes.readBigUInt64LE(at + TOC.uncompressed));
  if (name === null || name === '') throw storageError('TOC', { rule: `entry at ${at} has no name` });
  if (flags !== TOC_FLAG.RAW && flags !== TOC_FLAG.ZSTD && flags !== TOC_FLAG.LZ4) {
    throw storageError('TOC', { rule: `entry ${name} has flags ${flags}` });
  }
  // Builders of 2.2 stored the end of the data as the offset of image.blob; it is always 0 (rafs-format 3.8). They also
  // list it where the data is another object's (SEPARATE), so its size says nothing about this one.
  const isData = name === PART.DATA;
  const start = isData ? 0 : offset;
  if (!Number.isSafeInteger(uncompressedSize) || !(isData || start + storedSize <= blobBytes)) {
    throw storageError('TOC', { rule: `entry ${name} lies outside the blob` });
  }
  const digest = Buffer.from(bytes.subarray(at + TOC.digest, at + TOC.digest + 32));
  return { flags, name, digest, offset: start, storedSize, uncompressedSize };
}

function octal(value: number, digits: number): string {
  return value.toString(8).padStart(digits, '0');
}

/** Sum of all bytes with the checksum field taken as spaces. */
function checksum(header: Buffer): number {
  let sum = 8 * 0x20;
  for (let at = 0; at < TAR_HEADER_BYTES; at++) {
    if (at < TAR.checksum || at >= TAR.checksum + 8) sum += header[at];
  }
  return sum;
}

function parseSize(header: Buffer): number | null {
  if (header.readUInt32BE(TAR.size) !== BINARY_MARK) return parseOctal(header, TAR.size, 12);
  const size = Number(header.readBigUInt64BE(TAR.size + 4));
  return Number.isSafeInteger(size) ? size : null;
}

function parseOctal(bytes: Buffer, at: number, length: number): number | null {
  const digits = bytes.toString('latin1', at, at + length).replace(/[\0 ]+$/, '');
  return /^[0-7]{1,12}$/.test(digits) ? Number.parseInt(digits, 8) : null;
}

/** NUL-padded printable ASCII; null for anything else. */
function text(bytes: Buffer, at: number, length: number): string | null {
  const field = bytes.toString('latin1', at, at + length);
  const end = field.indexOf('\0');
  const value = end < 0 ? field : field.slice(0, end);
  return /^[\x20-\x7e]*$/.test(value) ? value : null;
}
