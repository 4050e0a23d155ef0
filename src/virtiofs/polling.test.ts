import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Polling, SHORT_SLEEPS_MIN, WINDOW_US_MAX, WINDOW_US_MIN } from './polling.ts';

const SHORT_US = WINDOW_US_MAX / 2;
const LONG_US = WINDOW_US_MAX * 10;

function afterShortSleeps(count: number, enabled = true): Polling {
  const polling = new Polling(enabled);
  for (let i = 0; i < count; i++) polling.slept(SHORT_US);
  return polling;
}

test('short sleeps in a row open the window, more and hits widen it to its limit', () => {
  assert.equal(afterShortSleeps(SHORT_SLEEPS_MIN - 1).windowUs, 0);
  const polling = afterShortSleeps(SHORT_SLEEPS_MIN);
  assert.equal(polling.windowUs, WINDOW_US_MIN);
  for (let i = 0; i < 10; i++) polling.hit();
  assert.equal(polling.windowUs, WINDOW_US_MAX);
});

test('pairs of requests with long gaps between them never open it', () => {
  const polling = new Polling(true);
  for (let i = 0; i < 100; i++) {
    polling.slept(LONG_US);
    polling.slept(SHORT_US);
    assert.equal(polling.windowUs, 0);
  }
});

test('two long sleeps close the widest window', () => {
  const polling = afterShortSleeps(100);
  assert.equal(polling.windowUs, WINDOW_US_MAX);
  polling.slept(LONG_US);
  polling.slept(LONG_US);
  assert.equal(polling.windowUs, 0);
});

test('where polling does not pay it never begins', () => {
  assert.equal(afterShortSleeps(100, false).windowUs, 0);
});
