/**
 * A daemon's device thread and its successor's, over a socket pair in place of /dev/fuse: what the kernel knows from
 * the first (nodes, handles) means the same to the second, for every opcode; and what was unanswered is asked for.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';
import { SILENT } from '../common/log.ts';
import { DevFuse } from '../fuse/dev-fuse.ts';
import { INIT, INIT2 } from '../fuse/flags.ts';
import { OPS, type OpName } from '../fuse/opcodes.ts';
import type { AsyncIo } from '../fuse/request.ts';
import type { FailoverPolicy } from '../fuse/resend.ts';
import { Stats } from '../fuse/stats.ts';
import { placesOf } from '../rafs/fixture-blobs.testing.ts';
import { openImage } from '../rafs/open-image.ts';
import { newSpillHandle } from '../storage/cache/spill-bits.ts';
import { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { close, dupCloexec, read, setNonBlocking, write } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { SOCK, socketpair } from '../sys/socket.ts';
import { POLL, pollOne } from '../sys/wait.ts';
import { createMember, type MemberEnvironment } from '../vfs/members.ts';
import type { RafsSpec } from '../vfs/spec.ts';
import { Union } from '../vfs/union.ts';
import type { SavedDevice } from './control.ts';
import { restoreDevice, saveDevice } from './hand-over.ts';

const FIXTURES = process.env['NYDUS_FIXTURES'] ?? path.resolve('../shared/fixtures');
const BOOTSTRAP = path.join(FIXTURES, 'images/boot/v6-none-blake3-4k.boot');
const dir = mkdtempSync(path.join(tmpdir(), 'hand-over-'));
after(() => rmSync(dir, { recursive: true, force: true }));

const IO: AsyncIo = { fsync: () => -95, syncfs: () => -95, read: () => -95 };
const environment: Omit<MemberEnvironment, 'id' | 'arena'> = { log: SILENT, fetch: () => assert.fail('all is there') };

/** The image, its data uncompressed and complete. */
function spec(): RafsSpec {
  const image = openImage(BOOTSTRAP);
  const [blob] = image.blobs;
  assert.ok(blob !== undefined);
  const ready = new SharedArrayBuffer(Math.ceil(blob.chunkCount / 8));
  new Uint8Array(ready).fill(0xff);
  const { chunkCount, uncompressedSize } = blob;
  const dataFd = openSync(path.join(FIXTURES, 'images/blobs', blob.id), 'r');
  const bootstrapFd = dupCloexec(image.fd);
  image.close();
  close(image.fd);
  return {
    kind: 'rafs',
    bootstrapFd,
    bootstrapPath: BOOTSTRAP,
    blobs: [
      {
        handle: 1,
        dataFd,
        ready,
        chunkCount,
        uncompressedSize,
        spill: newSpillHandle(chunkCount),
        places: placesOf(blob),
      },
    ],
    validate: false,
  };
}

interface Message {
  error: number;
  unique: bigint;
  body: Buffer;
}

/** The kernel's end: whole messages, as /dev/fuse has them. */
class Kernel {
  readonly fd: number;
  readonly daemonFd: number;
  private readonly memory = new NativeMemory(1 << 17);
  private unique = 2;

  constructor() {
    const ends = new Int32Array(2);
    assert.equal(socketpair(SOCK.SEQPACKET, ends), 0);
    [this.fd, this.daemonFd] = [ends[0]!, ends[1]!];
    for (const end of ends) setNonBlocking(end, true);
  }

  send(op: OpName, node: bigint, args: Buffer, uniqueFlags = 0n): bigint {
    const bytes = Buffer.alloc(40 + args.length);
    const unique = BigInt((this.unique += 2)) | uniqueFlags;
    bytes.writeUInt32LE(bytes.length, 0);
    bytes.writeUInt32LE(OPS[op].op, 4);
    bytes.writeBigUInt64LE(unique, 8);
    bytes.writeBigUInt64LE(node, 16);
    args.copy(bytes, 40);
    this.memory.u8.set(bytes);
    assert.equal(write(this.fd, this.memory.address, bytes.length), bytes.length);
    return unique;
  }

  /** The next message of the daemon; null when there is none. */
  receive(): Message | null {
    if (pollOne(this.fd, POLL.IN, 0) <= 0) return null;
    const n = read(this.fd, this.memory.address, 1 << 17);
    const bytes = Buffer.from(this.memory.u8.slice(0, n));
    assert.equal(bytes.readUInt32LE(0), n);
    return { error: bytes.readInt32LE(4), unique: bytes.readBigUInt64LE(8), body: bytes.subarray(16) };
  }

