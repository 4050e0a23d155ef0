/**
 * Writer of the tests for tarfs images (rafs-format 4.5): a v6 bootstrap with 512-byte blocks over a tar as it is. Lays
 * inodes out plainly (full blocks of directories and long symlinks behind all inodes) instead of as upstream's builder.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { DirectorySource } from '../../src/image/directory.ts';
import { directoryEntries, xattrNameIndex } from '../../src/image/layout-v6.ts';
import { buildTree } from '../../src/image/tree.testing.ts';
import type { TreeNode } from '../../src/image/tree.ts';
import { CHUNK_ENTRY_BYTES, encodeChunkEntry } from '../../src/rafs/chunk-entry.ts';
import { FLAG } from '../../src/rafs/flags.ts';
import { encodeBlobEntry, encodeDeviceSlot } from '../../src/rafs/v6/blob-table-layout.ts';
import {
  CHUNK_INDEX_BYTES,
  chunkFormat,
  chunkIndexOffset,
  DIRENT_BYTES,
  direntType,
  encodeChunkIndex,
  encodeDirent,
  encodeInode,
  INODE_EXTENDED_BYTES,
  LAYOUT,
  NID_UNIT_BYTES,
  XATTR_ENTRY_BYTES,
  XATTR_HEADER_BYTES,
  XATTR_PREFIXES,
} from '../../src/rafs/v6/inode-layout.ts';
import {
  BLOB_ENTRY_BYTES,
  BLOCK_BYTES,
  DEVICE_SLOT_OFFSET,
  EXT_SUPERBLOCK_OFFSET,
  encodeExtSuperblock,
  encodeSuperblock,
  ROOT_NID,
  SUPERBLOCK_OFFSET,
} from '../../src/rafs/v6/layout.ts';
import { DIGESTS } from '../../src/storage/codecs/digests.ts';
import { FEATURE } from '../../src/storage/tables/blob-layout.ts';
import type { Packed } from './repack-v6.ts';

const SECTOR_BYTES = 512;
const SECTOR_BITS = 9;
const META = 2 * BLOCK_BYTES;
const ROOT = META + ROOT_NID * NID_UNIT_BYTES;
const DEVICE_ID = 1;

/** Packs `source` with tar and describes the tar. @param scratch a directory for the tar */
export function writeTarfs(source: string, scratch: string, chunkBytes: number): Packed {
  const path = join(scratch, 'layer.tar');
  execFileSync('tar', ['--format=gnu', '--sort=name', '-C', source, '-cf', path, '.']);
  const tar = readFileSync(path);
  const places = dataPlaces(tar);
  const id = DIGESTS.sha256.digest(tar).toString('hex');
  const tree = buildTree(new DirectorySource(source).entries(), { whiteouts: 'none', explicitIds: true });
  const nodes = tree.nodes.filter(({ first }) => first === null);
  const out = new Layout();
  for (const node of nodes) {
    node.chunkCount = node.isFile ? Math.ceil(node.sizeBytes / chunkBytes) : 0;
    node.xattrBytes = xattrArea(node).length;
    out.place(node);
  }
  for (const node of nodes) if (node.isDirectory || node.tailBytes < 0) out.placeData(node, flatData(node));
  const boot = Buffer.alloc(up(out.cursor, BLOCK_BYTES) + BLOCK_BYTES);
  let chunks = 0;
  for (const node of nodes) {
    const data = places.get(namesOf(tree.nodes, node).find((name) => places.has(name)) ?? '');
    writeNode(boot, node, chunkBytes, chunks, data ?? 0);
    chunks += node.chunkCount;
  }
  writeHead(boot, { id, tarBytes: tar.length, names: tree.nodes.length, chunkBytes, chunks });
  return { boot, blobs: new Map([[id, tar]]) };
}

/** Where inodes and data go; both sets of offsets are absolute. */
class Layout {
  cursor = ROOT;

