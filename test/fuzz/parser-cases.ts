/** Parsers fed with mutated real files. Oracle: a result or an AppError, in time; through the daemon: an answer, and life goes on. */
import fs from 'node:fs';
import { connect } from 'node:net';
import path from 'node:path';
import { DATA_BYTES_MAX, overlayMount } from '../../src/cli/overlay-options.ts';
import { AppError } from '../../src/common/app-error.ts';
import { parseConfig } from '../../src/storage/config/config.ts';
import { blobBytes, blobTable } from '../../src/storage/fixtures.testing.ts';
import { encodeCctHeader } from '../../src/storage/tables/blob-layout.ts';
import { BlobMeta } from '../../src/storage/tables/blob-meta.ts';
import {
  decodeTarHeader,
  decodeToc,
  encodeTarHeader,
  encodeToc,
  walkBackwards,
} from '../../src/storage/tables/blob-toc.ts';
import type { BlobInfo } from '../../src/storage/types.ts';
import { localfsConfig, type Nydusd } from '../daemon/nydusd.ts';
import { expect, Finding } from './finding.ts';
import { type DaemonCase, IMAGE_CASES } from './image-cases.ts';
import type { Random } from './random.ts';
import { BOOTSTRAP } from './rig.ts';
import { decodeReply, type Session } from './session.ts';

/** A parser that takes longer on a file of some KiB hangs. */
const PARSE_MS_MAX = 2000;

/** Runs `parse`; only AppErrors may come out. */
async function parses(session: Session, what: string, input: Buffer | string, parse: () => unknown): Promise<void> {
  const from = performance.now();
  try {
    await parse();
  } catch (error) {
    const shown = Buffer.from(input).subarray(0, 512).toString('hex');
    expect(error instanceof AppError, () => `${what} threw ${(error as Error).stack} on ${shown}`);
  }
  const ms = performance.now() - from;
  expect(ms < PARSE_MS_MAX * session.patience, () => `${what} took ${ms} ms`);
}

interface Described {
  info: BlobInfo;
  /** The part of the file that describes chunks, and what follows it. */
  table: Buffer;
}

/** Blobs whose chunk tables have chunks of every kind; the one of zran lies in a file of its own. */
const DESCRIBED = ['v6-zstd-blake3', 'v6-batch', 'v6-encrypt', 'v6-toc', 'zran-v6'].map((name): Described => {
  const [info] = blobTable(name) as [BlobInfo];
  const file = blobBytes(name.startsWith('zran') ? Buffer.from(info.extra.subarray(0, 32)).toString('hex') : info.id);
  return { info, table: file.subarray(info.ciOffset, info.ciOffset + info.ciCompressedSize + 4096) };
});

const blobMeta: DaemonCase = async (rig, session, random) => {
  const { info: real, table } = random.pick(DESCRIBED);
  const info = random.chance(70) ? real : { ...real, chunkCount: random.odd32(), ciUncompressedSize: random.odd32() };
  const mutant = random.mutate(table);
  const meta = path.join(rig.dir, 'mutant.meta');
  if (random.chance(50)) fs.writeFileSync(meta, random.bytes(random.below(10_000)));
  await parses(session, 'BlobMeta.open', mutant, async () => {
    const read = async (offset: number, bytes: number): Promise<Buffer> => {
      const got = mutant.subarray(offset - info.ciOffset, offset - info.ciOffset + bytes);
      return Buffer.concat([got, Buffer.alloc(bytes - got.length)]);
    };
    const opened = await BlobMeta.open(info, meta, read);
    for (let i = 0; i < 20; i++) opened.chunk(random.below(info.chunkCount));
    opened.close();
  });
  fs.rmSync(meta, { force: true });
};

const [blob] = blobTable('v6-zstd-blake3');
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

const toc: DaemonCase = async (_rig, session, random) => {
  const tail = tocFile.subarray(Math.max(0, tocFile.length - 4096));
  const bytes = random.chance(50)
    ? random.mutate(tail)
    : random.mutate(Buffer.concat([cctHeader.subarray(0, 512), tail]));
  await parses(session, 'walkBackwards', bytes, () =>
    walkBackwards(bytes.length, (offset, count) => bytes.subarray(offset, offset + count)),
  );
  const entries = random.mutate(tocEntries);
  await parses(session, 'decodeToc', entries, () => decodeToc(entries, random.odd32()));
  const header = random.mutate(encodeTarHeader('image.boot', 1234)).subarray(0, 512);
  await parses(session, 'decodeTarHeader', header, () =>
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

const config: DaemonCase = async (rig, session, random) => {
  const text = mutantJson(CONFIG, random);
  await parses(session, 'parseConfig', text, () => parseConfig(text));
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

const http: DaemonCase = async (rig, { patience }, random) => {
  const text = random.mutate(Buffer.from(random.pick(REQUESTS)));
  if (HARMFUL.test(text.toString('latin1'))) return;
  await rawRequest(rig.daemon, text, patience);
  const alive = await rig.daemon.get('/api/v1/daemon');
  expect(alive.status === 200, () => `GET daemon after ${JSON.stringify(text.toString('latin1'))}: ${alive.status}`);
};

/** Sends bytes and half-closes; the server must end the connection. */
function rawRequest(daemon: Nydusd, bytes: Buffer, patience: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path: daemon.apisock, allowHalfOpen: true });
    const what = (): string => JSON.stringify(bytes.toString('latin1'));
    socket.setTimeout(PARSE_MS_MAX * patience, () => {
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

const reply: DaemonCase = async (_rig, _session, random) => {
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

const OVERLAY = [
  'ro,lowerdir=/a/b/fs:/c/d/fs,dev,suid',
  'workdir=/w,upperdir=/u,lowerdir=/l,extraoption=eyJzb3VyY2UiOiJ4In0=,dev,suid',
  'lowerdir=/l1:/l2:/l3,io.katacontainers.volume=eyJhIjoxfQ==,volatile,index=off,nosuid,noexec',
];

const OVERLAY_WORDS = OVERLAY.flatMap((text) => text.split(','));

/** What goes on to mount(2) is within its limits, and never an option meant for Kata. */
const overlay: DaemonCase = async (_rig, session, random) => {
  const count = random.chance(10) ? 400 : random.below(12);
  const words = Array.from({ length: count }, () => random.pick(OVERLAY_WORDS)).join(',');
  const text = random.chance(50) ? random.pick(OVERLAY) : words;
  const options = random.chance(70) ? random.mutate(Buffer.from(text)).toString('latin1') : text;
  const argv = ['overlay', '/target', '-o', options];
  await parses(session, 'overlayMount', options, () => {
    const { data } = overlayMount(random.chance(90) ? argv : argv.slice(random.below(5)));
    expect(Buffer.byteLength(data) <= DATA_BYTES_MAX, () => `overlayMount gives ${data.length} characters of data`);
    const isClean = !data.split(',').some((word) => word.startsWith('extraoption='));
    expect(isClean, () => `overlayMount passes on what is meant for Kata: ${data}`);
  });
};

export const PARSERS: Record<string, DaemonCase> = {
  ...IMAGE_CASES,
  'blob.meta': blobMeta,
  toc,
  configuration: config,
  'HTTP API': http,
  'overlay options': overlay,
  'replies (harness)': reply,
};
export const PARSER_NAMES = Object.keys(PARSERS);
