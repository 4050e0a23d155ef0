/**
 * The inodes a guest knows: one O_PATH descriptor each, found by nodeid or by what they are on the host.
 *
 *     nodeid.low ─► by-id index ─┐
 *                                ├─► record {mount, ino, fd, lookups, type}
 *     (mount, ino) ─► by-key ────┘
 *
 * Invariants
 * - The descriptor pins the host inode, so the host cannot give its number to another file while the record lives: a
 *   key hit is the same file.
 * - `lookups` is what the guest will take back by FORGET. At 0 the record goes and its descriptor is closed; the root
 *   (id 1) stays. Ids come from a counter in the arena and never come again; slots do.
 */
import { S } from '../fuse/flags.ts';
import { type Arena, Counter } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { HashIndex } from '../sys/hash-index.ts';
import { close } from '../sys/io.ts';
import { STATX } from '../sys/stat.ts';
import { Table } from '../sys/table.ts';
import type { DescriptorBudget } from './budget.ts';
import type { MountTable } from './mounts.ts';
import { INODES_MAX } from './options.ts';

/** Record words; the first three are the key. */
const MOUNT = 0;
const INO = 1;
const KEY_WORDS = 3;
const KEY_LINK = 3;
const ID = 4;
const ID_LINK = 5;
const FD = 6;
const LOOKUPS = 7; // two words: a guest that revalidates a name every microsecond passes 2^32 in an hour
const TYPE = 9;
const RECORD_WORDS = 10;

const WORD = 0x1_0000_0000;

/** Local id of a share's root. */
export const ROOT_ID = 1;

export class InodeTable {
  readonly #table: Table;
  readonly #byKey: HashIndex;
  readonly #byId: HashIndex;
  readonly #ids: Counter;
  #closed = false;

  constructor(
    arena: Arena,
    prefix: string,
    readonly mounts: MountTable,
    readonly budget: DescriptorBudget,
  ) {
    this.#table = new Table(arena, `${prefix}.inodes`, RECORD_WORDS, INODES_MAX);
    this.#byKey = new HashIndex(arena, `${prefix}.inodes.key`, this.#table, MOUNT, KEY_WORDS, KEY_LINK);
    this.#byId = new HashIndex(arena, `${prefix}.inodes.id`, this.#table, ID, 1, ID_LINK);
    this.#ids = new Counter(arena, `${prefix}.ids`);
  }

  static tableNames(prefix: string): readonly string[] {
    return [`${prefix}.inodes.key`, `${prefix}.inodes.id`, `${prefix}.inodes`, `${prefix}.ids`];
  }

  /** Slot of a nodeid's lower word, or -ESTALE: forgotten, or never given. */
  slotOf(id: number): number {
    if (this.#closed) return -errno.ESTALE;
    this.#byId.key[0] = id;
    const slot = this.#byId.find();
    return slot < 0 ? -errno.ESTALE : slot;
  }

  /** Slot of the inode a statx result describes, or -1 when the guest does not know it. */
  find(stat: Uint32Array): number {
    const mount = this.mounts.find(stat);
    return mount < 0 ? -1 : this.#findIn(mount, stat);
  }

  #findIn(mount: number, stat: Uint32Array): number {
    const { key } = this.#byKey;
    key[MOUNT] = mount;
    key[INO] = stat[STATX.INO];
    key[INO + 1] = stat[STATX.INO + 1];
    return this.#byKey.find();
  }

  /**
   * Takes over the O_PATH descriptor `fd` whose statx result is `stat`: closes it when its inode is known, makes a record
   * (with no lookups) otherwise. Returns the slot, or -ENFILE with `fd` closed.
   */
  adopt(fd: number, stat: Uint32Array): number {
    const mount = this.mounts.findOrAdd(stat, fd);
    if (mount < 0) return refuse(fd);
    const known = this.#findIn(mount, stat);
    if (known >= 0) {
      close(fd);
      return known;
    }
    this.mounts.ref(mount);
    const slot = this.budget.room(1) ? this.#table.allocate() : -1;
    const id = slot < 0 ? 0 : this.#ids.next();
    if (id === 0) {
      if (slot >= 0) this.#table.free(slot);
      this.mounts.unref(mount);
      return refuse(fd);
    }
    const words = this.#table.view(slot);
    const at = this.#table.wordAt(slot);
    words[at + MOUNT] = mount;
    words[at + INO] = stat[STATX.INO];
    words[at + INO + 1] = stat[STATX.INO + 1];
    words[at + ID] = id;
    words[at + FD] = fd;
    words[at + TYPE] = stat[STATX.MODE] & S.IFMT;
    this.#byKey.insert(slot);
    this.#byId.insert(slot);
    this.budget.take();
    return slot;
  }

