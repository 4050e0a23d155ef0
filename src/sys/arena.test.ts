import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { test } from 'node:test';
import { Arena, Counter } from './arena.ts';
import { HashIndex } from './hash-index.ts';
import { dupCloexec } from './io.ts';
import { memfdCreate } from './memory.ts';
import { Table } from './table.ts';

const KEY = 0;
const LINK = 3;
const VALUE = 4;
const RECORD_WORDS = 15;

function inodes(arena: Arena, cap: number): { table: Table; index: HashIndex } {
  const table = new Table(arena, 'inodes', RECORD_WORDS, cap);
  return { table, index: new HashIndex(arena, 'inodes.by-key', table, KEY, 3, LINK) };
}

function put(table: Table, index: HashIndex, i: number): number {
  const slot = table.allocate();
  table.set(slot, KEY, i);
  table.set(slot, KEY + 1, 7);
  table.set(slot, KEY + 2, 0xffff_fff0);
  table.set(slot, VALUE, i * 3);
  index.insert(slot);
  return slot;
}

function find(index: HashIndex, i: number): number {
  index.key[0] = i;
  index.key[1] = 7;
  index.key[2] = 0xffff_fff0;
  return index.find();
}

test('records: zeroed when allocated, reused after free, refused above the cap', () => {
  const arena = Arena.create();
  const table = new Table(arena, 't', 2, 3);
  const a = table.allocate();
  table.set(a, 1, 0xffff_ffff);
  assert.equal(table.get(a, 1), 0xffff_ffff);
  const b = table.allocate();
  const c = table.allocate();
  assert.deepEqual([a, b, c, table.allocate()], [0, 1, 2, -1]);
  assert.equal(table.free(a), true);
  assert.equal(table.free(a), false);
  assert.equal(table.free(99), false);
  assert.equal(table.free(-1), false);
  assert.equal(table.live(Number.NaN), false);
  assert.equal(table.count, 2);
  assert.equal(table.allocate(), a);
  assert.equal(table.get(a, 1), 0);
  table.free(b);
  assert.equal(table.next(0), a);
  assert.equal(table.next(1), c);
  assert.equal(table.next(c + 1), -1);
  table.clear();
  assert.equal(table.count, 0);
  arena.close();
});

test('index: random inserts and removes agree with a Map', () => {
  const arena = Arena.create();
  const { table, index } = inodes(arena, 1 << 20);
  const model = new Map<number, number>();
  let random = 12345;
  for (let round = 0; round < 60_000; round++) {
    random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0;
    const key = (random >>> 8) % 20_000;
    const slot = find(index, key);
    assert.equal(slot, model.get(key) ?? -1);
    if (slot < 0) model.set(key, put(table, index, key));
    else if (random & 0x80) {
      assert.equal(index.remove(slot), true);
      assert.equal(index.remove(slot), false);
      table.free(slot);
      model.delete(key);
    }
  }
  assert.equal(index.count, model.size);
  assert.equal(table.count, model.size);
  for (const [key, slot] of model) assert.equal(find(index, key), slot);
  arena.close();
});

test('another mapping of the same memfd finds tables, records, indexes and counters', () => {
  const arena = Arena.create();
  const { table, index } = inodes(arena, 1 << 20);
  for (let i = 0; i < 10_000; i++) put(table, index, i);
  const counter = new Counter(arena, 'members');
  assert.deepEqual([counter.next(), counter.next()], [1, 2]);

  const other = Arena.attach(dupCloexec(arena.fd));
  arena.close();
  assert.deepEqual(other.names().sort(), ['inodes', 'inodes.by-key', 'members']);
  const again = inodes(other, 1 << 20);
  assert.equal(again.table.count, 10_000);
  for (let i = 0; i < 10_000; i += 97) assert.equal(again.table.get(find(again.index, i), VALUE), i * 3);
  assert.equal(new Counter(other, 'members').next(), 3);
  put(again.table, again.index, 10_001);
  assert.ok(find(again.index, 10_001) >= 0);
  other.close();
});

test('what is no arena, or has tables of another shape, is refused with a reason', () => {
  assert.throws(() => Arena.attach(memfdCreate('empty')), { code: 'ARENA_FOREIGN' });
  const arena = Arena.create();
  new Table(arena, 'a', 4, 10);
  assert.throws(() => new Table(arena, 'a', 5, 10), { code: 'ARENA_LAYOUT' });
  assert.throws(() => new Counter(arena, 'a'), { code: 'ARENA_LAYOUT' });
  assert.throws(() => new Table(arena, '', 5, 10), RangeError);
  assert.throws(() => new Table(arena, 'b', 0, 10), RangeError);
  arena.header[1] = 99;
  assert.throws(() => Arena.attach(dupCloexec(arena.fd)), { code: 'ARENA_FOREIGN', message: /version 99/ });
  arena.close();
});

