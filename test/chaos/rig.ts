/** A daemon over a faulty registry, a reader that checks every byte, and the counts of the report. */
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { blobTable, type ExpectedChunk, expectedChunks } from '../../src/storage/fixtures.testing.ts';
import { FuseClient, readArgs } from '../../src/virtiofs/testing/fuse-client.ts';
import { FaultServer } from '../daemon/fault-server.ts';
import { FIXTURES, Nydusd } from '../daemon/nydusd.ts';

const IMAGES = path.join(FIXTURES, 'images');
const IMAGE = 'v6-zstd-blake3';
const BOOTSTRAP = path.join(IMAGES, `boot/${IMAGE}.boot`);
/** Longer than the deadline of a demand read: what comes later is a hang. */
export const ANSWER_MS = 25_000;
const READ_BYTES = 128 * 1024;

interface Expected {
  path: string;
  type: string;
  size: number;
  sha256: string;
}

export const FILES: readonly Expected[] = (
  JSON.parse(fs.readFileSync(path.join(IMAGES, 'expect/full.json'), 'utf8')) as Expected[]
)
  .filter((e) => e.type === 'file' && e.size > 0 && e.path !== undefined)
  .sort((a, b) => b.size - a.size)
  .slice(0, 40);

export const BLOB = blobTable(IMAGE)[0]!;
export const CHUNKS: readonly ExpectedChunk[] = expectedChunks(BLOB);

/** What is counted over all scenarios. */
export interface Counts {
  wrongBytes: number;
  sticky: number;
  refetched: number;
  errors: number;
  recoveryMs: number;
}

export const noCounts = (): Counts => ({ wrongBytes: 0, sticky: 0, refetched: 0, errors: 0, recoveryMs: 0 });

export class ChaosRig {
  readonly dir = fs.mkdtempSync(path.join(tmpdir(), 'chaos-'));
  private caches = 0;

  private constructor(readonly server: FaultServer) {}

  static async start(): Promise<ChaosRig> {
    return new ChaosRig(await FaultServer.start(path.join(IMAGES, 'blobs')));
  }

  freshCache(): string {
    const dir = path.join(this.dir, `cache-${this.caches++}`);
    fs.mkdirSync(dir);
    return dir;
  }

  /** A daemon with the image at /i. */
  async daemon(cache: string, validate = true): Promise<Nydusd> {
    const daemon = await Nydusd.start();
    const config = JSON.stringify({
      device: {
        backend: { type: 'registry', config: { scheme: 'http', host: this.server.host, repo: 'r' } },
        cache: { type: 'blobcache', config: { work_dir: cache } },
      },
      mode: 'direct',
      digest_validate: validate,
      enable_xattr: true,
    });
    const answer = await daemon.mount('/i', { fs_type: 'rafs', source: BOOTSTRAP, config });
    if (answer.status !== 204) {
      daemon.kill();
      throw new Error(`mount: ${answer.status} ${answer.text}`);
    }
    return daemon;
  }

  end(): void {
    this.server.stop();
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}

/** The guest's side of one daemon. */
export class Reader {
  readonly client: FuseClient;

  constructor(readonly daemon: Nydusd) {
    this.client = new FuseClient(daemon.sock, { timeoutMs: ANSWER_MS, queueSize: 256 });
    this.client.init();
  }

  /** Reads a whole file with all its READs in flight at once: true when right, an errno when one failed. */
  read(file: Expected, counts: Counts): boolean {
    const node = this.client.walk(`/i/${file.path}`);
    const fh = this.client.open(node);
    if (typeof fh !== 'bigint') throw new Error(`open ${file.path}: ${fh}`);
    const parts = new Map<number, number>();
    for (let at = 0; at < file.size; at += READ_BYTES) {
      parts.set(this.client.submit('READ', readArgs(fh, at, READ_BYTES), { nodeid: node, replyBytes: READ_BYTES }), at);
    }
    const content = Buffer.alloc(file.size);
    let isWhole = true;
    for (let left = parts.size; left > 0; left--) {
      const got = this.client.wait();
      if (got === null) throw new Error(`a READ of ${file.path} is not answered within ${ANSWER_MS} ms`);
      const at = parts.get(got.head)!;
      if (got.reply.error !== 0) isWhole = false;
      else if (got.reply.body.length !== Math.min(READ_BYTES, file.size - at)) counts.wrongBytes++;
      else got.reply.body.copy(content, at);
    }
    const release = Buffer.alloc(24);
    release.writeBigUInt64LE(fh, 0);
    this.client.call('RELEASE', release, { nodeid: node });
    if (!isWhole) {
      counts.errors++;
      return false;
    }
    if (createHash('sha256').update(content).digest('hex') === file.sha256) return true;
    counts.wrongBytes++;
    return false;
  }

  readAll(counts: Counts, files: readonly Expected[] = FILES): boolean {
    return files.map((file) => this.read(file, counts)).every(Boolean);
  }

  /** After the fault is lifted: everything reads right within `STICKY_MS`, or what failed is sticky. */
  recover(counts: Counts, files: readonly Expected[] = FILES): void {
    const from = performance.now();
    const trial = noCounts();
    while (!this.readAll(trial, files)) {
      if (performance.now() - from > STICKY_MS) {
        counts.sticky++;
        break;
      }
    }
    counts.wrongBytes += trial.wrongBytes;
    counts.recoveryMs = Math.max(counts.recoveryMs, performance.now() - from);
  }

  /** READs of many files in flight, not waited for. */
  flood(files: readonly Expected[]): void {
    const { client } = this;
    for (const file of files) {
      const node = client.walk(`/i/${file.path}`);
      const fh = client.open(node);
      if (typeof fh === 'bigint')
        client.submit('READ', readArgs(fh, 0, READ_BYTES), { nodeid: node, replyBytes: READ_BYTES });
    }
  }

  close(): void {
    this.client.close();
  }
}

/** Reads that still fail this long after the fault was lifted. */
const STICKY_MS = 1000;

/** Chunks whose bit is set in the map file. */
export function readyChunks(cache: string): Set<number> {
  const file = path.join(cache, `${BLOB.id}.blob.data.chunk_map`);
  if (!fs.existsSync(file)) return new Set();
  const map = fs.readFileSync(file);
  const ready = CHUNKS.filter(({ index }) => ((map[4096 + (index >> 3)] ?? 0) & (0x80 >> (index & 7))) !== 0);
  return new Set(ready.map(({ index }) => index));
}

/** How many of the chunks `ready` lie in the ranges fetched. */
export function refetchedOf(ready: ReadonlySet<number>, ranges: readonly [number, number][]): number {
  return CHUNKS.filter(
    ({ index, compressedOffset, compressedSize }) =>
      ready.has(index) &&
      ranges.some(([from, to]) => from <= compressedOffset && compressedOffset + compressedSize - 1 <= to),
  ).length;
}
