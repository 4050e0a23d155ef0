import assert from 'node:assert/strict';
import { once } from 'node:events';
import { availableParallelism } from 'node:os';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { close, ftruncate } from '../sys/io.ts';
import { memfdCreate } from '../sys/memory.ts';
import { CONTROL, LITMUS_BYTES, type LitmusShare, MODE, openLitmus, runLitmus, SLOTS } from './ordering-litmus.ts';

const ROUNDS = 150;
/** The wrong way has to be seen failing, or the test could not see anything; on a busy machine that takes a while. */
const CANARY_ROUNDS_MAX = 20_000;

test('300,000 times, no store of a ring index is delayed past the load that follows', async () => {
  const fd = memfdCreate('litmus');
  ftruncate(fd, LITMUS_BYTES);
  const control = new Int32Array(new SharedArrayBuffer(CONTROL.WORDS * 4));
  const share: LitmusShare = { fd, control };
  const memory = openLitmus(share);
  const side = { mine: memory.left, theirs: memory.right, seen: memory.seenByLeft };
  // A worker does not inherit the loader of TypeScript files, so it registers its own.
  const entry = new URL('./ordering-peer.ts', import.meta.url).href;
  const boot = `import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(entry)}); })`;
  const peer = new Worker(boot, { eval: true, workerData: share });
  await once(peer, 'message');
  let round = 0;

  /** Slots of one round in which both sides missed the other's store. */
  function reordered(mode: number): number {
    round++;
    control[CONTROL.ARRIVED] = 0;
    control[CONTROL.DONE] = 0;
    control[CONTROL.MODE] = mode;
    Atomics.store(control, CONTROL.ROUND, round);
    Atomics.notify(control, CONTROL.ROUND);
    runLitmus(control, round, side);
    const deadline = performance.now() + 10_000;
    while (Atomics.load(control, CONTROL.DONE) < 2) {
      Atomics.wait(control, CONTROL.DONE, 1, 1);
      assert.ok(performance.now() < deadline, 'the other thread died');
    }
    const value = round & 0xffff;
    let count = 0;
    for (let i = 0; i < SLOTS; i++) {
      if (memory.seenByLeft[i] !== value && memory.seenByRight[i] !== value) count++;
    }
    return count;
  }

  let plain = 0;
  for (let i = 0; i < ROUNDS || (plain === 0 && i < CANARY_ROUNDS_MAX); i++) plain += reordered(MODE.PLAIN);
  let atomic = 0;
  for (let i = 0; i < ROUNDS; i++) atomic += reordered(MODE.ATOMICS);
  round++;
  control[CONTROL.MODE] = MODE.END;
  Atomics.store(control, CONTROL.ROUND, round);
  await once(peer, 'exit');
  close(fd);
  assert.equal(atomic, 0);
  // With one CPU there is nothing to reorder; arm64 and x86 both do it with two.
  assert.ok(plain > 0 || availableParallelism() === 1, 'a plain store was never delayed: the test is blind');
});