test('a full directory is refused, and an empty arena costs no memory', () => {
  const arena = Arena.create();
  for (let i = 0; i < 2048; i++) new Counter(arena, `c${i}`);
  assert.throws(() => new Counter(arena, 'one too many'), { code: 'ARENA_FULL' });
  arena.remove('c77');
  assert.equal(new Counter(arena, 'fits again').next(), 1);
  arena.close();
  const empty = Arena.create();
  new Counter(empty, 'c');
  assert.deepEqual(empty.names(), ['c']);
  assert.ok(statSync(`/proc/self/fd/${empty.fd}`).blocks * 512 <= 64 * 1024);
  empty.close();
});

test('removed tables give their segments back: 300 generations use the memory of one', () => {
  const arena = Arena.create();
  let used = 0;
  for (let generation = 0; generation < 300; generation++) {
    const { table, index } = inodes(arena, 1 << 20);
    assert.equal(table.count, 0);
    assert.equal(index.count, 0);
    for (let i = 0; i < 5000; i++) put(table, index, i + generation);
    used ||= arena.usedBytes;
    assert.equal(arena.usedBytes, used);
    arena.remove('inodes');
    arena.remove('inodes.by-key');
  }
  assert.equal(arena.usedBytes, 0);
  assert.equal(Arena.attach(dupCloexec(arena.fd)).names().length, 0);
  arena.close();
});

test('after a crash in the middle of an operation, recover and rebuild make it whole', () => {
  const arena = Arena.create();
  const { table, index } = inodes(arena, 1 << 20);
  for (let i = 0; i < 3000; i++) put(table, index, i);
  for (let i = 0; i < 3000; i += 3) {
    const slot = find(index, i);
    index.remove(slot);
    table.free(slot);
  }
  // What a kill leaves at worst: free list and count not written, a chain cut.
  const entry = arena.numberOf('inodes');
  arena.header.set([0, 3000, 7], 16 + entry * 32 + 3);
  table.set(table.next(500), LINK, 1);
  table.recover();
  index.rebuild();
  assert.equal(table.count, 2000);
  assert.equal(index.count, 2000);
  for (let i = 0; i < 3000; i++) assert.equal(find(index, i) >= 0, i % 3 !== 0);
  for (let i = 0; i < 3000; i += 3) assert.ok(put(table, index, i) < 3000);
  arena.close();
});

test('a million entries: no insert stalls, and the request path allocates nothing', () => {
  // A scheduler's hiccup hits another insert each time; a table that moves its entries when it is full does it at the
  // same ones in every run (about 50 ms at this size).
  const runs = Array.from({ length: 3 }, () => fill(1_000_000));
  const [first, ...others] = runs.map((run) => run.slow);
  const always = [...first!].filter((insert) => others.every((slow) => slow.has(insert)));
  assert.deepEqual(always, [], 'inserts over 1 ms in every run');
  for (const run of runs) {
    const heapBefore = process.memoryUsage().heapUsed;
    const from = performance.now();
    let found = 0;
    for (let i = 0; i < 1_000_000; i++) if (find(run.index, i) >= 0) found++;
    const findNs = performance.now() - from;
    const grownBytes = process.memoryUsage().heapUsed - heapBefore;
    assert.equal(found, 1_000_000);
    assert.equal(run.table.allocate(), -1);
    assert.ok(grownBytes < 2_000_000, `a million finds allocated ${grownBytes} bytes`);
    console.log(`# insert ${run.ns.toFixed(0)} ns, worst ${run.worstMs.toFixed(2)} ms, find ${findNs.toFixed(0)} ns`);
    run.arena.close();
  }
});

function fill(count: number) {
  const arena = Arena.create();
  const { table, index } = inodes(arena, count);
  const slow = new Set<number>();
  let worstMs = 0;
  const started = performance.now();
  let before = started;
  for (let i = 0; i < count; i++) {
    put(table, index, i);
    const now = performance.now();
    if (now - before > 1) slow.add(i);
    worstMs = Math.max(worstMs, now - before);
    before = now;
  }
  return { arena, table, index, slow, worstMs, ns: ((before - started) * 1e6) / count };
}
