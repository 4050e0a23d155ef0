/**
 * Bootstraps of any size for tests: a root with `dirs` directories of `files` empty files each, streamed to a file.
 * Valid by rafs-format 2, with one blob entry and a chunk table that is a hole in the file.
 */
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { FEATURE } from '../storage/tables/blob-layout.ts';
import { CHUNK_ENTRY_BYTES } from './chunk-entry.ts';
import { CHUNK_SIZE_DEFAULT, FLAG } from './flags.ts';
import { encodeBlobEntry, encodeDeviceSlot } from './v6/blob-table-layout.ts';
import {
  chunkFormat,
  DIRENT_BYTES,
  direntType,
  encodeDirent,
  encodeInode,
  INODE_EXTENDED_BYTES,
  type Inode,
  LAYOUT,
  NID_UNIT_BYTES,
  newInode,
  S_IFDIR,
  S_IFREG,
} from './v6/inode-layout.ts';
import {
  BLOCK_BITS,
  BLOCK_BYTES,
  DEVICE_SLOT_OFFSET,
  EXT_SUPERBLOCK_OFFSET,
  encodeExtSuperblock,
  encodeSuperblock,
  ROOT_NID,
  SUPERBLOCK_OFFSET,
} from './v6/layout.ts';

const BLOB_TABLE = BLOCK_BYTES;
const META = 2 * BLOCK_BYTES;
const ROOT = META + ROOT_NID * NID_UNIT_BYTES;
const FORMAT = chunkFormat(Math.log2(CHUNK_SIZE_DEFAULT), BLOCK_BITS);

export interface DirectoryName {
  name: string;
  nid: number;
  mode: number;
}

/** Directory data by the packing rule of 2.9: whole blocks but the last. `names` in byte order. */
export function packDirectory(names: readonly DirectoryName[]): Buffer {
  const blocks: Buffer[] = [];
  let from = 0;
  let used = 0;
  const flush = (to: number, bytes: number) => {
    const block = Buffer.alloc(bytes);
    const view = new DataView(block.buffer, block.byteOffset, block.length);
    let at = (to - from) * DIRENT_BYTES;
    names.slice(from, to).forEach(({ name, nid, mode }, i) => {
      encodeDirent(view, i * DIRENT_BYTES, nid, at, direntType(mode));
      at += block.write(name, at);
    });
    blocks.push(block);
    from = to;
    used = 0;
  };
  names.forEach(({ name }, i) => {
    const bytes = DIRENT_BYTES + Buffer.byteLength(name);
    if (used + bytes > BLOCK_BYTES) flush(i, BLOCK_BYTES);
    used += bytes;
  });
  flush(names.length, used);
  return Buffer.concat(blocks);
}

