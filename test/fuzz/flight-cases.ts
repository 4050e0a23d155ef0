/** Requests in flight when the ground moves: parked reads, heads given twice, memory taken away, handles left behind. */
import { singleRegion } from '../../src/vhost/frontend.ts';
import { expect } from './finding.ts';
import type { Random } from './random.ts';
import { BIG_FILE, type Rig } from './rig.ts';
import { decodeReply, QUEUES, REMOVABLE_BYTES, REMOVABLE_GPA, requestBytes, type Session } from './session.ts';

const OP = { LOOKUP: 1, OPEN: 14, READ: 15, CREATE: 35, BATCH_FORGET: 42, RELEASE: 18, UNLINK: 10 } as const;
const EIO = 5;
const READS = 24;
const READ_BYTES = 4096;
const OUT_BYTES = 16;

type Flight = (session: Session, rig: Rig, random: Random) => Promise<void>;

/** nodeid of a path. */
export function walk(session: Session, path: string): bigint {
  let node = 1n;
  for (const part of path.split('/').filter((p) => p !== '')) {
    const { error, body } = session.call(QUEUES.PROBE, OP.LOOKUP, node, Buffer.from(`${part}\0`), 128);
    expect(error === 0 && body.readBigUInt64LE(0) !== 0n, () => `LOOKUP of ${part} in ${path}: ${error}`);
    node = body.readBigUInt64LE(0);
  }
  return node;
}

export function open(session: Session, node: bigint, flags = 0): bigint {
  const args = Buffer.alloc(8);
  args.writeUInt32LE(flags, 0);
  const { error, body } = session.call(QUEUES.PROBE, OP.OPEN, node, args, 16);
  expect(error === 0, () => `OPEN: ${error}`);
  return body.readBigUInt64LE(0);
}

export function readArgs(fh: bigint, offset: number, size: number): Buffer {
  const args = Buffer.alloc(40);
  args.writeBigUInt64LE(fh, 0);
  args.writeBigUInt64LE(BigInt(offset), 8);
  args.writeUInt32LE(size, 16);
  return args;
}

interface Read {
  head: number;
  reply: number;
  unique: bigint;
  offset: number;
}

/** A READ on the case's queue, not made available yet. */
function read(session: Session, head: number, node: bigint, fh: bigint, offset: number, at?: number): Read {
  const unique = session.unique();
  const bytes = requestBytes(OP.READ, unique, node, readArgs(fh, offset, READ_BYTES));
  const request = session.take(bytes.length, 8);
  session.ram.write(request, bytes);
  const reply = at ?? session.take(OUT_BYTES + READ_BYTES, 8);
  const buffers = [
    { gpa: request, bytes: bytes.length, writable: false },
    { gpa: reply, bytes: OUT_BYTES + READ_BYTES, writable: true },
  ];
  session.chain(buffers, [head], true);
  return { head, reply, unique, offset };
}

/** A fresh mount of the image, with the cache directory `cache`, whose reads have to wait for their chunks. */
export async function cold(
  session: Session,
  rig: Rig,
  use: (node: bigint, fh: bigint, cache: string) => void,
): Promise<void> {
  const cache = await rig.mountCold('/cold');
  try {
    const node = walk(session, `/cold${BIG_FILE}`);
    use(node, open(session, node), cache);
  } finally {
    await rig.umount('/cold');
  }
}

/** Reads of BIG_FILE at many places while its chunks come in: all get the right bytes. `look` is called meanwhile. */
export function coldReads(
  session: Session,
  rig: Rig,
  random: Random,
  node: bigint,
  fh: bigint,
  look: () => void = () => {},
): void {
  const all = rig.content;
  const reads = Array.from({ length: READS }, (_, i) => {
    const offset = random.chance(50) ? i * 8 : random.below(all.length - READ_BYTES);
    return read(session, i, node, fh, offset);
  });
  // The later half comes while the earlier one is being served.
  session.submit(reads.slice(0, READS / 2).map(({ head }) => head));
  const first = session.collect(random.below(3), { look }).used;
  session.submit(reads.slice(READS / 2).map(({ head }) => head));
  const used = [...first, ...session.collect(READS - first.length, { look }).used];
  const heads = new Set(used.map(({ head }) => head));
  expect(used.length === READS && heads.size === READS, () => `${used.length} entries for ${READS} parked reads`);
  for (const { reply, unique, offset } of reads) {
    const bytes = Buffer.from(session.ram.read(reply, OUT_BYTES + READ_BYTES));
    const { error, body } = decodeReply(bytes, bytes.readUInt32LE(0), unique);
    expect(error === 0, () => `cold READ at ${offset}: ${error}`);
    const isRight = body.equals(all.subarray(offset, offset + READ_BYTES));
    expect(isRight, () => `cold READ at ${offset} answered wrong bytes`);
  }
}

