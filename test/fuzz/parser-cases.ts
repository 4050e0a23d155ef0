/** Parsers fed with mutated real files. Oracle: a result or an AppError, in time; through the daemon: an answer, and life goes on. */
import fs from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import { AppError } from '../../src/common/app-error.ts';
import { encodeCctHeader } from '../../src/storage/blob-layout.ts';
import { BlobMeta } from '../../src/storage/blob-meta.ts';
import { decodeTarHeader, decodeToc, encodeTarHeader, encodeToc, walkBackwards } from '../../src/storage/blob-toc.ts';
import { parseConfig } from '../../src/storage/config.ts';
import { blobBytes, blobTable } from '../../src/storage/fixtures.testing.ts';
import { DEMAND_POLICY } from '../../src/storage/retry.ts';
import { localfsConfig, type Nydusd } from '../daemon/nydusd.ts';
import { expect, Finding } from './finding.ts';
import type { Random } from './random.ts';
import { BLOBS, BOOTSTRAP, type Rig } from './rig.ts';
import { decodeReply, QUEUES, type Session } from './session.ts';

/** A parser that takes longer on a file of some KiB hangs, however slow the machine. */
const PARSE_MS_MAX = 5000;
/** A chunk that a mutant invents is looked for until the deadline of demand reads. */
const READ_MS_MAX = DEMAND_POLICY.deadlineMs + PARSE_MS_MAX;
const NODES_VISITED = 25;
const OP = { LOOKUP: 1, OPEN: 14, READ: 15, OPENDIR: 27, READDIRPLUS: 44, READLINK: 5, LISTXATTR: 23 } as const;

type ParserCase = (rig: Rig, session: Session, random: Random) => Promise<void>;

/** Runs `parse`; only AppErrors may come out. */
async function parses(what: string, input: Buffer | string, parse: () => unknown): Promise<void> {
  const from = performance.now();
  try {
    await parse();
  } catch (error) {
    const shown = Buffer.from(input).subarray(0, 512).toString('hex');
    expect(error instanceof AppError, () => `${what} threw ${(error as Error).stack} on ${shown}`);
  }
  const ms = performance.now() - from;
  expect(ms < PARSE_MS_MAX, () => `${what} took ${ms} ms`);
}

const bootstrap = fs.readFileSync(BOOTSTRAP);
const [blob] = blobTable('v6-zstd-blake3');
const blobFile = blobBytes(blob!.id);

/** Where it pays to change a bootstrap: superblocks and tables, or anywhere. */
function mutantBootstrap(random: Random): Buffer {
  const to = random.chance(50) ? 4096 : bootstrap.length;
  return random.mutate(bootstrap, random.chance(80) ? 1024 : 0, to);
}

