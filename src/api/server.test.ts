import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Daemon } from '../daemon/daemon.ts';
import { LogWriter } from '../daemon/log-writer.ts';
import { ApiServer } from './server.ts';

test('PUT exit ends a daemon that has left its mount, although nobody waits for the answer any more', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'api-'));
  const path = join(dir, 'api.sock');
  let exited = (): void => {};
  const exit = new Promise<string>((resolve) => {
    exited = () => resolve('exit');
  });
  let leaving = (): void => {};
  const left = new Promise<void>((resolve) => {
    leaving = resolve;
  });
  const daemon: Partial<Daemon> = {
    state: 'RUNNING',
    leave: async () => {
      leaving();
      await sleep(50);
    },
  };
  const target = { daemon: daemon as Daemon, exit: exited, strictUmount: false };
  const server = new ApiServer(target, new LogWriter(-1, false, 'error'));
  await server.listen(path);
  try {
    const client = connect(path).pause();
    await once(client, 'connect');
    client.write('GET /readyz HTTP/1.1\r\n\r\nPUT /api/v1/daemon/exit HTTP/1.1\r\n\r\n');
    await left;
    client.destroy(); // with an answer unread, which resets the connection
    assert.equal(await Promise.race([exit, sleep(5000, 'still there', { ref: false })]), 'exit');
  } finally {
    await server.stop();
    rmSync(dir, { recursive: true, force: true });
  }
});
