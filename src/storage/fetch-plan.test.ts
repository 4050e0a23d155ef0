import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { GAP_BYTES_MAX, type PlanInput, planFetch, RANGE_BYTES_MAX } from './fetch-plan.ts';
import { SPECULATION_BYTES_MAX, Speculation } from './speculation.ts';
import type { ChunkInfo } from './tables/blob-layout.ts';

/** A blob whose chunks have these stored sizes, back to back. */
function blob(sizes: number[]): { infoOf: (index: number) => ChunkInfo; chunkCount: number } {
  let offset = 0;
  const infos = sizes.map((compressedSize, index): ChunkInfo => {
    const compressedOffset = offset;
    offset += compressedSize;
    return {
      compressedOffset,
      compressedSize,
      uncompressedOffset: index * 0x100000,
      uncompressedSize: 0x100000,
      flags: 1,
      low: 0,
      high: 0,
    };
  });
  return { infoOf: (index) => infos[index], chunkCount: sizes.length };
}

function plan(sizes: number[], wanted: number[], more: Partial<PlanInput> = {}) {
  const { infoOf, chunkCount } = blob(sizes);
  return planFetch({
    wanted: wanted.map((index) => ({ index, info: infoOf(index) })),
    chunkCount,
    infoOf,
    isAwaited: (index) => wanted.includes(index),
    isMissing: (index) => !wanted.includes(index),
    windowBytes: 1 << 20,
    budgetBytes: SPECULATION_BYTES_MAX,
    ...more,
  });
}

const indexes = (ranges: ReturnType<typeof plan>['ranges']) =>
  ranges.map(({ chunks }) => chunks.map(({ index }) => index));

const KB = 1024;

