/**
 * Writes one node of the tree into a v6 bootstrap: inode, xattrs, then its directory blocks, symlink target or chunk
 * indexes (rafs-format 2.7-2.11).
 */
import {
  CHUNK_FORMAT_BITS,
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
} from '../rafs/v6/inode-layout.ts';
import { BLOCK_BITS, BLOCK_BYTES } from '../rafs/v6/layout.ts';
import type { ChunkRefs, ChunkStore } from './chunk-store.ts';
import { type DirectoryEntry, directoryEntries, xattrNameIndex } from './layout-v6.ts';
import type { TreeNode } from './tree.ts';

/** What chunk indexes are made from. */
export interface FileChunks {
  chunkSize: number;
  store: ChunkStore;
  refs: ChunkRefs;
}

/** Device id of the first blob; 0 is the bootstrap. */
const FIRST_DEVICE = 1;

/** @param meta offset of the metadata area, to which the node's own offsets are relative */
export function writeNode(out: Buffer, meta: number, node: TreeNode, files: FileChunks): void {
  if (node.first !== null) {
    noteUse(node.first, files);
    return;
  }
  const view = new DataView(out.buffer, out.byteOffset, out.length);
  const at = meta + node.offset;
  const flat = node.isDirectory || node.isSymlink;
  encodeInode(view, at, {
    bytes: INODE_EXTENDED_BYTES,
    layout: node.isFile ? LAYOUT.CHUNK_BASED : flat && node.tailBytes > 0 ? LAYOUT.FLAT_INLINE : LAYOUT.FLAT_PLAIN,
    xattrBytes: node.xattrBytes,
    mode: node.mode,
    size: flat ? node.dataBytes : node.sizeBytes,
    u: flat ? Math.floor((meta + node.dataOffset) / BLOCK_BYTES) : node.isFile ? format(node, files) : node.rdev,
    ino: node.index,
    uid: node.uid,
    gid: node.gid,
    mtime: node.mtime,
    mtimeNs: node.mtimeNs,
    nlink: node.nlink,
  });
  if (node.xattrBytes > 0) writeXattrs(out, at + INODE_EXTENDED_BYTES, node);
  if (node.isDirectory) writeDirectory(out, meta, node);
  else if (node.isSymlink) writeData(out, meta, node, 0, Buffer.from(node.target ?? '', 'latin1'));
  else if (node.isFile) {
    writeIndexes(view, at, node, files);
    noteUse(node, files);
  }
}

/** Copies data that starts at `from` of the node's data: full blocks to the data area, the tail behind the inode. */
function writeData(out: Buffer, meta: number, node: TreeNode, from: number, bytes: Uint8Array): void {
  const inlineFrom = node.tailBytes > 0 ? node.dataBytes - node.tailBytes : node.dataBytes;
  const full = Math.max(0, Math.min(bytes.length, inlineFrom - from));
  out.set(bytes.subarray(0, full), meta + node.dataOffset + from);
  if (full === bytes.length) return;
  const tail = meta + node.offset + INODE_EXTENDED_BYTES + node.xattrBytes;
  out.set(bytes.subarray(full), tail + from + full - inlineFrom);
}

/** Directory blocks (2.9): each is an array of entries followed by their names. */
function writeDirectory(out: Buffer, meta: number, dir: TreeNode): void {
  const entries = directoryEntries(dir);
  let first = 0;
  let blockAt = 0;
  let used = 0;
  for (let i = 0; i <= entries.length; i++) {
    const bytes = i < entries.length ? DIRENT_BYTES + entries[i].name.length : BLOCK_BYTES;
    if (used + bytes > BLOCK_BYTES || i === entries.length) {
      writeData(out, meta, dir, blockAt, directoryBlock(entries, first, i, used));
      first = i;
      blockAt += BLOCK_BYTES;
      used = 0;
    }
    used += bytes;
  }
}

function directoryBlock(entries: DirectoryEntry[], first: number, end: number, bytes: number): Buffer {
  const block = Buffer.alloc(bytes);
  const view = new DataView(block.buffer, block.byteOffset, block.length);
  let nameAt = (end - first) * DIRENT_BYTES;
  for (let i = first; i < end; i++) {
    const { name, node } = entries[i];
    encodeDirent(view, (i - first) * DIRENT_BYTES, node.offset / NID_UNIT_BYTES, nameAt, direntType(node.mode));
    nameAt += block.write(name, nameAt, 'latin1');
  }
  return block;
}

/** Inline xattrs (2.11): a header that is all zero, then the entries in name order. */
function writeXattrs(out: Buffer, at: number, node: TreeNode): void {
  let entry = at + XATTR_HEADER_BYTES;
  for (const { name, value } of node.xattrs) {
    const index = xattrNameIndex(name);
    const suffix = name.slice((XATTR_PREFIXES[index] ?? '').length);
    out[entry] = suffix.length;
    out[entry + 1] = index;
    out.writeUInt16LE(value.length, entry + 2);
    out.write(suffix, entry + XATTR_ENTRY_BYTES, 'latin1');
    out.set(value, entry + XATTR_ENTRY_BYTES + suffix.length);
    const bytes = XATTR_ENTRY_BYTES + suffix.length + value.length;
    entry += Math.ceil(bytes / XATTR_ENTRY_BYTES) * XATTR_ENTRY_BYTES;
  }
}

function writeIndexes(view: DataView, inodeAt: number, node: TreeNode, { store, refs }: FileChunks): void {
  const at = chunkIndexOffset(inodeAt, INODE_EXTENDED_BYTES, node.xattrBytes);
  for (let k = 0; k < node.chunkCount; k++) {
    const chunk = refs.list[node.firstRef + k];
    const blkaddr = store.uncompressedOffset[chunk] / BLOCK_BYTES;
    encodeChunkIndex(view, at + k * CHUNK_INDEX_BYTES, FIRST_DEVICE, chunk, blkaddr);
  }
}

/** Upstream's chunk table gives the file offset of a chunk's last use; each name of a file counts as one. */
function noteUse(node: TreeNode, { chunkSize, store, refs }: FileChunks): void {
  for (let k = 0; k < node.chunkCount; k++) store.fileOffset[refs.list[node.firstRef + k]] = k * chunkSize;
}

/**
 * Chunk format (2.8). A file of several chunks that lie back to back claims one chunk of the next power of two, so that
 * the kernel sees one extent.
 */
function format(node: TreeNode, { chunkSize, store, refs }: FileChunks): number {
  let bits = Math.log2(chunkSize);
  if (node.chunkCount > 1) {
    let contiguous = true;
    for (let k = 1; k < node.chunkCount && contiguous; k++) {
      const before = store.uncompressedOffset[refs.list[node.firstRef + k - 1]];
      contiguous = store.uncompressedOffset[refs.list[node.firstRef + k]] === before + chunkSize;
    }
    if (contiguous) bits = Math.ceil(Math.log2(node.sizeBytes));
  }
  return chunkFormat(Math.min(bits, CHUNK_FORMAT_BITS + BLOCK_BITS), BLOCK_BITS);
}
