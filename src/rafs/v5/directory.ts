/**
 * Directories of v5 images (rafs-format 1.9; checks 9.6, 9.7). Children have consecutive indexes in the order of their
 * names; there are no entries for "." and "..", so they are made up here.
 *
 *     cookie 0 "."   1 ".."   2 child `first`   3 child `first + 1` …
 */
import { errno } from '../../sys/errno.ts';
import { NAME_BYTES_MAX } from '../flags.ts';
import { type EntryRecord, InodeRecord } from '../metadata.ts';
import { DIRENT_TYPE, direntType } from '../v6/inode-layout.ts';
import type { V5Image } from './image.ts';
import { loadIndex } from './inode.ts';
import { INODE, INODE_BYTES } from './layout.ts';

const SLASH = 0x2f;
const DOT = 0x2e;

/** Rooms of `names`: two that listing uses in turn, one for searches, and "..". */
const ROOM_BYTES = NAME_BYTES_MAX + 1;
const SEARCH_AT = 2 * ROOM_BYTES;
const DOTS_AT = 3 * ROOM_BYTES;
const DOT_ENTRIES = 2;

export class Directories {
  /** Names are copied here: in the file they may lie across pages. */
  readonly names = new Uint8Array(DOTS_AT + 2).fill(DOT, DOTS_AT);
  private readonly child = new InodeRecord();
  private nameBytes = 0;
  /** Index whose name was listed last, and where that lies: its follower must come after it. */
  private listed = 0;
  private listedAt = 0;
  private listedBytes = 0;

  constructor(private readonly image: V5Image) {}

  /** True with `out` filled when the name is "." or "..". */
  findDots(dir: InodeRecord, names: Uint8Array, at: number, bytes: number, out: EntryRecord): boolean {
    if (names[at] !== DOT || (bytes !== 1 && (bytes !== 2 || names[at + 1] !== DOT))) return false;
    this.takeDots(dir, bytes, out);
    return true;
  }

  /** Finds any other name: 0 with `out` filled, -ENOENT, or -EIO. */
  find(dir: InodeRecord, names: Uint8Array, at: number, bytes: number, out: EntryRecord): number {
    let low = 0;
    let high = dir.count - 1;
    while (low <= high) {
      const middle = (low + high) >>> 1;
      const index = dir.first + middle;
      const read = this.readName(index, SEARCH_AT);
      if (read < 0) return read;
      const order = compare(this.names, SEARCH_AT, this.nameBytes, names, at, bytes);
      if (order === 0) return this.takeChild(dir, index, SEARCH_AT, out);
      if (order < 0) low = middle + 1;
      else high = middle - 1;
    }
    return -errno.ENOENT;
  }

  /** The entry at `cookie`: 1 with `out` filled, 0 at the end, -EINVAL, or -EIO. */
  entryAt(dir: InodeRecord, cookie: number, out: EntryRecord): number {
    if (cookie < DOT_ENTRIES) {
      this.takeDots(dir, cookie + 1, out);
      return 1;
    }
    const position = cookie - DOT_ENTRIES;
    if (position >= dir.count) return position === dir.count ? 0 : -errno.EINVAL;
    const index = dir.first + position;
    const at = this.listedAt === 0 ? ROOM_BYTES : 0;
    const read = this.readName(index, at);
    if (read < 0) return read;
    if (!this.isLegal(at)) return this.image.refuse(`directory: name of entry ${index}`);
    if (position > 0 && this.listed === index - 1 && this.follows(at) <= 0) {
      return this.image.refuse(`directory: entry ${index} is out of order`);
    }
    const taken = this.takeChild(dir, index, at, out);
    if (taken < 0) return taken;
    this.listed = index;
    this.listedAt = at;
    this.listedBytes = this.nameBytes;
    return 1;
  }

  private follows(at: number): number {
    return compare(this.names, at, this.nameBytes, this.names, this.listedAt, this.listedBytes);
  }

  private takeDots(dir: InodeRecord, dots: number, out: EntryRecord): void {
    // The root is its own parent.
    out.node = dots === 1 || dir.parent === 0 ? dir.node : dir.parent;
    out.type = DIRENT_TYPE.DIRECTORY;
    out.nameAt = DOTS_AT;
    out.nameBytes = dots;
    out.nextCookie = dots;
  }

  private takeChild(dir: InodeRecord, index: number, nameAt: number, out: EntryRecord): number {
    const { child } = this;
    const loaded = loadIndex(this.image, index, child);
    if (loaded < 0) return loaded;
    if (child.parent !== dir.node) return this.image.refuse(`directory: parent of entry ${index}`);
    out.node = child.node;
    out.type = direntType(child.mode);
    out.nameAt = nameAt;
    out.nameBytes = this.nameBytes;
    out.nextCookie = index - dir.first + DOT_ENTRIES + 1;
    return 0;
  }

  /** Copies the name of an entry to names[at...]. */
  private readName(index: number, at: number): number {
    const { image } = this;
    const offset = image.recordAt(index);
    if (offset < 0) return offset;
    const field = image.locate(offset + INODE.NAME_BYTES);
    if (field < 0) return field;
    const bytes = image.cache.memory.u16[field >> 1];
    const start = offset + INODE_BYTES;
    if (bytes === 0 || bytes > NAME_BYTES_MAX || start + bytes > image.fileBytes) {
      return image.refuse(`directory: name of entry ${index}`);
    }
    this.nameBytes = bytes;
    return image.copy(start, bytes, this.names, at);
  }

  private isLegal(at: number): boolean {
    const { names, nameBytes } = this;
    for (let i = at; i < at + nameBytes; i++) if (names[i] === 0 || names[i] === SLASH) return false;
    return !(names[at] === DOT && (nameBytes === 1 || (nameBytes === 2 && names[at + 1] === DOT)));
  }
}

/** Order of two names: unsigned bytes, the shorter prefix first. */
function compare(a: Uint8Array, aAt: number, aBytes: number, b: Uint8Array, bAt: number, bBytes: number): number {
  const common = Math.min(aBytes, bBytes);
  for (let i = 0; i < common; i++) {
    const order = a[aAt + i] - b[bAt + i];
    if (order !== 0) return order;
  }
  return aBytes - bBytes;
}
