import assert from 'node:assert/strict';
import { test } from 'node:test';
import { alignUp, putI64, putU64, timeSeconds, u64 } from './u64.ts';

const view = new DataView(new ArrayBuffer(8));

test('u64: exact up to 2^53-1, refused above', () => {
  for (const value of [0, 1, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
    putU64(view, 0, value);
    assert.equal(view.getBigUint64(0, true), BigInt(value));
    assert.equal(u64(view, 0), value);
  }
  for (const value of [2n ** 53n, 2n ** 63n, 2n ** 64n - 1n]) {
    view.setBigUint64(0, value, true);
    assert.equal(u64(view, 0), -1);
  }
});

test('what is no u64 is not written', () => {
  for (const value of [-1, 0.5, Number.NaN, 2 ** 53, Number.POSITIVE_INFINITY]) {
    assert.throws(() => putU64(view, 0, value), RangeError);
  }
});

test('times before and after 1970', () => {
  for (const value of [0, -1, -86401, -(2 ** 32), 2 ** 40, Number.MIN_SAFE_INTEGER]) {
    putI64(view, 0, value);
    assert.equal(view.getBigInt64(0, true), BigInt(value));
    assert.equal(timeSeconds(view, 0), value);
  }
  view.setBigInt64(0, -(2n ** 63n), true);
  assert.equal(timeSeconds(view, 0), 0);
});

test('alignUp', () => {
  assert.deepEqual(
    [0, 1, 4096, 4097].map((value) => alignUp(value, 4096)),
    [0, 4096, 4096, 8192],
  );
});
