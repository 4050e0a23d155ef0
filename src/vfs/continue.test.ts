/**
 * Everything at once goes on elsewhere: an image and a host directory mounted, files open in both, a read parked for a
 * chunk and a sync parked in the kernel. The old union, session and arena are gone before the new ones answer.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, test } from 'node:test';
import { SILENT } from '../common/log.ts';
import { VIRTIOFS_POLICY } from '../fuse/init.ts';
import { OPS, type OpName } from '../fuse/opcodes.ts';
import { type AsyncIo, PARKED, type Request } from '../fuse/request.ts';
import { type Port, REACH, Session } from '../fuse/session.ts';
import { dumpSession, restoreSession } from '../fuse/session-state.ts';
import { Stats } from '../fuse/stats.ts';
import { DescriptorBudget, Passthrough } from '../passthrough/index.ts';
import { placesOf } from '../rafs/fixture-blobs.testing.ts';
import { openImage } from '../rafs/open-image.ts';
import { newSpillHandle } from '../storage/cache/spill-bits.ts';
import type { BlobHandle, WantedChunk } from '../storage/types.ts';
import { Arena } from '../sys/arena.ts';
import { dumpArena, loadArena } from '../sys/arena-dump.ts';
import { dupCloexec } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { createMember, type MemberEnvironment } from './members.ts';
import { restoreUnion } from './restore.ts';
import type { PassthroughSpec, RafsSpec } from './spec.ts';
import { Union } from './union.ts';

const FIXTURES = process.env['NYDUS_FIXTURES'] ?? path.resolve('../shared/fixtures');
const BOOTSTRAP = path.join(FIXTURES, 'images/boot/v6-none-blake3-4k.boot');
const dir = fs.mkdtempSync(path.join(tmpdir(), 'continue-'));
after(() => fs.rmSync(dir, { recursive: true, force: true }));

interface Reply {
  unique: number;
  error: number;
  body: Buffer;
}

/** A guest over one session: sends requests, collects replies. */
class GuestSession {
  readonly replies: Reply[] = [];
  readonly session: Session;
  private readonly data = new NativeMemory(1 << 20);
  private unique = 2;

  constructor(union: Union, io: AsyncIo) {
    const lend = (request: Request): void => {
      request.replySpace = 4096;
      request.data.set(Float64Array.of(this.data.address), Uint32Array.of(this.data.bytes), 0, 1, 0, this.data.bytes);
    };
    const port: Port = {
      keep: () => true,
      reach: () => REACH.NOW,
      isLost: () => false,
      restore: (_, request) => {
        lend(request);
        return true;
      },
      drop: () => {},
      save: () => null,
      load: () => true,
      reply: (_, request, bytes) => this.replies.push(this.replyOf(request, bytes)),
    };
    this.session = new Session(union, port, VIRTIOFS_POLICY, io, new Stats(), () => {});
  }

  private replyOf(request: Request, bytes: number): Reply {
    const body = request.bulkReply ? this.data.u8 : request.reply.u8.subarray(16);
    return {
      unique: request.reply.u32[2]!,
      error: request.reply.i32[1]!,
      body: Buffer.from(body.slice(0, bytes - 16)),
    };
  }

  /** The reply, or null when the request is parked. */
  send(op: OpName, nodeid: bigint, args: Buffer): Reply | null {
    const { request } = this.session;
    request.memory.u8.fill(0, 0, 256);
    const { view } = request.memory;
    view.setUint32(0, 40 + args.length, true);
    view.setUint32(4, OPS[op].op, true);
    view.setUint32(8, (this.unique += 2), true);
    view.setBigUint64(16, nodeid, true);
    request.memory.u8.set(args, 40);
    request.bytes = 40 + args.length;
    request.replySpace = 4096;
    request.data.set(Float64Array.of(this.data.address), Uint32Array.of(this.data.bytes), 0, 1, 0, this.data.bytes);
    const bytes = this.session.handle();
    return bytes === PARKED ? null : this.replyOf(request, bytes);
  }

  must(op: OpName, nodeid: bigint, args: Buffer): Buffer {
    const reply = this.send(op, nodeid, args);
    assert.equal(reply?.error, 0, op);
    return reply.body;
  }

  walk(where: string): bigint {
    let node = 1n;
    for (const name of where.split('/')) node = this.must('LOOKUP', node, Buffer.from(`${name}\0`)).readBigUInt64LE(0);
    return node;
  }
}

function init(): Buffer {
  const body = Buffer.alloc(64);
  body.writeUInt32LE(7, 0);
  body.writeUInt32LE(38, 4);
  return body;
}

function fhArgs(fh: bigint, size: number, bytes: number): Buffer {
  const args = Buffer.alloc(bytes);
  args.writeBigUInt64LE(fh, 0);
  if (bytes === 40) args.writeUInt32LE(size, 16);
  return args;
}

