/**
 * v5 bootstraps for tests: made ones of any size, and variants of real ones that today's builders no longer write.
 */
import { closeSync, openSync, writeSync } from 'node:fs';
import { CHUNK_ENTRY_BYTES } from '../chunk-entry.ts';
import { CHUNK_SIZE_DEFAULT, FLAG } from '../flags.ts';
import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../v6/inode-layout.ts';
import {
  INODE,
  INODE_BYTES,
  INODE_FLAG,
  padded,
  RAFS_MAGIC,
  SB,
  SUPERBLOCK_BYTES,
  TABLE_ENTRY_BYTES,
  UNIT_BYTES,
  VERSION_V5,
  XATTR_HEADER_BYTES,
} from './layout.ts';

const NAME_BYTES = 8;
/** Name and fixed part; files are empty. */
const RECORD_BYTES = INODE_BYTES + NAME_BYTES;
const BATCH = 4096;

/** Writes a root with `dirs` directories of `files` empty files each, without blobs. */
export function writeSyntheticV5(path: string, dirs: number, files: number): void {
  const entries = 1 + dirs * (1 + files);
  const tableBytes = padded(entries * TABLE_ENTRY_BYTES);
  const records = SUPERBLOCK_BYTES + tableBytes;
  const head = Buffer.alloc(records);
  head.writeUInt32LE(RAFS_MAGIC, SB.MAGIC);
  head.writeUInt32LE(VERSION_V5, SB.VERSION);
  head.writeUInt32LE(SUPERBLOCK_BYTES, SB.BYTES);
  head.writeUInt32LE(CHUNK_SIZE_DEFAULT, SB.CHUNK_SIZE);
  head.writeUInt32LE(FLAG.COMPRESSION_ZSTD | FLAG.HASH_BLAKE3 | FLAG.EXPLICIT_UID_GID, SB.FLAGS);
  head.writeUInt32LE(entries, SB.INODES);
  head.writeUInt32LE(SUPERBLOCK_BYTES, SB.INODE_TABLE);
  head.writeUInt32LE(entries, SB.INODE_ENTRIES);
  for (let i = 0; i < entries; i++) {
    head.writeUInt32LE((records + i * RECORD_BYTES) / UNIT_BYTES, SUPERBLOCK_BYTES + i * TABLE_ENTRY_BYTES);
  }
  const fd = openSync(path, 'w');
  writeSync(fd, head);
  for (let from = 1; from <= entries; from += BATCH) {
    const count = Math.min(BATCH, entries - from + 1);
    const batch = Buffer.alloc(count * RECORD_BYTES);
    for (let i = 0; i < count; i++) putRecord(batch, i * RECORD_BYTES, from + i, dirs, files);
    writeSync(fd, batch);
  }
  closeSync(fd);
}

function putRecord(bytes: Buffer, at: number, index: number, dirs: number, files: number): void {
  const isRoot = index === 1;
  const isDir = index <= 1 + dirs;
  const position = isDir ? index - 2 : (index - 2 - dirs) % files;
  const name = isRoot ? '/' : `${isDir ? 'd' : 'f'}${String(position).padStart(NAME_BYTES - 1, '0')}`;
  const parent = isRoot ? 0 : isDir ? 1 : 2 + Math.floor((index - 2 - dirs) / files);
  bytes.writeUInt32LE(parent, at + INODE.PARENT);
  bytes.writeUInt32LE(index, at + INODE.INO);
  bytes.writeUInt32LE(isDir ? S_IFDIR | 0o755 : S_IFREG | 0o644, at + INODE.MODE);
  bytes.writeUInt32LE(isDir ? 2 : 1, at + INODE.NLINK);
  if (isDir) bytes.writeUInt32LE(isRoot ? 2 : 2 + dirs + (index - 2) * files, at + INODE.CHILD_INDEX);
  if (isDir) bytes.writeUInt32LE(isRoot ? dirs : files, at + INODE.CHILD_COUNT);
  bytes.writeUInt16LE(name.length, at + INODE.NAME_BYTES);
  bytes.write(name, at + INODE_BYTES);
}