  place(node: TreeNode): void {
    const fixed = INODE_EXTENDED_BYTES + node.xattrBytes;
    const targetBytes = node.isSymlink ? node.sizeBytes : 0;
    const inline = targetBytes > 0 && fixed + targetBytes <= SECTOR_BYTES;
    node.tailBytes = inline ? targetBytes : -1;
    const bytes = fixed + (inline ? targetBytes : 0);
    this.cursor = up(this.cursor, NID_UNIT_BYTES);
    if (inline && (this.cursor % SECTOR_BYTES) + bytes > SECTOR_BYTES) this.cursor = up(this.cursor, SECTOR_BYTES);
    node.offset = this.cursor;
    this.cursor += bytes;
    if (node.isFile) this.cursor = chunkIndexOffset(node.offset, fixed, 0) + CHUNK_INDEX_BYTES * node.chunkCount;
  }

  placeData(node: TreeNode, data: Buffer): void {
    if (data.length === 0) return;
    this.cursor = up(this.cursor, SECTOR_BYTES);
    node.dataOffset = this.cursor;
    node.dataBytes = data.length;
    this.cursor += data.length;
  }
}

function writeNode(boot: Buffer, node: TreeNode, chunkBytes: number, firstChunk: number, dataAt: number): void {
  const view = viewOf(boot);
  const flat = node.isDirectory || node.isSymlink;
  const format = chunkFormat(Math.log2(chunkBytes), SECTOR_BITS);
  const inline = node.tailBytes >= 0;
  encodeInode(view, node.offset, {
    bytes: INODE_EXTENDED_BYTES,
    layout: node.isFile ? LAYOUT.CHUNK_BASED : inline ? LAYOUT.FLAT_INLINE : LAYOUT.FLAT_PLAIN,
    xattrBytes: node.xattrBytes,
    mode: node.mode,
    size: node.isDirectory ? node.dataBytes : node.sizeBytes,
    u: flat ? node.dataOffset / SECTOR_BYTES : node.isFile ? format : node.rdev,
    ino: node.index,
    uid: node.uid,
    gid: node.gid,
    mtime: node.mtime,
    mtimeNs: node.mtimeNs,
    nlink: node.nlink,
  });
  const behind = node.offset + INODE_EXTENDED_BYTES;
  xattrArea(node).copy(boot, behind);
  if (inline) boot.write(node.target ?? '', behind + node.xattrBytes, 'latin1');
  else if (flat) flatData(node).copy(boot, node.dataOffset);
  const indexes = chunkIndexOffset(node.offset, INODE_EXTENDED_BYTES, node.xattrBytes);
  for (let k = 0; k < node.chunkCount; k++) {
    const blkaddr = (dataAt + k * chunkBytes) / SECTOR_BYTES;
    encodeChunkIndex(view, indexes + k * CHUNK_INDEX_BYTES, DEVICE_ID, firstChunk + k, blkaddr);
  }
}

/** Blocks of a directory (2.9), text of a symlink; needs the places of all inodes, but its length does not. */
function flatData(node: TreeNode): Buffer {
  if (node.isSymlink) return Buffer.from(node.target ?? '', 'latin1');
  if (!node.isDirectory) return Buffer.alloc(0);
  const blocks: Buffer[] = [];
  let entries: ReturnType<typeof directoryEntries> = [];
  let used = 0;
  const flush = (bytes: number) => {
    const block = Buffer.alloc(bytes);
    let nameAt = entries.length * DIRENT_BYTES;
    entries.forEach(({ name, node: child }, i) => {
      const nid = ((child.first ?? child).offset - META) / NID_UNIT_BYTES;
      encodeDirent(viewOf(block), i * DIRENT_BYTES, Math.max(0, nid), nameAt, direntType(child.mode));
      nameAt += block.write(name, nameAt, 'latin1');
    });
    blocks.push(block);
    entries = [];
    used = 0;
  };
  for (const entry of directoryEntries(node)) {
    const bytes = DIRENT_BYTES + entry.name.length;
    if (used + bytes > SECTOR_BYTES) flush(SECTOR_BYTES);
    entries.push(entry);
    used += bytes;
  }
  flush(used);
  return Buffer.concat(blocks);
}

/** 2.11 */
function xattrArea({ xattrs }: TreeNode): Buffer {
  if (xattrs.length === 0) return Buffer.alloc(0);
  const entries = xattrs.map(({ name, value }) => {
    const index = xattrNameIndex(name);
    const suffix = Buffer.from(name.slice((XATTR_PREFIXES[index] ?? '').length), 'latin1');
    const bytes = XATTR_ENTRY_BYTES + suffix.length + value.length;
    const entry = Buffer.alloc(up(bytes, XATTR_ENTRY_BYTES));
    entry[0] = suffix.length;
    entry[1] = index;
    entry.writeUInt16LE(value.length, 2);
    suffix.copy(entry, XATTR_ENTRY_BYTES);
    entry.set(value, XATTR_ENTRY_BYTES + suffix.length);
    return entry;
  });
  return Buffer.concat([Buffer.alloc(XATTR_HEADER_BYTES), ...entries]);
}