  fd(slot: number): number {
    return this.#table.get(slot, FD);
  }

  id(slot: number): number {
    return this.#table.get(slot, ID);
  }

  mount(slot: number): number {
    return this.#table.get(slot, MOUNT);
  }

  /** Type bits of the mode; they cannot change while the inode lives. */
  type(slot: number): number {
    return this.#table.get(slot, TYPE);
  }

  /** One word of the host's inode number. */
  ino(slot: number, word: 0 | 1): number {
    return this.#table.get(slot, INO + word);
  }

  lookups(slot: number): number {
    return this.#table.get(slot, LOOKUPS + 1) * WORD + this.#table.get(slot, LOOKUPS);
  }

  /** Counts one lookup: called before the reply that carries the entry. */
  count(slot: number): void {
    const words = this.#table.view(slot);
    const at = this.#table.wordAt(slot) + LOOKUPS;
    if (words[at] === 0xffff_ffff) words[at + 1] = words[at + 1] + 1;
    words[at] = words[at] + 1;
  }

  /** FORGET: takes back `nlookup` lookups of an id; unknown ids and the root are ignored, too many count as all. */
  forget(id: number, nlookup: number): void {
    const slot = this.slotOf(id);
    if (slot < 0 || id === ROOT_ID) return;
    const left = this.lookups(slot) - nlookup;
    if (left <= 0) this.#remove(slot);
    else this.#setLookups(slot, left);
  }

  /** Drops the record of a new inode whose entry never reached the guest. */
  dropIfUncounted(slot: number): void {
    if (this.lookups(slot) === 0 && this.id(slot) !== ROOT_ID) this.#remove(slot);
  }

  #setLookups(slot: number, value: number): void {
    const high = Math.floor(value / WORD);
    this.#table.set(slot, LOOKUPS, value - high * WORD);
    this.#table.set(slot, LOOKUPS + 1, high);
  }

  #remove(slot: number): void {
    const mount = this.mount(slot);
    this.#byId.remove(slot);
    this.#byKey.remove(slot);
    close(this.fd(slot));
    this.#table.free(slot);
    this.budget.give();
    this.mounts.unref(mount);
  }

  /** Inodes known besides the root. */
  get known(): number {
    return this.#table.count - 1;
  }

  /** True when `count` more records fit. */
  room(count: number): boolean {
    return this.#table.count + count <= INODES_MAX;
  }

  /** A new session: everything but the root goes. */
  reset(): void {
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      if (this.id(slot) !== ROOT_ID) this.#remove(slot);
    }
  }

  /** Closes all descriptors; every id is stale from then on. */
  close(): void {
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) this.#remove(slot);
    this.#closed = true;
  }

  /** Descriptors held. Cold path. */
  descriptors(): number[] {
    const fds: number[] = [];
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) fds.push(this.fd(slot));
    return fds;
  }

  /** Renumbers descriptors after they were sent to another process. Cold path. */
  renumber(number: (fd: number) => number): void {
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      this.#table.set(slot, FD, number(this.fd(slot)));
    }
  }

  /** After a crash of the writer. A record is whole when it is in both indexes: by id is the last one it enters. */
  recover(): void {
    this.#table.recover();
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      const whole = this.#byId.has(slot) && this.#byKey.has(slot) && this.mounts.isLive(this.mount(slot));
      if (whole) this.mounts.ref(this.mount(slot));
      else this.#table.free(slot);
    }
    this.#byKey.rebuild();
    this.#byId.rebuild();
  }
}

function refuse(fd: number): number {
  close(fd);
  return -errno.ENFILE;
}