describe('plans', () => {
  test('neighbours become one request, in whatever order they are wanted', () => {
    const { ranges, extras } = plan([10, 20, 30, 40], [2, 0, 1], { windowBytes: 0 });
    assert.deepEqual(indexes(ranges), [[0, 1, 2]]);
    assert.deepEqual([ranges[0].offset, ranges[0].bytes], [0, 60]);
    assert.deepEqual(extras, []);
  });
  test('without a window nothing is added, and gaps separate', () => {
    const { ranges, charges } = plan([10, 20, 30, 40], [0, 2], { windowBytes: 0 });
    assert.deepEqual(indexes(ranges), [[0], [2]]);
    assert.deepEqual(charges, []);
  });
  test('small gaps are read over with the chunks in them, and charged', () => {
    const { ranges, extras, charges } = plan([10, 20, 30], [0, 2]);
    assert.deepEqual(indexes(ranges), [[0, 1, 2]]);
    assert.deepEqual(
      extras.map(({ index }) => index),
      [1],
    );
    assert.deepEqual(charges, [{ end: 60, bytes: 20 }]);
  });
  test('a gap chunk that is ready is not fetched again', () => {
    const { ranges, extras } = plan([10, 20, 30], [0, 2], { isMissing: () => false });
    assert.deepEqual(indexes(ranges), [[0], [2]]);
    assert.deepEqual(extras, []);
  });
  test('a window goes on over the headers of a tar, which are charged', () => {
    const { infoOf } = blob(Array.from({ length: 10 }, () => 100));
    const inTar = (index: number): ChunkInfo => ({ ...infoOf(index), compressedOffset: index * 1024 });
    const { ranges, charges } = plan(new Array(10).fill(100), [2], {
      infoOf: inTar,
      wanted: [{ index: 2, info: inTar(2) }],
    });
    assert.deepEqual(indexes(ranges), [[2, 3, 4, 5, 6, 7, 8, 9]]);
    assert.deepEqual(charges, [{ end: 9 * 1024 + 100, bytes: 7 * 1024 }]);
  });
  test('large gaps are not', () => {
    const { ranges } = plan([10, GAP_BYTES_MAX + 1, 30], [0, 2], { isMissing: () => false });
    assert.deepEqual(indexes(ranges), [[0], [2]]);
  });
  test('reads ahead up to the window, and no further than the budget', () => {
    const sizes = Array.from({ length: 20 }, () => 100 * KB);
    assert.deepEqual(indexes(plan(sizes, [3], { windowBytes: 512 * KB }).ranges), [[3, 4, 5, 6, 7]]);
    assert.deepEqual(indexes(plan(sizes, [3], { budgetBytes: 250 * KB }).ranges), [[3, 4, 5]]);
    assert.deepEqual(indexes(plan(sizes, [3], { budgetBytes: 0 }).ranges), [[3]]);
  });
  test('reading ahead stops at chunks that are there or on their way', () => {
    const { ranges } = plan(Array(10).fill(10), [1], { isMissing: (index) => index === 2 || index === 3 });
    assert.deepEqual(indexes(ranges), [[1, 2, 3]]);
  });
  test('when what lies behind is there, the window goes backwards, in a request nobody waits for', () => {
    const sizes = Array.from({ length: 20 }, () => 100 * KB);
    const isMissing = (index: number) => index !== 10 && index < 12;
    const { ranges, charges } = plan(sizes, [10], { isMissing });
    assert.deepEqual(indexes(ranges), [
      [10, 11],
      [5, 6, 7, 8, 9],
    ]);
    assert.deepEqual(charges, [
      { end: 1200 * KB, bytes: 100 * KB },
      { end: 1000 * KB, bytes: 500 * KB },
    ]);
    assert.deepEqual(indexes(plan(sizes, [10], { isMissing, budgetBytes: 350 * KB }).ranges), [
      [10, 11],
      [8, 9],
    ]);
    const isHole = (index: number) => index === 8 || index === 9 || index === 11;
    assert.deepEqual(indexes(plan(sizes, [10], { isMissing: isHole }).ranges), [
      [10, 11],
      [8, 9],
    ]);
    assert.deepEqual(indexes(plan(sizes, [10], { isMissing: isHole, windowBytes: 0 }).ranges), [[10]]);
    assert.deepEqual(indexes(plan(sizes, [19]).ranges), [[19], [14, 15, 16, 17, 18]], 'the last of the blob');
  });
  test('what comes with an awaited chunk does not keep it waiting: ranges begin with one, and those go first', () => {
    const isAwaited = (index: number) => index === 3;
    const { ranges } = plan(Array(8).fill(100 * KB), [0, 1, 2, 3, 4, 5], { isAwaited, budgetBytes: 0 });
    assert.deepEqual(indexes(ranges), [
      [3, 4, 5],
      [0, 1, 2],
    ]);
  });
  test('a range ends at its limit, one large chunk may exceed it', () => {
    const sizes = Array.from({ length: 5 }, () => 900 * KB);
    assert.deepEqual(indexes(plan(sizes, [0, 1, 2, 3, 4], { windowBytes: 0 }).ranges), [[0, 1], [2, 3], [4]]);
    assert.deepEqual(indexes(plan([16 << 20, 5], [0, 1], { windowBytes: 0 }).ranges), [[0], [1]]);
  });
});

test('property: every wanted chunk is fetched once, extras are missing, ranges hold their chunks, budget is kept', () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 300_000 }), { minLength: 1, maxLength: 60 });
  fc.assert(
    fc.property(
      sizes,
      fc.nat(),
      fc.nat(),
      fc.integer({ min: 0, max: SPECULATION_BYTES_MAX }),
      fc.nat(1 << 21),
      fc.nat(),
      (...args) => {
        const [chunkSizes, wantedBits, readyBits, budgetBytes, windowBytes, awaitedBits] = args;
        const all = chunkSizes.map((_, index) => index);
        const wanted = all.filter((index) => (wantedBits >> (index % 31)) & 1);
        if (wanted.length === 0) return;
        const isMissing = (index: number) => !wanted.includes(index) && ((readyBits >> (index % 29)) & 1) === 0;
        const isAwaited = (index: number) => wanted.includes(index) && ((awaitedBits >> (index % 31)) & 1) === 1;
        const more = { isAwaited, isMissing, budgetBytes, windowBytes };
        const { ranges, extras, charges } = plan(chunkSizes, wanted, more);
        const fetched = ranges.flatMap(({ chunks }) => chunks.map(({ index }) => index));
        assert.equal(new Set(fetched).size, fetched.length);
        assert.deepEqual(
          fetched.filter((index) => !extras.some((extra) => extra.index === index)).sort((a, b) => a - b),
          wanted,
        );
        for (const { index } of extras) assert.ok(isMissing(index));
        for (const { offset, bytes, chunks } of ranges) {
          for (const { info } of chunks) {
            assert.ok(info.compressedOffset >= offset && info.compressedOffset + info.compressedSize <= offset + bytes);
          }
          assert.ok(bytes <= RANGE_BYTES_MAX || chunks.length === 1);
          const awaited = chunks.findIndex(({ index }) => isAwaited(index));
          assert.ok(awaited < 1 || isAwaited(chunks[0].index), 'read-ahead before what a reader waits for');
        }
        const total = ranges.reduce((sum, { bytes }) => sum + bytes, 0);
        const demanded = wanted.reduce((sum, index) => sum + chunkSizes[index], 0);
        const charged = charges.reduce((sum, { bytes }) => sum + bytes, 0);
        assert.equal(total - demanded, charged);
        assert.ok(charged <= (windowBytes === 0 ? 0 : budgetBytes));
      },
    ),
  );
});

