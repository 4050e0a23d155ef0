import assert from 'node:assert/strict';
import { test } from 'node:test';
import { BackendReads } from './stats.ts';

const KIB = 1024;

test('reads fall into the buckets of kata-contract 4.5, borders included', () => {
  const sizes: [bytes: number, bucket: number][] = [
    [0, 0],
    [KIB - 1, 0],
    [KIB, 1],
    [4 * KIB, 2],
    [16 * KIB, 3],
    [64 * KIB, 4],
    [128 * KIB, 5],
    [512 * KIB, 6],
    [1024 * KIB - 1, 6],
    [1024 * KIB, 7],
    [2 ** 31, 7],
  ];
  for (const [bytes, bucket] of sizes) {
    const reads = new BackendReads();
    reads.succeeded(bytes, 3);
    assert.equal(reads.countBySize.indexOf(1), bucket, `${bytes} bytes`);
    assert.equal(reads.latencyMsBySize[bucket], 3);
  }
  for (const [ms, bucket] of [
    [1, 0],
    [1.1, 1],
    [20, 1],
    [50, 2],
    [100, 3],
    [500, 4],
    [1000, 5],
    [2000, 6],
    [2001, 7],
  ] as const) {
    const reads = new BackendReads();
    reads.succeeded(1, ms);
    assert.equal(reads.countBySizeAndLatency[0]!.indexOf(1), bucket, `${ms} ms`);
  }
});

test('failed attempts count as reads and as errors, without bytes and latency', () => {
  const reads = new BackendReads();
  reads.succeeded(10, 1);
  reads.failed();
  assert.deepEqual([reads.count, reads.errors, reads.bytes, reads.latencyMs], [2, 1, 10, 1]);
});
