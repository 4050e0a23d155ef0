import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';
import { Segments } from '../fuse/segments.ts';
import { errno } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { eventfd, pipe } from '../sys/wait.ts';
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

test('what a stuck disk holds up is waited for once, not once for each ring', () => {
  const done: number[] = [];
  const quiet = (): void => {};
  const io = new DeviceIo(eventfd(), quiet, quiet, (ticket) => done.push(ticket));
  const ends = new Int32Array(2);
  assert.equal(pipe(ends), 0);
  const buffer = new NativeMemory(4096);
  const data = new Segments();
  data.set(Float64Array.of(buffer.address), Uint32Array.of(64), 0, 1, 0, 64);
  assert.equal(io.read(ends[0]!, data, 64, 0, 7), 0);
  const startMs = performance.now();
  for (let ring = 0; ring < 16; ring++) io.settle(400);
  assert.ok(performance.now() - startMs < 3200);
  assert.equal(io.inFlight, 1);
  const fd = fs.openSync('/tmp', 'r');
  assert.equal(io.fsync(fd, false, 8), 0);
  io.settle(5000);
  assert.deepEqual(done, [8], 'what came later is waited for');
  close(ends[1]!);
  for (const endMs = performance.now() + 5000; io.inFlight > 0 && performance.now() < endMs; ) io.reap();
  assert.deepEqual(done, [8, 7]);
  close(ends[0]!);
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