describe('speculation', () => {
  test('what is outstanding lessens the budget until it is shown useful or is old', () => {
    const speculation = new Speculation(1 << 20);
    assert.equal(speculation.budget([0], 0), SPECULATION_BYTES_MAX);
    speculation.charge([{ end: 1_000_000, bytes: 300_000 }], 0);
    assert.equal(speculation.budget([5_000_000], 1), SPECULATION_BYTES_MAX - 300_000);
    assert.equal(speculation.budget([999_999], 2), SPECULATION_BYTES_MAX - 300_000);
    assert.equal(speculation.budget([1_000_000], 3), SPECULATION_BYTES_MAX);
    speculation.charge([{ end: 1_000_000, bytes: SPECULATION_BYTES_MAX }], 100);
    assert.equal(speculation.budget([9_000_000], 200), 0);
    speculation.forFile();
    assert.equal(speculation.budget([9_000_000], 300), SPECULATION_BYTES_MAX, 'another file');
    speculation.charge([{ end: 1_000_000, bytes: SPECULATION_BYTES_MAX }], 300);
    assert.equal(speculation.budget([9_000_000], 20_000), SPECULATION_BYTES_MAX);
  });
  test('a longer window than the default is taken at its word, up to a limit', () => {
    for (const [windowBytes, bytes] of [
      [1, SPECULATION_BYTES_MAX],
      [3 << 20, 3 << 20],
      [1 << 28, 8 << 20],
    ] as const) {
      assert.equal(new Speculation(windowBytes).budget([0], 0), bytes);
    }
    const { ranges } = plan(new Array(100).fill(64 * KB), [2], { windowBytes: 3 << 20, budgetBytes: 3 << 20 });
    assert.equal(ranges[0].bytes, 3 << 20);
  });
  test('a stream keeps its read-ahead; scattered reads of one file waste less than 1 MiB altogether', () => {
    const sizes = Array.from({ length: 3000 }, () => 40 * KB);
    const { infoOf, chunkCount } = blob(sizes);
    const run = (file: number[]) => {
      const speculation = new Speculation(1 << 20);
      const ready = new Set<number>();
      let requests = 0;
      let fetchedBytes = 0;
      for (const index of file) {
        if (ready.has(index)) continue;
        const wanted = [{ index, info: infoOf(index) }];
        const budgetBytes = speculation.budget([wanted[0].info.compressedOffset], requests);
        const isAwaited = (other: number) => other === index;
        const isMissing = (other: number) => !ready.has(other) && other !== index;
        const made = planFetch({ wanted, isAwaited, chunkCount, infoOf, isMissing, windowBytes: 1 << 20, budgetBytes });
        speculation.charge(made.charges, requests);
        for (const range of made.ranges) {
          requests++;
          fetchedBytes += range.bytes;
          for (const chunk of range.chunks) ready.add(chunk.index);
        }
      }
      return { requests, wasted: fetchedBytes - file.length * 40 * KB };
    };
    const stream = run(Array.from({ length: 1000 }, (_, i) => 500 + i));
    assert.ok(stream.requests <= 60, `${stream.requests} requests`);
    assert.ok(stream.wasted < 1 << 20, `${stream.wasted} bytes`);
    const scattered = run(Array.from({ length: 60 }, (_, i) => i * 47));
    assert.ok(scattered.wasted < 1 << 20, `${scattered.wasted} bytes`);
  });
});
