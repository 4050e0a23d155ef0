/**
 * Directory handles the guest opened on nodeid 1 while a member was mounted on "/".
 *
 * All other nodes name their member; nodeid 1 does not, and what is on "/" may be another member by the time the
 * handle is used. So the guest gets a handle of the union that remembers whose it is:
 *
 *     {slot, number}        a record of the arena with member and handle
 *     {BARE, member id}     for members whose directories have no handles ({0, 0}: images). There is no record, so
 *                           nothing is lost when the process dies after the tables were last saved.
 */
import { type Arena, Counter } from '../sys/arena.ts';
import { Table } from '../sys/table.ts';

const W = { NUMBER: 0, MEMBER: 1, LOW: 2, HIGH: 3 } as const;
const RECORD_WORDS = 4;
/** Open handles on one directory; a guest's own limit of open files is far below for any sane use of it. */
const ROOT_HANDLES_MAX = 65_536;
/** Lower word of a handle without a record; no slot has this number. */
export const BARE = 0xffff_ffff;

export class RootHandles {
  readonly #table: Table;
  readonly #numbers: Counter;

  constructor(arena: Arena) {
    this.#table = new Table(arena, 'vfs.root-handles', RECORD_WORDS, ROOT_HANDLES_MAX);
    this.#table.recover();
    this.#numbers = new Counter(arena, 'vfs.root-handles.numbers');
  }

  /** Leaves out the next `count` numbers, see `Counter.skip`. */
  skipNumbers(count: number): void {
    this.#numbers.skip(count);
  }

  /** Slot for one more handle, or -1. */
  reserve(): number {
    const slot = this.#table.allocate();
    if (slot < 0) return -1;
    const number = this.#numbers.next();
    if (number === 0) {
      this.#table.free(slot);
      return -1;
    }
    this.#table.set(slot, W.NUMBER, number);
    return slot;
  }

  /** Enters handle {low, high} of `member`. */
  set(slot: number, member: number, low: number, high: number): void {
    this.#table.set(slot, W.MEMBER, member);
    this.#table.set(slot, W.LOW, low);
    this.#table.set(slot, W.HIGH, high);
  }

  /** Upper word of the guest's handle; never 0. The lower one is the slot. */
  number(slot: number): number {
    return this.#table.get(slot, W.NUMBER);
  }

  /** Slot of the guest's handle {low, high}, -1 when it is none. Any words may be asked. */
  find(low: number, high: number): number {
    return this.#table.live(low) && this.#table.get(low, W.NUMBER) === high ? low : -1;
  }

  member(slot: number): number {
    return this.#table.get(slot, W.MEMBER);
  }

  low(slot: number): number {
    return this.#table.get(slot, W.LOW);
  }

  high(slot: number): number {
    return this.#table.get(slot, W.HIGH);
  }

  free(slot: number): void {
    this.#table.free(slot);
  }

  get count(): number {
    return this.#table.count;
  }

  clear(): void {
    this.#table.clear();
  }
}
