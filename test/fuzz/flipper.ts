/**
 * The second thread: flips bytes of guest memory while the device works on it. A worker of its own; it maps the memfd by
 * itself, because memory of one isolate cannot be handed to another.
 */
import { workerData } from 'node:worker_threads';
import { MappedRange } from '../../src/sys/memory.ts';
import { CELL, type FlipperData, RANGE_WORDS, RANGES_AT, STATE } from './flips-shared.ts';

const { fd, bytes, shared } = workerData as FlipperData;
const cells = new Int32Array(shared);
const mapped = MappedRange.map(fd, 0, bytes);
if (typeof mapped === 'number') throw new Error(`flipper: errno ${-mapped}`);
const { range, at } = mapped;

let state = 1;
function random(end: number): number {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return Math.floor((state / 2 ** 32) * end);
}

/** One byte of one range gets a new value; bytes the range's mask excludes (positions modulo 16) are left alone. */
function flip(): void {
  const which = RANGES_AT + RANGE_WORDS * random(Atomics.load(cells, CELL.RANGES));
  const offset = (cells[which] as number) + random(cells[which + 1] as number);
  if ((((cells[which + 2] as number) >> (offset & 15)) & 1) === 0) return;
  const window = range.window(at + offset);
  const byte = at + offset - window.base;
  const toggle = cells[which + 3] as number;
  if (toggle !== 0) window.u8[byte]! ^= toggle;
  else window.u8[byte] = random(2) === 0 ? random(256) : window.u8[byte]! ^ (1 << random(8));
  Atomics.add(cells, CELL.FLIPS, 1);
}

for (;;) {
  Atomics.wait(cells, CELL.STATE, STATE.IDLE);
  const now = Atomics.load(cells, CELL.STATE);
  if (now === STATE.QUIT) break;
  if (now !== STATE.RUN) continue;
  state = Atomics.load(cells, CELL.SEED) >>> 0;
  Atomics.store(cells, CELL.RUNNING, 1);
  while (Atomics.load(cells, CELL.STATE) === STATE.RUN) flip();
  Atomics.store(cells, CELL.RUNNING, 0);
  Atomics.notify(cells, CELL.RUNNING);
}