/** Writes the image; returns its file's length in bytes. */
export function writeSyntheticImage(path: string, dirs: number, files: number): number {
  const fd = openSync(path, 'w');
  const nid = (offset: number) => (offset - META) / NID_UNIT_BYTES;
  const dirNames = Array.from({ length: dirs }, (_, i) => `d${String(i).padStart(6, '0')}`);
  const fileNames = Array.from({ length: files }, (_, i) => `f${String(i).padStart(6, '0')}`);
  const dotted = (self: number, up: number, rest: DirectoryName[]): DirectoryName[] => [
    { name: '.', nid: self, mode: S_IFDIR },
    { name: '..', nid: up, mode: S_IFDIR },
    ...rest,
  ];
  const firstDir = ROOT + INODE_EXTENDED_BYTES;
  const rootData = packDirectory(
    dotted(
      ROOT_NID,
      ROOT_NID,
      dirNames.map((name, i) => ({ name, nid: nid(firstDir + i * INODE_EXTENDED_BYTES), mode: S_IFDIR })),
    ),
  );
  let cursor = blockUp(firstDir + dirs * INODE_EXTENDED_BYTES);
  const dirInodes: Buffer[] = [inodeBytes({ ...directory(rootData.length, cursor), nlink: 2 + dirs })];
  writeSync(fd, rootData, 0, rootData.length, cursor);
  cursor = blockUp(cursor + rootData.length);
  const filesBytes = Buffer.concat(
    fileNames.map(() =>
      inodeBytes({ ...newInode(), mode: S_IFREG | 0o644, nlink: 1, layout: LAYOUT.CHUNK_BASED, u: FORMAT }),
    ),
  );
  for (let i = 0; i < dirs; i++) {
    const inodesAt = cursor;
    writeSync(fd, filesBytes, 0, filesBytes.length, inodesAt);
    cursor = blockUp(cursor + filesBytes.length);
    const self = nid(firstDir + i * INODE_EXTENDED_BYTES);
    const data = packDirectory(
      dotted(
        self,
        ROOT_NID,
        fileNames.map((name, k) => ({ name, nid: nid(inodesAt + k * INODE_EXTENDED_BYTES), mode: S_IFREG })),
      ),
    );
    writeSync(fd, data, 0, data.length, cursor);
    dirInodes.push(inodeBytes(directory(data.length, cursor)));
    cursor = blockUp(cursor + data.length);
  }
  const inodes = Buffer.concat(dirInodes);
  writeSync(fd, inodes, 0, inodes.length, ROOT);
  const names = 1 + dirs * (1 + files);
  const chunkTableSize = names * CHUNK_ENTRY_BYTES;
  writeHead(fd, names, cursor, chunkTableSize);
  const fileBytes = blockUp(cursor + chunkTableSize);
  ftruncateSync(fd, fileBytes);
  closeSync(fd);
  return fileBytes;
}

function writeHead(fd: number, names: number, chunkTableOffset: number, chunkTableSize: number): void {
  const head = Buffer.alloc(META);
  const view = new DataView(head.buffer, head.byteOffset, head.length);
  const metaBlkaddr = META / BLOCK_BYTES;
  const device = { blockBits: BLOCK_BITS, rootNid: ROOT_NID, inos: names, blocks: 1, metaBlkaddr, extraDevices: 1 };
  encodeSuperblock(view, SUPERBLOCK_OFFSET, device);
  encodeExtSuperblock(view, EXT_SUPERBLOCK_OFFSET, {
    flags: FLAG.COMPRESSION_ZSTD | FLAG.HASH_BLAKE3 | FLAG.EXPLICIT_UID_GID | FLAG.ENCRYPTION_NONE,
    blobTableOffset: BLOB_TABLE,
    blobTableSize: 256,
    chunkSize: CHUNK_SIZE_DEFAULT,
    chunkTableOffset,
    chunkTableSize,
    prefetchOffset: 0,
    prefetchSize: 0,
  });
  const id = 'ab'.repeat(32);
  encodeDeviceSlot(head, DEVICE_SLOT_OFFSET, { id, blocks: 1, mappedBlkaddr: 0x80 });
  encodeBlobEntry(head, BLOB_TABLE, {
    id,
    index: 0,
    chunkSize: CHUNK_SIZE_DEFAULT,
    chunkCount: 1,
    compressor: 'zstd',
    digester: 'blake3',
    features: FEATURE.ALIGNED | FEATURE.CAP_TAR_TOC,
    compressedSize: 8192,
    uncompressedSize: BLOCK_BYTES,
    tocSize: 0,
    ciCompressor: 0,
    ciOffset: 4000,
    ciCompressedSize: 16,
    ciUncompressedSize: 16,
    tocDigest: null,
    extra: new Uint8Array(48),
    cipher: 0,
  });
  writeSync(fd, head, 0, head.length, 0);
}

function directory(sizeBytes: number, dataAt: number): Inode {
  const mode = S_IFDIR | 0o755;
  return { ...newInode(), mode, nlink: 2, layout: LAYOUT.FLAT_PLAIN, size: sizeBytes, u: dataAt / BLOCK_BYTES };
}

function inodeBytes(inode: Inode): Buffer {
  const bytes = Buffer.alloc(INODE_EXTENDED_BYTES);
  encodeInode(new DataView(bytes.buffer, bytes.byteOffset, bytes.length), 0, inode);
  return bytes;
}

function blockUp(offset: number): number {
  return Math.ceil(offset / BLOCK_BYTES) * BLOCK_BYTES;
}
