/**
 * Directories of v6 images: binary search over blocks, then inside one, names compared as bytes where they lie
 * (rafs-format 2.9; check 9.21).
 *
 *     block:  entry 0 | entry 1 | … | name 0 | name 1 | … | zero padding
 *             12 bytes each           ^ entry 0's nameoff = 12 × number of entries
 *
 * A cookie is block × 512 + position in the block: stable for ever, seekable, and 0 is the start.
 */
import { errno } from '../../sys/errno.ts';
import { NAME_BYTES_MAX } from '../flags.ts';
import type { EntryRecord, InodeRecord } from '../metadata.ts';
import type { V6Image } from './image.ts';
import { blockLength, locateBlock } from './inode.ts';
import { DIRENT, DIRENT_BYTES } from './inode-layout.ts';
import { BLOCK_BYTES } from './layout.ts';

const COOKIE_BITS = 9;
const COOKIE_MASK = (1 << COOKIE_BITS) - 1;
/** Entries in one block never reach the cookie's low part: the smallest takes 12 bytes and one of name. */
const ENTRIES_PER_BLOCK_MAX = Math.floor(BLOCK_BYTES / (DIRENT_BYTES + 1));
if (ENTRIES_PER_BLOCK_MAX > COOKIE_MASK) throw new Error('directory cookies are too narrow');

/** Of a place in a block. */
const SPAN_BITS = 13;
const SPAN_MASK = (1 << SPAN_BITS) - 1;
if (BLOCK_BYTES > SPAN_MASK) throw new Error('directory blocks are too long for a span');

const SLASH = 0x2f;
const DOT = 0x2e;
/** Of the block before the one being looked at. */
const lastName = new Uint8Array(NAME_BYTES_MAX);

// The block being looked at: this thread runs one request at a time, and each call sets these before it uses them.
let blockAt = 0;
let blockBytes = 0;
let blockEntries = 0;
let nameAt = 0;
let nameEnd = 0;

/** Finds a name: 0 with `out` filled, -ENOENT, or -EIO. */
export function findEntry(
  image: V6Image,
  dir: InodeRecord,
  names: Uint8Array,
  at: number,
  bytes: number,
  out: EntryRecord,
): number {
  let low = 0;
  let high = Math.ceil(dir.size / image.blockBytes) - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    const opened = openBlock(image, dir, middle);
    if (opened < 0) return opened;
    const named = openName(image, 0);
    if (named < 0) return named;
    if (compareName(image, names, at, bytes) <= 0) low = middle;
    else high = middle - 1;
  }
  const opened = openBlock(image, dir, low);
  return opened < 0 ? opened : findInBlock(image, low, names, at, bytes, out);
}

/** Each LOOKUP comes through here: what the block is, is in local variables, which is 4 % of a LOOKUP. */
function findInBlock(
  image: V6Image,
  block: number,
  names: Uint8Array,
  at: number,
  bytes: number,
  out: EntryRecord,
): number {
  const { u8, u16 } = image.cache.memory;
  const base = blockAt;
  const length = blockBytes;
  const entries = blockEntries;
  let low = 0;
  let high = entries - 1;
  while (low <= high) {
    const middle = (low + high) >>> 1;
    const span = nameSpan(u8, u16, base, length, entries, middle);
    if (span < 0) return image.refuse('directory: name offset');
    const name = base + (span >>> SPAN_BITS);
    const end = base + (span & SPAN_MASK);
    const order = compareBytes(u8, name, end - name, names, at, bytes);
    if (order < 0) low = middle + 1;
    else if (order > 0) high = middle - 1;
    else {
      nameAt = name;
      nameEnd = end;
      return takeEntry(image, block, middle, out);
    }
  }
  return -errno.ENOENT;
}

/** The entry at `cookie`: 1 with `out` filled, 0 at the end, -EINVAL, or -EIO. */
export function entryAt(image: V6Image, dir: InodeRecord, cookie: number, out: EntryRecord): number {
  const blocks = Math.ceil(dir.size / image.blockBytes);
  let block = Math.floor(cookie / (1 << COOKIE_BITS));
  let position = cookie & COOKIE_MASK;
  for (;;) {
    if (block >= blocks) return 0;
    const opened = openBlock(image, dir, block);
    if (opened < 0) return opened;
    if (position < blockEntries) break;
    if (position > blockEntries) return -errno.EINVAL;
    block++;
    position = 0;
  }
  const named = openName(image, position);
  if (named < 0) return named;
  const { u8 } = image.cache.memory;
  for (let i = nameAt; i < nameEnd; i++) {
    if (u8[i] === 0 || u8[i] === SLASH) return image.refuse('directory: NUL or / in a name');
  }
  const taken = takeEntry(image, block, position, out);
  if (taken < 0) return taken;
  if (out.nameBytes === 1 && u8[nameAt] === DOT && out.node !== dir.node) {
    return image.refuse('directory: "." is another inode');
  }
  const follows = position > 0 ? followsInBlock(image, position) : followsBlock(image, dir, block, out);
  return follows < 0 ? follows : 1;
}

