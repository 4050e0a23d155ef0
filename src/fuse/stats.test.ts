import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { errno } from '../sys/errno.ts';
import { FileStats } from './file-stats.ts';
import { OPS } from './opcodes.ts';
import { Request } from './request.ts';
import { Stats } from './stats.ts';
import { FOPS, MOUNTS_MAX, sizeBucketOf } from './stats-layout.ts';
import { StatsView } from './stats-view.ts';

const request = new Request();
const READ = OPS.READ.op;
const at = (fop: (typeof FOPS)[number]): number => FOPS.indexOf(fop);
const sum = (values: number[]): number => values.reduce((a, b) => a + b, 0);

function count(stats: Stats, op: number, member: number, result: number, sinceMs = 0): void {
  request.nodeHigh = member;
  request.nodeLow = 7;
  request.sinceMs = sinceMs;
  stats.count(op, request, result);
}

describe('Stats', () => {
  test('every request is charged once, to its opcode and its mount, however runs change', () => {
    const stats = new Stats();
    const view = new StatsView(stats.shared);
    for (const id of [1, 2]) stats.mounted(id, null);
    const expected = new Map<string, number>();
    for (let i = 0; i < 1000; i++) {
      // Runs of all lengths, across the 16 of a tick.
      const op = Math.floor(i / (1 + (i % 7))) % 2 === 0 ? READ : OPS.GETATTR.op;
      const member = 1 + (Math.floor(i / 5) % 2);
      count(stats, op, member, 4096);
      expected.set(`${op} ${member}`, (expected.get(`${op} ${member}`) ?? 0) + 1);
    }
    stats.tick();
    for (const [name, op] of [
      ['READ', READ],
      ['GETATTR', OPS.GETATTR.op],
    ] as const) {
      for (const member of [1, 2]) assert.equal(view.mount(member).hits[at(name)], expected.get(`${op} ${member}`));
      const all = (expected.get(`${op} 1`) ?? 0) + (expected.get(`${op} 2`) ?? 0);
      assert.equal(view.requests(op), all);
      assert.equal(sum(view.latency(op).buckets), all);
      assert.ok(view.latency(op).sumMs >= 0);
    }
    const one = view.mount(1);
    assert.equal(sum(one.readLatencies), one.hits[at('READ')]);
    assert.equal(one.bytesRead, 4096 * (one.hits[at('READ')] as number));
  });

  test('a request that waited is charged from when it was taken up', () => {
    const stats = new Stats();
    const view = new StatsView(stats.shared);
    stats.tick();
    // Half a millisecond after the thread began: as long ago as can be.
    count(stats, READ, 1, 0, 0.5);
    count(stats, READ, 1, 0);
    stats.tick();
    const { buckets, sumMs } = view.latency(READ);
    assert.equal(sum(buckets), 2);
    assert.ok(sumMs >= stats.nowMs - 0.5 && sumMs < 2 * stats.nowMs, `${sumMs} of ${stats.nowMs} ms`);
  });

  test('errors', () => {
    const stats = new Stats();
    stats.mounted(1, null);
    count(stats, READ, 1, -errno.EIO);
    stats.tick();
    const view = new StatsView(stats.shared);
    assert.deepEqual([view.errors(READ), view.mount(1).errors[at('READ')], view.mount(1).bytesRead], [1, 1, 0]);
  });

  test('numbers a guest makes up, and members that were never mounted, count for no mount', () => {
    const stats = new Stats();
    stats.mounted(5, null);
    for (const member of [0xffff_ffff, 5 + MOUNTS_MAX, 6, 0]) count(stats, READ, member, 1);
    stats.tick();
    const view = new StatsView(stats.shared);
    assert.equal(sum(view.mount(5).hits), 0);
    assert.equal(sum(view.mount(5 + MOUNTS_MAX).hits), 0);
    assert.equal(view.requests(READ), 4);
  });

  test('a member takes the place of one so many mounts ago, and begins at 0', () => {
    const stats = new Stats();
    const view = new StatsView(stats.shared);
    stats.mounted(3, null);
    count(stats, READ, 3, 1);
    stats.tick();
    stats.mounted(3 + MOUNTS_MAX, null);
    assert.equal(sum(view.mount(3).hits) + sum(view.mount(3 + MOUNTS_MAX).hits), 0);
  });

  test('sizes: a bound belongs to the bucket above it', () => {
    const rows = [0, 1023, 1024, 4095, 4096, 131_072, 1_048_575, 1_048_576, 2 ** 40].map(sizeBucketOf);
    assert.deepEqual(rows, [0, 0, 1, 1, 2, 5, 6, 7, 7]);
  });
});

describe('FileStats', () => {
  test('each file by itself, also those that meet in the table', () => {
    const files = FileStats.create(300);
    for (let round = 1; round <= 3; round++)
      for (let node = 1; node <= 300; node++) files.count(node * 65_536, at('READ'), true, node);
    const all = [...new FileStats(files.shared).list()];
    assert.equal(all.length, 300);
    for (const file of all) assert.deepEqual([file.reads, file.bytesRead], [3, 3 * (file.node / 65_536)]);
  });

  test('a full table counts no further file, and goes on with those it has', () => {
    const files = FileStats.create(4);
    for (let node = 1; node <= 100; node++) files.count(node, at('OPEN'), false, 0);
    files.count(1, at('READ'), true, -errno.EIO);
    const all = [...files.list()];
    assert.ok(all.length >= 4 && all.length <= 8, `${all.length}`);
    const first = all.find(({ node }) => node === 1)!;
    assert.deepEqual([first.operations, first.reads, sum(first.errors)], [2, 0, 1]);
  });
});
