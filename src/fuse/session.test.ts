/** The session alone, driven without a transport: fences, replies, parking. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errno } from '../sys/errno.ts';
import type { FileSystem } from './file-system.ts';
import { VIRTIOFS_POLICY } from './init.ts';
import { OPCODE_COUNT, OPS, OPS_BY_CODE, type OpName } from './opcodes.ts';
import { PARKED_MAX } from './park-table.ts';
import { type AsyncIo, PARKED, RESUME, type Request } from './request.ts';
import { type Port, REACH, Session } from './session.ts';
import { Stats } from './stats.ts';
import { STAT } from './stats-layout.ts';
import { IN_HEADER_BYTES, OUT_HEADER_BYTES } from './wire/layout.ts';

const NO_IO: AsyncIo = { fsync: () => -95, syncfs: () => -95, read: () => -95 };

/** Every handler answers `answer(name)`; calls are recorded. */
function fakeFs(answer: (name: string, request: Request) => number): { fs: FileSystem; calls: string[] } {
  const calls: string[] = [];
  const fs = new Proxy({} as FileSystem, {
    get: (_, name: string) => (request: Request) => {
      calls.push(name);
      return name === 'reset' || name === 'forget' ? undefined : answer(name, request);
    },
  });
  return { fs, calls };
}

interface Rig {
  session: Session;
  calls: string[];
  replies: { unique: number; error: number; bytes: number }[];
  lines: string[];
  send(op: number, body?: Buffer, unique?: number): number;
  reach: number;
}

function rig(answer: (name: string, request: Request) => number): Rig {
  const { fs, calls } = fakeFs(answer);
  const lines: string[] = [];
  const replies: Rig['replies'] = [];
  const port: Port = {
    keep: () => true,
    reach: () => self.reach,
    restore: (_, request) => {
      request.replySpace = 4096;
      return true;
    },
    isLost: () => false,
    drop: () => {},
    save: () => null,
    load: () => true,
    reply: (_, request, bytes) => {
      replies.push({ unique: request.reply.u32[2]!, error: request.reply.i32[1]!, bytes });
    },
  };
  const session = new Session(fs, port, VIRTIOFS_POLICY, NO_IO, new Stats(), (_, text) => lines.push(text));
  const send = (op: number, body = Buffer.alloc(64), unique = 2): number => {
    const { memory } = session.request;
    memory.u8.fill(0, 0, 4096);
    memory.view.setUint32(0, IN_HEADER_BYTES + body.length, true);
    memory.view.setUint32(4, op, true);
    memory.view.setUint32(8, unique, true);
    memory.u8.set(body, IN_HEADER_BYTES);
    session.request.bytes = IN_HEADER_BYTES + body.length;
    session.request.replySpace = 4096;
    return session.handle();
  };
  const self: Rig = { session, calls, replies, lines, send, reach: REACH.NOW };
  return self;
}

function init(r: Rig): void {
  const body = Buffer.alloc(64);
  body.writeUInt32LE(7, 0);
  body.writeUInt32LE(38, 4);
  assert.equal(r.send(OPS.INIT.op, body), OUT_HEADER_BYTES + 64);
}

const errorOf = (r: Rig): number => r.session.request.reply.i32[1]!;

test('nothing is served before INIT, and a second INIT voids the state of the first', () => {
  const r = rig(() => 0);
  assert.equal(r.send(OPS.GETATTR.op), OUT_HEADER_BYTES);
  assert.equal(errorOf(r), -errno.EIO);
  assert.deepEqual(r.calls, []);
  init(r);
  init(r);
  assert.deepEqual(r.calls, ['reset']);
});

test('a handler that throws is EIO for that request only, and one line says so', () => {
  let broken = true;
  const r = rig(() => {
    if (broken) throw new Error('table is upside down');
    return 104;
  });
  init(r);
  assert.equal(r.send(OPS.GETATTR.op), OUT_HEADER_BYTES);
  assert.equal(errorOf(r), -errno.EIO);
  assert.ok(r.lines.some((l) => l.includes('GETATTR threw') && l.includes('upside down')));
  broken = false;
  assert.equal(r.send(OPS.GETATTR.op), OUT_HEADER_BYTES + 104);
  assert.equal(r.session.stats.values[STAT.exceptions], 1);
});

