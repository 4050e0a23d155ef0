/**
 * A FUSE client that speaks through virtqueues, as a guest's driver does: for tests of the device through the real
 * socket. Synchronous; a device in another process or thread answers meanwhile.
 */
import { OPS, type OpName } from '../../fuse/opcodes.ts';
import { IN_HEADER_BYTES, OUT_HEADER_BYTES } from '../../fuse/wire/layout.ts';
import { DriverRing } from '../../vhost/driver-ring.ts';
import { featureSet, PROTOCOL, VIRTIO } from '../../vhost/features.ts';
import { Frontend } from '../../vhost/frontend.ts';
import { GuestRam } from '../../vhost/guest-ram.ts';

export interface Reply {
  /** 0 or -errno. */
  error: number;
  body: Buffer;
  /** used.len. */
  usedBytes: number;
  unique: bigint;
}

export interface CallOptions {
  nodeid?: bigint;
  uid?: number;
  gid?: number;
  /** Bytes of reply body there is room for. */
  replyBytes?: number;
  queue?: number;
  /** Extension bytes, a multiple of 8. */
  ext?: Buffer;
}

export interface ClientOptions {
  memory?: { gpa: number; bytes: number }[];
  queueSize?: number;
  requestQueues?: number;
  eventIdx?: boolean;
  protocol?: readonly number[];
  timeoutMs?: number;
  /** For nydusd, which says nothing useful in used.len: lengths are taken from the reply's header. */
  ignoresUsedLength?: boolean;
}

interface Pending {
  unique: bigint;
  replyGpa: number;
  replyBytes: number;
  gpas: { gpa: number; bytes: number }[];
}

const DEFAULT_PROTOCOL = [PROTOCOL.MQ, PROTOCOL.REPLY_ACK, PROTOCOL.CONFIGURE_MEM_SLOTS, PROTOCOL.STATUS];

export class FuseClient {
  readonly frontend: Frontend;
  readonly ram: GuestRam;
  readonly rings: DriverRing[] = [];
  timeoutMs: number;
  private readonly ignoresUsedLength: boolean;
  private unique = 2n;
  private readonly pending = new Map<number, Map<number, Pending>>();
  /** Request buffers by size, used again. */
  private readonly pool = new Map<number, number[]>();

  /** Connects to `socketPath` and starts hiprio and the request queues. */
  constructor(socketPath: string, options: ClientOptions = {}) {
    this.timeoutMs = options.timeoutMs ?? 10_000;
    this.ignoresUsedLength = options.ignoresUsedLength ?? false;
    this.frontend = Frontend.connect(socketPath);
    this.ram = new GuestRam(options.memory ?? [{ gpa: 0x10_0000, bytes: 64 * 2 ** 20 }]);
    const bits: number[] = [VIRTIO.VERSION_1, VIRTIO.INDIRECT_DESC, VIRTIO.PROTOCOL_FEATURES];
    if (options.eventIdx !== false) bits.push(VIRTIO.EVENT_IDX);
    this.frontend.negotiate(featureSet(...bits), featureSet(...(options.protocol ?? DEFAULT_PROTOCOL)));
    this.frontend.shareMemory(this.ram);
    const queues = 1 + (options.requestQueues ?? 1);
    for (let i = 0; i < queues; i++) {
      const ring = new DriverRing(this.ram, options.queueSize ?? 128);
      ring.eventIdx = options.eventIdx !== false;
      this.rings.push(ring);
      this.pending.set(i, new Map());
      this.frontend.startRing(i, ring);
    }
  }

  /** Sends INIT the way Linux `minor` does and checks that it is answered. */
  init(minor = 45, flags = 0x7bff_fffb, flags2 = 0x1ff): Buffer {
    const body = Buffer.alloc(64);
    body.writeUInt32LE(7, 0);
    body.writeUInt32LE(minor, 4);
    body.writeUInt32LE(128 * 1024, 8);
    body.writeUInt32LE(flags >>> 0, 12);
    body.writeUInt32LE(flags2, 16);
    const reply = this.call('INIT', body, { nodeid: 0n, replyBytes: 64 });
    if (reply.error !== 0) throw new Error(`INIT answered ${reply.error}`);
    return reply.body;
  }

