import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { errno } from './errno.ts';
import { close } from './io.ts';
import { NativeMemory } from './native-memory.ts';
import {
  accept,
  connectUnix,
  isListening,
  listenUnix,
  MSG,
  peerCredentials,
  SOCK,
  SOCKET_PATH_BYTES_MAX,
  SocketMessage,
  socketpair,
  socketType,
} from './socket.ts';
import { eventfd, notify, POLL, pollOne } from './wait.ts';

function pair(type: number): [number, number] {
  const ends = new Int32Array(2);
  assert.equal(socketpair(type, ends), 0);
  return [ends[0], ends[1]];
}

test('bytes and descriptors cross a socket pair; received ones are close-on-exec and the same file', () => {
  for (const type of [SOCK.STREAM, SOCK.SEQPACKET]) {
    const before = fdCount();
    const [left, right] = pair(type);
    const memory = new NativeMemory(4096);
    memory.u8.set([1, 2, 3, 4, 5]);
    const message = new SocketMessage(4);
    const event = eventfd();
    assert.equal(message.send(left, memory.address, 5, Int32Array.of(event, event, event), 3, 0), 5);
    assert.equal(message.receive(right, memory.address + 100, 100, MSG.DONTWAIT), 5);
    assert.deepEqual([...memory.u8.subarray(100, 105)], [1, 2, 3, 4, 5]);
    assert.equal(message.fdCount, 3);
    const received = [...message.fds.subarray(0, 3)];
    notify(received[2]);
    assert.equal(pollOne(event, POLL.IN, 0), POLL.IN);
    assert.equal(message.receive(right, memory.address, 100, MSG.DONTWAIT), -errno.EAGAIN);
    assert.equal(message.fdCount, 0);
    close(left);
    assert.equal(message.receive(right, memory.address, 100, 0), 0);
    close(right);
    close(event);
    memory.free();
    message.free();
    assert.equal(fdCount(), before + 3, 'three descriptors were received and are ours to close');
    for (const fd of received) close(fd);
    assert.equal(fdCount(), before);
  }
});

test('more descriptors than there is room for: the surplus is closed and the loss is told', () => {
  const [left, right] = pair(SOCK.STREAM);
  const memory = new NativeMemory(4096);
  const sender = new SocketMessage(253);
  const receiver = new SocketMessage(3);
  const event = eventfd();
  const before = fdCount();
  for (let count = 1; count <= 253; count += 7) {
    assert.equal(sender.send(left, memory.address, 1, new Int32Array(count).fill(event), count, 0), 1);
    assert.equal(receiver.receive(right, memory.address, 1, 0), 1);
    assert.equal(receiver.fdCount, Math.min(3, count));
    assert.equal(receiver.truncated, count > 3);
    receiver.closeFds();
    assert.equal(fdCount(), before);
  }
  for (const fd of [left, right, event]) close(fd);
});

test('listen, connect, accept, peer credentials; paths that cannot be bound say why', () => {
  const directory = mkdtempSync(join(tmpdir(), 'sock-'));
  const path = join(directory, 's');
  const before = fdCount();
  const listener = listenUnix(path, SOCK.STREAM, 1);
  assert.ok(listener >= 0);
  assert.equal(isListening(listener), 1);
  assert.equal(listenUnix(path, SOCK.STREAM, 1), -errno.EADDRINUSE);
  assert.equal(listenUnix(`${directory}/${'x'.repeat(SOCKET_PATH_BYTES_MAX)}`, SOCK.STREAM, 1), -errno.ENAMETOOLONG);
  assert.equal(connectUnix(`${path}-none`, SOCK.STREAM), -errno.ENOENT);
  const client = connectUnix(path, SOCK.STREAM);
  const server = accept(listener, true);
  assert.ok(client >= 0 && server >= 0);
  const who = new Int32Array(3);
  assert.equal(peerCredentials(server, who), 0);
  assert.deepEqual([...who], [process.pid, process.geteuid?.(), process.getegid?.()]);
  assert.equal(socketType(server), SOCK.STREAM);
  assert.equal(isListening(server), 0);
  close(listener);
  assert.equal(connectUnix(path, SOCK.STREAM), -errno.ECONNREFUSED);
  close(client);
  close(server);
  const event = eventfd();
  assert.equal(isListening(event), -errno.ENOTSOCK);
  close(event);
  assert.equal(fdCount(), before);
  rmSync(directory, { recursive: true });
});