test('unknown opcodes are ENOSYS, cut requests EINVAL, both answered with their unique', () => {
  const r = rig(() => 0);
  init(r);
  for (const op of [0, 7, 19, OPCODE_COUNT, 4096, 0xffff_ffff]) {
    assert.equal(r.send(op, undefined, 40), OUT_HEADER_BYTES);
    assert.equal(errorOf(r), -errno.ENOSYS, `opcode ${op}`);
    assert.equal(r.session.request.reply.u32[2], 40);
  }
  assert.equal(r.send(OPS.GETATTR.op, Buffer.alloc(15)), OUT_HEADER_BYTES);
  assert.equal(errorOf(r), -errno.EINVAL);
  assert.ok(!r.calls.includes('getattr'));
});

test('a reply that does not fit is an error for that request, never cut', () => {
  const r = rig(() => 5000);
  init(r);
  assert.equal(r.send(OPS.READLINK.op), OUT_HEADER_BYTES);
  assert.equal(errorOf(r), -errno.EIO);
});

test('codes outside the guest range become EIO', () => {
  const r = rig(() => -512);
  init(r);
  r.send(OPS.GETATTR.op);
  assert.equal(errorOf(r), -errno.EIO);
});

test('every opcode has exactly the reply its row says', () => {
  const r = rig(() => 0);
  init(r);
  const body = Buffer.from(`${'\0'.repeat(56)}name\0name\0`);
  for (const spec of OPS_BY_CODE) {
    if (spec === undefined || spec.op === OPS.INIT.op) continue;
    if (!r.session.initialized) init(r);
    const fixed = Buffer.concat([Buffer.alloc(spec.argBytes), Buffer.from('one\0two\0')]);
    const bytes = r.send(spec.op, spec.op === OPS.BATCH_FORGET.op ? body.subarray(0, 8) : fixed);
    assert.equal(bytes, spec.reply === 'none' ? 0 : bytes, `opcode ${spec.op}`);
    assert.ok(spec.reply === 'none' ? bytes === 0 : bytes >= OUT_HEADER_BYTES, `opcode ${spec.op}: ${bytes}`);
  }
});

test('ENOSYS is answered only where the table says for ever', () => {
  const r = rig(() => 0);
  init(r);
  const never: OpName[] = [];
  for (const [name, spec] of Object.entries(OPS) as [OpName, { op: number; argBytes: number; reply: string }][]) {
    if (name === 'INIT' || name === 'DESTROY' || spec.reply === 'none') continue;
    r.send(spec.op, Buffer.concat([Buffer.alloc(spec.argBytes), Buffer.from('one\0two\0')]));
    if (errorOf(r) === -errno.ENOSYS) never.push(name);
  }
  assert.deepEqual(never, ['BMAP', 'POLL', 'SETUPMAPPING', 'REMOVEMAPPING', 'STATX']);
});

test('a parked request is answered once, by result or by running again', () => {
  const tickets: number[] = [];
  let resume: number = RESUME.FINISH;
  const r = rig((name, request) => {
    if (name === 'read' && request.attempt > 0) return 100 + request.attempt;
    tickets.push(request.parking.park(resume, false));
    return PARKED;
  });
  init(r);
  assert.equal(r.send(OPS.FSYNC.op, undefined, 10), PARKED);
  r.session.complete(tickets[0]!, 0);
  r.session.complete(tickets[0]!, -5);
  assert.deepEqual(r.replies, [{ unique: 10, error: 0, bytes: OUT_HEADER_BYTES }]);
  resume = RESUME.RERUN;
  assert.equal(r.send(OPS.READ.op, undefined, 12), PARKED);
  assert.equal(r.send(OPS.READ.op, undefined, 14), PARKED);
  r.session.complete(tickets[2]!, -errno.EIO);
  r.session.complete(tickets[1]!, 0);
  assert.deepEqual(r.replies.slice(1), [
    { unique: 14, error: -errno.EIO, bytes: OUT_HEADER_BYTES },
    { unique: 12, error: 0, bytes: OUT_HEADER_BYTES + 101 },
  ]);
  assert.equal(r.session.parked.count, 0);
});

