import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Daemon } from '../daemon/daemon.ts';
import { ROUTES } from './routes.ts';

const ask = async (path: string, daemon: Partial<Daemon>) => {
  const target = { daemon: daemon as Daemon, exit: () => {}, strictUmount: false };
  return (await ROUTES[path]!.GET!.run(target, { query: new URLSearchParams(), body: Buffer.alloc(0) })).status;
};

test('/healthz is 503 when the device thread gives no sign of life', async () => {
  let asked = 0;
  const answers = (is: boolean) => async (waitMs: number) => {
    asked = waitMs;
    return is;
  };
  assert.equal(await ask('/healthz', { answers: answers(false) }), 503);
  assert.equal(asked, 1000);
  assert.equal(await ask('/healthz', { answers: answers(true) }), 200);
});

test('/readyz is 503 in every state but RUNNING', async () => {
  for (const state of ['INIT', 'READY', 'STOPPED'] as const) assert.equal(await ask('/readyz', { state }), 503);
  assert.equal(await ask('/readyz', { state: 'RUNNING' }), 200);
});
