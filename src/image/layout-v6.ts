/**
 * Where everything of a v6 bootstrap's metadata goes: the allocation algorithm of rafs-format 2.14, pure, without I/O.
 * It reproduces upstream's placement exactly, which gives byte-identical bootstraps for the same tree.
 *
 *   cursor ──►  inodes with chunk indexes, inline tails, full data blocks …
 *   free[i]     blocks that have exactly i * 32 bytes left at their end, first in, first out
 *
 * Small inodes go to the gaps that full data blocks leave; whatever does not fit goes to the cursor.
 */
import {
  CHUNK_INDEX_BYTES,
  DIRENT_BYTES,
  INODE_EXTENDED_BYTES,
  NID_UNIT_BYTES,
  XATTR_AREA_BYTES_MAX,
  XATTR_ENTRY_BYTES,
  XATTR_HEADER_BYTES,
  XATTR_NAME_BYTES_MAX,
  XATTR_PREFIXES,
  XATTR_VALUE_BYTES_MAX,
} from '../rafs/v6/inode-layout.ts';
import { BLOCK_BYTES } from '../rafs/v6/layout.ts';
import { imageError } from './errors.ts';
import { type ByteText, shown } from './source.ts';
import type { Tree, TreeNode } from './tree.ts';

/** The first block stays empty, so that no inode has nid 0. */
const FIRST_OFFSET = BLOCK_BYTES;
const SLOTS = BLOCK_BYTES / NID_UNIT_BYTES;

/**
 * Gives every node its `offset`, `dataOffset`, `dataBytes`, `tailBytes` and `xattrBytes`, all relative to the metadata area.
 * @returns bytes of the metadata area, a multiple of 32
 */
export function placeNodes(tree: Tree): number {
  const space = new Space();
  for (const node of tree.nodes) {
    node.xattrBytes = xattrBytes(node);
    if (node.isDirectory) node.dataBytes = directoryBytes(node);
    else if (node.isSymlink) node.dataBytes = node.target?.length ?? 0;
  }
  place(space, tree.root);
  // The order of 1.9: directories are placed when their turn comes, everything else with its siblings.
  const pending: TreeNode[] = [tree.root];
  for (let dir = pending.pop(); dir !== undefined; dir = pending.pop()) {
    if (dir !== tree.root) place(space, dir);
    const children = dir.children ?? [];
    for (const child of children) if (!child.isDirectory) place(space, child);
    for (let i = children.length - 1; i >= 0; i--) if (children[i].isDirectory) pending.push(children[i]);
  }
  return space.cursor;
}

function place(space: Space, node: TreeNode): void {
  if (node.first !== null) {
    node.offset = node.first.offset;
    return;
  }
  const headBytes = INODE_EXTENDED_BYTES + node.xattrBytes;
  if (node.isDirectory || node.isSymlink) placeWithData(space, node, headBytes);
  else if (node.isFile) {
    const bytes = Math.ceil(headBytes / CHUNK_INDEX_BYTES) * CHUNK_INDEX_BYTES + node.chunkCount * CHUNK_INDEX_BYTES;
    node.offset = space.takeOrAppend(bytes);
  } else node.offset = space.append(headBytes);
  space.align(NID_UNIT_BYTES);
}

function placeWithData(space: Space, node: TreeNode, headBytes: number): void {
  const tail = node.dataBytes % BLOCK_BYTES;
  if (tail !== 0 && headBytes + tail <= BLOCK_BYTES) {
    const bytes = headBytes + tail;
    node.tailBytes = tail;
    node.offset = space.take(bytes);
    if (node.offset < 0) {
      if (BLOCK_BYTES - (space.cursor % BLOCK_BYTES) < bytes) space.closeBlock();
      node.offset = space.append(bytes);
    }
    if (node.dataBytes > tail) space.closeBlock();
    node.dataOffset = space.append(node.dataBytes - tail);
  } else {
    node.tailBytes = -1;
    node.offset = space.takeOrAppend(headBytes);
    space.closeBlock();
    node.dataOffset = space.append(node.dataBytes);
    space.align(BLOCK_BYTES);
  }
}

class Space {
  cursor = FIRST_OFFSET;
  readonly #free: Queue[] = Array.from({ length: SLOTS + 1 }, () => new Queue());

