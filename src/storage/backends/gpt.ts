/** GUID partition tables (UEFI 2.10, section 5.3): the list of partitions of a disk, from the first or the second copy. */
import type { FileHandle } from 'node:fs/promises';
import { crc32 } from 'node:zlib';

export interface Partition {
  /** Type and unique GUID as 32 hex digits in the order they are written. */
  type: string;
  guid: string;
  name: string;
  /** Bytes from the start of the disk. */
  offset: number;
  bytes: number;
}

/** GUID of the type "Microsoft basic data", what tools give a partition when nobody asks for anything else. */
export const BASIC_DATA = 'ebd0a0a2b9e5443387c068b6b72699c7';

/** Sector sizes of disks in use; a table says nothing of its own. */
const SECTOR_SIZES = [512, 4096];
const HEADER_BYTES = 92;
const ENTRY_BYTES_MIN = 128;
const ENTRY_BYTES_MAX = 512;
/** Tools make 128; the table is read whole. */
const ENTRIES_MAX = 4096;
const NAME_OFFSET = 56;
const NAME_BYTES = 72;

/**
 * Partitions in the order of the table.
 * @throws Error with a sentence when neither copy of the table is whole, or a partition lies outside the disk
 */
export async function readGpt(disk: FileHandle): Promise<Partition[]> {
  const reasons: string[] = [];
  const diskBytes = await lengthOf(disk);
  for (const sectorBytes of SECTOR_SIZES) {
    for (const sector of [1, Math.floor(diskBytes / sectorBytes) - 1]) {
      const table = await readTable(disk, sector, sectorBytes);
      if (typeof table !== 'string') return partitionsOf(table, sectorBytes, diskBytes);
      reasons.push(`${table} at sector ${sector} of ${sectorBytes} bytes`);
    }
  }
  throw new Error(`no partition table: ${reasons.join(', ')}`);
}

interface Table {
  entries: Buffer;
  entryBytes: number;
}

/** A copy of the table, or why it is none. */
async function readTable(disk: FileHandle, sector: number, sectorBytes: number): Promise<Table | string> {
  const header = await readAt(disk, sector * sectorBytes, HEADER_BYTES);
  if (header.length < HEADER_BYTES || header.toString('latin1', 0, 8) !== 'EFI PART') return 'no signature';
  const headerCrc = header.readUInt32LE(16);
  header.writeUInt32LE(0, 16);
  // Longer headers are allowed and nowhere in use.
  if (header.readUInt32LE(12) !== HEADER_BYTES || crc32(header) !== headerCrc) return 'damaged header';
  const [count, entryBytes] = [header.readUInt32LE(80), header.readUInt32LE(84)];
  if (count > ENTRIES_MAX || entryBytes < ENTRY_BYTES_MIN || entryBytes > ENTRY_BYTES_MAX) {
    return `${count} entries of ${entryBytes} bytes`;
  }
  const entries = await readAt(disk, Number(header.readBigUInt64LE(72)) * sectorBytes, count * entryBytes);
  if (entries.length < count * entryBytes || crc32(entries) !== header.readUInt32LE(88)) return 'damaged entries';
  return { entries, entryBytes };
}

function partitionsOf({ entries, entryBytes }: Table, sectorBytes: number, diskBytes: number): Partition[] {
  const partitions: Partition[] = [];
  for (let at = 0; at < entries.length; at += entryBytes) {
    const type = guidAt(entries, at);
    if (/^0+$/.test(type)) continue;
    const name = entries.toString('utf16le', at + NAME_OFFSET, at + NAME_OFFSET + NAME_BYTES).split('\0', 1)[0] ?? '';
    const first = Number(entries.readBigUInt64LE(at + 32));
    const last = Number(entries.readBigUInt64LE(at + 40));
    const [offset, end] = [first * sectorBytes, (last + 1) * sectorBytes];
    if (first > last || end > diskBytes) throw new Error(`partition ${partitions.length + 1} lies outside the disk`);
    partitions.push({ type, guid: guidAt(entries, at + 16), name, offset, bytes: end - offset });
  }
  return partitions;
}

/** The first three groups are little-endian. */
function guidAt(entries: Buffer, at: number): string {
  const bytes = entries.subarray(at, at + 16);
  const group = (from: number, to: number) => Buffer.from(bytes.subarray(from, to)).reverse().toString('hex');
  return group(0, 4) + group(4, 6) + group(6, 8) + bytes.toString('hex', 8);
}

/** Fewer bytes at the end of the disk; none where no disk can be. */
async function readAt(disk: FileHandle, offset: number, bytes: number): Promise<Buffer> {
  if (!Number.isSafeInteger(offset) || offset < 0) return Buffer.alloc(0);
  const buffer = Buffer.alloc(bytes);
  const { bytesRead } = await disk.read(buffer, 0, bytes, offset);
  return buffer.subarray(0, bytesRead);
}

/** Also of block devices, whose stat says 0: the last byte that can be read. */
async function lengthOf(disk: FileHandle): Promise<number> {
  const { size } = await disk.stat();
  if (size > 0) return size;
  const isThere = async (offset: number) => (await readAt(disk, offset, 1)).length > 0;
  let end = 1;
  while (end < Number.MAX_SAFE_INTEGER / 2 && (await isThere(end))) end *= 2;
  let start = Math.floor(end / 2);
  while (start < end) {
    const middle = Math.floor((start + end) / 2);
    if (await isThere(middle)) start = middle + 1;
    else end = middle;
  }
  return start;
}
