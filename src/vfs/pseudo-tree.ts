/**
 * The directories that exist only because something is mounted in or below them, as records of the arena.
 *
 *     /                      id 1, always there
 *     ├── containers         member 1 mounted
 *     └── rafs
 *         └── <cid>
 *             └── lowerdir   member 2 mounted
 *
 * Children of a directory are linked in the order of their ids; ids never come again, so an id is also a directory
 * cookie that stays right while entries come and go. Directories without children and without a mount are removed.
 */
import { type Arena, Counter } from '../sys/arena.ts';
import { HashIndex } from '../sys/hash-index.ts';
import { Table } from '../sys/table.ts';
import { ROOT_LOCAL } from './node-ids.ts';

/** Linux' NAME_MAX. */
export const NAME_BYTES_MAX = 255;
/** Directories at a time; Kata makes two per container. */
export const PSEUDO_MAX = 65_536;

/** Words of a record; links between records are slot + 1, 0 = none. */
const W = { ID: 0, LINK: 1, PARENT: 2, FIRST: 3, LAST: 4, NEXT: 5, BEFORE: 6, CHILDREN: 7, MEMBER: 8 } as const;
const SECONDS = 9;
const NAME_BYTES = 10;
const NAME = 11;
const RECORD_WORDS = NAME + 64;

export class PseudoTree {
  readonly #table: Table;
  readonly #byId: HashIndex;
  readonly #ids: Counter;
  /** Slot of "/". */
  readonly root: number;

  /** Opens the tree kept in `arena`, or plants a new one. @throws ARENA_* of src/sys/arena.ts */
  constructor(arena: Arena) {
    this.#table = new Table(arena, 'vfs.pseudo', RECORD_WORDS, PSEUDO_MAX);
    this.#byId = new HashIndex(arena, 'vfs.pseudo.by-id', this.#table, W.ID, 1, W.LINK);
    this.#ids = new Counter(arena, 'vfs.pseudo.ids');
    if (this.#ids.last > 0) this.#recover();
    const root = this.slotOf(ROOT_LOCAL);
    this.root = root >= 0 ? root : this.#make(-1, new Uint8Array(0));
  }

  /**
   * Makes the links between records anew from what each says of itself: after a dump, which has no index, and after a
   * crash, which may have cut a change in two.
   */
  #recover(): void {
    const table = this.#table;
    table.recover();
    const slots: number[] = [];
    for (let slot = table.next(0); slot >= 0; slot = table.next(slot + 1)) {
      for (const word of [W.LINK, W.FIRST, W.LAST, W.NEXT, W.BEFORE, W.CHILDREN]) table.set(slot, word, 0);
      slots.push(slot);
    }
    this.#byId.rebuild();
    slots.sort((a, b) => this.id(a) - this.id(b));
    for (const slot of slots) {
      const parent = table.get(slot, W.PARENT) - 1;
      // Parents have lower ids, so a parent that is not whole is gone by now, and its children go too.
      const whole = this.id(slot) === ROOT_LOCAL || (this.id(slot) !== 0 && parent >= 0 && table.live(parent));
      if (!whole) {
        table.free(slot);
        continue;
      }
      this.#byId.insert(slot);
      if (parent >= 0) this.#link(parent, slot);
    }
  }

  /** Leaves out the next `count` ids, see `Counter.skip`. */
  skipIds(count: number): void {
    this.#ids.skip(count);
  }

