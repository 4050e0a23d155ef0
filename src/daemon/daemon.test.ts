import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { Daemon } from './daemon.ts';
import { LogWriter } from './log-writer.ts';

/** A device thread that has started and now hangs in a system call. */
const STUCK = `
const { parentPort, workerData } = require('node:worker_threads');
parentPort.postMessage({ type: 'ready' });
Atomics.wait(new Int32Array(workerData.stats), 0, 0);
`;

test('a stuck device thread: no sign of life, and probes do not pile up; RUNNING is not said after the end', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'daemon-'));
  const workerEntry = join(dir, 'stuck.cjs');
  writeFileSync(workerEntry, STUCK);
  const posted = t.mock.method(Worker.prototype, 'postMessage').mock;
  let saidRunning = false;
  const daemon = new Daemon({
    id: null,
    supervisor: null,
    transport: { kind: 'virtiofs', sock: null, fd: -1, fdIs: 'listening', tag: null, requestQueues: 1 },
    logLevel: 'error',
    servesOverlay: false,
    workerEntry,
    log: new LogWriter(-1, false, 'error'),
    ownConfig: () => null,
    onRunning: () => {
      saidRunning = true;
    },
    onUnmounted: () => {},
    onDeviceGone: () => {},
  });
  try {
    await daemon.ready;
    for (let i = 0; i < 20; i++) assert.equal(await daemon.answers(2), false);
    assert.equal(posted.calls.length, 1);
    void daemon.stop();
    daemon.run();
    assert.deepEqual([daemon.state, saidRunning], ['STOPPED', false]);
  } finally {
    void daemon.stop().catch(() => {});
    await (posted.calls[0]!.this as Worker).terminate();
    rmSync(dir, { recursive: true, force: true });
  }
});