  /** Queues a request without waiting; its head. FORGET and the like have no reply part. */
  submit(op: OpName | number, args: Buffer, options: CallOptions = {}): number {
    const spec = typeof op === 'number' ? { op, reply: 'body' } : OPS[op];
    const queue = options.queue ?? 1;
    const ext = options.ext ?? Buffer.alloc(0);
    const bytes = IN_HEADER_BYTES + args.length + ext.length;
    const message = Buffer.alloc(bytes);
    const unique = this.unique;
    this.unique += 2n;
    message.writeUInt32LE(bytes, 0);
    message.writeUInt32LE(spec.op, 4);
    message.writeBigUInt64LE(unique, 8);
    message.writeBigUInt64LE(options.nodeid ?? 1n, 16);
    message.writeUInt32LE(options.uid ?? 0, 24);
    message.writeUInt32LE(options.gid ?? 0, 28);
    message.writeUInt32LE(1234, 32);
    message.writeUInt16LE(ext.length / 8, 36);
    args.copy(message, IN_HEADER_BYTES);
    ext.copy(message, IN_HEADER_BYTES + args.length);
    const requestGpa = this.buffer(bytes);
    this.ram.write(requestGpa.gpa, message);
    const hasReply = spec.reply !== 'none';
    const replyBytes = hasReply ? OUT_HEADER_BYTES + (options.replyBytes ?? 4096) : 0;
    const reply = hasReply ? this.buffer(replyBytes) : { gpa: 0, bytes: 0 };
    const buffers = [{ gpa: requestGpa.gpa, bytes, writable: false }];
    if (hasReply) buffers.push({ gpa: reply.gpa, bytes: replyBytes, writable: true });
    const ring = this.rings[queue] as DriverRing;
    const head = ring.addIndirect(buffers);
    const gpas = hasReply ? [requestGpa, reply] : [requestGpa];
    this.pending.get(queue)?.set(head, { unique, replyGpa: reply.gpa, replyBytes, gpas });
    ring.submit();
    return head;
  }

  /** Waits for any used entry of `queue`. Null after the time-out. */
  wait(queue = 1, timeoutMs = this.timeoutMs): { head: number; reply: Reply } | null {
    const ring = this.rings[queue] as DriverRing;
    const head = ring.waitUsed(timeoutMs);
    return head < 0 ? null : { head, reply: this.take(queue, head, ring.usedBytes) };
  }

  private take(queue: number, head: number, told: number): Reply {
    const pending = this.pending.get(queue)?.get(head);
    if (pending === undefined) throw new Error(`used entry for head ${head}, which is not in flight`);
    this.pending.get(queue)?.delete(head);
    const usedBytes =
      this.ignoresUsedLength && pending.replyGpa !== 0
        ? Buffer.from(this.ram.read(pending.replyGpa, 4)).readUInt32LE(0)
        : told;
    const bytes = Buffer.from(this.ram.read(pending.replyGpa || 0x10_0000, Math.min(usedBytes, pending.replyBytes)));
    for (const { gpa, bytes: size } of pending.gpas) this.pool.get(size)?.push(gpa);
    if (usedBytes < OUT_HEADER_BYTES) return { error: 0, body: Buffer.alloc(0), usedBytes, unique: pending.unique };
    const unique = bytes.readBigUInt64LE(8);
    if (unique !== pending.unique) throw new Error(`reply to ${unique} in the buffer of ${pending.unique}`);
    if (bytes.readUInt32LE(0) !== usedBytes) throw new Error(`out.len ${bytes.readUInt32LE(0)}, used.len ${usedBytes}`);
    return { error: bytes.readInt32LE(4), body: bytes.subarray(OUT_HEADER_BYTES), usedBytes, unique };
  }

  /** One request and its reply. @throws when none comes in time */
  call(op: OpName | number, args: Buffer = Buffer.alloc(0), options: CallOptions = {}): Reply {
    const queue = options.queue ?? 1;
    const head = this.submit(op, args, options);
    const got = this.wait(queue);
    if (got === null) throw new Error(`no answer to ${op} within ${this.timeoutMs} ms`);
    if (got.head !== head) throw new Error(`answer for head ${got.head} instead of ${head}`);
    return got.reply;
  }

  /** A guest buffer of `bytes`, from the pool of its size (powers of two). */
  private buffer(bytes: number): { gpa: number; bytes: number } {
    const size = 2 ** Math.ceil(Math.log2(Math.max(bytes, 64)));
    let free = this.pool.get(size);
    if (free === undefined) this.pool.set(size, (free = []));
    return { gpa: free.pop() ?? this.ram.alloc(size, 64), bytes: size };
  }

