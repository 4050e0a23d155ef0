import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { errno } from './errno.ts';
import { fileLimit, setFileLimit } from './process.ts';

test('fileLimit agrees with /proc/self/limits and setFileLimit changes it', () => {
  const limit = fileLimit();
  assert.ok(typeof limit === 'object');
  const line = readFileSync('/proc/self/limits', 'utf8').match(/Max open files\s+(\S+)\s+(\S+)/)!;
  const number = (text: string) => (text === 'unlimited' ? Number.POSITIVE_INFINITY : Number(text));
  assert.deepEqual(limit, { soft: number(line[1]!), hard: number(line[2]!) });
  assert.equal(setFileLimit(500, limit.hard), 0);
  assert.deepEqual(fileLimit(), { soft: 500, hard: limit.hard });
  assert.equal(setFileLimit(limit.soft, limit.hard), 0);
});

test('setFileLimit refuses what is no limit', () => {
  for (const [soft, hard] of [
    [Number.NaN, 10],
    [1.5, 10],
    [-1, 10],
    [11, 10],
  ] as const) {
    assert.equal(setFileLimit(soft, hard), -errno.EINVAL);
  }
});

test('exitNow ends the process with its code although a worker is blocked in a native call', () => {
  const script = `
    import { Worker } from 'node:worker_threads';
    import { exitNow } from ${JSON.stringify(new URL('./process.ts', import.meta.url).href)};
    const block = 'const {workerData:b,parentPort}=require("node:worker_threads");parentPort.postMessage(0);Atomics.wait(new Int32Array(b),0,0)';
    new Worker(block, { eval: true, execArgv: [], workerData: new SharedArrayBuffer(4) }).once('message', () => exitNow(7));`;
  const child = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', script], {
    timeout: 20_000,
  });
  assert.equal(child.status, 7, child.stderr.toString());
});