/** Where a record of a valid bootstrap is. */
export interface Placed {
  index: number;
  offset: number;
  bytes: number;
  /** File offset of its chunk entries. */
  chunksAt: number;
  path: string;
}

/** All records of a valid bootstrap by path. Read here anew, so that the reader is not its own witness. */
export function placedRecords(boot: Buffer): Map<string, Placed> {
  const table = boot.readUInt32LE(SB.INODE_TABLE);
  const records = new Map<string, Placed>();
  const add = (index: number, parentPath: string): void => {
    const offset = boot.readUInt32LE(table + (index - 1) * TABLE_ENTRY_BYTES) * UNIT_BYTES;
    const nameBytes = boot.readUInt16LE(offset + INODE.NAME_BYTES);
    const name = boot.toString('latin1', offset + INODE_BYTES, offset + INODE_BYTES + nameBytes);
    const type = boot.readUInt32LE(offset + INODE.MODE) & S_IFMT;
    const count = boot.readUInt32LE(offset + INODE.CHILD_COUNT);
    let chunksAt = offset + INODE_BYTES + padded(nameBytes);
    if (type === S_IFLNK) chunksAt += padded(boot.readUInt16LE(offset + INODE.SYMLINK_BYTES));
    if ((boot.readUInt32LE(offset + INODE.FLAGS) & INODE_FLAG.XATTR) !== 0) {
      chunksAt += XATTR_HEADER_BYTES + padded(boot.readUInt32LE(chunksAt));
    }
    const bytes = chunksAt - offset + (type === S_IFREG ? count * CHUNK_ENTRY_BYTES : 0);
    const path = index === 1 ? '/' : `${parentPath}/${name}`;
    records.set(path, { index, offset, bytes, chunksAt, path });
    if (type !== S_IFDIR) return;
    const first = boot.readUInt32LE(offset + INODE.CHILD_INDEX);
    for (let i = 0; i < count; i++) add(first + i, index === 1 ? '' : path);
  };
  add(1, '');
  return records;
}

/** The same image with its records in another order in the file: `order` sorts them. */
export function reordered(boot: Buffer, order: (a: Placed, b: Placed) => number): Buffer {
  const records = [...placedRecords(boot).values()];
  const start = Math.min(...records.map(({ offset }) => offset));
  const table = boot.readUInt32LE(SB.INODE_TABLE);
  const out = Buffer.from(boot);
  let at = start;
  for (const { index, offset, bytes } of records.sort(order)) {
    boot.copy(out, at, offset, offset + bytes);
    out.writeUInt32LE(at / UNIT_BYTES, table + (index - 1) * TABLE_ENTRY_BYTES);
    at += bytes;
  }
  return out;
}

/** The same image as builders before 1.1 wrote it: no extended blob table, chunk index always 0. */
export function withoutExtendedTable(boot: Buffer): Buffer {
  const out = Buffer.from(boot);
  out.fill(0, SB.EXTENDED_ENTRIES, SB.EXTENDED_TABLE + 8);
  for (const { offset, bytes, chunksAt } of placedRecords(boot).values()) {
    for (let at = chunksAt; at < offset + bytes; at += CHUNK_ENTRY_BYTES) out.writeUInt32LE(0, at + 72);
  }
  return out;
}

/** The same image with the `k`th chunk of a file cut out: a hole. */
export function withHole(boot: Buffer, path: string, k: number): Buffer {
  const out = Buffer.from(boot);
  const record = placedRecords(boot).get(path);
  if (record === undefined) throw new Error(`no ${path}`);
  const { offset, bytes, chunksAt } = record;
  const gap = chunksAt + k * CHUNK_ENTRY_BYTES;
  out.copy(out, gap, gap + CHUNK_ENTRY_BYTES, offset + bytes);
  out.writeUInt32LE(out.readUInt32LE(offset + INODE.CHILD_COUNT) - 1, offset + INODE.CHILD_COUNT);
  out.writeUInt32LE(out.readUInt32LE(offset + INODE.FLAGS) | INODE_FLAG.HAS_HOLE, offset + INODE.FLAGS);
  return out;
}
