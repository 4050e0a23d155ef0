/**
 * The host mounts seen below a share. Inode numbers are unique within one of them only, so an inode's key starts with
 * its mount; and what a file system cannot do is learned once per mount.
 *
 * Key: (mount id, device). The device belongs to it because btrfs subvolumes and overlayfs show several in one mount.
 * A record lives as long as an inode or handle refers to it; its slot is then used again.
 */
import type { Arena } from '../sys/arena.ts';
import { HashIndex } from '../sys/hash-index.ts';
import { close } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { fstatfs, STATFS, STATFS_BYTES, STATX } from '../sys/stat.ts';
import { Table } from '../sys/table.ts';
import type { DescriptorBudget } from './budget.ts';
import { MOUNTS_MAX } from './options.ts';

/** Record words. */
const ID = 0;
const DEV = 2;
const KEY_WORDS = 4;
const LINK = 4;
const REFS = 5;
const FLAGS = 6;
/** Descriptor for syncfs, + 1. */
const SYNC_FD = 7;
const RECORD_WORDS = 8;

export const MOUNT_FLAG = {
  /** preadv2 with RWF_NOWAIT said EOPNOTSUPP. */
  NOWAIT_REFUSED: 1,
  /** Pages are the file: a plain read never waits for a device. */
  IN_MEMORY: 2,
  /** A local file system without a flush operation: close(2) reports nothing there, so the guest need not ask. */
  NO_FLUSH: 4,
} as const;

const MAGIC = {
  TMPFS: 0x0102_1994,
  RAMFS: 0x8584_58f6,
  EXT4: 0xef53,
  XFS: 0x5846_5342,
  BTRFS: 0x9123_683e,
  F2FS: 0xf2f5_2010,
} as const;

const statfs = new NativeMemory(STATFS_BYTES);

export class MountTable {
  readonly #table: Table;
  readonly #byKey: HashIndex;
  /** The mount found last: nearly every lookup stays in one. */
  #last = -1;

  constructor(
    arena: Arena,
    prefix: string,
    readonly budget: DescriptorBudget,
  ) {
    this.#table = new Table(arena, `${prefix}.mounts`, RECORD_WORDS, MOUNTS_MAX);
    this.#byKey = new HashIndex(arena, `${prefix}.mounts.key`, this.#table, ID, KEY_WORDS, LINK);
  }

  static tableNames(prefix: string): readonly string[] {
    return [`${prefix}.mounts.key`, `${prefix}.mounts`];
  }

  /** Slot of the mount a statx result lies on, or -1 when no inode of it is known. */
  find(stat: Uint32Array): number {
    if (this.#last >= 0 && this.#is(this.#last, stat)) return this.#last;
    const { key } = this.#byKey;
    for (let i = 0; i < 2; i++) {
      key[ID + i] = stat[STATX.MNT_ID + i];
      key[DEV + i] = stat[STATX.DEV_MAJOR + i];
    }
    const slot = this.#byKey.find();
    if (slot >= 0) this.#last = slot;
    return slot;
  }

  /** The mount of a statx result, made from `fd` (any descriptor on it) when new. -1: the table is full. Takes no reference. */
  findOrAdd(stat: Uint32Array, fd: number): number {
    const found = this.find(stat);
    if (found >= 0) return found;
    const slot = this.#table.allocate();
    if (slot < 0) return -1;
    for (let i = 0; i < 2; i++) {
      this.#table.set(slot, ID + i, stat[STATX.MNT_ID + i]);
      this.#table.set(slot, DEV + i, stat[STATX.DEV_MAJOR + i]);
    }
    this.#table.set(slot, FLAGS, flagsOf(fd));
    this.#byKey.insert(slot);
    return slot;
  }

  #is(slot: number, stat: Uint32Array): boolean {
    const words = this.#table.view(slot);
    const at = this.#table.wordAt(slot);
    return (
      words[at + ID] === stat[STATX.MNT_ID] &&
      words[at + ID + 1] === stat[STATX.MNT_ID + 1] &&
      words[at + DEV] === stat[STATX.DEV_MAJOR] &&
      words[at + DEV + 1] === stat[STATX.DEV_MINOR]
    );
  }

  ref(slot: number): void {
    this.#table.set(slot, REFS, this.#table.get(slot, REFS) + 1);
  }

  /** Gives a reference back; without any the record is gone, also one that never had any. */
  unref(slot: number): void {
    const refs = this.#table.get(slot, REFS);
    if (refs > 1) {
      this.#table.set(slot, REFS, refs - 1);
      return;
    }
    const syncFd = this.#table.get(slot, SYNC_FD);
    if (syncFd !== 0) {
      close(syncFd - 1);
      this.budget.give();
    }
    this.#byKey.remove(slot);
    this.#table.free(slot);
    if (this.#last === slot) this.#last = -1;
  }

  has(slot: number, flag: number): boolean {
    return (this.#table.get(slot, FLAGS) & flag) !== 0;
  }

  remember(slot: number, flag: number): void {
    this.#table.set(slot, FLAGS, this.#table.get(slot, FLAGS) | flag);
  }

  /** Descriptor kept for syncfs (O_PATH ones are refused there), or -1. */
  syncFd(slot: number): number {
    return this.#table.get(slot, SYNC_FD) - 1;
  }

  /** Hands a descriptor over to the record; counted in the budget. */
  keepSyncFd(slot: number, fd: number): void {
    this.#table.set(slot, SYNC_FD, fd + 1);
    this.budget.take();
  }

  devMajor(slot: number): number {
    return this.#table.get(slot, DEV);
  }

  devMinor(slot: number): number {
    return this.#table.get(slot, DEV + 1);
  }

  get count(): number {
    return this.#table.count;
  }

  /** Renumbers descriptors after they were sent to another process. Cold path. */
  renumber(number: (fd: number) => number): void {
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      const fd = this.syncFd(slot);
      if (fd >= 0) this.#table.set(slot, SYNC_FD, number(fd) + 1);
    }
  }

  /** Descriptors held by records. Cold path. */
  descriptors(): number[] {
    const fds: number[] = [];
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      if (this.syncFd(slot) >= 0) fds.push(this.syncFd(slot));
    }
    return fds;
  }

  /** After a crash of the writer, first step: references are counted anew by inodes and handles. */
  recover(): void {
    this.#table.recover();
    this.#byKey.rebuild();
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) this.#table.set(slot, REFS, 0);
  }

  /** Last step of a recovery. */
  dropUnreferenced(): void {
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      if (this.#table.get(slot, REFS) > 0) continue;
      this.#byKey.remove(slot);
      this.#table.free(slot);
    }
  }

  isLive(slot: number): boolean {
    return this.#table.live(slot) && this.#byKey.has(slot);
  }
}

function flagsOf(fd: number): number {
  if (fstatfs(fd, statfs.address) < 0) return 0;
  const magic = statfs.u32[STATFS.TYPE];
  if (magic === MAGIC.TMPFS || magic === MAGIC.RAMFS) return MOUNT_FLAG.IN_MEMORY | MOUNT_FLAG.NO_FLUSH;
  const flushless = magic === MAGIC.EXT4 || magic === MAGIC.XFS || magic === MAGIC.BTRFS || magic === MAGIC.F2FS;
  return flushless ? MOUNT_FLAG.NO_FLUSH : 0;
}
