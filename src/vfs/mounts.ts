/**
 * Which member is mounted where, and how much of it the guest still holds.
 *
 *     mount ──► live ──umount──────────────────────────────► gone (ESTALE, id never again)
 *                 └──remount──► retired ──last thing given back──┘
 *
 * A record of the arena per live or retired member; a gone one has none. `lookups` and `handles` count what the guest
 * was given less what it gave back; they decide when a retired member can go.
 */
import type { FileSystem } from '../fuse/file-system.ts';
import { type Arena, Counter } from '../sys/arena.ts';
import { Table } from '../sys/table.ts';
import { mixOf, PSEUDO } from './node-ids.ts';
import type { MemberSpec } from './spec.ts';

/**
 * A file system below the union. Its root is local node 1, always there: the union takes its attributes for the mount
 * point's entry, counts that lookup itself, and never forwards a FORGET of it. `destroy` removes its tables.
 */
export interface Member extends FileSystem {
  /** What must survive and is not in the arena, as structured-clonable data; given to the factory when restored. */
  dump?(): unknown;
}

/** Members at a time, retired ones included. */
export const MEMBERS_MAX = 4096;

const W = { ID: 0, STATE: 1, LOOKUPS: 2, HANDLES: 4 } as const;
const RECORD_WORDS = 6;
const LIVE = 1;
const RETIRED = 2;
const WORD = 0x1_0000_0000;

/** A member and what routing needs to know of it. Also made, without a record, for the pseudo and the refusing file system. */
export class Mounted {
  /** Slot of the pseudo directory it lies on; -1 when retired. */
  pseudo: number;
  /** XORed into the upper word of its inode numbers unless the guest gives it an st_dev of its own. */
  readonly mix: number;
  /**
   * Whether its root is announced as a submount. Not for images: the kernel's overlayfs refuses a lowerdir that is an
   * automount point nobody stepped over (EINVAL, "filesystem not supported"), and Kata's lowerdir is the root of a mount.
   */
  readonly announced: boolean;

  constructor(
    readonly id: number,
    readonly fs: Member,
    readonly spec: MemberSpec | null,
    /** Where it is or was mounted, for `list`. */
    readonly path: string,
    pseudo: number,
    private readonly words: Uint32Array,
    private readonly at: number,
    readonly slot: number,
  ) {
    this.pseudo = pseudo;
    // The member on "/" is what the guest mounted: its numbers are the super block's own.
    this.mix = id === PSEUDO || path === '/' ? 0 : mixOf(id);
    this.announced = this.mix !== 0 && spec?.kind !== 'rafs';
  }

  /** True while it is in the mount table. */
  get counted(): boolean {
    return this.slot >= 0;
  }

  addLookups(n: number): void {
    this.#add(W.LOOKUPS, n);
  }

  addHandles(n: number): void {
    this.#add(W.HANDLES, n);
  }

  get lookups(): number {
    return this.words[this.at + W.LOOKUPS] + this.words[this.at + W.LOOKUPS + 1] * WORD;
  }

  get handles(): number {
    return this.words[this.at + W.HANDLES] + this.words[this.at + W.HANDLES + 1] * WORD;
  }

  get retired(): boolean {
    return this.words[this.at + W.STATE] === RETIRED;
  }

  retire(): void {
    this.words[this.at + W.STATE] = RETIRED;
    this.pseudo = -1;
  }

  /** The guest's session ended: it holds nothing. */
  clear(): void {
    for (let i = W.LOOKUPS; i < RECORD_WORDS; i++) this.words[this.at + i] = 0;
  }

  /** u64 counters in two words: a dentry without time-out looked up in a loop passes 2^32 within a day. */
  #add(word: number, n: number): void {
    const at = this.at + word;
    const low = this.words[at] + n;
    if (low >= 0 && low < WORD) {
      this.words[at] = low;
      return;
    }
    let total = low + this.words[at + 1] * WORD;
    if (total < 0) total = 0; // a guest that forgets more than it was given
    const high = Math.floor(total / WORD);
    this.words[at] = total - high * WORD;
    this.words[at + 1] = high;
  }
}

export class Mounts {
  readonly #table: Table;
  readonly #ids: Counter;
  readonly #byId = new Map<number, Mounted>();

  /** Opens the mount table kept in `arena`. @throws ARENA_* of src/sys/arena.ts */
  constructor(arena: Arena) {
    this.#table = new Table(arena, 'vfs.mounts', RECORD_WORDS, MEMBERS_MAX);
    this.#table.recover();
    this.#ids = new Counter(arena, 'vfs.members');
  }

  /** An id no member ever had, 0 when there are none left. */
  newId(): number {
    return this.#ids.next();
  }

  /** Leaves out the next `count` ids, see `Counter.skip`. */
  skipIds(count: number): void {
    this.#ids.skip(count);
  }

  get(id: number): Mounted | undefined {
    return this.#byId.get(id);
  }

  /** Members, live and retired. */
  values(): IterableIterator<Mounted> {
    return this.#byId.values();
  }

  /** Records in the arena. */
  get count(): number {
    return this.#table.count;
  }

  /** Enters a member; null when the table is full. */
  add(id: number, fs: Member, spec: MemberSpec | null, path: string, pseudo: number): Mounted | null {
    const slot = this.#table.allocate();
    if (slot < 0) return null;
    this.#table.set(slot, W.ID, id);
    this.#table.set(slot, W.STATE, LIVE);
    return this.#enter(slot, id, fs, spec, path, pseudo);
  }

  /** Enters a member whose record the arena already has. Null when it has none. */
  adopt(id: number, fs: Member, spec: MemberSpec | null, path: string, pseudo: number): Mounted | null {
    const slot = this.#slotOf(id);
    return slot < 0 ? null : this.#enter(slot, id, fs, spec, path, pseudo);
  }

  #slotOf(id: number): number {
    let slot = this.#table.next(0);
    while (slot >= 0 && this.#table.get(slot, W.ID) !== id) slot = this.#table.next(slot + 1);
    return slot;
  }

  /** Takes a member out: from now on its nodes are unknown. */
  remove(mounted: Mounted): void {
    this.#byId.delete(mounted.id);
    this.#table.free(mounted.slot);
  }

  /** Frees the records nobody adopted. */
  freeOrphans(): void {
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      if (!this.#byId.has(this.#table.get(slot, W.ID))) this.#table.free(slot);
    }
  }

  #enter(slot: number, id: number, fs: Member, spec: MemberSpec | null, path: string, pseudo: number): Mounted {
    const view = this.#table.view(slot);
    const mounted = new Mounted(id, fs, spec, path, pseudo, view, this.#table.wordAt(slot), slot);
    this.#byId.set(id, mounted);
    return mounted;
  }
}

/** Stands in the routes for what is not in the mount table: counts into the void. */
export function unmounted(fs: FileSystem): Mounted {
  return new Mounted(PSEUDO, fs, null, '', -1, new Uint32Array(RECORD_WORDS), 0, -1);
}
