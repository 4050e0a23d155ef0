import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { NativeMemory } from './native-memory.ts';
import { URING_ENTRIES, Uring, uringRefusal } from './uring.ts';
import { eventfd } from './wait.ts';

const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'uring-'));
test.after(() => fs.rmSync(dir, { recursive: true }));

function open(): Uring {
  const uring = Uring.create(eventfd());
  if (typeof uring === 'number') assert.fail(uringRefusal(uring));
  return uring;
}

test('reads and syncs come back with their tickets and results', () => {
  const uring = open();
  const file = path.join(dir, 'f');
  fs.writeFileSync(file, 'hello, ring');
  const fd = fs.openSync(file, 'r+');
  const memory = new NativeMemory(4096);
  memory.u32.set([(memory.address + 1024) % 2 ** 32, Math.floor((memory.address + 1024) / 2 ** 32), 5, 0]);
  assert.equal(uring.readv(fd, memory.address, 1, 7, 2 ** 40 + 5), 0);
  assert.equal(uring.fsync(fd, true, 6), 0);
  assert.equal(uring.fsync(-1, false, 7), 0);
  const got = new Map<number, number>();
  while (got.size < 3) uring.reap((ticket, result) => got.set(ticket, result));
  assert.deepEqual(
    [...got].sort((a, b) => a[0] - b[0]),
    [
      [6, 0],
      [7, -9],
      [2 ** 40 + 5, 4],
    ],
  );
  assert.equal(Buffer.from(memory.u8.subarray(1024, 1028)).toString(), 'ring');
  assert.equal(uring.inFlight, 0);
  fs.closeSync(fd);
  uring.close();
});

test('more submissions than entries are refused, and the ring goes on after wrapping many times', () => {
  const uring = open();
  const fd = fs.openSync(path.join(dir, 'g'), 'w+');
  let done = 0;
  for (let round = 0; round < 20; round++) {
    let taken = 0;
    while (uring.fsync(fd, false, taken + 1) === 0) taken++;
    assert.equal(taken, URING_ENTRIES);
    while (uring.inFlight > 0) done += uring.reap(() => {});
  }
  assert.equal(done, 20 * URING_ENTRIES);
  fs.closeSync(fd);
  uring.close();
});
