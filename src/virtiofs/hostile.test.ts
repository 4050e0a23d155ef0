/**
 * Chains no honest driver makes, through the real socket (protocols 2.5): each gets the reaction of its row, and the
 * device answers the next request on the same queue, or, where the ring has to be given up, on another one.
 */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { MAX_WRITE_BYTES } from '../fuse/init.ts';
import { OPS } from '../fuse/opcodes.ts';
import { errno } from '../sys/errno.ts';
import { DESC, DESC_BYTES } from '../vhost/split.ts';
import { DeviceRig } from './testing/device-rig.ts';
import { FuseClient, readArgs } from './testing/fuse-client.ts';
import { FILE_BYTES, patternAt } from './testing/park-fs.ts';

const { NEXT, WRITE, INDIRECT } = DESC;
const QUEUE_SIZE = 16;
const GUARD = 0x5a;

let rig: DeviceRig;
before(() => {
  rig = new DeviceRig();
});
after(() => rig.stop());

interface Place {
  client: FuseClient;
  /** A GETATTR request of 56 bytes. */
  request: number;
  /** 4 KiB for replies, in front of a guard page. */
  reply: number;
  /** Room for an indirect table. */
  table: number;
}

function place(): Place {
  const client = new FuseClient(rig.sock, { queueSize: QUEUE_SIZE, requestQueues: 2 });
  client.init();
  const request = client.ram.alloc(64, 64);
  const message = Buffer.alloc(56);
  message.writeUInt32LE(56, 0);
  message.writeUInt32LE(OPS.GETATTR.op, 4);
  message.writeUInt32LE(0x42, 8);
  message.writeUInt32LE(2, 16);
  client.ram.write(request, message);
  const reply = client.ram.alloc(8192, 4096);
  client.ram.write(reply + 4096, Buffer.alloc(4096, GUARD));
  return { client, request, reply, table: client.ram.alloc(64 * 1024, 16) };
}

/** [gpa, bytes, flags, next] of descriptor 0, 1, … of the ring itself. */
type Chain = (p: Place) => [number, number, number, number][];

/** Rows whose head comes back with length 0, unserved. */
const REFUSED: Record<string, Chain> = {
  'next outside the table': (p) => [[p.request, 56, NEXT, QUEUE_SIZE]],
  'indirect with next': (p) => [
    [p.table, DESC_BYTES, INDIRECT | NEXT, 1],
    [p.reply, 4096, WRITE, 0],
  ],
  'indirect table of 0 bytes': (p) => [[p.table, 0, INDIRECT, 0]],
  'indirect table of 1 byte': (p) => [[p.table, 1, INDIRECT, 0]],
  'indirect table of 15 bytes': (p) => [[p.table, 15, INDIRECT, 0]],
  'indirect table of 17 bytes': (p) => [[p.table, 17, INDIRECT, 0]],
  'indirect table of 32,769 entries': (p) => [[p.table, 32_769 * DESC_BYTES, INDIRECT, 0]],
  'indirect table of 4 GiB less 16': (p) => [[p.table, 0xffff_fff0, INDIRECT, 0]],
  'indirect table outside memory': () => [[0xffff_0000_0000, 32, INDIRECT, 0]],
  'indirect inside indirect': (p) => {
    p.client.ram.write(p.table, descriptor(p.table, 16, INDIRECT, 0));
    return [[p.table, 16, INDIRECT, 0]];
  },
  'indirect chain that leaves its table': (p) => {
    p.client.ram.write(p.table, descriptor(p.request, 56, NEXT, 2));
    return [[p.table, 32, INDIRECT, 0]];
  },
  'indirect chain that loops': (p) => {
    p.client.ram.write(
      p.table,
      Buffer.concat([descriptor(p.request, 28, NEXT, 1), descriptor(p.request, 28, NEXT, 0)]),
    );
    return [[p.table, 32, INDIRECT, 0]];
  },
  'readable after writable': (p) => [
    [p.reply, 128, WRITE | NEXT, 1],
    [p.request, 56, 0, 0],
  ],
  'request outside memory': (p) => [
    [0x7fff_ffff_f000, 56, NEXT, 1],
    [p.reply, 4096, WRITE, 0],
  ],
  'reply outside memory': (p) => [
    [p.request, 56, NEXT, 1],
    [2 ** 40, 4096, WRITE, 0],
  ],
  'reply that ends outside memory': (p) => [
    [p.request, 56, NEXT, 1],
    [p.reply, 0xffff_ffff, WRITE, 0],
  ],
  'address and length that wrap': (p) => [
    [p.request, 56, NEXT, 1],
    [2 ** 53 - 4096, 0xffff_ffff, WRITE, 0],
  ],
  'no writable part': (p) => [[p.request, 56, 0, 0]],
  'writable part of 15 bytes': (p) => [
    [p.request, 56, NEXT, 1],
    [p.reply, 15, WRITE, 0],
  ],
  'request of 39 bytes': (p) => [
    [p.request, 39, NEXT, 1],
    [p.reply, 4096, WRITE, 0],
  ],
  'no readable part': (p) => [[p.reply, 4096, WRITE, 0]],
};

