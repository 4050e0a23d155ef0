/** Union and session together: what happens to parked requests when their member goes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { VIRTIOFS_POLICY } from '../fuse/init.ts';
import { OPS } from '../fuse/opcodes.ts';
import { type AsyncIo, PARKED } from '../fuse/request.ts';
import { type Port, REACH, Session } from '../fuse/session.ts';
import { Stats } from '../fuse/stats.ts';
import { IN_HEADER_BYTES } from '../fuse/wire/layout.ts';
import { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { MemoryFs } from './testing/memory-fs.ts';
import { Union } from './union.ts';

const NO_IO: AsyncIo = { fsync: () => -95, syncfs: () => -95, read: () => -95 };
const READ_BYTES = 4096;

interface Node {
  low: number;
  high: number;
}

class Rig {
  readonly union = new Union(Arena.create());
  readonly replies: { unique: number; error: number; bytes: number }[] = [];
  readonly session: Session;
  readonly #data = new NativeMemory(READ_BYTES);

  constructor() {
    const port: Port = {
      keep: () => true,
      reach: () => REACH.NOW,
      isLost: () => false,
      restore: (_, request) => {
        this.#lend(request.data);
        request.replySpace = READ_BYTES;
        return true;
      },
      drop: () => {},
      save: () => null,
      load: () => true,
      reply: (_, request, bytes) => {
        this.replies.push({ unique: request.reply.u32[2], error: request.reply.i32[1], bytes });
      },
    };
    this.session = new Session(this.union, port, VIRTIOFS_POLICY, NO_IO, new Stats(), () => {});
    this.union.onMemberGone = (id) => this.session.failParkedOf(id, -errno.ESTALE);
    this.init();
  }

  init(unique = 2): void {
    const init = Buffer.alloc(64);
    init.writeUInt32LE(7, 0);
    init.writeUInt32LE(38, 4);
    this.send(OPS.INIT.op, { low: 0, high: 0 }, init, unique);
  }

  #lend(data: Session['request']['data']): void {
    data.set(new Float64Array([this.#data.address]), new Uint32Array([READ_BYTES]), 0, 1, 0, READ_BYTES);
  }

  send(op: number, node: Node, body: Buffer, unique = 2): number {
    const { request } = this.session;
    const { view, u8 } = request.memory;
    u8.fill(0, 0, 1024);
    view.setUint32(0, IN_HEADER_BYTES + body.length, true);
    view.setUint32(4, op, true);
    view.setUint32(8, unique, true);
    view.setUint32(16, node.low, true);
    view.setUint32(20, node.high, true);
    u8.set(body, IN_HEADER_BYTES);
    request.bytes = IN_HEADER_BYTES + body.length;
    request.replySpace = READ_BYTES;
    this.#lend(request.data);
    return this.session.handle();
  }

  walk(path: string): Node {
    let node: Node = { low: 1, high: 0 };
    for (const name of path.split('/').filter((part) => part !== '')) {
      this.send(OPS.LOOKUP.op, node, Buffer.from(`${name}\0`));
      const { i32, u32 } = this.session.request.reply;
      assert.equal(i32[1], 0, name);
      node = { low: u32[4], high: u32[5] };
    }
    return node;
  }

  open(node: Node): number {
    this.send(OPS.OPEN.op, node, Buffer.alloc(8));
    assert.equal(this.session.request.reply.i32[1], 0);
    return this.session.request.reply.u32[4];
  }

  read(node: Node, fh: number, unique: number): number {
    const body = Buffer.alloc(40);
    body.writeUInt32LE(fh, 0);
    body.writeUInt32LE(READ_BYTES, 16);
    return this.send(OPS.READ.op, node, body, unique);
  }
}

test('umount answers the reads parked there and no others; late completions find nobody', () => {
  const rig = new Rig();
  const slow = new MemoryFs();
  const other = new MemoryFs();
  for (const fs of [slow, other]) fs.addFile('/f', 'content');
  rig.union.mount('/slow', slow);
  rig.union.mount('/other', other);
  const slowFile = rig.walk('/slow/f');
  const otherFile = rig.walk('/other/f');
  const slowFh = rig.open(slowFile);
  const otherFh = rig.open(otherFile);
  slow.park = other.park = true;
  for (let i = 0; i < 32; i++) assert.equal(rig.read(slowFile, slowFh, 100 + i), PARKED);
  assert.equal(rig.read(otherFile, otherFh, 500), PARKED);

  assert.equal(rig.union.umount('/slow'), 0);
  assert.deepEqual(
    rig.replies.map((reply) => [reply.unique, reply.error]),
    Array.from({ length: 32 }, (_, i) => [100 + i, -errno.ESTALE]),
  );
  for (const ticket of slow.tickets) rig.session.complete(ticket, 0);
  assert.equal(rig.replies.length, 32);
  assert.equal(rig.session.parked.count, 1);

  rig.session.complete(other.tickets[0] as number, 0);
  assert.deepEqual(rig.replies.at(-1), { unique: 500, error: 0, bytes: 16 + 'content'.length });
  rig.read(slowFile, slowFh, 600);
  assert.equal(rig.session.request.reply.i32[1], -errno.ESTALE);
});

/** A read with unique 7 of the member at `/`, parked. */
function parkedRead(): { rig: Rig; old: MemoryFs } {
  const rig = new Rig();
  const old = new MemoryFs();
  old.addFile('/f', 'old bytes');
  rig.union.mount('/', old);
  const file = rig.walk('/f');
  const fh = rig.open(file);
  old.park = true;
  assert.equal(rig.read(file, fh, 7), PARKED);
  return { rig, old };
}

test('a read parked on a retired member is finished by it', () => {
  const { rig, old } = parkedRead();
  const fresh = new MemoryFs();
  fresh.addFile('/f', 'new');
  rig.union.remount('/', fresh);
  rig.union.collect();
  rig.session.complete(old.tickets[0] as number, 0);
  assert.deepEqual(rig.replies, [{ unique: 7, error: 0, bytes: 16 + 'old bytes'.length }]);
});

test('a second INIT, which ends a retired member with a read parked there, gets its own reply', () => {
  const { rig, old } = parkedRead();
  rig.union.remount('/', new MemoryFs());
  rig.init(9);
  assert.deepEqual([...rig.session.request.reply.u32.subarray(0, 3)], [16 + 64, 0, 9]);
  rig.union.collect();
  assert.equal(old.destroyed, true);
  assert.deepEqual(rig.replies, [{ unique: 7, error: -errno.ESTALE, bytes: 16 }]);
});
