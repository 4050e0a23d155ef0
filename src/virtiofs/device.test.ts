/** The device through its real socket, driven by our own frontend; the file system behind it parks on demand. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { after, before, test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { OPS } from '../fuse/opcodes.ts';
import { errno } from '../sys/errno.ts';
import { memTable } from '../vhost/frontend.ts';
import { DeviceRig } from './testing/device-rig.ts';
import { COMMAND, SHARED } from './testing/device-worker.ts';
import { FuseClient, readArgs } from './testing/fuse-client.ts';
import { FILE_BYTES, FILLED_FH, PARKING_FH, patternAt, TWICE_FH } from './testing/park-fs.ts';

let rig: DeviceRig;
before(() => {
  rig = new DeviceRig();
});
after(() => rig.stop());

function expectPattern(body: Buffer, offset: number, size: number): void {
  assert.equal(body.length, size);
  for (let i = 0; i < size; i += 97) assert.equal(body[i], patternAt(offset + i), `byte ${offset + i}`);
}

for (const eventIdx of [true, false]) {
  test(`requests are answered on every queue, event index ${eventIdx}`, () => {
    const client = new FuseClient(rig.sock, { eventIdx, requestQueues: 2 });
    assert.equal(client.init().readUInt32LE(4), 45);
    for (const queue of [1, 2]) {
      const attr = client.call('GETATTR', Buffer.alloc(16), { queue, replyBytes: 104 });
      assert.equal(attr.error, 0);
      assert.equal(attr.usedBytes, 120);
      const data = client.call('READ', readArgs(0n, 8000, 128 * 1024), { queue, replyBytes: 128 * 1024 });
      expectPattern(data.body, 8000, 128 * 1024);
    }
    assert.equal(client.read(2n, 0n, FILE_BYTES - 10, 4096).body.length, 10);
    client.forget(2n, 1n);
    client.close();
  });
}

test('config space: tag and queue count', async () => {
  const { PROTOCOL } = await import('../vhost/features.ts');
  const client = new FuseClient(rig.sock, { protocol: [PROTOCOL.CONFIG, PROTOCOL.REPLY_ACK] });
  const config = Buffer.from(client.frontend.config(0, 40));
  assert.equal(config.subarray(0, 5).toString('latin1'), 'test\0');
  assert.equal(config.readUInt32LE(36), 2);
  client.close();
});

test('32 reads parked across stop and start are neither lost nor doubled', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  const heads = new Map<number, number>();
  for (let i = 0; i < 32; i++) {
    heads.set(client.submit('READ', readArgs(PARKING_FH, i * 4096, 4096), { nodeid: 2n, replyBytes: 4096 }), i);
  }
  rig.waitParked(32);
  const base = client.frontend.stopRing(1);
  assert.equal(base, client.rings[1]!.availIdx);
  rig.command(COMMAND.COMPLETE_ALL); // while the ring is stopped: nothing may be written
  assert.equal(client.rings[1]!.takeUsed(), -1);
  client.frontend.startRing(1, client.rings[1]!, base);
  for (let n = 0; n < 32; n++) {
    const got = client.wait(1);
    assert.ok(got !== null, `reply ${n} is lost`);
    const i = heads.get(got.head);
    assert.ok(i !== undefined, 'doubled');
    heads.delete(got.head);
    expectPattern(got.reply.body, i * 4096, 4096);
  }
  assert.equal(client.wait(1, 100), null);
  assert.equal(rig.parked(), 0);
  client.close();
});

test('reads that park again, after a park they took back, are answered in their own places', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  const heads = new Map<number, number>();
  for (let i = 0; i < 8; i++) {
    heads.set(client.submit('READ', readArgs(TWICE_FH, i * 4096, 4096), { nodeid: 2n, replyBytes: 4096 }), i);
  }
  rig.waitParked(8);
  assert.equal(client.getattr(2n).error, 0); // the last chain walked is another's
  rig.command(COMMAND.COMPLETE_ALL);
  assert.equal(rig.parked(), 8);
  rig.command(COMMAND.COMPLETE_ALL);
  for (let n = 0; n < 8; n++) {
    const got = client.wait(1);
    assert.ok(got !== null, `reply ${n} is lost`);
    expectPattern(got.reply.body, (heads.get(got.head) as number) * 4096, 4096);
    heads.delete(got.head);
  }
  client.close();
});

test('a read that the kernel filled while the memory table was replaced is read again', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  client.submit('READ', readArgs(FILLED_FH, 4096, 4096), { nodeid: 2n, replyBytes: 4096 });
  rig.waitParked(1);
  const { regions } = client.ram;
  const fds = regions.map(({ fd }) => fd);
  client.frontend.must('SET_MEM_TABLE', memTable(regions), fds); // as at hot-plug: the same memory, mapped anew
  rig.command(COMMAND.COMPLETE_ALL);
  const got = client.wait(1);
  assert.ok(got !== null);
  expectPattern(got.reply.body, 4096, 4096);
  client.close();
});

test('a ring that starts elsewhere forgets what was parked', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  for (let i = 0; i < 5; i++) client.submit('READ', readArgs(PARKING_FH, 0, 4096), { nodeid: 2n });
  rig.waitParked(5);
  client.frontend.stopRing(1);
  client.close();
  const next = new FuseClient(rig.sock); // as after a reboot: new rings from 0
  next.init();
  rig.waitParked(0);
  rig.command(COMMAND.COMPLETE_ALL);
  assert.equal(next.wait(1, 50), null, 'an old completion reached the new session');
  expectPattern(next.read(2n, 0n, 0, 4096).body, 0, 4096);
  next.close();
});

test('a second INIT on the same rings voids the state of the first', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  rig.command(COMMAND.LOOK);
  const resets = rig.shared[SHARED.RESETS]!;
  client.init(31, 0x3ff_fffb, 0);
  rig.command(COMMAND.LOOK);
  assert.equal(rig.shared[SHARED.RESETS], resets + 1);
  client.close();
});

test('100 reconnects, some with requests under way, leak nothing', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  client.close();
  const count = (): { fds: number; maps: number } => ({
    fds: fdCount(),
    maps: fs.readFileSync('/proc/self/maps', 'latin1').split('\n').length,
  });
  for (let i = 0; i < 100; i++) reconnect(i); // until V8 and the allocator have what they want
  rig.waitParked(0);
  const before = count();
  for (let i = 0; i < 100; i++) reconnect(i);
  let now = count();
  for (let i = 0; i < 200 && now.fds > before.fds; i++) {
    rig.command(COMMAND.LOOK); // the device closes its half when it sees the hang-up
    now = count();
  }
  assert.ok(now.fds <= before.fds, `descriptors ${before.fds} -> ${now.fds}`);
  assert.ok(now.maps <= before.maps + 8, `mappings ${before.maps} -> ${now.maps}`);
  rig.waitParked(0);
});

function reconnect(i: number): void {
  const client = new FuseClient(rig.sock, { memory: [{ gpa: 0x10_0000, bytes: 4 * 2 ** 20 }] });
  client.init();
  if (i % 3 === 0) client.submit('READ', readArgs(PARKING_FH, 0, 4096), { nodeid: 2n });
  else assert.equal(client.getattr(2n).error, 0);
  client.close();
}

test('bad guests: each gets its error, and the device goes on', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  const ok = (): void => assert.equal(client.getattr(2n).error, 0);
  assert.equal(client.call(999, Buffer.alloc(8)).error, -errno.ENOSYS);
  assert.equal(client.call('GETATTR', Buffer.alloc(3)).error, -errno.EINVAL);
  ok();
  assert.equal(client.call('READLINK', Buffer.alloc(0), { replyBytes: 0 }).error, -errno.EOPNOTSUPP);
  assert.equal(client.call('GETATTR', Buffer.alloc(16), { replyBytes: 50 }).error, -errno.EIO, 'reply does not fit');
  ok();
  const ring = client.rings[1]!;
  const short = client.ram.alloc(64);
  const lie = Buffer.alloc(40);
  lie.writeUInt32LE(4000, 0);
  lie.writeUInt32LE(OPS.GETATTR.op, 4);
  client.ram.write(short, lie);
  const raw = (buffers: { gpa: number; bytes: number; writable: boolean }[]): number => {
    ring.addDirect(buffers);
    ring.submit();
    assert.ok(ring.waitUsed(5000) >= 0, 'head was not returned');
    return ring.usedBytes;
  };
  assert.equal(raw([{ gpa: short, bytes: 40, writable: false }]), 0, 'no room for a reply');
  assert.equal(
    raw([
      { gpa: short, bytes: 12, writable: false },
      { gpa: short, bytes: 64, writable: true },
    ]),
    0,
    'no header',
  );
  assert.equal(
    raw([
      { gpa: short, bytes: 40, writable: false },
      { gpa: short + 64, bytes: 8, writable: true },
    ]),
    0,
  );
  assert.equal(
    raw([
      { gpa: short, bytes: 40, writable: false },
      { gpa: short, bytes: 40, writable: true },
    ]),
    16,
    'len lies',
  );
  assert.equal(
    raw([
      { gpa: 0xdead_0000_0000, bytes: 40, writable: false },
      { gpa: short, bytes: 64, writable: true },
    ]),
    0,
  );
  ok();
  client.close();
});

test('a broken ring stops alone: hiprio and the other queue go on', () => {
  const client = new FuseClient(rig.sock, { requestQueues: 2 });
  client.init();
  client.rings[1]!.forceAvailIdx(client.rings[1]!.availIdx + 1000);
  client.rings[1]!.kick();
  for (let i = 0; i < 3; i++) assert.equal(client.call('GETATTR', Buffer.alloc(16), { queue: 2 }).error, 0);
  client.forget(2n, 1n);
  client.close();
  const next = new FuseClient(rig.sock);
  next.init();
  assert.equal(next.getattr(2n).error, 0);
  next.close();
});

test('a fragmented request works: header and body in one-byte pieces', () => {
  const client = new FuseClient(rig.sock, { queueSize: 256 });
  client.init();
  const ring = client.rings[1]!;
  const gpa = client.ram.alloc(4096);
  const message = Buffer.alloc(80);
  message.writeUInt32LE(80, 0);
  message.writeUInt32LE(OPS.READ.op, 4);
  message.writeUInt32LE(0x777, 8);
  message.writeUInt32LE(2, 16);
  readArgs(0n, 5, 100).copy(message, 40);
  const buffers: { gpa: number; bytes: number; writable: boolean }[] = [];
  // Every other byte of two interleaved copies, so that pieces cannot be joined.
  for (let i = 0; i < 80; i++) {
    client.ram.write(gpa + i * 2, message.subarray(i, i + 1));
    buffers.push({ gpa: gpa + i * 2, bytes: 1, writable: false });
  }
  for (let i = 0; i < 116; i++) buffers.push({ gpa: gpa + 1024 + i * 2, bytes: 1, writable: true });
  ring.addIndirect(buffers);
  ring.submit();
  assert.ok(ring.waitUsed(5000) >= 0);
  assert.equal(ring.usedBytes, 116);
  const reply = Buffer.alloc(116);
  for (let i = 0; i < 116; i++) reply[i] = client.ram.read(gpa + 1024 + i * 2, 1)[0]!;
  assert.equal(reply.readUInt32LE(0), 116);
  assert.equal(reply.readUInt32LE(8), 0x777);
  for (let i = 0; i < 100; i++) assert.equal(reply[16 + i], patternAt(5 + i));
  client.close();
});

/**
 * Objects would show as hundreds of bytes. What is left are doubles that V8 boxes (16 bytes each) where an address or a
 * time crosses a call that is not inlined; they die young, 16 MiB of them per scavenge.
 */
const BOXED_BYTES_PER_REQUEST_MAX = 160;

test('serving makes no objects: 22,500 requests cost a few boxed doubles each', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  const run = (n: number): number => {
    for (let i = 0; i < n; i++) {
      if (client.getattr(2n).error !== 0) assert.fail('getattr');
      if (i % 8 === 0 && client.read(2n, 0n, 4096, 4096).error !== 0) assert.fail('read');
    }
    rig.command(COMMAND.LOOK);
    return rig.shared[SHARED.HEAP]!;
  };
  run(4000); // compiled, inline caches warm
  const from = run(100);
  const to = run(20_000);
  const bytesPerRequest = ((to - from) * 1024) / 22_500;
  assert.ok(bytesPerRequest < BOXED_BYTES_PER_REQUEST_MAX, `${bytesPerRequest} bytes a request`);
  client.close();
});
