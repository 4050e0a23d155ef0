/**
 * From nodeids to validated inodes, with what a hostile image could try between a directory and its child.
 *
 * The union addresses every member's root as 1. The root's nid and 1 change places, and every other number stands for
 * itself: a one-to-one mapping, so no two nodes can meet whatever nid the root has.
 */

import type { Logger } from '../common/log.ts';
import { S } from '../fuse/flags.ts';
import { errno } from '../sys/errno.ts';
import { EntryRecord, type InodeRecord, type Metadata } from './metadata.ts';
import { DIRENT_TYPE, direntType } from './v6/inode-layout.ts';

/** Local number of a member's root in the union. */
export const ROOT_LOCAL = 1;

/**
 * Lines about bad images: a guest that asks for the same bad inode all day must not fill the log, and the first error
 * of tomorrow must still be seen.
 */
const LINES_PER_WINDOW_MAX = 64;
const WINDOW_MS = 60_000;

const DOT = 0x2e;
const DOT_DOT = Uint8Array.of(DOT, DOT);

export class Nodes {
  /** What the last refusal said. */
  lastRule = '';
  private windowStartMs = 0;
  private windowLines = 0;
  private readonly parent = new EntryRecord();

  constructor(
    private readonly metadata: Metadata,
    private readonly label: string,
    private readonly log: Logger,
  ) {}

  /** Local number of node `nid`. */
  local(nid: number): number {
    if (nid === this.metadata.root) return ROOT_LOCAL;
    return nid === ROOT_LOCAL ? this.metadata.root : nid;
  }

  /** Loads the inode that the guest names by `nodeLow`: 0, -ESTALE, -EIO. */
  load(nodeLow: number, into: InodeRecord): number {
    // The mapping is its own inverse.
    const nid = this.local(nodeLow);
    const loaded = this.metadata.load(nid, into);
    return loaded < 0 ? this.failed(loaded, nid) : 0;
  }

  /** As `load`, -ENOTDIR for anything but a directory. */
  loadDirectory(nodeLow: number, into: InodeRecord): number {
    const loaded = this.load(nodeLow, into);
    if (loaded < 0) return loaded;
    return (into.mode & S.IFMT) === S.IFDIR ? 0 : -errno.ENOTDIR;
  }

  /**
   * Loads what an entry of `dir` names: 0 or -EIO. The type must be the entry's, and a directory must name `dir` as its
   * parent, so that no directory can be met on two paths: a cycle would never end for the guest.
   * @param names the entry's name lies here at entry.nameAt
   */
  loadChild(dir: InodeRecord, entry: EntryRecord, names: Uint8Array, into: InodeRecord): number {
    const special = isDots(names, entry.nameAt, entry.nameBytes);
    const loaded = this.metadata.load(entry.node, into);
    if (loaded < 0) {
      if (loaded === -errno.EIO) return this.failed(loaded, entry.node);
      return this.refused(dir.node, `directory: inode ${entry.node} is outside the file`);
    }
    const type = direntType(into.mode);
    if (entry.type !== type && entry.type !== DIRENT_TYPE.UNKNOWN) {
      return this.refused(dir.node, `directory: type of inode ${entry.node}`);
    }
    if (type !== DIRENT_TYPE.DIRECTORY || special) return 0;
    if (into.node === this.metadata.root) return this.refused(dir.node, 'directory: the root is below it');
    const found = this.metadata.find(into, DOT_DOT, 0, 2, this.parent);
    if (found === -errno.EIO) return this.failed(found, into.node);
    if (found < 0 || this.parent.node !== dir.node) {
      return this.refused(into.node, `directory: ".." is not inode ${dir.node}, where it was found`);
    }
    return 0;
  }

  /** Passes a metadata error on, with a line in the log when the image is to blame. */
  failed(result: number, nid: number): number {
    return result === -errno.EIO ? this.refused(nid, this.metadata.broken) : result;
  }

  /** Logs what inode `nid` does wrong; returns -EIO. */
  refused(nid: number, rule: string): number {
    this.lastRule = rule;
    if (this.mayLog()) this.log.error(`${this.label}: inode ${nid}, byte ${this.metadata.lastOffset}: ${rule}`);
    return -errno.EIO;
  }

  private mayLog(): boolean {
    const nowMs = performance.now();
    if (this.windowLines === 0 || nowMs - this.windowStartMs > WINDOW_MS) {
      this.windowStartMs = nowMs;
      this.windowLines = 0;
    }
    this.windowLines++;
    if (this.windowLines === LINES_PER_WINDOW_MAX) {
      this.log.error(`${this.label}: more errors of this image in this minute are not shown`);
    }
    return this.windowLines < LINES_PER_WINDOW_MAX;
  }

  brokenXattrs(nid: number): number {
    return this.refused(nid, 'xattrs: an entry does not fit');
  }
}

/** True for "." and "..". */
export function isDots(names: Uint8Array, at: number, bytes: number): boolean {
  return names[at] === DOT && (bytes === 1 || (bytes === 2 && names[at + 1] === DOT));
}
