import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { errno } from '../sys/errno.ts';
import { eventfd } from '../sys/wait.ts';
import type { FromDevice } from './control.ts';
import { DeviceIo } from './device-io.ts';

test('fsync goes through io_uring and comes back with its ticket', () => {
  const done: [number, number][] = [];
  const io = new DeviceIo(
    eventfd(),
    () => assert.fail('nothing is to be posted'),
    (_, text) => assert.fail(text),
    (ticket, result) => done.push([ticket, result]),
  );
  const fd = fs.openSync('/tmp', 'r');
  assert.equal(io.fsync(fd, false, 7), 0);
  io.settle(5000);
  assert.deepEqual(done, [[7, 0]]);
  assert.equal(io.inFlight, 0);
  fs.closeSync(fd);
});

test('what main does it does on a descriptor of its own, closed when main is done', () => {
  const posted: FromDevice[] = [];
  const io = new DeviceIo(
    eventfd(),
    (message) => posted.push(message),
    () => {},
    () => {},
  );
  const fd = fs.openSync('/tmp', 'r');
  assert.equal(io.syncfs(fd, 9), 0);
  fs.closeSync(fd);
  const [message] = posted;
  assert.ok(message?.type === 'io' && message.op === 'syncfs' && message.fd !== fd);
  assert.ok(fs.fstatSync(message.fd).isDirectory(), 'still open');
  io.byMainDone(9);
  io.byMainDone(9);
  assert.throws(() => fs.fstatSync(message.fd), { code: 'EBADF' });
  assert.equal(io.syncfs(-1, 10), -errno.EBADF);
});
