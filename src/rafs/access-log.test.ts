import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { BlobHandle } from '../storage/types.ts';
import { AccessRecorder, newAccessLog, readAccessLog } from './access-log.ts';

const blobs = [{ chunkCount: 9 }, { chunkCount: 300_000 }] as BlobHandle[];

test('chunks are written down once, in the order of their first read', () => {
  const log = newAccessLog(blobs);
  const recorder = new AccessRecorder(log, blobs);
  recorder.touch(0, 8, 0xffff_fff0, 3);
  recorder.touch(1, 8, 7, 0);
  recorder.touch(0, 8, 99, 0);
  recorder.touch(0, 0, 7, 1);
  assert.deepEqual(readAccessLog(log), [
    { node: 0xffff_fff0, k: 3 },
    { node: 7, k: 0 },
    { node: 7, k: 1 },
  ]);
});

test('a full log stays as it is, within a megabyte', () => {
  const log = newAccessLog(blobs);
  assert.ok(log.byteLength <= 1 << 20);
  const recorder = new AccessRecorder(log, blobs);
  for (let index = 0; index < 300_000; index++) recorder.touch(1, index, 5, index);
  const entries = readAccessLog(log);
  assert.equal(entries.length, 131_071);
  assert.deepEqual(entries.at(-1), { node: 5, k: 131_070 });
});

test('what main reads never goes beyond the memory, whatever the count says', () => {
  const log = newAccessLog(blobs);
  new Int32Array(log)[0] = -1;
  assert.equal(readAccessLog(log).length, 131_071);
});

test('an image of few chunks has a log of their number', () => {
  const few = [{ chunkCount: 2 }, { chunkCount: 1 }] as BlobHandle[];
  const log = newAccessLog(few);
  assert.equal(log.byteLength, 32);
  const recorder = new AccessRecorder(log, few);
  for (const [blob, index] of [
    [1, 0],
    [0, 1],
    [0, 0],
  ] as const)
    recorder.touch(blob, index, 5, index);
  assert.equal(readAccessLog(log).length, 3);
});