/** The open name comes after the one before it in the block: 0 or -EIO. */
function followsInBlock(image: V6Image, position: number): number {
  const { u8, u16 } = image.cache.memory;
  const before = blockAt + u16[(blockAt + (position - 1) * DIRENT_BYTES + DIRENT.NAMEOFF) >> 1];
  // The name before ends where this one starts.
  const isLater = compareName(image, u8, before, nameAt - before) > 0;
  return isLater ? 0 : image.refuse('directory: names out of order');
}

/** The first name of `block` comes after the last of the block before, which may push its page out: `out` is found again. */
function followsBlock(image: V6Image, dir: InodeRecord, block: number, out: EntryRecord): number {
  if (block === 0) return 0;
  const opened = openBlock(image, dir, block - 1);
  if (opened < 0) return opened;
  const last = openName(image, blockEntries - 1);
  if (last < 0) return last;
  const bytes = nameEnd - nameAt;
  for (let i = 0; i < bytes; i++) lastName[i] = image.cache.memory.u8[nameAt + i];
  const again = openBlock(image, dir, block);
  if (again < 0) return again;
  const named = openName(image, 0);
  if (named < 0) return named;
  out.nameAt = nameAt;
  return compareName(image, lastName, 0, bytes) > 0 ? 0 : image.refuse('directory: names out of order');
}

function openBlock(image: V6Image, dir: InodeRecord, block: number): number {
  const at = locateBlock(image, dir, block);
  if (at < 0) return at;
  const bytes = blockLength(image, dir, block);
  if (bytes <= DIRENT_BYTES) return image.refuse('directory: block too short');
  const first = image.cache.memory.u16[(at + DIRENT.NAMEOFF) >> 1];
  if (first === 0 || first % DIRENT_BYTES !== 0 || first >= bytes) return image.refuse('directory: first name offset');
  blockAt = at;
  blockBytes = bytes;
  blockEntries = first / DIRENT_BYTES;
  if (blockEntries > ENTRIES_PER_BLOCK_MAX) return image.refuse('directory: too many entries in a block');
  return 0;
}

/** Sets nameAt and nameEnd to the name of entry `position` of the open block: 0 or -EIO. */
function openName(image: V6Image, position: number): number {
  const { u8, u16 } = image.cache.memory;
  const span = nameSpan(u8, u16, blockAt, blockBytes, blockEntries, position);
  if (span < 0) return image.refuse('directory: name offset');
  nameAt = blockAt + (span >>> SPAN_BITS);
  nameEnd = blockAt + (span & SPAN_MASK);
  return 0;
}

/** Where in its block the name of an entry starts and ends, as one number: start << SPAN_BITS | end; -1 when that cannot be. */
function nameSpan(
  u8: Uint8Array,
  u16: Uint16Array,
  blockAt: number,
  blockBytes: number,
  entries: number,
  position: number,
): number {
  const field = (blockAt + position * DIRENT_BYTES + DIRENT.NAMEOFF) >> 1;
  const start = u16[field];
  let end = start;
  if (position + 1 < entries) end = u16[field + DIRENT_BYTES / 2];
  // The last one ends at the first zero.
  else while (end < blockBytes && u8[blockAt + end] !== 0) end++;
  if (start < entries * DIRENT_BYTES || end <= start || end > blockBytes || end - start > NAME_BYTES_MAX) return -1;
  return (start << SPAN_BITS) | end;
}

/** Order of the open name against the wanted one. */
function compareName(image: V6Image, names: Uint8Array, at: number, bytes: number): number {
  return compareBytes(image.cache.memory.u8, nameAt, nameEnd - nameAt, names, at, bytes);
}

/** Unsigned bytes, the shorter prefix first. */
function compareBytes(a: Uint8Array, aAt: number, aBytes: number, b: Uint8Array, bAt: number, bBytes: number): number {
  const common = Math.min(aBytes, bBytes);
  let i = 0;
  while (i < common && a[aAt + i] === b[bAt + i]) i++;
  return i < common ? a[aAt + i] - b[bAt + i] : aBytes - bBytes;
}

function takeEntry(image: V6Image, block: number, position: number, out: EntryRecord): number {
  const { u8, u32 } = image.cache.memory;
  const at = blockAt + position * DIRENT_BYTES;
  // A bootstrap has at most 2^31 bytes, so every inode's number fits the low word.
  if (u32[(at >> 2) + 1] !== 0) return image.refuse('directory: inode number outside the file');
  out.node = u32[at >> 2];
  out.type = u8[at + DIRENT.TYPE];
  out.nameAt = nameAt;
  out.nameBytes = nameEnd - nameAt;
  out.nextCookie = block * (1 << COOKIE_BITS) + position + 1;
  return 0;
}
