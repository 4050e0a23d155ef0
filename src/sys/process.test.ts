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

test('mapLargeBlocks: what is freed goes back to the kernel, whatever lies behind it', () => {
  const script = (call: string) => `
    import { readFileSync } from 'node:fs';
    import { bind } from ${JSON.stringify(new URL('./libc.ts', import.meta.url).href)};
    import { mapLargeBlocks } from ${JSON.stringify(new URL('./process.ts', import.meta.url).href)};
    const malloc = bind('malloc', 'i64', ['size']);
    const free = bind('free', 'int', ['ptr']);
    const memset = bind('memset', 'i64', ['ptr', 'int', 'size']);
    const rssKib = () => Number(/VmRSS:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))[1]);
    ${call}
    free(malloc(16 << 20));
    const large = malloc(8 << 20);
    malloc(200 << 10);
    memset(large, 1, 8 << 20);
    const before = rssKib();
    free(large);
    console.log(before - rssKib());`;
  const freedKib = (call: string): number => {
    const argv = ['--import', 'tsx', '--input-type=module', '-e', script(call)];
    return Number.parseInt(spawnSync(process.execPath, argv, { encoding: 'utf8', timeout: 20_000 }).stdout, 10);
  };
  assert.ok(freedKib('mapLargeBlocks(1 << 20);') > 7 << 10);
  assert.ok(freedKib('') < 1 << 10, 'this C library needs no telling');
});
