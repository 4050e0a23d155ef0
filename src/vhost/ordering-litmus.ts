/**
 * The store-buffer litmus test: each side stores its own flag and then loads the other's. When both loads miss both
 * stores, a store was delayed past a load, which loses a kick or an interrupt on a virtqueue (protocols 2.4).
 *
 * Memory: two flags per slot and side, spread over cache lines, in a memfd that both threads map for themselves.
 */
import { MappedRange } from '../sys/memory.ts';

export const SLOTS = 2000;
/** One flag per cache line. */
const STRIDE = 32;
const SIDE_BYTES = SLOTS * STRIDE * 2;
export const LITMUS_BYTES = 4 * SIDE_BYTES;

export const MODE = { PLAIN: 0, ATOMICS: 1, END: 2 } as const;
/** Control words: round to run, mode, threads at the starting line, threads done. */
export const CONTROL = { ROUND: 0, MODE: 1, ARRIVED: 2, DONE: 3, WORDS: 4 } as const;

export interface LitmusShare {
  fd: number;
  control: Int32Array;
}

export interface LitmusSide {
  mine: Uint16Array;
  theirs: Uint16Array;
  seen: Uint16Array;
}

interface Litmus {
  left: Uint16Array;
  right: Uint16Array;
  seenByLeft: Uint16Array;
  seenByRight: Uint16Array;
}

/** Maps the memory of the test in this thread. */
export function openLitmus({ fd }: LitmusShare): Litmus {
  const mapped = MappedRange.map(fd, 0, LITMUS_BYTES);
  if (typeof mapped === 'number') throw new RangeError(`litmus memory: errno ${-mapped}`);
  const { buffer } = mapped.range.window(mapped.at).u8;
  const part = (i: number): Uint16Array => new Uint16Array(buffer, i * SIDE_BYTES, SIDE_BYTES / 2);
  return { left: part(0), right: part(1), seenByLeft: part(2), seenByRight: part(3) };
}

/** Takes part in one round when `control` announces it. False: the test is over. */
export function runLitmus(control: Int32Array, round: number, side: LitmusSide): boolean {
  while (Atomics.load(control, CONTROL.ROUND) !== round) {
    // Spinning starts both sides together; where there is only one CPU, sleeping lets the other side run at all.
    for (let i = 0; i < 100_000 && Atomics.load(control, CONTROL.ROUND) !== round; i++);
    Atomics.wait(control, CONTROL.ROUND, round - 1, 1);
  }
  const mode = Atomics.load(control, CONTROL.MODE);
  if (mode === MODE.END) return false;
  Atomics.add(control, CONTROL.ARRIVED, 1);
  for (let i = 0; i < 1_000_000 && Atomics.load(control, CONTROL.ARRIVED) < 2; i++);
  if (mode === MODE.ATOMICS) pass(side, round & 0xffff);
  else passPlain(side, round & 0xffff);
  Atomics.add(control, CONTROL.DONE, 1);
  return true;
}

/** The way the rings do it: `Atomics.store`, then `Atomics.load`. */
function pass({ mine, theirs, seen }: LitmusSide, value: number): void {
  for (let i = 0; i < SLOTS; i++) {
    Atomics.store(mine, i * STRIDE, value);
    seen[i] = Atomics.load(theirs, i * STRIDE);
  }
}

/** The wrong way: a plain store. */
function passPlain({ mine, theirs, seen }: LitmusSide, value: number): void {
  for (let i = 0; i < SLOTS; i++) {
    mine[i * STRIDE] = value;
    seen[i] = Atomics.load(theirs, i * STRIDE);
  }
}
