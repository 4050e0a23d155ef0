import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, test } from 'node:test';
import { errno } from '../sys/errno.ts';
import { PAGE_BYTES, PageCache } from './page-cache.ts';

const PAGES = 40;
const FILE_BYTES = PAGES * PAGE_BYTES;
const dir = mkdtempSync(join(tmpdir(), 'page-cache-'));
let fd = -1;
let cache: PageCache;

before(() => {
  fd = openSync(join(dir, 'file'), 'w+');
  const page = Buffer.alloc(PAGE_BYTES);
  for (let i = 0; i < PAGES; i++) writeSync(fd, page.fill(i + 1), 0, PAGE_BYTES, i * PAGE_BYTES);
});
after(() => {
  closeSync(fd);
  rmSync(dir, { recursive: true });
});
beforeEach(() => {
  cache = new PageCache(8 * PAGE_BYTES);
});

function byteOf(slot: number): number {
  assert.ok(slot >= 0, `slot ${slot}`);
  assert.equal(cache.memory.u8[slot * PAGE_BYTES], cache.memory.u8[(slot + 1) * PAGE_BYTES - 1]);
  return cache.memory.u8[slot * PAGE_BYTES];
}

test('gives the bytes of every page in any order, in bounded memory', () => {
  const file = cache.add(fd, FILE_BYTES);
  for (let i = 0; i < 1000; i++) {
    const page = Math.imul(i, 7919) % PAGES;
    assert.equal(byteOf(cache.page(file, page)), page + 1);
  }
  assert.equal(cache.memory.bytes, 8 * PAGE_BYTES);
});

test('a hit reads nothing; a page in steady use survives a scan', () => {
  const file = cache.add(fd, FILE_BYTES);
  cache.page(file, 0);
  for (let i = 1; i < PAGES; i++) {
    cache.page(file, i);
    cache.page(file, 0);
  }
  // The hand's first round finds every slot in use and takes the first one, which is ours.
  assert.ok(cache.misses <= PAGES + 1, `${cache.misses} reads`);
});

test('two files keep apart, and a dropped one leaves nothing behind', () => {
  const other = openSync(join(dir, 'other'), 'w+');
  writeSync(other, Buffer.alloc(PAGE_BYTES, 0xaa), 0, PAGE_BYTES, 0);
  const first = cache.add(fd, FILE_BYTES);
  const second = cache.add(other, PAGE_BYTES);
  assert.equal(byteOf(cache.page(first, 0)), 1);
  assert.equal(byteOf(cache.page(second, 0)), 0xaa);
  cache.drop(second);
  closeSync(other);
  assert.equal(cache.page(second, 0), -errno.EBADF);
  assert.equal(byteOf(cache.page(first, 0)), 1);
  assert.notEqual(cache.add(fd, FILE_BYTES), second);
});

test('a page behind the end of a file that was cut is -EIO, and is read again later', () => {
  const short = openSync(join(dir, 'short'), 'w+');
  ftruncateSync(short, PAGE_BYTES + 100);
  const file = cache.add(short, 3 * PAGE_BYTES);
  assert.equal(byteOf(cache.page(file, 0)), 0);
  assert.equal(cache.page(file, 1), -errno.EIO);
  assert.equal(cache.page(file, 2), -errno.EIO);
  writeSync(short, Buffer.alloc(PAGE_BYTES, 3), 0, PAGE_BYTES, PAGE_BYTES);
  assert.equal(byteOf(cache.page(file, 1)), 3);
  closeSync(short);
});

test('the last page of a file may be short, by as much as was said', () => {
  const short = openSync(join(dir, 'last'), 'w+');
  writeSync(short, Buffer.alloc(PAGE_BYTES + 8, 7));
  const file = cache.add(short, PAGE_BYTES + 8);
  const slot = cache.page(file, 1);
  assert.deepEqual([...cache.memory.u8.subarray(slot * PAGE_BYTES, slot * PAGE_BYTES + 8)], new Array(8).fill(7));
  cache.drop(file);
  const longer = cache.add(short, PAGE_BYTES + 16);
  assert.equal(cache.page(longer, 1), -errno.EIO);
  closeSync(short);
});

test('sizes that are no power of two are refused', () => {
  for (const bytes of [0, PAGE_BYTES, 3 * PAGE_BYTES]) assert.throws(() => new PageCache(bytes), RangeError);
});

test('slots of dropped files are used again before memory nobody has touched', () => {
  const touched = new Set<number>();
  for (let round = 0; round < 20; round++) {
    const file = cache.add(fd, FILE_BYTES);
    for (const page of [3, 1, 2]) {
      const slot = cache.page(file, page);
      touched.add(slot);
      assert.equal(byteOf(slot), page + 1);
    }
    cache.drop(file);
  }
  assert.equal(touched.size, 3);
});

test('memory of a cache that is closed goes to the next one', () => {
  const first = new PageCache(64 * 1024);
  const { address } = first.memory;
  first.close();
  const second = new PageCache(64 * 1024);
  assert.equal(second.memory.address, address);
  second.close();
});
