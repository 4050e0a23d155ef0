import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Daemon } from '../daemon/daemon.ts';
import { STATS_BYTES } from '../fuse/stats-layout.ts';
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

test('metrics are read when the device thread has charged what it answered', async () => {
  for (const path of ['/api/v1/metrics', '/api/v1/metrics/blobcache', '/metrics']) {
    const steps: string[] = [];
    const daemon = {
      answers: async (waitMs: number) => {
        assert.ok(waitMs <= 50);
        await new Promise(setImmediate);
        steps.push('charged');
        return true;
      },
      get mounts(): never {
        steps.push('read');
        throw new Error('enough');
      },
      stats: new SharedArrayBuffer(STATS_BYTES),
      images: { storeStats: null } as Daemon['images'],
    };
    await assert.rejects(ask(path, daemon), /enough/);
    assert.deepEqual(steps, ['charged', 'read'], path);
  }
});
