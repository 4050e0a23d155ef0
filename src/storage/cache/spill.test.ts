import assert from 'node:assert/strict';
import { fstatSync, readSync } from 'node:fs';
import { test } from 'node:test';
import { type BlobSpill, SPILL_BYTES_MAX, Spill } from './spill.ts';
import { SpillView } from './spill-bits.ts';

const MIB = 1 << 20;

function readAt(spill: BlobSpill, offset: number, bytes: number): Buffer {
  const got = Buffer.alloc(bytes);
  readSync(new SpillView(spill.handle).fd, got, 0, bytes, offset);
  return got;
}

function memoryBytes(spill: BlobSpill): number {
  return fstatSync(new SpillView(spill.handle).fd).blocks * 512;
}

test('the longest unused of any blob goes, its memory too, and the clock moves', () => {
  const all = new Spill();
  const [a, b] = [all.open(100), all.open(100)];
  a.put(0, 0, Buffer.alloc(MIB, 1));
  a.put(1, MIB, Buffer.alloc(MIB, 2));
  const view = new SpillView(a.handle);
  const before = view.now();
  a.touch(0);
  for (let i = 0; i < SPILL_BYTES_MAX / MIB - 2; i++) b.put(i, i * MIB, Buffer.alloc(MIB, 3));
  assert.ok(view.has(0) && view.has(1));
  assert.equal(view.now(), before);
  b.put(99, 99 * MIB, Buffer.alloc(MIB, 4));
  assert.ok(view.has(0) && !view.has(1) && !a.has(1));
  assert.notEqual(view.now(), before);
  assert.deepEqual(readAt(a, 0, MIB), Buffer.alloc(MIB, 1));
  assert.equal(memoryBytes(a), MIB);
  assert.ok(memoryBytes(a) + memoryBytes(b) <= SPILL_BYTES_MAX);
  a.close();
  b.close();
});

test('chunks that share pages: each keeps its bytes until it goes itself, then no page is left', () => {
  const all = new Spill();
  const spill = all.open(3000);
  const offsets = Array.from({ length: 3000 }, (_, i) => i * 1001);
  for (const [i, offset] of offsets.entries()) spill.put(i, offset, Buffer.alloc(1001, i % 251));
  const other = all.open(200);
  // Pushes all of them out but the last ones.
  for (let i = 0; i < 64; i++) {
    spill.touch(2999);
    other.put(i, i * MIB, Buffer.alloc(MIB));
    const kept = offsets.filter((_, k) => spill.has(k)).length;
    if (kept > 0) assert.deepEqual(readAt(spill, offsets[2999], 1001), Buffer.alloc(1001, 2999 % 251));
    const last = offsets.findLastIndex((_, k) => spill.has(k) && k < 2999);
    if (last >= 0) assert.deepEqual(readAt(spill, offsets[last], 1001), Buffer.alloc(1001, last % 251));
  }
  for (let i = 64; i < 130; i++) other.put(i, i * MIB, Buffer.alloc(MIB));
  assert.equal(memoryBytes(spill), 0);
  spill.close();
  other.close();
});

test('a chunk of several numbers goes under all of them', () => {
  const all = new Spill();
  const spill = all.open(10);
  spill.put(2, 0, Buffer.alloc(16, 7));
  spill.alias(2, 5);
  spill.alias(3, 6);
  const view = new SpillView(spill.handle);
  assert.deepEqual(
    [2, 5, 6].map((chunk) => view.has(chunk)),
    [true, true, false],
  );
  const other = all.open(100);
  for (let i = 0; i < 64; i++) other.put(i, i * MIB, Buffer.alloc(MIB));
  assert.deepEqual(
    [2, 5].map((chunk) => view.has(chunk)),
    [false, false],
  );
  spill.close();
  other.close();
});
