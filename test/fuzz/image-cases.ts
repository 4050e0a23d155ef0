/**
 * Mutated images and caches through the daemon: a mount is refused with a message, or every request on it is answered in
 * time. What the cache says is not believed where digests are checked.
 */
import fs from 'node:fs';
import path from 'node:path';
import { FIXTURES, localfsConfig } from '../daemon/nydusd.ts';
import { expect } from './finding.ts';
import { open, readArgs, walk } from './flight-cases.ts';
import type { Random } from './random.ts';
import { BIG_FILE, BLOBS, BOOTSTRAP, mountImage, type Rig } from './rig.ts';
import { QUEUES, type Session } from './session.ts';

/** One request on a mutant: a READ of a chunk that it invented is tried four times, with pauses of up to 1.3 s. */
const REQUEST_MS_MAX = 2000;
const NODES_VISITED = 25;
/** Of a case: most of what a mutant invents leads nowhere, and every such READ takes its tries. */
const READS_MAX = 2;
const PAGE_BYTES = 4000;
const OP = { LOOKUP: 1, OPEN: 14, READ: 15, OPENDIR: 27, READDIRPLUS: 44, READLINK: 5, LISTXATTR: 23 } as const;

export type DaemonCase = (rig: Rig, session: Session, random: Random) => Promise<void>;

interface Image {
  bytes: Buffer;
  /** Superblocks and tables: half of the mutations hit these. */
  headBytes: number;
}

function images(names: readonly string[], headBytes: number): readonly Image[] {
  return names.map((name) => ({ bytes: fs.readFileSync(path.join(FIXTURES, 'images/boot', name)), headBytes }));
}

const V5 = images(
  ['v5-lz4-blake3.boot', 'v5-zstd-sha256-4k.boot', 'v5-parent.boot', 'v5-aligned.boot', 'merged-v5.boot'],
  8192 + 4096,
);
const V6 = images(
  ['v6-zstd-blake3.boot', 'v6-batch.boot', 'v6-encrypt.boot', 'zran-v6.boot', 'v6-toc.boot', 'v6-2.2.boot'],
  4096,
);
const TARFS = images(['tarfs-v6.boot'], 4096);
const INLINE = images(['inline-v5.blob', 'inline-v6.blob'], 0);

/** Of inline images the end, where the tables are. */
const INLINE_TAIL_BYTES = 64 * 1024;

function mutantOf({ bytes, headBytes }: Image, random: Random): Buffer {
  if (headBytes === 0) return random.mutate(bytes, Math.max(0, bytes.length - INLINE_TAIL_BYTES));
  const to = random.chance(50) ? headBytes : bytes.length;
  return random.mutate(bytes, random.chance(80) ? 1024 : 0, to);
}

function bootstrapCase(from: readonly Image[]): DaemonCase {
  return async (rig, session, random) => {
    const file = path.join(rig.dir, 'mutant.boot');
    fs.writeFileSync(file, mutantOf(random.pick(from), random));
    const cache = path.join(rig.dir, 'mutant-cache');
    fs.mkdirSync(cache, { recursive: true });
    const config = JSON.stringify({ ...localfsConfig(rig.mutantBlobs, cache), digest_validate: random.chance(50) });
    const answer = await rig.daemon.mount('/mutant', { fs_type: 'rafs', source: file, config });
    if (answer.status === 204) {
      try {
        visit(session, random);
      } finally {
        await rig.umount('/mutant');
      }
    } else {
      const isGood = answer.status === 500 && answer.text.includes('"message"');
      expect(isGood, () => `mount of a mutant bootstrap: ${answer.status} ${answer.text}`);
    }
    fs.rmSync(cache, { recursive: true, force: true });
  };
}

/** Looks at what a mutant offers: every answer is well formed, whatever it says. */
function visit(session: Session, random: Random): void {
  const start = session.call(QUEUES.PROBE, OP.LOOKUP, 1n, Buffer.from('mutant\0'), 128);
  if (start.error !== 0) return;
  const nodes = [start.body.readBigUInt64LE(0)];
  let reads = 0;
  for (let i = 0; i < NODES_VISITED && nodes.length > 0; i++) {
    const node = nodes.splice(random.below(nodes.length), 1)[0]!;
    const dir = session.call(QUEUES.PROBE, OP.OPENDIR, node, Buffer.alloc(8), 16);
    if (dir.error === 0) nodes.push(...children(session, node, dir.body.readBigUInt64LE(0)));
    else if (content(session, node, reads < READS_MAX)) reads++;
  }
}

