/** Inodes of a v6 image (rafs-format 2.6-2.8, 2.10), validated before anything uses them (checks 9.17-9.20, 9.24, 9.25). */

import { errno } from '../../sys/errno.ts';
import type { Broken } from '../broken.ts';
import type { InodeRecord, Span } from '../metadata.ts';
import { PAGE_BYTES } from '../page-cache.ts';
import type { V6Image } from './image.ts';
import {
  CHUNK_FORMAT_BITS,
  CHUNK_FORMAT_INDEXES,
  CHUNK_INDEX_BYTES,
  checkInode,
  chunkIndexOffset,
  decodeInode,
  EXTENDED,
  INODE_COMPACT_BYTES,
  INODE_EXTENDED_BYTES,
  inodeBytes,
  LAYOUT,
  NID_UNIT_BYTES,
  S_IFDIR,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
} from './inode-layout.ts';

const SECTOR_BYTES = 512;

/** Fills `out` with inode `nid`: 0, -ESTALE when the file has no room for it, -EIO when it breaks a rule. */
export function loadInode(image: V6Image, nid: number, out: InodeRecord): number {
  const offset = image.metaOffset + nid * NID_UNIT_BYTES;
  // nid 0 is the unused block in front of the root, or the boot area.
  if (nid <= 0 || offset + INODE_COMPACT_BYTES > image.fileBytes) return -errno.ESTALE;
  let at = image.locate(offset);
  if (at < 0) return at;
  let view = image.cache.memory.view;
  const format = view.getUint16(at, true);
  const bytes = inodeBytes(format);
  if (offset + bytes > image.fileBytes) return image.refuse('inode: cut off by the end of the file');
  if ((at & (PAGE_BYTES - 1)) + bytes > PAGE_BYTES) {
    const copied = copyAcross(image, offset);
    if (copied < 0) return copied;
    view = image.inodeScratch;
    at = 0;
  }
  decodeInode(view, at, out);
  out.node = nid;
  out.sectors = Math.ceil(out.size / SECTOR_BYTES);
  out.offset = offset;
  if (bytes === INODE_EXTENDED_BYTES) {
    // Signed: files older than 1970 exist. Beyond 2^53 the value is nonsense, and only shown.
    out.mtime =
      view.getInt32(at + EXTENDED.MTIME + 4, true) * 0x1_0000_0000 + view.getUint32(at + EXTENDED.MTIME, true);
  }
  const broken = checkInode(out, format) ?? checkRanges(image, out);
  return broken === null ? 0 : image.refuse(broken);
}

/** 64-byte inodes are 32-byte aligned, so one half may lie in the next page. */
function copyAcross(image: V6Image, offset: number): number {
  const scratch = image.inodeScratch;
  const { view } = image.cache.memory;
  for (let half = 0; half < INODE_EXTENDED_BYTES; half += NID_UNIT_BYTES) {
    const at = image.locate(offset + half);
    if (at < 0) return at;
    for (let i = 0; i < NID_UNIT_BYTES; i += 4) scratch.setUint32(half + i, view.getUint32(at + i, true), true);
  }
  return 0;
}

function checkRanges(image: V6Image, inode: InodeRecord): Broken {
  const end = inode.offset + inode.bytes + inode.xattrBytes;
  if (end > image.fileBytes) return 'inode: xattrs outside the file';
  const type = inode.mode & S_IFMT;
  if (type === S_IFREG) return inode.size === 0 ? null : checkIndexes(image, inode);
  if (type !== S_IFDIR && type !== S_IFLNK) return null;
  const { blockBytes } = image;
  const tail = inode.size % blockBytes;
  const inline = inode.layout === LAYOUT.FLAT_INLINE && tail !== 0;
  const blocks = inline ? Math.floor(inode.size / blockBytes) : Math.ceil(inode.size / blockBytes);
  if (blocks > 0 && (inode.u + blocks) * blockBytes > image.fileBytes) return 'inode: data outside the file';
  if (inline && Math.floor(inode.offset / blockBytes) !== Math.floor((end + tail - 1) / blockBytes)) {
    return 'inode: inline data crosses a block';
  }
  return null;
}

function checkIndexes(image: V6Image, inode: InodeRecord): Broken {
  if ((inode.u & ~(CHUNK_FORMAT_INDEXES | CHUNK_FORMAT_BITS)) !== 0) return 'inode: chunk format';
  if ((inode.u & CHUNK_FORMAT_INDEXES) === 0) return 'inode: chunks without indexes';
  const count = Math.ceil(inode.size / image.chunkSize);
  const start = chunkIndexOffset(inode.offset, inode.bytes, inode.xattrBytes);
  return start + count * CHUNK_INDEX_BYTES > image.fileBytes ? 'inode: chunk indexes outside the file' : null;
}

/**
 * Byte index in page-cache memory of block `block` of a directory's or symlink's data, or -EIO. A block, inline or
 * not, always lies in one page: `loadInode` has seen to that.
 */
export function locateBlock(image: V6Image, inode: InodeRecord, block: number): number {
  if (inode.layout === LAYOUT.FLAT_INLINE && (block + 1) * image.blockBytes > inode.size) {
    return image.locate(inode.offset + inode.bytes + inode.xattrBytes);
  }
  return image.locate((inode.u + block) * image.blockBytes);
}

/** Valid bytes of block `block`. */
export function blockLength(image: V6Image, inode: InodeRecord, block: number): number {
  return Math.min(inode.size - block * image.blockBytes, image.blockBytes);
}

/** Target of a symlink. `checkInode` holds it to 4096 bytes: one block, but of tarfs images. */
export function symlinkTarget(image: V6Image, inode: InodeRecord, into: Span): number {
  if (inode.size > image.blockBytes) return longTarget(image, inode, into);
  const at = locateBlock(image, inode, 0);
  if (at < 0) return at;
  into.u8 = image.cache.memory.u8;
  into.at = at;
  into.bytes = inode.size;
  return 0;
}

/**
 * Target of several blocks (2.10). The builder of tarfs images splits it wrongly: it reserves the full blocks but
 * writes the whole text behind the inode. A target holds no NUL, which tells the two apart.
 */
function longTarget(image: V6Image, inode: InodeRecord, into: Span): number {
  const scratch = image.symlinkScratch();
  into.u8 = scratch;
  into.at = 0;
  into.bytes = inode.size;
  const read = copyBlocks(image, inode, scratch);
  if (read < 0) return read;
  const end = scratch.indexOf(0);
  if (end < 0 || end >= inode.size) return 0;
  const behind = inode.offset + inode.bytes + inode.xattrBytes;
  if (behind + inode.size <= image.fileBytes) {
    const copied = image.copy(behind, inode.size, scratch, 0);
    if (copied < 0) return copied;
    const nul = scratch.indexOf(0);
    if (nul < 0 || nul >= inode.size) return 0;
    const again = copyBlocks(image, inode, scratch);
    if (again < 0) return again;
  }
  into.bytes = end;
  return end > 0 ? 0 : image.refuse('inode: empty symlink target');
}

function copyBlocks(image: V6Image, inode: InodeRecord, to: Uint8Array): number {
  const { u8 } = image.cache.memory;
  for (let block = 0; block * image.blockBytes < inode.size; block++) {
    const at = locateBlock(image, inode, block);
    if (at < 0) return at;
    const bytes = blockLength(image, inode, block);
    const start = block * image.blockBytes;
    for (let i = 0; i < bytes; i++) to[start + i] = u8[at + i];
  }
  return 0;
}
