import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Garbage, GROWTH_BYTES_MIN } from './garbage.ts';

const MIB = 1 << 20;
/** Far beyond the wait before a collection. */
const PATIENCE_MS = 10_000;

/** True when what nobody holds is collected within PATIENCE_MS after garbage arose. */
async function isCollected(garbage: Garbage): Promise<boolean> {
  let isGone = false;
  const registry = new FinalizationRegistry(() => {
    isGone = true;
  });
  registry.register(Buffer.alloc(MIB), 0);
  garbage.arises();
  for (const until = performance.now() + PATIENCE_MS; !isGone && performance.now() < until; ) await sleep(20);
  return isGone;
}

test('a process that has grown is collected once images went', async () => {
  let residentBytes = 50 * MIB;
  const garbage = new Garbage(() => residentBytes);
  residentBytes += GROWTH_BYTES_MIN;
  assert.equal(await isCollected(garbage), true);
});

test('one that has not grown since the last collection is left alone', async () => {
  let asked = 0;
  let residentBytes = 50 * MIB;
  const garbage = new Garbage(() => {
    asked++;
    return residentBytes;
  });
  residentBytes += GROWTH_BYTES_MIN - 1;
  garbage.arises();
  for (const until = performance.now() + PATIENCE_MS; asked < 2 && performance.now() < until; ) await sleep(20);
  await sleep(20);
  assert.equal(asked, 2); // a third look is what follows a collection
});