interface Head {
  id: string;
  tarBytes: number;
  names: number;
  chunkBytes: number;
  chunks: number;
}

/** The chunk table of tarfs has one entry, whatever it describes (4.5): the last block of the bootstrap. */
function writeHead(boot: Buffer, { id, tarBytes, names, chunkBytes, chunks }: Head): void {
  const view = viewOf(boot);
  const chunkTable = boot.length - BLOCK_BYTES;
  const metaBlkaddr = META / SECTOR_BYTES;
  const blocks = tarBytes / SECTOR_BYTES;
  const counts = { blockBits: SECTOR_BITS, rootNid: ROOT_NID, inos: names, blocks, metaBlkaddr, extraDevices: 1 };
  encodeSuperblock(view, SUPERBLOCK_OFFSET, counts);
  encodeExtSuperblock(view, EXT_SUPERBLOCK_OFFSET, {
    flags:
      FLAG.COMPRESSION_NONE |
      FLAG.HASH_SHA256 |
      FLAG.EXPLICIT_UID_GID |
      FLAG.HAS_XATTR |
      FLAG.TARFS_MODE |
      FLAG.ENCRYPTION_NONE,
    blobTableOffset: BLOCK_BYTES,
    blobTableSize: BLOB_ENTRY_BYTES,
    chunkSize: chunkBytes,
    chunkTableOffset: chunkTable,
    chunkTableSize: CHUNK_ENTRY_BYTES,
    prefetchOffset: 0,
    prefetchSize: 0,
  });
  encodeDeviceSlot(boot, DEVICE_SLOT_OFFSET, { id, blocks, mappedBlkaddr: up(boot.length, 0x8_0000) / SECTOR_BYTES });
  encodeBlobEntry(boot, BLOCK_BYTES, {
    id,
    index: 0,
    chunkSize: chunkBytes,
    chunkCount: chunks,
    compressor: 'none',
    digester: 'sha256',
    features: FEATURE.TARFS | FEATURE.CAP_TAR_TOC,
    compressedSize: tarBytes,
    uncompressedSize: tarBytes,
    tocSize: 0,
    ciCompressor: 1,
    ciOffset: 0,
    ciCompressedSize: 0,
    ciUncompressedSize: 0,
    tocDigest: null,
    extra: new Uint8Array(48),
    cipher: 0,
  });
  const place = { compressedOffset: 0, uncompressedOffset: 0, fileOffset: 0 };
  const sizes = { compressedSize: 1, uncompressedSize: 1, crc32: 0, flags: 0 };
  encodeChunkEntry(view, chunkTable, { blobIndex: 0, index: chunks - 1, ...place, ...sizes });
}

/** Where the data of each regular file of a GNU tar lies, by its path from the root. */
function dataPlaces(tar: Buffer): Map<string, number> {
  const places = new Map<string, number>();
  let longName: string | null = null;
  for (let at = 0; at + SECTOR_BYTES <= tar.length && tar[at] !== 0; ) {
    const text = (from: number, bytes: number) => tar.toString('latin1', at + from, at + from + bytes).split('\0')[0];
    const size = Number.parseInt(text(124, 12), 8) || 0;
    const type = text(156, 1);
    const dataAt = at + SECTOR_BYTES;
    if (type === 'L') longName = tar.toString('latin1', dataAt, dataAt + size - 1);
    else {
      if (type === '0') places.set((longName ?? text(0, 100)).replace(/^\./, ''), dataAt);
      if (type !== 'K') longName = null;
    }
    at = dataAt + up(size, SECTOR_BYTES);
  }
  return places;
}

/** All names of a file: tar keeps its data under the first it meets. */
function namesOf(all: readonly TreeNode[], node: TreeNode): string[] {
  if (!node.isFile) return [];
  if (node.nlink === 1) return [node.path];
  return all.filter((other) => other === node || other.first === node).map(({ path }) => path);
}

function up(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

function viewOf(bytes: Buffer): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