  /** Offset of `bytes` free bytes at the end of an older block, or -1. */
  take(bytes: number): number {
    if (bytes >= BLOCK_BYTES) return -1;
    const units = Math.ceil(bytes / NID_UNIT_BYTES);
    for (let i = units; i < SLOTS; i++) {
      const block = this.#free[i].shift();
      if (block < 0) continue;
      const offset = block + BLOCK_BYTES - NID_UNIT_BYTES * i;
      this.#give(offset + units * NID_UNIT_BYTES);
      return offset;
    }
    return -1;
  }

  append(bytes: number): number {
    const offset = this.cursor;
    this.cursor += bytes;
    return offset;
  }

  takeOrAppend(bytes: number): number {
    const offset = this.take(bytes);
    return offset < 0 ? this.append(bytes) : offset;
  }

  /** Remembers what is left of the current block and goes on in the next one. */
  closeBlock(): void {
    this.#give(this.cursor);
    this.align(BLOCK_BYTES);
  }

  align(unit: number): void {
    const over = this.cursor % unit;
    if (over !== 0) this.cursor += unit - over;
  }

  #give(offset: number): void {
    const used = offset % BLOCK_BYTES;
    if (used !== 0) this.#free[Math.floor((BLOCK_BYTES - used) / NID_UNIT_BYTES)].push(offset - used);
  }
}

class Queue {
  #items: number[] = [];
  #head = 0;

  push(item: number): void {
    this.#items.push(item);
  }

  /** The oldest item, or -1. */
  shift(): number {
    if (this.#head === this.#items.length) return -1;
    const item = this.#items[this.#head++];
    if (this.#head === this.#items.length) {
      this.#items = [];
      this.#head = 0;
    }
    return item;
  }
}

/** One name of a directory as it is stored, `.` and `..` included. */
export interface DirectoryEntry {
  name: ByteText;
  node: TreeNode;
}

/** All entries in byte order: names that sort before `.` come before it (2.9). */
export function directoryEntries(dir: TreeNode): DirectoryEntry[] {
  const children = dir.children ?? [];
  const dots = [
    { name: '.', node: dir },
    { name: '..', node: dir.parent ?? dir },
  ];
  const entries: DirectoryEntry[] = [];
  let dot = 0;
  for (const node of children) {
    while (dot < dots.length && dots[dot].name < node.name) entries.push(dots[dot++]);
    entries.push({ name: node.name, node });
  }
  return entries.concat(dots.slice(dot));
}

/** Bytes of a directory's data: blocks are packed in order, only the last one may be partial (2.9). */
function directoryBytes(dir: TreeNode): number {
  let total = 0;
  let used = 0;
  for (const { name } of directoryEntries(dir)) {
    const bytes = DIRENT_BYTES + name.length;
    if (used + bytes > BLOCK_BYTES) {
      total += BLOCK_BYTES;
      used = 0;
    }
    used += bytes;
  }
  return total + used;
}

/** Bytes of the inline xattr area (2.11), 0 without xattrs. @throws AppError XATTR for names that cannot be stored */
function xattrBytes(node: TreeNode): number {
  if (node.xattrs.length === 0) return 0;
  let bytes = XATTR_HEADER_BYTES;
  for (const { name, value } of node.xattrs) {
    const index = xattrNameIndex(name);
    if (index < 0) throw imageError('XATTR', { path: shown(node.path), name: shown(name) });
    if (value.length > XATTR_VALUE_BYTES_MAX || name.length > XATTR_NAME_BYTES_MAX) {
      throw imageError('SOURCE_LIMIT', { path: shown(node.path), rule: `${shown(name)} of ${value.length} bytes` });
    }
    const suffixBytes = name.length - (XATTR_PREFIXES[index] ?? '').length;
    bytes += Math.ceil((XATTR_ENTRY_BYTES + suffixBytes + value.length) / XATTR_ENTRY_BYTES) * XATTR_ENTRY_BYTES;
  }
  if (bytes > XATTR_AREA_BYTES_MAX) {
    throw imageError('SOURCE_LIMIT', { path: shown(node.path), rule: `${bytes} bytes of extended attributes` });
  }
  return bytes;
}

/** Position in `XATTR_PREFIXES`, or -1. */
export function xattrNameIndex(name: ByteText): number {
  return XATTR_PREFIXES.findIndex((prefix) =>
    prefix?.endsWith('.') ? name.startsWith(prefix) && name !== prefix : name === prefix,
  );
}
