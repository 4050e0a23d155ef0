import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { bundleWorker } from '../common/bundle.testing.ts';
import { STATS_BYTES } from '../fuse/stats-layout.ts';
import { close } from '../sys/io.ts';
import { listenUnix, SOCK } from '../sys/socket.ts';
import { eventfd, notify } from '../sys/wait.ts';
import type { DeviceThreadData, FromDevice } from './control.ts';

test('a message that cannot be carried out is answered, and so are those behind it', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'thread-'));
  const fd = listenUnix(join(dir, 'vhost.sock'), SOCK.STREAM, 1);
  const wakeFd = eventfd();
  const entry = bundleWorker(new URL('./thread.ts', import.meta.url));
  const data: DeviceThreadData = {
    transport: { kind: 'virtiofs', sock: null, fd, fdIs: 'listening', tag: null, requestQueues: 1 },
    wakeFd,
    logLevel: 'info',
    stats: new SharedArrayBuffer(STATS_BYTES),
  };
  const worker = new Worker(entry, { workerData: data });
  const heard: FromDevice[] = [];
  worker.on('message', (message: FromDevice) => heard.push(message));
  const answers = () => heard.filter((message) => message.type === 'answer');
  try {
    for (let i = 0; i < 1000 && !heard.some(({ type }) => type === 'ready'); i++) await sleep(10);
    worker.postMessage({ type: 'umount', id: 1, path: null });
    worker.postMessage({ type: 'ping', id: 2 });
    notify(wakeFd);
    for (let i = 0; i < 500 && answers().length < 2; i++) await sleep(10);
    assert.deepEqual(
      answers().map(({ id, error }) => [id, error?.errno ?? 0]),
      [
        [1, 5],
        [2, 0],
      ],
    );
  } finally {
    worker.postMessage({ type: 'stop', id: 3, leaveMount: false });
    notify(wakeFd);
    for (let i = 0; i < 500 && !answers().some(({ id }) => id === 3); i++) await sleep(10);
    await worker.terminate();
    close(wakeFd);
    rmSync(entry);
    rmSync(dir, { recursive: true, force: true });
  }
});