const bootstrapCase: ParserCase = async (rig, session, random) => {
  const file = path.join(rig.dir, 'mutant.boot');
  fs.writeFileSync(file, mutantBootstrap(random));
  const cache = path.join(rig.dir, 'mutant-cache');
  fs.mkdirSync(cache, { recursive: true });
  const config = JSON.stringify({ ...localfsConfig(BLOBS, cache), digest_validate: random.chance(50) });
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

/** Looks at what a mutant offers: every answer is well formed, whatever it says. */
function visit(session: Session, random: Random): void {
  const start = session.call(QUEUES.PROBE, OP.LOOKUP, 1n, Buffer.from('mutant\0'), 128);
  if (start.error !== 0) return;
  const nodes = [start.body.readBigUInt64LE(0)];
  for (let i = 0; i < NODES_VISITED && nodes.length > 0; i++) {
    const node = nodes.splice(random.below(nodes.length), 1)[0]!;
    const dir = session.call(QUEUES.PROBE, OP.OPENDIR, node, Buffer.alloc(8), 16);
    if (dir.error === 0) nodes.push(...children(session, node, dir.body));
    else content(session, node);
  }
}

function readArgs(fh: Buffer, size: number): Buffer {
  const args = Buffer.alloc(40);
  fh.copy(args, 0, 0, 8);
  args.writeUInt32LE(size, 16);
  return args;
}

function children(session: Session, node: bigint, fh: Buffer): bigint[] {
  const { body } = session.call(QUEUES.PROBE, OP.READDIRPLUS, node, readArgs(fh, 4000), 4000);
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

function content(session: Session, node: bigint): void {
  session.call(QUEUES.PROBE, OP.READLINK, node, Buffer.alloc(0), 4000);
  session.call(QUEUES.PROBE, OP.LISTXATTR, node, Buffer.from([0, 4, 0, 0, 0, 0, 0, 0]), 1024);
  const file = session.call(QUEUES.PROBE, OP.OPEN, node, Buffer.alloc(8), 16);
  if (file.error === 0) session.call(QUEUES.PROBE, OP.READ, node, readArgs(file.body, 4000), 4000, READ_MS_MAX);
}

const blobMeta: ParserCase = async (rig, _session, random) => {
  const info = random.chance(70) ? blob! : { ...blob!, chunkCount: random.odd32(), ciUncompressedSize: random.odd32() };
  const end = info.ciOffset + info.ciCompressedSize + 4096;
  const file = Buffer.concat([
    blobFile.subarray(0, info.ciOffset),
    random.mutate(blobFile.subarray(info.ciOffset, end)),
  ]);
  const meta = path.join(rig.dir, 'mutant.meta');
  if (random.chance(50)) fs.writeFileSync(meta, random.bytes(random.below(10_000)));
  await parses('BlobMeta.open', file.subarray(info.ciOffset), async () => {
    const read = async (offset: number, bytes: number): Promise<Buffer> => {
      const got = file.subarray(offset, offset + bytes);
      return Buffer.concat([got, Buffer.alloc(bytes - got.length)]);
    };
    const opened = await BlobMeta.open(info, meta, read);
    for (let i = 0; i < 20; i++) opened.chunk(random.below(info.chunkCount));
    opened.close();
  });
  fs.rmSync(meta, { force: true });
};

const cctHeader = encodeCctHeader({
  features: blob!.features,
  ciCompressor: blob!.ciCompressor,
  chunkCount: blob!.chunkCount,
  ciOffset: blob!.ciOffset,
  ciCompressedSize: blob!.ciCompressedSize,
  ciUncompressedSize: blob!.ciUncompressedSize,
  contextOffset: 0,
  contextSize: 0,
  contextCount: 0,
});
const tocFile = blobBytes(blobTable('v6-toc')[0]!.id);

const toc: ParserCase = async (_rig, _session, random) => {
  const tail = tocFile.subarray(Math.max(0, tocFile.length - 4096));
  const bytes = random.chance(50)
    ? random.mutate(tail)
    : random.mutate(Buffer.concat([cctHeader.subarray(0, 512), tail]));
  await parses('walkBackwards', bytes, () =>
    walkBackwards(bytes.length, (offset, count) => bytes.subarray(offset, offset + count)),
  );
  const entries = random.mutate(tocEntries);
  await parses('decodeToc', entries, () => decodeToc(entries, random.odd32()));
  const header = random.mutate(encodeTarHeader('image.boot', 1234)).subarray(0, 512);
  await parses('decodeTarHeader', header, () =>
    decodeTarHeader(Buffer.concat([header, Buffer.alloc(512 - header.length)])),
  );
};

const tocEntries = encodeToc([
  {
    name: 'blob.meta',
    flags: 2,
    digest: Buffer.alloc(32, 7),
    offset: 4096,
    storedSize: 100,
    uncompressedSize: 4096,
  },
]);

const CONFIG = JSON.stringify({
  ...localfsConfig('/blobs', '/cache'),
  amplify_io: 65_536,
  fs_prefetch: { enable: true, threads_count: 4, merging_size: 131_072, bandwidth_rate: 0, prefetch_all: false },
  digest_validate: true,
});
const ODD_JSON = ['null', 'true', '-1', '1e999', '"x"', '[]', '{}', '9007199254740993', '"\\u0000"', '[[[[[[]]]]]]'];

/** JSON with a value replaced, or its text damaged. */
function mutantJson(text: string, random: Random): string {
  if (random.chance(40)) return random.mutate(Buffer.from(text)).toString('utf8');
  const values = [...text.matchAll(/:("[^"]*"|\d+|true|false)/g)];
  const hit = random.pick(values);
  const at = hit.index + 1;
  return text.slice(0, at) + random.pick(ODD_JSON) + text.slice(at + hit[1]!.length);
}

const config: ParserCase = async (rig, _session, random) => {
  const text = mutantJson(CONFIG, random);
  await parses('parseConfig', text, () => parseConfig(text));
  if (!random.chance(20)) return;
  const answer = await rig.daemon.mount('/config', { fs_type: 'rafs', source: BOOTSTRAP, config: text });
  expect([204, 400, 500].includes(answer.status), () => `mount with configuration ${text}: ${answer.status}`);
  if (answer.status === 204) await rig.umount('/config');
};

const REQUESTS = [
  'GET /api/v1/daemon HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
  'GET /api/v1/metrics?id=/image HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
  'PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 20\r\n\r\n{"log_level":"info"}',
  'POST /api/v1/mount?mountpoint=/h HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 51\r\n\r\n{"fs_type":"rafs","source":"/nothing","config":"x"}',
  'DELETE /api/v1/mount?mountpoint=/h HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
  'POST /api/v1/mount?mountpoint=/h HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"fs_\r\n0\r\n\r\n',
];
/** Words that a flip may make of a request and that would end the daemon or take the image away. */
const HARMFUL = /exit|DELETE[^\n]*mountpoint=\/(?!h)|takeover|start/;

const http: ParserCase = async (rig, _session, random) => {
  const text = random.mutate(Buffer.from(random.pick(REQUESTS)));
  if (HARMFUL.test(text.toString('latin1'))) return;
  await rawRequest(rig.daemon, text);
  const alive = await rig.daemon.get('/api/v1/daemon');
  expect(alive.status === 200, () => `GET daemon after ${JSON.stringify(text.toString('latin1'))}: ${alive.status}`);
};

/** Sends bytes and half-closes; the server must end the connection. */
function rawRequest(daemon: Nydusd, bytes: Buffer): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path: daemon.apisock, allowHalfOpen: true });
    const what = (): string => JSON.stringify(bytes.toString('latin1'));
    socket.setTimeout(PARSE_MS_MAX, () => {
      socket.destroy();
      reject(new Finding(`the API server neither answers nor hangs up after ${what()}`));
    });
    // A server that hangs up on nonsense may do so while it still comes in.
    socket.on('error', () => {});
    socket.on('close', () => resolve());
    socket.on('end', () => socket.destroy());
    socket.resume();
    socket.end(bytes);
  });
}

const reply: ParserCase = async (_rig, _session, random) => {
  // The harness's own canary: a reply that lies must be noticed.
  const lie = Buffer.alloc(16);
  lie.writeUInt32LE(random.between(17, 4096), 0);
  let isNoticed = false;
  try {
    decodeReply(lie, 16, 0n);
  } catch (error) {
    isNoticed = error instanceof Finding;
  }
  if (!isNoticed) throw new Error('the harness believes a reply whose length lies');
};

export const PARSERS: Record<string, ParserCase> = {
  bootstrap: bootstrapCase,
  'blob.meta': blobMeta,
  toc,
  configuration: config,
  'HTTP API': http,
  'replies (harness)': reply,
};
export const PARSER_NAMES = Object.keys(PARSERS);
