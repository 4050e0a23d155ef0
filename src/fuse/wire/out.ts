/** Encoders of reply structures into u32 views of the reply scratch. Word positions are those of layout.ts. */
import { ATTR, DIRENT_BYTES, DIRENT_OUT, ENTRY_OUT } from './layout.ts';

const NSEC_PER_MS = 1_000_000;

/** Zeroes `bytes` (a multiple of 4) at word `at`; a loop, because a call of `fill` costs more than a hundred bytes do. */
export function clearWords(words: Uint32Array, at: number, bytes: number): void {
  for (const end = at + (bytes >> 2); at < end; at++) words[at] = 0;
}

/** Writes entry_out without its attributes: nodeid {low, high}, generation 0, both time-outs in ms. */
export function putEntryHead(
  words: Uint32Array,
  at: number,
  nodeLow: number,
  nodeHigh: number,
  entryValidMs: number,
  attrValidMs: number,
): void {
  words[at + ENTRY_OUT.NODEID] = nodeLow;
  words[at + ENTRY_OUT.NODEID + 1] = nodeHigh;
  words[at + ENTRY_OUT.GENERATION] = 0;
  words[at + ENTRY_OUT.GENERATION + 1] = 0;
  const entrySeconds = Math.floor(entryValidMs / 1000);
  const attrSeconds = Math.floor(attrValidMs / 1000);
  words[at + ENTRY_OUT.ENTRY_VALID] = entrySeconds;
  words[at + ENTRY_OUT.ENTRY_VALID + 1] = 0;
  words[at + ENTRY_OUT.ATTR_VALID] = attrSeconds;
  words[at + ENTRY_OUT.ATTR_VALID + 1] = 0;
  words[at + ENTRY_OUT.ENTRY_VALID_NSEC] = (entryValidMs - entrySeconds * 1000) * NSEC_PER_MS;
  words[at + ENTRY_OUT.ATTR_VALID_NSEC] = (attrValidMs - attrSeconds * 1000) * NSEC_PER_MS;
}

/** Writes the head of attr_out: the attributes follow at word at + ATTR_OUT.ATTR. */
export function putAttrHead(words: Uint32Array, at: number, attrValidMs: number): void {
  const seconds = Math.floor(attrValidMs / 1000);
  words[at] = seconds;
  words[at + 1] = 0;
  words[at + 2] = (attrValidMs - seconds * 1000) * NSEC_PER_MS;
  words[at + 3] = 0;
}

/** The 32-bit device number the kernel puts into fuse_attr.rdev. */
export function encodeRdev(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) >>> 0;
}

/** Writes a whole number below 2^53 as u64. */
export function putU64(words: Uint32Array, at: number, value: number): void {
  const high = Math.floor(value / 0x1_0000_0000);
  words[at] = value - high * 0x1_0000_0000;
  words[at + 1] = high;
}

/**
 * Writes attributes at word `at` from numbers. `inoHigh`/`inoLow` are opaque. Times are seconds with their
 * nanoseconds, used for atime, mtime and ctime alike (image files have one time only).
 */
export function putAttr(
  words: Uint32Array,
  at: number,
  inoLow: number,
  inoHigh: number,
  sizeBytes: number,
  blocks: number,
  mtimeSeconds: number,
  mtimeNsec: number,
  mode: number,
  nlink: number,
  uid: number,
  gid: number,
  rdev: number,
  flags: number,
): void {
  words[at + ATTR.INO] = inoLow;
  words[at + ATTR.INO + 1] = inoHigh;
  putU64(words, at + ATTR.SIZE, sizeBytes);
  putU64(words, at + ATTR.BLOCKS, blocks);
  // Signed seconds: floor keeps the two's complement high word right for times before 1970.
  const high = Math.floor(mtimeSeconds / 0x1_0000_0000);
  const low = mtimeSeconds - high * 0x1_0000_0000;
  for (let i = 0; i < 3; i++) {
    words[at + ATTR.ATIME + i * 2] = low;
    words[at + ATTR.ATIME + i * 2 + 1] = high;
    words[at + ATTR.ATIMENSEC + i] = mtimeNsec;
  }
  words[at + ATTR.MODE] = mode;
  words[at + ATTR.NLINK] = nlink;
  words[at + ATTR.UID] = uid;
  words[at + ATTR.GID] = gid;
  words[at + ATTR.RDEV] = rdev;
  words[at + ATTR.BLKSIZE] = 4096;
  words[at + ATTR.FLAGS] = flags;
}

/** Bytes of a dirent record with a name of `nameBytes`. */
export function direntBytes(nameBytes: number): number {
  return (DIRENT_BYTES + nameBytes + 7) & ~7;
}

/**
 * Writes one dirent at byte `at` (8-aligned) of the scratch and zeroes its padding; the name is copied from `source` at
 * `sourceAt`. ino and cookie are opaque words. Returns the record's bytes. The caller has checked that it fits.
 */
export function putDirent(
  words: Uint32Array,
  bytes: Uint8Array,
  at: number,
  inoLow: number,
  inoHigh: number,
  cookieLow: number,
  cookieHigh: number,
  type: number,
  source: Uint8Array,
  sourceAt: number,
  nameBytes: number,
): number {
  const word = at >> 2;
  words[word + DIRENT_OUT.INO] = inoLow;
  words[word + DIRENT_OUT.INO + 1] = inoHigh;
  words[word + DIRENT_OUT.OFF] = cookieLow;
  words[word + DIRENT_OUT.OFF + 1] = cookieHigh;
  words[word + DIRENT_OUT.NAMELEN] = nameBytes;
  words[word + DIRENT_OUT.TYPE] = type;
  const record = direntBytes(nameBytes);
  let to = at + DIRENT_BYTES;
  for (let i = 0; i < nameBytes; i++) bytes[to++] = source[sourceAt + i] as number;
  for (const end = at + record; to < end; ) bytes[to++] = 0;
  return record;
}
