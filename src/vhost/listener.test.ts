import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join as joinPath } from 'node:path';
import { after, test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { errno } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import { connectUnix, SOCK, socketpair } from '../sys/socket.ts';
import { eventfd } from '../sys/wait.ts';
import { EchoDevice } from './echo-device.ts';
import { ALL_VIRTIO, closeAll } from './echo-fixture.ts';
import { Frontend, readFeatureSet } from './frontend.ts';
import { acceptFrontend, adoptSocket, listenAt } from './listener.ts';

const directory = mkdtempSync(joinPath(tmpdir(), 'vhost-'));
after(() => rmSync(directory, { recursive: true }));

test('a stale socket is replaced; a live one and a regular file are not', () => {
  const path = joinPath(directory, 'stale');
  const first = listenAt(path);
  assert.ok(first >= 0);
  assert.equal(listenAt(path), -errno.EADDRINUSE, 'somebody listens');
  // The probe of the second backend waits in the queue of the first and is found dead.
  const probe = acceptFrontend(first);
  assert.ok(probe >= 0);
  close(probe);
  close(first);
  const second = listenAt(path);
  assert.ok(second >= 0);
  close(second);
  const file = joinPath(directory, 'file');
  writeFileSync(file, 'keep me');
  assert.equal(listenAt(file), -errno.EADDRINUSE);
  assert.ok(existsSync(file));
  assert.equal(listenAt(joinPath(directory, 'no', 'such')), -errno.ENOENT);
});

test('a listener whose queue is full is live, too: nobody waits for room in it', () => {
  const path = joinPath(directory, 'full');
  const listener = listenAt(path);
  const queued: number[] = [];
  for (let fd = 0; fd >= 0; ) {
    fd = connectUnix(path, SOCK.STREAM, true);
    if (fd >= 0) queued.push(fd);
  }
  assert.equal(listenAt(path), -errno.EADDRINUSE);
  closeAll([...queued, listener]);
});

test('frontends come one after the other to one listener, 100 times, and nothing is left', () => {
  const path = joinPath(directory, 'again');
  const listener = listenAt(path);
  assert.equal(adoptSocket(listener), 'listening');
  assert.equal(acceptFrontend(listener), -errno.EAGAIN);
  const before = fdCount();
  for (let i = 0; i < 100; i++) {
    const frontend = Frontend.connect(path);
    const device = new EchoDevice(acceptFrontend(listener));
    frontend.pump = () => device.turn(0);
    assert.deepEqual(readFeatureSet(frontend.request('GET_FEATURES').payload), ALL_VIRTIO);
    frontend.close();
    assert.equal(device.turn(0), false);
    assert.equal(device.disconnectReason, 'frontend hung up');
    device.free();
  }
  assert.equal(fdCount(), before);
  close(listener);
});

test('a passed descriptor tells whether it listens or is connected', () => {
  const ends = new Int32Array(2);
  socketpair(SOCK.STREAM, ends);
  assert.equal(adoptSocket(ends[0]), 'connected');
  const event = eventfd();
  assert.equal(adoptSocket(event), -errno.ENOTSOCK);
  assert.equal(adoptSocket(9999), -errno.EBADF);
  closeAll([...ends, event]);
});