  close(): void {
    close(this.fd);
    close(this.daemonFd);
  }
}

function newFuse(failover: FailoverPolicy, lines: string[] = []): DevFuse {
  const options = { mountpoint: dir, readOnly: true, failover };
  return new DevFuse(new Union(Arena.create()), IO, new Stats(), (_, text) => lines.push(text), options);
}

/** One process after the other, with what the kernel learned from the first. */
class Succession {
  readonly kernel = new Kernel();
  readonly lines: string[] = [];
  fuse: DevFuse;
  private union: Union;

  constructor(
    at: string,
    private readonly failover: FailoverPolicy = 'resend',
    flags2 = INIT2.HAS_RESEND,
  ) {
    this.fuse = newFuse(failover, this.lines);
    this.union = this.fuse.session.fs as Union;
    const id = this.union.newMemberId();
    const rafs = spec();
    const member = createMember(rafs, { ...environment, id, arena: this.union.arena });
    assert.equal(this.union.mount(at, member, rafs, id), 0);
    this.fuse.adopt(dupCloexec(this.kernel.daemonFd));
    const init = Buffer.alloc(64);
    init.writeUInt32LE(7, 0);
    init.writeUInt32LE(45, 4);
    init.writeUInt32LE((INIT.INIT_EXT | INIT.DO_READDIRPLUS | INIT.SETXATTR_EXT) >>> 0, 12);
    init.writeUInt32LE(flags2, 16);
    this.must('INIT', 0n, init);
  }

  /** The reply; null when there is none. */
  ask(op: OpName, node: bigint, args: Buffer, uniqueFlags = 0n): { error: number; body: Buffer } | null {
    const unique = this.kernel.send(op, node, args, uniqueFlags);
    assert.equal(this.fuse.onReadable(), true);
    const reply = this.kernel.receive();
    if (reply !== null) assert.equal(reply.unique, unique, op);
    return reply === null ? null : { error: reply.error, body: reply.body };
  }

  must(op: OpName, node: bigint, args: Buffer): Buffer {
    const reply = this.ask(op, node, args);
    assert.equal(reply?.error, 0, op);
    return reply.body;
  }

  walk(where: string): bigint {
    let node = 1n;
    for (const name of where.split('/').filter((part) => part !== '')) {
      node = this.must('LOOKUP', node, name0(name)).readBigUInt64LE(0);
    }
    return node;
  }

  save(): SavedDevice {
    return structuredClone(saveDevice(this.union, this.fuse));
  }

  /** The first process is gone; the second has what was saved. What it tells the kernel by itself, null for nothing. */
  succeed(saved: SavedDevice): Message | null {
    this.union.destroy();
    this.union.arena.close();
    this.fuse.leave();
    this.fuse = newFuse(this.failover, this.lines);
    const mounts = saved.union.mounts.map((mount) => ({ ...mount, spec: spec() }));
    ({ union: this.union } = restoreDevice({ ...saved, union: { ...saved.union, mounts } }, environment, this.fuse));
    this.fuse.adopt(dupCloexec(this.kernel.daemonFd));
    this.fuse.takeOver();
    return this.kernel.receive();
  }

  close(): void {
    this.union.destroy();
    this.union.arena.close();
    this.kernel.close();
  }
}

const name0 = (...names: string[]): Buffer => Buffer.from(names.map((name) => `${name}\0`).join(''));

/** `bytes` of zeros with u64 and u32 values put in at byte positions. */
function fields(bytes: number, u64s: Record<number, bigint> = {}, u32s: Record<number, number> = {}): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (const [at, value] of Object.entries(u64s)) buffer.writeBigUInt64LE(value, Number(at));
  for (const [at, value] of Object.entries(u32s)) buffer.writeUInt32LE(value, Number(at));
  return buffer;
}

/** What the kernel knows from the first process. */
interface Known {
  dir: bigint;
  file: bigint;
  link: bigint;
  marked: bigint;
  fileFh: bigint;
  dirFh: bigint;
}

type Ask = (known: Known) => [node: bigint, args: Buffer];
const readArgs = (fh: bigint, size: number) => fields(40, { 0: fh }, { 16: size });
const nothing: Ask = ({ file }) => [file, fields(64)];