test('image, share, open files, a parked read and a parked sync go on after everything else is gone', () => {
  const share = path.join(dir, 'share');
  fs.mkdirSync(share);
  fs.writeFileSync(path.join(share, 'log'), 'kept open');
  const image = openImage(BOOTSTRAP);
  // The blob is uncompressed, so its chunks at their uncompressed offsets are all a cache file is; none is ready yet.
  const [info] = image.blobs;
  assert.ok(info !== undefined);
  const ready = new SharedArrayBuffer(Math.ceil(info.chunkCount / 8));
  const dataPath = path.join(dir, 'data');
  fs.copyFileSync(path.join(FIXTURES, 'images/blobs', info.id), dataPath);
  const blob: BlobHandle = {
    handle: 1,
    dataFd: fs.openSync(dataPath, 'r'),
    ready,
    spill: newSpillHandle(info.chunkCount),
    places: placesOf(info),
    chunkCount: info.chunkCount,
    uncompressedSize: info.uncompressedSize,
  };
  const fetched: { ticket: number; chunks: WantedChunk[] }[] = [];
  const budget = new DescriptorBudget(1000);
  const environment = (id: number, arena: Arena): MemberEnvironment => ({
    id,
    arena,
    log: SILENT,
    budget,
    fetch: (ticket, _, chunks) => fetched.push({ ticket, chunks }),
  });
  const synced: number[] = [];
  const io: AsyncIo = {
    fsync: (_fd, _dataOnly, ticket) => {
      synced.push(ticket);
      return 0;
    },
    syncfs: () => -95,
    read: () => -95,
  };

  const arena = Arena.create();
  const union = new Union(arena);
  const rafs: RafsSpec = {
    kind: 'rafs',
    bootstrapFd: dupCloexec(image.fd),
    bootstrapPath: BOOTSTRAP,
    blobs: [blob],
    validate: false,
  };
  const host: PassthroughSpec = { kind: 'passthrough', source: share, cache: 'auto', readOnly: false, xattr: true };
  let shared: Passthrough | null = null;
  for (const [where, spec] of [
    ['/rafs/c/lowerdir', rafs],
    ['/containers', host],
  ] as const) {
    const id = union.newMemberId();
    const member = createMember(spec, environment(id, arena));
    if (member instanceof Passthrough) shared = member;
    assert.equal(union.mount(where, member, spec, id), 0);
  }
  const guest = new GuestSession(union, io);
  guest.must('INIT', 0n, init());
  const entries = JSON.parse(fs.readFileSync(path.join(FIXTURES, 'images/expect/small.json'), 'utf8')) as {
    path: string;
    type: string;
    size: number;
  }[];
  const wanted = entries.find((entry) => entry.type === 'file' && entry.size > 0 && entry.size < 4096)!;
  const file = guest.walk(`rafs/c/lowerdir${wanted.path}`);
  const fileFh = guest.must('OPEN', file, Buffer.alloc(8)).readBigUInt64LE(0);
  const log = guest.walk('containers/log');
  const logFh = guest.must('OPEN', log, Buffer.from('0200000000000000', 'hex')).readBigUInt64LE(0);
  assert.equal(guest.send('READ', file, fhArgs(fileFh, 4096, 40)), null, 'the chunk is missing');
  assert.equal(guest.send('FSYNC', log, fhArgs(logFh, 0, 16)), null);
  assert.deepEqual([fetched.length, synced.length], [1, 1]);

  // What travels: plain data, the arena's bytes, and descriptors (here: the same process, so they stay).
  const sent = structuredClone({ session: dumpSession(guest.session), union: union.dump() });
  const bytes = dumpArena(arena);
  const bootstrapFd = dupCloexec(rafs.bootstrapFd);
  for (const mount of sent.union.mounts) if (mount.spec?.kind === 'rafs') mount.spec.bootstrapFd = bootstrapFd;
  (shared as Passthrough | null)?.abandon();
  arena.close();

  const nextArena = loadArena(bytes);
  const next = restoreUnion(nextArena, sent.union, (mount) => {
    assert.ok(mount.spec !== null);
    return createMember(mount.spec, environment(mount.id, nextArena), mount.saved);
  });
  const later = new GuestSession(next, io);
  assert.equal(restoreSession(later.session, sent.session), 2);
  assert.equal(later.session.parked.count, 2, 'both wait again, under new tickets');
  assert.deepEqual([fetched.length, synced.length], [2, 2]);
  assert.equal(later.must('READ', log, fhArgs(logFh, 100, 40)).toString(), 'kept open');
  new Uint8Array(ready).fill(0xff);
  later.session.complete(fetched[1]!.ticket, 0);
  later.session.complete(synced[1]!, 0);
  assert.deepEqual(
    later.replies.map(({ error }) => error),
    [0, 0],
  );
  assert.equal(new Set(later.replies.map(({ unique }) => unique)).size, 2, 'each once');
  assert.equal(later.replies[0]!.body.length, wanted.size, 'the parked read has its bytes');
  assert.equal(later.must('READ', file, fhArgs(fileFh, 4096, 40)).length, wanted.size);
  assert.throws(() => restoreSession(later.session, sent.session), /already begun/);
  assert.throws(() => restoreSession(later.session, { ...sent.session, version: 2 }), /version 2/);
  next.destroy();
  image.close();
});
