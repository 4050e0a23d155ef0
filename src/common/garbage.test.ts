import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Garbage, GROWTH_BYTES_MIN } from './garbage.ts';

const MIB = 1 << 20;
/** Far beyond what it takes to learn that something is gone. */
const PATIENCE_MS = 10_000;

test('a heap that has grown is collected', async () => {
  let bytesInUse = 50 * MIB;
  const garbage = new Garbage(() => bytesInUse);
  bytesInUse += GROWTH_BYTES_MIN;
  let isGone = false;
  const registry = new FinalizationRegistry(() => {
    isGone = true;
  });
  registry.register(Buffer.alloc(MIB), 0);
  await sleep(1); // nothing of this turn holds it any more
  garbage.collectIfGrown();
  for (const until = performance.now() + PATIENCE_MS; !isGone && performance.now() < until; ) await sleep(20);
  assert.equal(isGone, true);
});

test('one that has not grown since the last collection is left alone', () => {
  let looks = 0;
  let bytesInUse = 50 * MIB;
  const garbage = new Garbage(() => {
    looks++;
    return bytesInUse;
  });
  bytesInUse += GROWTH_BYTES_MIN;
  garbage.collectIfGrown();
  assert.equal(looks, 3, 'a third look follows a collection');
  garbage.collectIfGrown();
  bytesInUse += GROWTH_BYTES_MIN - 1;
  garbage.collectIfGrown();
  assert.equal(looks, 5);
});