test('runs of a request that parks again and again are counted: who gives up after some, does', () => {
  const RUNS = 1000;
  let ticket = 0;
  const r = rig((_, request) => {
    if (request.attempt >= RUNS) return -errno.EIO;
    ticket = request.parking.park(RESUME.RERUN, false);
    return PARKED;
  });
  init(r);
  assert.equal(r.send(OPS.READ.op), PARKED);
  for (let run = 0; run < 2 * RUNS && r.replies.length === 0; run++) r.session.complete(ticket, 0);
  assert.deepEqual(r.replies, [{ unique: 2, error: -errno.EIO, bytes: OUT_HEADER_BYTES }]);
});

test('completions while the queue is stopped wait for it; a queue that is gone forgets them', () => {
  const tickets: number[] = [];
  const r = rig((_, request) => {
    tickets.push(request.parking.park(RESUME.FINISH, false));
    return PARKED;
  });
  init(r);
  r.send(OPS.FSYNC.op, undefined, 20);
  r.send(OPS.FSYNC.op, undefined, 22);
  r.reach = REACH.LATER;
  r.session.complete(tickets[0]!, 0);
  r.session.failParkedOf(0, -errno.ESTALE);
  assert.equal(r.replies.length, 0);
  r.reach = REACH.NOW;
  r.session.resumeDeferred();
  assert.deepEqual(
    r.replies.map((x) => x.error),
    [-errno.ESTALE, -errno.ESTALE],
  );
  assert.equal(r.replies.length, 2);
  r.send(OPS.FSYNC.op, undefined, 24);
  r.reach = REACH.NEVER;
  r.session.complete(tickets[2]!, 0);
  assert.equal(r.replies.length, 2);
  assert.equal(r.session.parked.count, 0);
  assert.equal(r.session.stats.values[STAT.droppedReplies], 1);
});

test('INTERRUPT gives a parked read back with EINTR, and leaves a sync alone', () => {
  const r = rig((name, request) => {
    assert.ok(request.parking.park(name === 'fsync' ? RESUME.FINISH : RESUME.RERUN, false) > 0);
    return PARKED;
  });
  init(r);
  r.send(OPS.READ.op, undefined, 30);
  const unique = Buffer.alloc(8);
  unique.writeUInt32LE(30, 0);
  assert.equal(r.send(OPS.INTERRUPT.op, unique, 31), 0);
  assert.deepEqual(r.replies, [{ unique: 30, error: -errno.EINTR, bytes: OUT_HEADER_BYTES }]);
  r.send(OPS.FSYNC.op, undefined, 40);
  unique.writeUInt32LE(40, 0);
  assert.equal(r.send(OPS.INTERRUPT.op, unique, 41), 0);
  assert.equal(r.replies.length, 1);
  assert.equal(r.session.parked.count, 1);
});

test('a full park table refuses, and every slot comes back', () => {
  const tickets: number[] = [];
  const r = rig((_, request) => {
    const ticket = request.parking.park(RESUME.FINISH, false);
    if (ticket === 0) return -errno.EBUSY;
    tickets.push(ticket);
    return PARKED;
  });
  init(r);
  for (let i = 0; i < PARKED_MAX; i++) assert.equal(r.send(OPS.FSYNC.op), PARKED);
  assert.equal(r.send(OPS.FSYNC.op), OUT_HEADER_BYTES);
  assert.equal(errorOf(r), -errno.EBUSY);
  for (const ticket of tickets) r.session.complete(ticket, 0);
  assert.equal(r.replies.length, PARKED_MAX);
  assert.equal(r.session.parked.count, 0);
});