/** A request of each kind that an image can be asked, with nodes and handles of the first process. */
const REQUESTS: Record<Exclude<OpName, 'INIT' | 'DESTROY'>, Ask> = {
  LOOKUP: ({ dir }) => [dir, name0('big')],
  FORGET: ({ file }) => [file, fields(8, { 0: 1n })],
  GETATTR: ({ file }) => [file, fields(16)],
  SETATTR: ({ file }) => [file, fields(88)],
  READLINK: ({ link }) => [link, Buffer.alloc(0)],
  SYMLINK: ({ dir }) => [dir, name0('new', 'target')],
  MKNOD: ({ dir }) => [dir, Buffer.concat([fields(16), name0('new')])],
  MKDIR: ({ dir }) => [dir, Buffer.concat([fields(8), name0('new')])],
  UNLINK: ({ dir }) => [dir, name0('old')],
  RMDIR: ({ dir }) => [dir, name0('old')],
  RENAME: ({ dir }) => [dir, Buffer.concat([fields(8, { 0: dir }), name0('a', 'b')])],
  LINK: ({ dir, file }) => [dir, Buffer.concat([fields(8, { 0: file }), name0('new')])],
  OPEN: ({ file }) => [file, fields(8)],
  READ: ({ file, fileFh }) => [file, readArgs(fileFh, 4096)],
  WRITE: ({ file, fileFh }) => [file, Buffer.concat([fields(40, { 0: fileFh }, { 16: 4 }), Buffer.from('data')])],
  STATFS: ({ dir }) => [dir, Buffer.alloc(0)],
  RELEASE: ({ file, fileFh }) => [file, fields(24, { 0: fileFh })],
  FSYNC: ({ file, fileFh }) => [file, fields(16, { 0: fileFh })],
  SETXATTR: ({ file }) => [file, Buffer.concat([fields(16, {}, { 0: 1 }), name0('user.x'), Buffer.from('v')])],
  GETXATTR: ({ marked }) => [marked, Buffer.concat([fields(8, {}, { 0: 100 }), name0('security.capability')])],
  LISTXATTR: ({ marked }) => [marked, fields(8, {}, { 0: 1000 })],
  REMOVEXATTR: ({ file }) => [file, name0('user.x')],
  FLUSH: ({ file, fileFh }) => [file, fields(24, { 0: fileFh })],
  OPENDIR: ({ dir }) => [dir, fields(8)],
  READDIR: ({ dir, dirFh }) => [dir, readArgs(dirFh, 4096)],
  RELEASEDIR: ({ dir, dirFh }) => [dir, fields(24, { 0: dirFh })],
  FSYNCDIR: ({ dir, dirFh }) => [dir, fields(16, { 0: dirFh })],
  GETLK: nothing,
  SETLK: nothing,
  SETLKW: nothing,
  ACCESS: ({ file }) => [file, fields(8, {}, { 0: 4 })],
  CREATE: ({ dir }) => [dir, Buffer.concat([fields(16), name0('new')])],
  INTERRUPT: () => [0n, fields(8, { 0: 4n })],
  BMAP: nothing,
  IOCTL: nothing,
  POLL: nothing,
  NOTIFY_REPLY: nothing,
  BATCH_FORGET: ({ file }) => [0n, fields(24, { 8: file, 16: 1n }, { 0: 1 })],
  FALLOCATE: ({ file, fileFh }) => [file, fields(32, { 0: fileFh, 16: 10n })],
  READDIRPLUS: ({ dir, dirFh }) => [dir, readArgs(dirFh, 4096)],
  RENAME2: ({ dir }) => [dir, Buffer.concat([fields(16, { 0: dir }), name0('a', 'b')])],
  LSEEK: ({ file, fileFh }) => [file, fields(24, { 0: fileFh }, { 16: 4 })],
  COPY_FILE_RANGE: ({ file, fileFh }) => [file, fields(56, { 0: fileFh, 16: file, 24: fileFh, 40: 10n })],
  SETUPMAPPING: nothing,
  REMOVEMAPPING: nothing,
  SYNCFS: ({ dir }) => [dir, fields(8)],
  TMPFILE: nothing,
  STATX: nothing,
  COPY_FILE_RANGE_64: ({ file, fileFh }) => [file, fields(56, { 0: fileFh, 16: file, 24: fileFh, 40: 10n })],
};