  /** Slots of directories with a member on them. Cold path. */
  mountPoints(): number[] {
    const slots: number[] = [];
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      if (this.member(slot) !== 0) slots.push(slot);
    }
    return slots;
  }

  /** Directories, the root included. */
  get count(): number {
    return this.#table.count;
  }

  /** Slot of directory `id`, -1 when it is gone. */
  slotOf(id: number): number {
    this.#byId.key[0] = id;
    return this.#byId.find();
  }

  id(slot: number): number {
    return this.#table.get(slot, W.ID);
  }

  /** The parent's slot; the root's parent is the root. */
  parent(slot: number): number {
    const link = this.#table.get(slot, W.PARENT);
    return link === 0 ? slot : link - 1;
  }

  children(slot: number): number {
    return this.#table.get(slot, W.CHILDREN);
  }

  /** Member mounted on the directory, 0 = none. */
  member(slot: number): number {
    return this.#table.get(slot, W.MEMBER);
  }

  setMember(slot: number, memberId: number): void {
    this.#table.set(slot, W.MEMBER, memberId);
  }

  /** Time of the last change of its entries, seconds since 1970. */
  changedSeconds(slot: number): number {
    return this.#table.get(slot, SECONDS);
  }

  nameBytes(slot: number): number {
    return this.#table.get(slot, NAME_BYTES);
  }

  /** Copies the name to `to` from byte `at` on. */
  copyName(slot: number, to: Uint8Array, at: number): void {
    const words = this.#table.view(slot);
    const from = this.#table.wordAt(slot) + NAME;
    const bytes = this.nameBytes(slot);
    for (let i = 0; i < bytes; i++) to[at + i] = words[from + (i >> 2)] >>> ((i & 3) << 3);
  }

  /** Slot of the child named `bytes[at … at + length]`, or -1. Looked for one by one: a guest asks once a second. */
  child(slot: number, bytes: Uint8Array, at: number, length: number): number {
    let link = this.#table.get(slot, W.FIRST);
    while (link !== 0) {
      if (this.#hasName(link - 1, bytes, at, length)) return link - 1;
      link = this.#table.get(link - 1, W.NEXT);
    }
    return -1;
  }

  /** The first child whose id is above `id`, or -1. */
  childAfter(slot: number, id: number): number {
    let link = this.#table.get(slot, W.FIRST);
    while (link !== 0 && this.id(link - 1) <= id) link = this.#table.get(link - 1, W.NEXT);
    return link - 1;
  }

  /** The child after `slot` in its directory, or -1. */
  sibling(slot: number): number {
    return this.#table.get(slot, W.NEXT) - 1;
  }

  /** Slot of the directory at `names`, -1 when there is none. */
  find(names: readonly Uint8Array[]): number {
    let slot = this.root;
    for (const name of names) {
      slot = this.child(slot, name, 0, name.length);
      if (slot < 0) break;
    }
    return slot;
  }

  /** As find, making what is missing; -1 (and nothing made) when the table is full. */
  findOrMake(names: readonly Uint8Array[]): number {
    let slot = this.root;
    for (const name of names) {
      const child = this.child(slot, name, 0, name.length);
      const next = child >= 0 ? child : this.#make(slot, name);
      if (next < 0) {
        this.prune(slot);
        return -1;
      }
      slot = next;
    }
    return slot;
  }

  /** Removes the directory if nothing is in it or on it, then its parent, and so on up. */
  prune(slot: number): void {
    let at = slot;
    while (at !== this.root && this.children(at) === 0 && this.member(at) === 0) {
      const parent = this.parent(at);
      this.#unlink(parent, at);
      this.#byId.remove(at);
      this.#table.free(at);
      at = parent;
    }
  }

  #hasName(slot: number, bytes: Uint8Array, at: number, length: number): boolean {
    if (this.nameBytes(slot) !== length) return false;
    const words = this.#table.view(slot);
    const from = this.#table.wordAt(slot) + NAME;
    for (let i = 0; i < length; i++) {
      if (((words[from + (i >> 2)] >>> ((i & 3) << 3)) & 0xff) !== bytes[at + i]) return false;
    }
    return true;
  }

  #make(parent: number, name: Uint8Array): number {
    const slot = this.#table.allocate();
    if (slot < 0) return -1;
    const id = this.#ids.next();
    if (id === 0) {
      this.#table.free(slot);
      return -1;
    }
    const table = this.#table;
    table.set(slot, W.ID, id);
    table.set(slot, W.PARENT, parent + 1);
    table.set(slot, NAME_BYTES, name.length);
    for (let i = 0; i < name.length; i++) {
      const word = NAME + (i >> 2);
      table.set(slot, word, table.get(slot, word) | (name[i] << ((i & 3) << 3)));
    }
    this.#touch(slot);
    this.#byId.insert(slot);
    if (parent >= 0) {
      this.#link(parent, slot);
      this.#touch(parent);
    }
    return slot;
  }

  #link(parent: number, slot: number): void {
    const table = this.#table;
    const last = table.get(parent, W.LAST);
    table.set(slot, W.BEFORE, last);
    if (last === 0) table.set(parent, W.FIRST, slot + 1);
    else table.set(last - 1, W.NEXT, slot + 1);
    table.set(parent, W.LAST, slot + 1);
    table.set(parent, W.CHILDREN, this.children(parent) + 1);
  }

  #unlink(parent: number, slot: number): void {
    const table = this.#table;
    const next = table.get(slot, W.NEXT);
    const before = table.get(slot, W.BEFORE);
    if (before === 0) table.set(parent, W.FIRST, next);
    else table.set(before - 1, W.NEXT, next);
    if (next === 0) table.set(parent, W.LAST, before);
    else table.set(next - 1, W.BEFORE, before);
    table.set(parent, W.CHILDREN, this.children(parent) - 1);
    this.#touch(parent);
  }

  #touch(slot: number): void {
    this.#table.set(slot, SECONDS, Math.floor(Date.now() / 1000));
  }
}

const SLASH = 0x2f;
const DOT = 0x2e;
/** Linux' PATH_MAX less its NUL. */
const PATH_BYTES_MAX = 4095;

/**
 * Splits '/a/b' into names; '/' is no name at all, doubled and trailing slashes are nothing. Null when it is no path a
 * mount can have: not absolute, "." or ".." in it, a NUL, too long.
 */
export function splitPath(path: string): Uint8Array[] | null {
  const bytes = Buffer.from(path);
  if (bytes.length > PATH_BYTES_MAX || bytes[0] !== SLASH || bytes.includes(0)) return null;
  const names: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at++) {
    const slash = bytes.indexOf(SLASH, at);
    const end = slash < 0 ? bytes.length : slash;
    const name = bytes.subarray(at, end);
    at = end;
    if (name.length === 0) continue;
    const dots = name[0] === DOT && (name.length === 1 || (name.length === 2 && name[1] === DOT));
    if (dots || name.length > NAME_BYTES_MAX) return null;
    names.push(name);
  }
  return names;
}

/** The one spelling of a path given as names. */
export function joinPath(names: readonly Uint8Array[]): string {
  return `/${names.map((name) => Buffer.from(name).toString()).join('/')}`;
}
