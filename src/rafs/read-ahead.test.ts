import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ReadAhead } from './read-ahead.ts';

const MIB = 1 << 20;

/** Reads a file from start to end; how often it missed, and whether every window followed the last. */
function stream(chunkSize: number, chunks: number): { misses: number; longest: number } {
  const ahead = new ReadAhead(chunkSize);
  let there = 0;
  let misses = 0;
  let longest = 0;
  for (let k = 0; k < chunks; k++) {
    if (k < there) continue;
    misses++;
    there = k + 1;
    if (!ahead.missed(7, k, k + 1, chunks)) continue;
    assert.equal(ahead.from, there, 'a window begins where the last one ended');
    assert.ok(ahead.to <= chunks, 'never beyond the file');
    longest = Math.max(longest, ahead.to - ahead.from);
    there = ahead.to;
  }
  return { misses, longest };
}

test('a reader that goes straight on misses ever less often', () => {
  assert.deepEqual(stream(MIB, 100), { misses: 14, longest: 8 });
  assert.ok(stream(64 << 10, 1600).misses < 20);
  assert.deepEqual(stream(4096, 25_600), { misses: 101, longest: 256 });
});

test('a file no longer than a window comes whole with whatever is missed of it first, and only then', () => {
  const ahead = new ReadAhead(MIB);
  assert.equal(ahead.missed(7, 6, 7, 8), true);
  assert.deepEqual([ahead.from, ahead.to], [0, 8]);
  for (const k of [0, 7, 3, 4]) assert.equal(ahead.missed(7, k, k + 1, 8), false, `${k}`);
  assert.equal(ahead.missed(8, 6, 7, 9), false);
  assert.equal(new ReadAhead(64 << 10).missed(7, 3, 5, 128), true);
  assert.equal(new ReadAhead(4096).missed(7, 3, 5, 257), false, 'more chunks than one window takes');
});

test('a reader that jumps gets nothing it did not ask for', () => {
  const ahead = new ReadAhead(MIB);
  for (const k of [50, 10, 90, 30, 70, 5]) assert.equal(ahead.missed(7, k, k + 1, 100), false, `${k}`);
});

test('reads of what is on its way ask for nothing twice; in its second half they ask for more', () => {
  const ahead = new ReadAhead(MIB);
  assert.equal(ahead.missed(7, 0, 1, 100), false);
  assert.equal(ahead.missed(7, 1, 2, 100), true);
  assert.equal(ahead.missed(7, 2, 3, 100), true);
  assert.deepEqual([ahead.from, ahead.to], [3, 5]);
  assert.equal(ahead.missed(7, 2, 3, 100), false);
  assert.equal(ahead.missed(7, 4, 5, 100), true);
  assert.deepEqual([ahead.from, ahead.to], [5, 9]);
});

test('readers of several files do not disturb each other', () => {
  const ahead = new ReadAhead(MIB);
  for (let node = 1; node <= 16; node++) assert.equal(ahead.missed(node, 0, 1, 100), false);
  for (let node = 1; node <= 16; node++) assert.equal(ahead.missed(node, 1, 2, 100), true);
  // The seventeenth takes the place of the first.
  assert.equal(ahead.missed(17, 0, 1, 100), false);
  assert.equal(ahead.missed(1, 2, 3, 100), false);
  assert.equal(ahead.missed(3, 3, 4, 100), true);
});