export const FLIGHTS: Record<string, Flight> = {
  'cold reads': (session, rig, random) => cold(session, rig, (node, fh) => coldReads(session, rig, random, node, fh)),

  /** Row 13. */
  'head twice': (session, rig) =>
    cold(session, rig, (node, fh) => {
      const { head } = read(session, 7, node, fh, 0);
      session.submit([head, head]);
      const { used, broken } = session.collect(Number.POSITIVE_INFINITY, { timeoutMs: session.answerMs });
      expect(broken, () => `row 13: a head in flight was made available again, ring not broken, used ${used.length}`);
    }),

  /** Row 19: after REM_MEM_REG is acknowledged its memory is not written any more. */
  'region removed': (session, rig) =>
    cold(session, rig, (node, fh) => {
      const reads = [0, 1, 2].map((i) => read(session, i, node, fh, i * READ_BYTES, REMOVABLE_GPA + i * 8192));
      session.submit(reads.map(({ head }) => head));
      const region = session.ram.regions[2]!;
      session.frontend.must('REM_MEM_REG', singleRegion(region));
      const memory = session.ram.bytes(REMOVABLE_GPA, REMOVABLE_BYTES);
      memory.fill(0x33);
      const later = read(session, 3, node, fh, 0, REMOVABLE_GPA);
      session.submit([later.head]);
      const { used, broken } = session.collect(4);
      expect(broken || used.length === 4, () => `${used.length} of 4 reads into a removed region came back`);
      const stale = used.find(({ head }) => head === 3);
      expect(stale === undefined || stale.bytes === 0, () => `used.len ${stale?.bytes} for a reply outside memory`);
      expect(
        memory.every((byte) => byte === 0x33),
        () => 'a removed region was written to',
      );
    }),

  /** With validation on, bytes with a wrong digest are never served. */
  'bad digest': async (session, _rig, random) => {
    const node = walk(session, `/bad${BIG_FILE}`);
    const args = readArgs(open(session, node), random.below(8000), 4000);
    const { error, body } = session.call(QUEUES.PROBE, OP.READ, node, args, 4000);
    expect(error === -EIO, () => `READ of a corrupt chunk answered ${error}, ${body.length} bytes`);
  },

  /** What a guest forgets is let go of at once, not only at the session's end. */
  forgotten: async (session, rig, random) => {
    const share = walk(session, '/share');
    const names = Array.from({ length: 30 }, (_, i) => `forget-${random.below(1000)}-${i}`);
    const nodes = names.map((name) => {
      const args = Buffer.concat([
        Buffer.from([0x42, 0, 0, 0, 0xa4, 0x81, 0, 0]),
        Buffer.alloc(8),
        Buffer.from(`${name}\0`),
      ]);
      const made = session.call(QUEUES.PROBE, OP.CREATE, share, args, 144);
      expect(made.error === 0 || made.error === -28, () => `CREATE: ${made.error}`);
      if (made.error !== 0) return 0n;
      const release = Buffer.alloc(24);
      made.body.copy(release, 0, 128, 136);
      const node = made.body.readBigUInt64LE(0);
      session.call(QUEUES.PROBE, OP.RELEASE, node, release, 0);
      return node;
    });
    for (const name of names) session.call(QUEUES.PROBE, OP.UNLINK, share, Buffer.from(`${name}\0`), 0);
    const forget = Buffer.alloc(8 + nodes.length * 16);
    forget.writeUInt32LE(nodes.length, 0);
    for (const [i, node] of nodes.entries()) {
      forget.writeBigUInt64LE(node, 8 + i * 16);
      forget.writeBigUInt64LE(1n, 16 + i * 16);
    }
    session.tell(OP.BATCH_FORGET, 0n, forget);
    const left = rig.links().filter((link) => link.includes('/forget-'));
    expect(left.length === 0, () => `30 files were made, closed and forgotten, still open: ${left.join(' ')}`);
  },
};

export const FLIGHT_NAMES = Object.keys(FLIGHTS);
/** After these queue 1 is broken or memory is missing. */
export const SPENT: ReadonlySet<string> = new Set(['head twice', 'region removed']);