function children(session: Session, node: bigint, fh: bigint): bigint[] {
  const { body } = session.call(QUEUES.PROBE, OP.READDIRPLUS, node, readArgs(fh, 0, PAGE_BYTES), PAGE_BYTES);
  const found: bigint[] = [];
  for (let at = 0; at + 152 <= body.length; ) {
    const id = body.readBigUInt64LE(at);
    if (id !== 0n) found.push(id);
    const step = 152 + body.readUInt32LE(at + 144);
    expect(at + step <= body.length, () => 'READDIRPLUS: an entry runs over the end of the reply');
    at += Math.ceil(step / 8) * 8;
  }
  return found;
}

/** True when it was a file and its beginning was asked for. */
function content(session: Session, node: bigint, mayRead: boolean): boolean {
  session.call(QUEUES.PROBE, OP.READLINK, node, Buffer.alloc(0), PAGE_BYTES);
  session.call(QUEUES.PROBE, OP.LISTXATTR, node, Buffer.from([0, 4, 0, 0, 0, 0, 0, 0]), 1024);
  const file = session.call(QUEUES.PROBE, OP.OPEN, node, Buffer.alloc(8), 16);
  if (file.error !== 0 || !mayRead) return false;
  const args = readArgs(file.body.readBigUInt64LE(0), 0, PAGE_BYTES);
  session.call(QUEUES.PROBE, OP.READ, node, args, PAGE_BYTES, REQUEST_MS_MAX * session.patience);
  return true;
}

const MAP_READS = 6;
const SPOILT_BYTES_MAX = 2 ** 20;

/** The cache of another daemon, its chunk map and data damaged anywhere: what is read is right or fetched, digests being checked. */
const chunkMapCase: DaemonCase = async (rig, session, random) => {
  const cache = path.join(rig.dir, 'mapped-cache');
  fs.cpSync(rig.filledCache, cache, { recursive: true });
  for (const name of fs.readdirSync(cache)) {
    const harm = name.endsWith('.chunk_map') ? mutantMap : name.endsWith('.blob.data') ? spoiltData : null;
    const file = path.join(cache, name);
    if (harm !== null) fs.writeFileSync(file, harm(fs.readFileSync(file), random));
  }
  await mountImage(rig.daemon, '/mapped', BOOTSTRAP, BLOBS, cache);
  try {
    const node = walk(session, `/mapped${BIG_FILE}`);
    const fh = open(session, node);
    for (let i = 0; i < MAP_READS; i++) {
      const offset = random.below(rig.content.length - PAGE_BYTES);
      const answerMs = REQUEST_MS_MAX * session.patience;
      const args = readArgs(fh, offset, PAGE_BYTES);
      const { error, body } = session.call(QUEUES.PROBE, OP.READ, node, args, PAGE_BYTES, answerMs);
      const isRight = error === 0 && body.equals(rig.content.subarray(offset, offset + PAGE_BYTES));
      expect(isRight, () => `READ at ${offset} behind a damaged chunk map: ${error}, or wrong bytes`);
    }
  } finally {
    await rig.umount('/mapped');
    fs.rmSync(cache, { recursive: true, force: true });
  }
};

const MAP_HEADER_BYTES = 4096;

/** Zeros where a chunk should be, as a power cut or a broken daemon leaves them. */
function spoiltData(bytes: Buffer, random: Random): Buffer {
  if (random.chance(50)) return bytes;
  const from = random.below(bytes.length);
  const spoilt = Buffer.from(bytes);
  spoilt.subarray(from, from + random.below(SPOILT_BYTES_MAX)).fill(0);
  return spoilt;
}

/** Header, bits, or length. */
function mutantMap(bytes: Buffer, random: Random): Buffer {
  return random.chance(50)
    ? random.mutate(bytes, 0, 16)
    : random.mutate(bytes, random.chance(80) ? MAP_HEADER_BYTES : 0);
}

export const IMAGE_CASES: Record<string, DaemonCase> = {
  'v5 bootstrap': bootstrapCase(V5),
  'v6 bootstrap': bootstrapCase(V6),
  'tarfs bootstrap': bootstrapCase(TARFS),
  'inline bootstrap': bootstrapCase(INLINE),
  'chunk map': chunkMapCase,
};
