import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Gate } from './gate.ts';

const never = new AbortController().signal;

test('no more than the limit at a time, in the order they came', async () => {
  const gate = new Gate(3);
  const order: number[] = [];
  let holders = 0;
  let most = 0;
  const work = (number: number) =>
    gate.run(never, async () => {
      order.push(number);
      most = Math.max(most, ++holders);
      await sleep(1);
      holders--;
    });
  await Promise.all(Array.from({ length: 9 }, (_, number) => work(number)));
  assert.equal(most, 3);
  assert.deepEqual(order, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
});

test('a holder that throws leaves, and a waiter whose signal fires is passed over', async () => {
  const gate = new Gate(1);
  const controller = new AbortController();
  const first = gate.run(never, async () => {
    await sleep(5);
    throw new Error('first');
  });
  const given = gate.run(controller.signal, async () => assert.fail('ran after its signal'));
  const last = gate.run(never, async () => 'last');
  controller.abort(new Error('given up'));
  const [failed, passedOver, served] = await Promise.allSettled([first, given, last]);
  assert.match(String(failed.status === 'rejected' && failed.reason), /first/);
  assert.match(String(passedOver.status === 'rejected' && passedOver.reason), /given up/);
  assert.deepEqual(served, { status: 'fulfilled', value: 'last' });
  await assert.rejects(
    gate.run(controller.signal, async () => {}),
    /given up/,
  );
  assert.equal(await gate.run(never, async () => 'free'), 'free');
});
