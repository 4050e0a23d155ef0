/**
 * Open files and directories. A file handle is {low: slot, high: generation}: a slot is used again, a generation is
 * not until 2^32 more opens, so a stale or made-up handle finds nothing. A handle belongs to one node; it has its own
 * descriptor and lives on when its inode was forgotten first (FORGET travels on the fast queue and may overtake RELEASE).
 */
import type { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import { Table } from '../sys/table.ts';
import type { DescriptorBudget } from './budget.ts';
import type { MountTable } from './mounts.ts';
import { HANDLES_MAX } from './options.ts';

/** Record words. */
const GENERATION = 0;
const FD = 1;
const NODE = 2;
const KIND_WORD = 3;
const MOUNT = 4;
/** Directories: where the host stream stands (a cookie, two words), and whether that is known. */
const POSITION = 5;
const POSITION_KNOWN = 7;
const RECORD_WORDS = 8;

export const KIND = { FILE: 1, DIRECTORY: 2 } as const;

export class HandleTable {
  readonly #table: Table;
  /** One record, one word: the last generation given. */
  readonly #state: Table;
  readonly #stateSlot: number;
  #closed = false;

  constructor(
    arena: Arena,
    prefix: string,
    readonly mounts: MountTable,
    readonly budget: DescriptorBudget,
  ) {
    this.#table = new Table(arena, `${prefix}.handles`, RECORD_WORDS, HANDLES_MAX);
    this.#state = new Table(arena, `${prefix}.generation`, 1, 1);
    const saved = this.#state.next(0);
    this.#stateSlot = saved < 0 ? this.#state.allocate() : saved;
  }

  static tableNames(prefix: string): readonly string[] {
    return [`${prefix}.handles`, `${prefix}.generation`];
  }

  /** Takes over `fd`. Returns the slot, or -ENFILE with `fd` closed. */
  add(fd: number, node: number, kind: number, mount: number): number {
    const slot = this.budget.room(1) ? this.#table.allocate() : -1;
    if (slot < 0) {
      close(fd);
      return -errno.ENFILE;
    }
    const generation = this.#nextGeneration();
    const words = this.#table.view(slot);
    const at = this.#table.wordAt(slot);
    words[at + FD] = fd;
    words[at + NODE] = node;
    words[at + KIND_WORD] = kind;
    words[at + MOUNT] = mount;
    words[at + POSITION_KNOWN] = 1;
    words[at + GENERATION] = generation;
    this.mounts.ref(mount);
    this.budget.take();
    return slot;
  }

  /** Generations go round: what may be confused then is a guest's own handle, kept through 4 billion opens. */
  #nextGeneration(): number {
    const last = this.#state.get(this.#stateSlot, 0);
    const next = last === 0xffff_ffff ? 1 : last + 1;
    this.#state.set(this.#stateSlot, 0, next);
    return next;
  }

  /** Slot of the handle {low, high} of node `node`, or -EBADF. Any words may be asked. */
  find(low: number, high: number, node: number, kind: number): number {
    if (this.#closed || !this.#table.live(low)) return -errno.EBADF;
    const words = this.#table.view(low);
    const at = this.#table.wordAt(low);
    const same = words[at + GENERATION] === high && words[at + NODE] === node && words[at + KIND_WORD] === kind;
    return same ? low : -errno.EBADF;
  }

  fd(slot: number): number {
    return this.#table.get(slot, FD);
  }

  generation(slot: number): number {
    return this.#table.get(slot, GENERATION);
  }

  mount(slot: number): number {
    return this.#table.get(slot, MOUNT);
  }

  /** True when the host stream of a directory stands at the cookie. */
  standsAt(slot: number, low: number, high: number): boolean {
    const words = this.#table.view(slot);
    const at = this.#table.wordAt(slot);
    return words[at + POSITION_KNOWN] === 1 && words[at + POSITION] === low && words[at + POSITION + 1] === high;
  }

  setPosition(slot: number, low: number, high: number): void {
    const words = this.#table.view(slot);
    const at = this.#table.wordAt(slot);
    words[at + POSITION] = low;
    words[at + POSITION + 1] = high;
    words[at + POSITION_KNOWN] = 1;
  }

  /** More was read from the host than was handed out: the next call seeks, unless it finds the rest in its buffer. */
  losePosition(slot: number): void {
    this.#table.set(slot, POSITION_KNOWN, 0);
  }

  /** Closes the handle. Returns 0; close errors are not those of the guest's close (FLUSH reports them). */
  remove(slot: number): number {
    this.#table.set(slot, GENERATION, 0);
    close(this.fd(slot));
    const mount = this.mount(slot);
    this.#table.free(slot);
    this.budget.give();
    this.mounts.unref(mount);
    return 0;
  }

  get count(): number {
    return this.#table.count;
  }

  room(count: number): boolean {
    return this.#table.count + count <= HANDLES_MAX;
  }

  reset(): void {
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) this.remove(slot);
  }

  close(): void {
    this.reset();
    this.#closed = true;
  }

  /** Descriptors held. Cold path. */
  descriptors(): number[] {
    const fds: number[] = [];
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) fds.push(this.fd(slot));
    return fds;
  }

  renumber(number: (fd: number) => number): void {
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      this.#table.set(slot, FD, number(this.fd(slot)));
    }
  }

  /** After a crash of the writer. The generation is the last word written, and 0 in a new record. */
  recover(): void {
    this.#table.recover();
    for (let slot = this.#table.next(0); slot >= 0; slot = this.#table.next(slot + 1)) {
      const whole = this.generation(slot) !== 0 && this.mounts.isLive(this.mount(slot));
      if (whole) this.mounts.ref(this.mount(slot));
      else this.#table.free(slot);
    }
  }
}