function descriptor(gpa: number, bytes: number, flags: number, next: number): Buffer {
  const d = Buffer.alloc(DESC_BYTES);
  d.writeBigUInt64LE(BigInt(gpa), 0);
  d.writeUInt32LE(bytes, 8);
  d.writeUInt16LE(flags, 12);
  d.writeUInt16LE(next, 14);
  return d;
}

/** READ of 512 bytes with fh 1. */
function parkingRead(): Buffer {
  const message = Buffer.alloc(80);
  message.writeUInt32LE(80, 0);
  message.writeUInt32LE(OPS.READ.op, 4);
  message.writeUInt32LE(2, 16);
  message.writeUInt32LE(1, 40);
  message.writeUInt32LE(512, 56);
  return message;
}

function assertGuard({ client, reply }: Place): void {
  assert.ok(
    Buffer.from(client.ram.read(reply + 4096, 4096)).every((byte) => byte === GUARD),
    'guard page changed',
  );
}

describe('chains that are refused one by one', () => {
  for (const [name, chain] of Object.entries(REFUSED)) {
    test(name, () => {
      const p = place();
      const ring = p.client.rings[1]!;
      for (const [i, row] of chain(p).entries()) ring.setDescriptor(i, ...row);
      ring.setAvailable(0);
      ring.submit();
      assert.equal(ring.waitUsed(5000), 0, 'the head comes back');
      assert.equal(ring.usedBytes, 0);
      assert.equal(ring.takeUsed(), -1, 'once');
      assertGuard(p);
      ring.setDescriptor(0, p.request, 56, NEXT, 1);
      ring.setDescriptor(1, p.reply, 4096, WRITE, 0);
      ring.setAvailable(0);
      ring.submit();
      assert.equal(ring.waitUsed(5000), 0, 'the queue goes on');
      assert.equal(ring.usedBytes, 16 + 104);
      p.client.close();
    });
  }
});

/** Rows after which the ring cannot be trusted any more. */
const BROKEN: Record<string, (p: Place) => void> = {
  'a loop of direct descriptors': (p) => {
    const ring = p.client.rings[1]!;
    ring.setDescriptor(0, p.request, 28, NEXT, 1);
    ring.setDescriptor(1, p.request, 28, NEXT, 0);
    ring.setAvailable(0);
    ring.submit();
  },
  'a head outside the table': (p) => {
    p.client.rings[1]!.setAvailable(QUEUE_SIZE);
    p.client.rings[1]!.submit();
  },
  'avail.idx far ahead': (p) => {
    p.client.rings[1]!.forceAvailIdx(p.client.rings[1]!.availIdx + QUEUE_SIZE + 1);
    p.client.rings[1]!.kick();
  },
};

describe('what breaks a ring breaks that ring only', () => {
  for (const [name, spoil] of Object.entries(BROKEN)) {
    test(name, () => {
      const p = place();
      const brokenBefore = rig.stats.get('brokenRings');
      spoil(p);
      for (let i = 0; i < 100 && rig.stats.get('brokenRings') === brokenBefore; i++) rig.pause(10);
      assert.equal(rig.stats.get('brokenRings'), brokenBefore + 1);
      assert.equal(p.client.rings[1]!.takeUsed(), -1, 'nothing is returned that cannot be returned safely');
      assert.equal(p.client.call('GETATTR', Buffer.alloc(16), { queue: 2, replyBytes: 104 }).error, 0);
      p.client.forget(2n, 1n);
      assertGuard(p);
      p.client.close();
      const next = new FuseClient(rig.sock);
      next.init();
      assert.equal(next.getattr(2n).error, 0, 'a new session works');
      next.close();
    });
  }
});