  /** LOOKUP of one name below `parent`: the entry, or -errno. */
  lookup(parent: bigint, name: string | Buffer): Entry | number {
    const reply = this.call('LOOKUP', Buffer.concat([Buffer.from(name), Buffer.alloc(1)]), {
      nodeid: parent,
      replyBytes: 128,
    });
    return reply.error !== 0 ? reply.error : entryOf(reply.body);
  }

  /** Nodeid of a path, looked up component by component. @throws with the errno when one is missing */
  walk(path: string): bigint {
    let node = 1n;
    for (const part of path.split('/').filter((p) => p !== '')) {
      const entry = this.lookup(node, part);
      if (typeof entry === 'number') throw new Error(`lookup of ${part} in ${path}: ${entry}`);
      if (entry.nodeid === 0n) throw new Error(`lookup of ${part} in ${path}: negative`);
      node = entry.nodeid;
    }
    return node;
  }

  /** OPEN; the file handle, or -errno. */
  open(nodeid: bigint, flags = 0): bigint | number {
    const args = Buffer.alloc(8);
    args.writeUInt32LE(flags, 0);
    const reply = this.call('OPEN', args, { nodeid, replyBytes: 16 });
    return reply.error !== 0 ? reply.error : reply.body.readBigUInt64LE(0);
  }

  read(nodeid: bigint, fh: bigint, offset: number, size: number): Reply {
    return this.call('READ', readArgs(fh, offset, size), { nodeid, replyBytes: size });
  }

  write(nodeid: bigint, fh: bigint, offset: number, data: Buffer): Reply {
    const args = Buffer.alloc(40);
    args.writeBigUInt64LE(fh, 0);
    args.writeBigUInt64LE(BigInt(offset), 8);
    args.writeUInt32LE(data.length, 16);
    return this.call('WRITE', Buffer.concat([args, data]), { nodeid, replyBytes: 8 });
  }

  getattr(nodeid: bigint): Reply {
    return this.call('GETATTR', Buffer.alloc(16), { nodeid, replyBytes: 104 });
  }

  forget(nodeid: bigint, nlookup: bigint): void {
    const args = Buffer.alloc(8);
    args.writeBigUInt64LE(nlookup, 0);
    this.call('FORGET', args, { nodeid, queue: 0 });
  }

  /** Whole content of the file at `path`. */
  readFile(path: string): Buffer {
    const node = this.walk(path);
    const fh = this.open(node);
    if (typeof fh === 'number') throw new Error(`open ${path}: ${fh}`);
    const parts: Buffer[] = [];
    for (let offset = 0; ; ) {
      const reply = this.read(node, fh, offset, 128 * 1024);
      if (reply.error !== 0) throw new Error(`read ${path} at ${offset}: ${reply.error}`);
      if (reply.body.length === 0) break;
      parts.push(Buffer.from(reply.body));
      offset += reply.body.length;
    }
    const release = Buffer.alloc(24);
    release.writeBigUInt64LE(fh, 0);
    this.call('RELEASE', release, { nodeid: node });
    return Buffer.concat(parts);
  }

  /** Hangs up and frees everything, as a VMM that dies does. */
  close(): void {
    this.frontend.close();
    for (const ring of this.rings) ring.close();
    this.ram.free();
  }
}

export interface Entry {
  nodeid: bigint;
  ino: bigint;
  size: bigint;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  /** fuse_attr.flags */
  flags: number;
}

/** Decodes an entry_out. */
export function entryOf(body: Buffer): Entry {
  return {
    nodeid: body.readBigUInt64LE(0),
    ino: body.readBigUInt64LE(40),
    size: body.readBigUInt64LE(48),
    mode: body.readUInt32LE(100),
    nlink: body.readUInt32LE(104),
    uid: body.readUInt32LE(108),
    gid: body.readUInt32LE(112),
    flags: body.readUInt32LE(124),
  };
}

/** struct fuse_read_in. */
export function readArgs(fh: bigint, offset: number | bigint, size: number): Buffer {
  const args = Buffer.alloc(40);
  args.writeBigUInt64LE(fh, 0);
  args.writeBigUInt64LE(BigInt(offset), 8);
  args.writeUInt32LE(size, 16);
  return args;
}
