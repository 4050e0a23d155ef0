import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errno } from './errno.ts';
import { close } from './io.ts';
import { drain, EPOLL, Epoll, eventfd, notify, POLL, pipe, pollOne } from './wait.ts';

test('epoll returns the token of every ready descriptor, again until it is drained', () => {
  const epoll = new Epoll(8);
  const a = eventfd();
  const b = eventfd();
  assert.equal(epoll.add(a, EPOLL.IN, 7), 0);
  assert.equal(epoll.add(b, EPOLL.IN, 0xffff_ffff), 0);
  assert.equal(epoll.wait(0), 0);
  notify(b);
  notify(b);
  for (let i = 0; i < 2; i++) {
    assert.equal(epoll.wait(0), 1);
    assert.equal(epoll.tokenAt(0), 0xffff_ffff);
    assert.equal(epoll.eventsAt(0), EPOLL.IN);
  }
  assert.equal(drain(b), 8);
  assert.equal(drain(b), -errno.EAGAIN);
  notify(a);
  notify(b);
  assert.equal(epoll.wait(-1), 2);
  assert.deepEqual([epoll.tokenAt(0), epoll.tokenAt(1)].sort(), [0xffff_ffff, 7].sort());
  assert.equal(epoll.modify(a, 0, 7), 0);
  assert.equal(epoll.remove(b), 0);
  assert.equal(epoll.wait(0), 0);
  epoll.close();
  for (const fd of [a, b]) close(fd);
});

test('epoll refuses what it cannot wait for, and tokens that are not u32', () => {
  const epoll = new Epoll(1);
  const a = eventfd();
  assert.equal(epoll.add(a, EPOLL.IN, -1), -errno.EINVAL);
  assert.equal(epoll.add(a, EPOLL.IN, 2 ** 32), -errno.EINVAL);
  assert.equal(epoll.add(9999, EPOLL.IN, 1), -errno.EBADF);
  assert.equal(epoll.add(a, EPOLL.IN, 1), 0);
  assert.equal(epoll.add(a, EPOLL.IN, 1), -errno.EEXIST);
  epoll.close();
  close(a);
});

test('pipes wake and drain like eventfds; poll waits and times out', () => {
  const ends = new Int32Array(2);
  assert.equal(pipe(ends, true), 0);
  const [reader, writer] = ends;
  assert.equal(pollOne(reader, POLL.IN, 0), 0);
  for (let i = 0; i < 10_000; i++) assert.equal(notify(writer), 0, 'also when the pipe is full');
  assert.equal(pollOne(reader, POLL.IN, -1), POLL.IN);
  while (drain(reader) > 0);
  assert.equal(pollOne(reader, POLL.IN, 0), 0);
  close(writer);
  assert.equal(pollOne(reader, POLL.IN, 0), POLL.HUP);
  assert.equal(drain(reader), 0);
  const startMs = performance.now();
  assert.equal(pollOne(-1, POLL.IN, 30), 0);
  assert.ok(performance.now() - startMs >= 29);
  close(reader);
});