for (const at of ['/', '/5']) {
  describe(`an image on ${at}`, () => {
    const succession = new Succession(at);
    const inImage = (where: string): bigint => succession.walk(`${at}/${where}`);
    const first = new Map<string, { error: number; body: Buffer } | null>();
    let known: Known;
    after(() => succession.close());

    test('the first process answers', () => {
      const dirNode = succession.walk(at);
      const fileNode = inImage('big/multi-chunk');
      known = {
        dir: dirNode,
        file: fileNode,
        link: inImage('links/soft'),
        marked: inImage('xattr/cap'),
        fileFh: succession.must('OPEN', fileNode, fields(8)).readBigUInt64LE(0),
        dirFh: succession.must('OPENDIR', dirNode, fields(8)).readBigUInt64LE(0),
      };
      for (const [op, request] of Object.entries(REQUESTS))
        first.set(op, succession.ask(op as OpName, ...request(known)));
      const served = ['LOOKUP', 'READLINK', 'READ', 'GETXATTR', 'READDIR', 'READDIRPLUS', 'LSEEK', 'STATFS'];
      for (const op of served) assert.equal(first.get(op)?.error, 0, op);
    });

    test('the second asks for what was not answered', () => {
      const notice = succession.succeed(succession.save());
      assert.deepEqual(notice, { error: 7, unique: 0n, body: Buffer.alloc(0) });
      assert.equal(succession.kernel.receive(), null);
    });

    for (const [op, request] of Object.entries(REQUESTS)) {
      test(`${op} is answered by the second as by the first`, () => {
        assert.deepEqual(succession.ask(op as OpName, ...request(known)), first.get(op));
      });
    }

    test('DESTROY ends the session', () => {
      succession.must('DESTROY', 0n, Buffer.alloc(0));
      assert.equal(succession.ask('GETATTR', known.file, fields(16))?.error, -errno.EIO);
    });
  });
}

describe('requests that come again', () => {
  const RESENT = 1n << 63n;
  for (const [policy, error] of [
    ['resend', 0],
    ['flush', -errno.EIO],
  ] as const) {
    test(`${policy}: ${error === 0 ? 'served' : 'EIO'}, under the unique they came with`, () => {
      const succession = new Succession('/5', policy);
      assert.equal(succession.succeed(succession.save())?.error, 7);
      assert.equal(succession.ask('GETATTR', 1n, fields(16), RESENT)?.error, error);
      assert.equal(succession.ask('GETATTR', 1n, fields(16))?.error, 0);
      succession.close();
    });
  }
  for (const [policy, flags2, says] of [
    ['none', INIT2.HAS_RESEND, /policy none: requests not answered when the daemon dies hang/],
    ['resend', 0, /this kernel cannot send requests again \(FUSE_NOTIFY_RESEND, Linux 6\.9\)/],
    ['flush', 0, /this kernel cannot send requests again/],
  ] as const) {
    test(`${policy}, the kernel ${flags2 === 0 ? 'cannot' : 'can'}: nothing is asked for, a warning says what is lost`, () => {
      const succession = new Succession('/5', policy, flags2);
      assert.equal(succession.succeed(succession.save()), null);
      assert.match(succession.lines.join('\n'), says);
      succession.close();
    });
  }
});

describe('numbers', () => {
  test('what was given out after the save is never given out again', () => {
    const succession = new Succession('/5');
    const saved = succession.save();
    const later = (succession.fuse.session.fs as Union).newMemberId();
    succession.succeed(saved);
    const union = succession.fuse.session.fs as Union;
    assert.ok(union.newMemberId() > later + 1000);
    const before = succession.walk('/5');
    const rafs = spec();
    const id = union.newMemberId();
    assert.equal(union.mount('/6/x', createMember(rafs, { ...environment, id, arena: union.arena }), rafs, id), 0);
    assert.ok(succession.walk('/6') > 1000n, 'pseudo directories too');
    assert.notEqual(succession.walk('/6/x'), before);
    succession.close();
  });

  test('an image replaced after a takeover is served to who has it open, whatever was counted before', () => {
    const succession = new Succession('/5');
    const saved = succession.save();
    const file = succession.walk('/5/big/multi-chunk');
    succession.succeed(saved);
    const union = succession.fuse.session.fs as Union;
    const rafs = spec();
    const id = union.newMemberId();
    assert.equal(union.remount('/5', createMember(rafs, { ...environment, id, arena: union.arena }), rafs, id), 0);
    for (let i = 0; i < 3; i++) succession.ask('FORGET', succession.walk('/5'), fields(8, { 0: 1n }));
    union.collect();
    assert.equal(succession.must('READ', file, readArgs(0n, 4096)).length, 4096);
    succession.close();
  });
});

test('a host directory is not saved', () => {
  const share = path.join(dir, 'share');
  writeFileSync(share, '');
  const succession = new Succession('/5');
  const union = succession.fuse.session.fs as Union;
  const id = union.newMemberId();
  const host = { kind: 'passthrough', source: dir, cache: 'auto', readOnly: false, xattr: true } as const;
  assert.equal(union.mount('/share', createMember(host, { ...environment, id, arena: union.arena }), host, id), 0);
  assert.throws(() => succession.save(), /HAND_OVER: .*\/share is a host directory/);
  succession.close();
});
