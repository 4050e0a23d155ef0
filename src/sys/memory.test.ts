import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { errno } from './errno.ts';
import { close, ftruncate, pread, pwrite } from './io.ts';
import {
  addSeals,
  fileSizeBytes,
  getSeals,
  MappedRange,
  memfdCreate,
  PAGE_BYTES,
  populateWrite,
  SEAL,
  WINDOW_OVERLAP_BYTES,
  WINDOW_STEP_BYTES,
} from './memory.ts';
import { NativeMemory } from './native-memory.ts';

function memfd(bytes: number): number {
  const fd = memfdCreate('test-memory');
  assert.ok(fd >= 0);
  assert.equal(ftruncate(fd, bytes), 0);
  return fd;
}

function mapped(fd: number, offset: number, bytes: number): { range: MappedRange; at: number } {
  const got = MappedRange.map(fd, offset, bytes);
  if (typeof got === 'number') throw new Error(`map: ${got}`);
  return got;
}

const mapCount = (): number => readFileSync('/proc/self/maps', 'utf8').split('\n').length;

test('a mapping and its file are the same bytes, at offsets that are not pages too', () => {
  const fd = memfd(4 * PAGE_BYTES);
  const { range, at } = mapped(fd, PAGE_BYTES + 12, 100);
  const window = range.window(at);
  window.u8[at - window.base + 3] = 77;
  const out = new NativeMemory(16);
  assert.equal(pread(fd, out.address, 1, PAGE_BYTES + 15), 1);
  assert.equal(out.u8[0], 77);
  assert.equal(populateWrite(at, 100), 0);
  range.vacate();
  range.release();
  close(fd);
});

test('seals are kept, sizes are exact, a sealed memfd does not shrink', () => {
  const fd = memfd(12345);
  assert.equal(fileSizeBytes(fd), 12345);
  assert.equal(addSeals(fd, SEAL.SHRINK | SEAL.GROW), 0);
  assert.equal(getSeals(fd), SEAL.SHRINK | SEAL.GROW);
  assert.equal(ftruncate(fd, 1), -errno.EPERM);
  close(fd);
  assert.equal(fileSizeBytes(fd), -errno.EBADF);
});

test('windows of a 3 GiB range overlap by 1 MiB, so that 1 MiB at any address lies in one', () => {
  const bytes = 3 * WINDOW_STEP_BYTES;
  const fd = memfd(bytes);
  const { range, at } = mapped(fd, 0, bytes);
  for (const offset of [0, WINDOW_STEP_BYTES - 1, WINDOW_STEP_BYTES, 2 * WINDOW_STEP_BYTES - 4, bytes - 1]) {
    const window = range.window(at + offset);
    const end = Math.min(at + offset + WINDOW_OVERLAP_BYTES, at + bytes);
    assert.ok(window.base <= at + offset && end <= window.end, `offset ${offset}`);
  }
  const crossing = at + WINDOW_STEP_BYTES + 8;
  range.window(at).u32[(crossing - at) / 4] = 0xdecaf;
  const second = range.window(crossing);
  assert.equal(second.u32[(crossing - second.base) / 4], 0xdecaf);
  range.vacate();
  assert.equal(second.u32[(crossing - second.base) / 4], 0, 'a live view sees zeroes, never the old memory');
  range.release();
  close(fd);
});

test('address ranges with views are reused, those without are unmapped', () => {
  const bytes = 2 ** 20;
  const fd = memfd(bytes);
  const seed = mapped(fd, 0, bytes);
  seed.range.window(seed.at);
  seed.range.vacate();
  seed.range.release();
  const before = mapCount();
  for (let i = 0; i < 50; i++) {
    const { range, at } = mapped(fd, 0, i % 2 === 0 ? bytes : bytes / 2);
    const window = range.window(at);
    window.u8[at - window.base] = i;
    const out = new NativeMemory(16);
    assert.equal(pread(fd, out.address, 1, 0), 1);
    assert.equal(out.u8[0], i);
    out.free();
    range.vacate();
    range.release();
  }
  assert.ok(mapCount() <= before + 3, `${mapCount()} mappings after, ${before} before`);
  close(fd);
});

test('a file sealed against writes is refused, and the range it was to have stays reserved', () => {
  const bytes = 2 ** 21;
  const fd = memfd(bytes);
  const before = mapped(fd, 0, bytes);
  const window = before.range.window(before.at);
  window.u8[0] = 1;
  before.range.vacate();
  before.range.release();
  assert.equal(addSeals(fd, SEAL.WRITE), 0);
  assert.equal(MappedRange.map(fd, 0, bytes), -errno.EPERM);
  assert.equal(window.u8[0], 0, 'its views see zeroes');
  const after = memfd(bytes);
  const { range } = mapped(after, 0, bytes);
  assert.equal(range, before.range);
  range.vacate();
  range.release();
  close(fd);
  close(after);
});

test('a mapping of nothing, of too much or of a bad number is refused', () => {
  const fd = memfd(PAGE_BYTES);
  assert.equal(MappedRange.map(fd, 0, 0), -errno.EINVAL);
  assert.equal(MappedRange.map(fd, Number.NaN, 10), -errno.EINVAL);
  assert.equal(MappedRange.map(fd, 0, 2 ** 50), -errno.ENOMEM);
  assert.equal(MappedRange.map(-1, 0, 100), -errno.EBADF);
  assert.equal(pwrite(fd, 0.5, 1, 0), -errno.EINVAL);
  close(fd);
});
