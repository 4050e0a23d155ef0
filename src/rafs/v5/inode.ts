/** Inode records of a v5 image (rafs-format 1.7, 1.9), validated before anything uses them (checks 9.5-9.10, 9.12). */
import { timeSeconds, u64 } from '../../common/u64.ts';
import { errno } from '../../sys/errno.ts';
import type { Broken } from '../broken.ts';
import { CHUNK_ENTRY_BYTES } from '../chunk-entry.ts';
import { NAME_BYTES_MAX } from '../flags.ts';
import type { InodeRecord, Span } from '../metadata.ts';
import { PAGE_BYTES } from '../page-cache.ts';
import { DIRENT_TYPE, direntType, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../v6/inode-layout.ts';
import type { V5Image } from './image.ts';
import {
  INODE,
  INODE_BYTES,
  INODE_FLAG,
  padded,
  SYMLINK_BYTES_MAX,
  XATTR_AREA_BYTES_MAX,
  XATTR_HEADER_BYTES,
} from './layout.ts';

/** Chunks a sparse file may stretch over, 1 TiB of the default size; without holes the file's length bounds them. */
const SPARSE_CHUNKS_MAX = 2 ** 20;

/** Fills `out` with inode number `node`: 0, -ESTALE when no inode has it, -EIO. */
export function loadInode(image: V5Image, node: number, out: InodeRecord): number {
  if (!(node >= 1 && node <= image.entries)) return -errno.ESTALE;
  const loaded = loadIndex(image, node, out);
  if (loaded < 0) return loaded;
  // Other names of a hard link have an index of their own, but not an inode number.
  return out.node === node ? 0 : -errno.ESTALE;
}

/** Fills `out` with the record at `index` of the inode table, which the caller has checked: 0 or -EIO. */
export function loadIndex(image: V5Image, index: number, out: InodeRecord): number {
  const offset = image.recordAt(index);
  if (offset < 0) return offset;
  const at = image.window(offset, INODE_BYTES);
  if (at < 0) return at;
  decode(image.view, at, out);
  out.offset = offset;
  const type = out.mode & S_IFMT;
  out.bytes = INODE_BYTES + padded(out.nameBytes) + (type === S_IFLNK ? padded(out.symlinkBytes) : 0);
  const broken = checkRecord(image, index, out);
  if (broken !== null) return image.refuse(broken);
  const sized = loadXattrBytes(image, out);
  if (sized < 0) return sized;
  const outside = checkRange(image, out);
  return outside === null ? 0 : image.refuse(outside);
}

function decode(view: DataView, at: number, out: InodeRecord): void {
  out.node = u64(view, at + INODE.INO);
  out.ino = out.node;
  out.parent = u64(view, at + INODE.PARENT);
  out.uid = view.getUint32(at + INODE.UID, true);
  out.gid = view.getUint32(at + INODE.GID, true);
  out.mode = view.getUint32(at + INODE.MODE, true);
  out.size = u64(view, at + INODE.SIZE);
  out.sectors = Math.max(0, u64(view, at + INODE.SECTORS));
  out.flags = view.getUint32(at + INODE.FLAGS, true);
  out.nlink = view.getUint32(at + INODE.NLINK, true);
  out.first = view.getUint32(at + INODE.CHILD_INDEX, true);
  out.count = view.getUint32(at + INODE.CHILD_COUNT, true);
  out.nameBytes = view.getUint16(at + INODE.NAME_BYTES, true);
  out.symlinkBytes = view.getUint16(at + INODE.SYMLINK_BYTES, true);
  out.u = view.getUint32(at + INODE.RDEV, true);
  out.mtimeNs = view.getUint32(at + INODE.MTIME_NS, true);
  out.mtime = timeSeconds(view, at + INODE.MTIME);
  out.layout = 0;
}

function checkRecord(image: V5Image, index: number, inode: InodeRecord): Broken {
  const { node, parent } = inode;
  const type = inode.mode & S_IFMT;
  const named = node === index;
  if (!(node >= 1 && node <= image.entries)) return 'inode: number';
  if (index === 1 ? parent !== 0 || !named || type !== S_IFDIR : parent < 1 || parent > image.entries) {
    return 'inode: parent';
  }
  // Numbers grow on the way down, so no directory can be below itself.
  if (named && parent >= node) return 'inode: parent';
  if (!named && type === S_IFDIR) return 'inode: a second name of a directory';
  if (inode.nlink === 0) return 'inode: nlink 0';
  if (inode.nameBytes === 0 || inode.nameBytes > NAME_BYTES_MAX) return 'inode: name size';
  if (inode.mode > 0xffff || direntType(inode.mode) === DIRENT_TYPE.UNKNOWN) return 'inode: mode';
  if (inode.size < 0) return 'inode: size';
  if ((type === S_IFLNK) !== ((inode.flags & INODE_FLAG.SYMLINK) !== 0)) return 'inode: symlink flag';
  if (type === S_IFLNK) {
    return inode.symlinkBytes === 0 || inode.symlinkBytes > SYMLINK_BYTES_MAX ? 'inode: symlink size' : null;
  }
  if (type === S_IFDIR) return checkChildren(image, inode);
  return type === S_IFREG ? checkChunkCount(image, inode) : null;
}

function checkChildren(image: V5Image, { node, first, count }: InodeRecord): Broken {
  if (count === 0) return null;
  if (first <= node) return 'inode: children before their directory';
  return first + count - 1 > image.entries ? 'inode: children outside the inode table' : null;
}

function checkChunkCount(image: V5Image, inode: InodeRecord): Broken {
  const chunks = Math.ceil(inode.size / image.chunkSize);
  if ((inode.flags & INODE_FLAG.HAS_HOLE) === 0) return inode.count === chunks ? null : 'inode: chunk count';
  return inode.count > chunks || chunks > SPARSE_CHUNKS_MAX ? 'inode: chunk count' : null;
}

/** Reads how many bytes of xattrs there are. */
function loadXattrBytes(image: V5Image, inode: InodeRecord): number {
  inode.xattrBytes = 0;
  if ((inode.flags & INODE_FLAG.XATTR) === 0) return 0;
  const offset = inode.offset + inode.bytes;
  if (offset + XATTR_HEADER_BYTES > image.fileBytes) return image.refuse('inode: xattrs outside the file');
  const at = image.locate(offset);
  if (at < 0) return at;
  const { u32 } = image.cache.memory;
  const bytes = u32[at >> 2];
  if (u32[(at >> 2) + 1] !== 0 || bytes > XATTR_AREA_BYTES_MAX) return image.refuse('inode: size of xattrs');
  inode.xattrBytes = bytes;
  return 0;
}

/** File offset of the first chunk entry. */
export function chunksAt(inode: InodeRecord): number {
  const xattrs = (inode.flags & INODE_FLAG.XATTR) === 0 ? 0 : XATTR_HEADER_BYTES + padded(inode.xattrBytes);
  return inode.offset + inode.bytes + xattrs;
}

function checkRange(image: V5Image, inode: InodeRecord): Broken {
  const chunks = (inode.mode & S_IFMT) === S_IFREG ? inode.count * CHUNK_ENTRY_BYTES : 0;
  const end = chunksAt(inode) + chunks;
  if (end > image.fileBytes) return 'inode: record outside the file';
  return image.inTable(inode.offset, end) ? 'inode: record inside a table' : null;
}

/** Target of a symlink. */
export function symlinkTarget(image: V5Image, inode: InodeRecord, scratch: Uint8Array, into: Span): number {
  const offset = inode.offset + INODE_BYTES + padded(inode.nameBytes);
  into.bytes = inode.symlinkBytes;
  if ((offset & (PAGE_BYTES - 1)) + inode.symlinkBytes <= PAGE_BYTES) {
    into.u8 = image.cache.memory.u8;
    into.at = image.locate(offset);
    return Math.min(into.at, 0);
  }
  into.u8 = scratch;
  into.at = 0;
  return image.copy(offset, inode.symlinkBytes, scratch, 0);
}
