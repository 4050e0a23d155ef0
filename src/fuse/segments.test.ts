import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { IOVECS_MAX } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { copyTo, fill, lastFilledBytes, readInto, Segments, writeFrom, zero } from './segments.ts';

const memory = new NativeMemory(1024 * 1024);
const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'segments-'));
test.after(() => fs.rmSync(dir, { recursive: true }));

/** Segments at the given [offset, bytes] of `memory`, `skip` bytes of them not ours. */
function segments(pieces: [number, number][], skip = 0): Segments {
  const s = new Segments();
  const total = pieces.reduce((sum, [, bytes]) => sum + bytes, 0);
  s.set(
    Float64Array.from(pieces, ([at]) => memory.address + at),
    Uint32Array.from(pieces, ([, bytes]) => bytes),
    0,
    pieces.length,
    skip,
    total,
  );
  return s;
}

test('neighbours are merged, gaps are not, the header part is skipped', () => {
  const s = segments(
    [
      [0, 16],
      [4096, 4096],
      [8192, 4096],
      [20000, 100],
    ],
    16,
  );
  assert.equal(s.bytes, 8292);
  assert.equal(fill(s, 0, s.bytes), 2);
  assert.equal(lastFilledBytes(), 8292);
  assert.equal(fill(s, 8192, 100), 1);
  assert.equal(fill(s, 4095, 2), 1);
  assert.equal(lastFilledBytes(), 2);
});

test('skip may end inside a segment', () => {
  const s = segments(
    [
      [0, 10],
      [100, 10],
    ],
    14,
  );
  assert.equal(s.bytes, 6);
  memory.u8.fill(1, 0, 200);
  assert.equal(zero(s, 1, 5), 5);
  assert.deepEqual([...memory.u8.subarray(100, 110)], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]);
  assert.ok(zero(s, 2, 5) < 0, 'more than there is');
});

test('more pieces than one call takes: read and write go on where the kernel stopped', () => {
  const pieces = IOVECS_MAX * 2 + 7;
  const scattered = segments(Array.from({ length: pieces }, (_, i) => [i * 128, 64] as [number, number]));
  const file = path.join(dir, 'f');
  const content = Buffer.from(Array.from({ length: pieces * 64 }, (_, i) => (i * 31) & 0xff));
  fs.writeFileSync(file, content);
  const fd = fs.openSync(file, 'r+');
  assert.equal(readInto(scattered, 0, pieces * 64, fd, 0, 0), pieces * 64);
  assert.deepEqual(Buffer.from(memory.u8.subarray(128, 192)), content.subarray(64, 128));
  fs.ftruncateSync(fd);
  assert.equal(writeFrom(scattered, 64, (pieces - 1) * 64, fd, 5, 0), (pieces - 1) * 64);
  assert.deepEqual(fs.readFileSync(file).subarray(5), content.subarray(64));
  assert.equal(readInto(scattered, 0, 1000, fd, 1_000_000, 0), 0, 'past the end');
  assert.ok(readInto(scattered, 0, 1000, -1, 0, 0) < 0);
  fs.closeSync(fd);
});

test('copyTo scatters native bytes', () => {
  const s = segments([
    [0, 3],
    [1000, 3],
  ]);
  memory.u8.set([9, 8, 7, 6, 5], 5000);
  assert.equal(copyTo(s, 1, memory.address + 5000, 5), 5);
  assert.deepEqual([memory.u8[1], memory.u8[2], memory.u8[1000], memory.u8[1001], memory.u8[1002]], [9, 8, 7, 6, 5]);
});