for (const op of ['READ', 'WRITE', 'GETATTR', 'LOOKUP', 'SETXATTR'] as const) {
  test(`${op} with 8 MiB behind its header is refused, and nothing of it is kept`, () => {
    const client = new FuseClient(rig.sock);
    client.init();
    const { error } = client.call(op, Buffer.alloc(8 * 2 ** 20, GUARD), { nodeid: 2n });
    assert.ok(error < 0, `answered ${error}`);
    assert.equal(client.getattr(2n).error, 0);
    client.close();
  });
}

test('a head made available twice while it is in flight breaks the ring, and is answered at most once', () => {
  const p = place();
  const ring = p.client.rings[1]!;
  // It parks, so that the first one is still in flight.
  const gpa = p.client.ram.alloc(128, 64);
  p.client.ram.write(gpa, parkingRead());
  ring.setDescriptor(0, gpa, 80, NEXT, 1);
  ring.setDescriptor(1, p.reply, 528, WRITE, 0);
  ring.setAvailable(0);
  ring.submit();
  rig.waitParked(1);
  const brokenBefore = rig.stats.get('brokenRings');
  ring.setAvailable(0);
  ring.submit();
  for (let i = 0; i < 100 && rig.stats.get('brokenRings') === brokenBefore; i++) rig.pause(10);
  assert.equal(rig.stats.get('brokenRings'), brokenBefore + 1);
  assert.equal(ring.takeUsed(), -1);
  p.client.close();
  rig.waitParked(0);
});

test('a READ of more than INIT agreed on gets that much', () => {
  const client = new FuseClient(rig.sock);
  client.init();
  const { body } = client.call('READ', readArgs(0n, 4096, FILE_BYTES), { nodeid: 2n, replyBytes: FILE_BYTES });
  assert.equal(body.length, MAX_WRITE_BYTES);
  assert.equal(body.at(-1), patternAt(4096 + MAX_WRITE_BYTES - 1));
  client.close();
});

test('parked requests of the longest chains take bounded memory; what goes beyond is answered EBUSY', () => {
  const SENT = 80;
  const ENTRIES = 32_768;
  const client = new FuseClient(rig.sock, { queueSize: 128 });
  client.init();
  const request = client.ram.alloc(128, 64);
  client.ram.write(request, parkingRead());
  const reply = client.ram.alloc(4096, 4096);
  const table = client.ram.alloc(ENTRIES * DESC_BYTES, 16);
  const entries = [descriptor(request, 80, NEXT, 1)];
  for (let i = 1; i < ENTRIES; i++) entries.push(descriptor(reply, 64, i + 1 < ENTRIES ? WRITE | NEXT : WRITE, i + 1));
  client.ram.write(table, Buffer.concat(entries));
  const ring = client.rings[1]!;
  for (let head = 0; head < SENT; head++) {
    ring.setDescriptor(head, table, ENTRIES * DESC_BYTES, INDIRECT, 0);
    ring.setAvailable(head);
  }
  ring.submit();
  // 2 * 4096 * 257 segments fit.
  const kept = Math.floor((2 * 4096 * 257) / (ENTRIES - 1));
  for (let i = kept; i < SENT; i++) {
    assert.ok(ring.waitUsed(5000) >= 0, `${i} parked, or no answer`);
    assert.equal(ring.usedBytes, 16);
  }
  assert.equal(Buffer.from(client.ram.read(reply, 16)).readInt32LE(4), -errno.EBUSY);
  assert.equal(rig.parked(), kept);
  client.close();
  rig.waitParked(0);
});

test('a VMM that vanishes in the middle of requests leaves nothing behind', () => {
  for (let round = 0; round < 20; round++) {
    const p = place();
    for (let i = 0; i < 10; i++) {
      const args = Buffer.alloc(40);
      args.writeUInt32LE(round % 2, 0);
      args.writeUInt32LE(4096, 16);
      p.client.submit('READ', args, { nodeid: 2n, replyBytes: 4096 });
    }
    p.client.close();
  }
  rig.waitParked(0);
  const p = place();
  assert.equal(p.client.getattr(2n).error, 0);
  p.client.close();
});
