/** What the daemon counts, asked over its API while a guest works: upstream's shapes (kata-contract 4.5) and Prometheus. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { OPS } from '../../src/fuse/opcodes.ts';
import { FOPS } from '../../src/fuse/stats-layout.ts';
import { FuseClient, readArgs } from '../../src/virtiofs/testing/fuse-client.ts';
import { FaultServer } from './fault-server.ts';
import { FIXTURES, localfsConfig, Nydusd } from './nydusd.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'metrics-'));
const BLOBS = join(FIXTURES, 'images/blobs');
const BOOTSTRAP = join(FIXTURES, 'images/boot/v6-zstd-blake3.boot');
/** Chunks of 4 KiB, so that a read has many. */
const SMALL_CHUNKS = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');
const RAFS = '/rafs/c1/lowerdir';
const FILE = '/big/multi-chunk';

interface FsMetrics {
  id: string;
  measure_latency: boolean;
  files_account_enabled: boolean;
  nr_opens: number;
  data_read: number;
  block_count_read: number[];
  fop_hits: number[];
  fop_errors: number[];
  fop_cumulative_latency_total: number[];
  read_latency_dist: number[];
}
const at = (fop: (typeof FOPS)[number]): number => FOPS.indexOf(fop);
const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

let daemon: Nydusd;
let client: FuseClient;
let server: FaultServer;

before(async () => {
  server = await FaultServer.start(BLOBS);
  daemon = await Nydusd.start();
  const share = join(daemon.dir, 'shared');
  mkdirSync(share);
  writeFileSync(join(share, 'f'), Buffer.alloc(200_000, 'x'));
  await mount('/containers', { fs_type: 'passthrough_fs', source: share, config: '' });
  const config = { ...localfsConfig(BLOBS, join(daemon.dir, 'cache')), iostats_files: true, access_pattern: true };
  await mount(RAFS, rafs({ ...config, latest_read_files: true }));
  const plain = localfsConfig(BLOBS, join(daemon.dir, 'cache'));
  await mount('/rafs/c2/lowerdir', rafs(plain));
  const dead = join(daemon.dir, 'dead-cache');
  mkdirSync(dead);
  const registry = structuredClone(plain) as { device: { backend: object; cache: { config: object } } };
  registry.device.backend = { type: 'registry', config: { scheme: 'http', host: server.host, repo: 'r' } };
  registry.device.cache.config = { work_dir: dead };
  await mount('/rafs/dead/lowerdir', rafs(registry));
  client = new FuseClient(daemon.sock, { timeoutMs: 25_000 });
  client.init();
});
after(() => {
  client.close();
  daemon.kill();
  server.stop();
  rmSync(ROOT, { recursive: true, force: true });
});

const rafs = (config: object): object => ({ fs_type: 'rafs', source: BOOTSTRAP, config: JSON.stringify(config) });

async function mount(where: string, body: object): Promise<void> {
  const answer = await daemon.mount(where, body);
  assert.equal(answer.status, 204, answer.text);
}

async function json<T>(path: string): Promise<T> {
  const answer = await daemon.get(path);
  assert.equal(answer.status, 200, answer.text);
  return JSON.parse(answer.text) as T;
}
const metricsOf = (id: string): Promise<FsMetrics> => json<FsMetrics>(`/api/v1/metrics?id=${id}`);

/** Opens `path`, reads `sizes` from its start on, and closes it unless `keep`. */
function read(path: string, sizes: number[], keep = false): void {
  const node = client.walk(path);
  const fh = client.open(node) as bigint;
  for (const size of sizes) assert.equal(client.read(node, fh, 0, size).error, 0);
  if (keep) return;
  const args = Buffer.alloc(24);
  args.writeBigUInt64LE(fh, 0);
  client.call('RELEASE', args, { nodeid: node });
}

describe('requests are counted for the mount they went to', () => {
  test('reads by size and latency, operations, bytes', async () => {
    read('/containers/f', [500, 4096, 4096, 131_072]);
    const { fop_hits, fop_errors, data_read, block_count_read, read_latency_dist, ...rest } =
      await metricsOf('/containers');
    assert.equal(fop_hits[at('READ')], 4);
    assert.equal(fop_hits[at('OPEN')], 1);
    assert.equal(fop_hits[at('RELEASE')], 1);
    assert.equal(fop_hits[at('LOOKUP')], 2, 'of the mount point, and of the file');
    assert.equal(sum(fop_errors), 0);
    assert.equal(data_read, 500 + 4096 + 4096 + 131_072);
    assert.deepEqual(block_count_read, [1, 0, 2, 0, 0, 1, 0, 0]);
    assert.equal(sum(read_latency_dist), 4);
    assert.deepEqual([rest.measure_latency, rest.nr_opens, rest.files_account_enabled], [true, 0, false]);
    assert.ok((rest.fop_cumulative_latency_total[at('READ')] as number) > 0);
    assert.equal(rest.fop_cumulative_latency_total[at('READLINK')], 0);
  });

  test('errors, and files that are open', async () => {
    const dir = client.walk('/containers');
    assert.equal(typeof client.lookup(dir, 'nothing'), 'number');
    read('/containers/f', [1], true);
    const { fop_errors, nr_opens } = await metricsOf('/containers');
    assert.equal(fop_errors[at('LOOKUP')], 1);
    assert.equal(nr_opens, 1);
  });

  test('the other mounts have nothing of it, and begin at 0 when made again', async () => {
    assert.equal(sum((await metricsOf('/rafs/c2/lowerdir')).fop_hits), 0);
    read(`/rafs/c2/lowerdir${FILE}`, [4096]);
    assert.equal((await metricsOf('/rafs/c2/lowerdir')).fop_hits[at('READ')], 1);
    assert.equal((await metricsOf(RAFS)).fop_hits[at('READ')], 0);
    const where = '/api/v1/mount?mountpoint=/rafs/c2/lowerdir';
    assert.equal((await daemon.request('DELETE', where)).status, 204);
    await mount('/rafs/c2/lowerdir', rafs(localfsConfig(BLOBS, join(daemon.dir, 'cache'))));
    assert.equal(sum((await metricsOf('/rafs/c2/lowerdir')).fop_hits), 0);
  });
});

test('reads that find all, a part, or nothing of what they want in the cache', async () => {
  const where = '/rafs/cold/lowerdir';
  const cache = join(daemon.dir, 'cold-cache');
  mkdirSync(cache);
  await mount(where, { ...rafs({ ...localfsConfig(BLOBS, cache), amplify_io: 0 }), source: SMALL_CHUNKS });
  const hits = async () => {
    const all = await json<Record<string, number>>(`/api/v1/metrics/blobcache?id=${where}`);
    return ['whole_hits', 'partial_hits', 'total'].map((name) => all[name]);
  };
  assert.deepEqual(await hits(), [0, 0, 0]);
  const node = client.walk(`${where}${FILE}`);
  const fh = client.open(node) as bigint;
  const readAt = (offset: number, size: number) => assert.equal(client.read(node, fh, offset, size).error, 0);
  readAt(8192, 4096);
  assert.deepEqual(await hits(), [0, 0, 1]);
  readAt(8192, 4096);
  assert.deepEqual(await hits(), [1, 0, 2]);
  readAt(4096, 8192);
  assert.deepEqual(await hits(), [1, 1, 3]);
  assert.equal((await daemon.request('DELETE', `/api/v1/mount?mountpoint=${where}`)).status, 204);
});

describe('files of an image whose configuration asks for it', () => {
  test('counters of each file, by inode number', async () => {
    read(RAFS + FILE, [4096, 4096, 100_000]);
    assert.equal((await metricsOf(RAFS)).files_account_enabled, true);
    const files = await json<Record<string, { total_fops: number; data_read: number; fop_hits: number[] }>>(
      `/api/v1/metrics/files?id=${RAFS}`,
    );
    const entry = client.lookup(client.walk(`${RAFS}/big`), 'multi-chunk');
    assert.ok(typeof entry === 'object');
    const file = files[String(Number(entry.nodeid & 0xffff_ffffn))];
    assert.ok(file !== undefined, `${entry.nodeid} is not among ${Object.keys(files)}`);
    assert.equal(file.data_read, 4096 + 4096 + 100_000);
    assert.equal(file.fop_hits[at('READ')], 3);
    assert.equal(file.total_fops, sum(file.fop_hits));
  });

  test('access pattern: only what was read, with the time of its first access', async () => {
    const pattern = await json<{ ino: number; nr_read: number; first_access_time_secs: number }[]>(
      `/api/v1/metrics/pattern?id=${RAFS}`,
    );
    assert.equal(pattern.length, 1);
    assert.equal(pattern[0]?.nr_read, 3);
    assert.ok(Math.abs((pattern[0]?.first_access_time_secs ?? 0) - Date.now() / 1000) < 120);
  });

  test('latest read files are ranges, and reading them clears them', async () => {
    const latest = () => json<number[][]>(`/api/v1/metrics/files?id=${RAFS}&latest=true`);
    const first = await latest();
    assert.deepEqual([first.length, first[0]?.length], [1, 1]);
    assert.deepEqual(await latest(), []);
    read(RAFS + FILE, [4096]);
    assert.deepEqual(await latest(), first);
  });

  test('nothing for one that does not', async () => {
    read('/rafs/c2/lowerdir/big/multi-chunk', [4096]);
    for (const [path, empty] of [
      ['files', {}],
      ['pattern', []],
      ['files', []],
    ] as const) {
      const query = Array.isArray(empty) && path === 'files' ? '&latest=true' : '';
      assert.deepEqual(await json(`/api/v1/metrics/${path}?id=/rafs/c2/lowerdir${query}`), empty);
    }
  });
});

describe('Prometheus', () => {
  const text = async (): Promise<string> => (await daemon.get('/metrics')).text;
  const value = (from: string, sample: string): number => {
    const line = from.split('\n').find((l) => l.startsWith(`${sample} `));
    assert.ok(line !== undefined, `no ${sample}`);
    return Number(line.split(' ')[1]);
  };

  test('a latency histogram for each opcode that came: cumulative, and complete', async () => {
    const now = await text();
    const buckets = [...now.matchAll(/^nydusd_request_duration_seconds_bucket\{opcode="READ",le="(.+)"\} (\d+)$/gm)];
    const counts = buckets.map(([, , count]) => Number(count));
    assert.equal(buckets.at(-1)?.[1], '+Inf');
    assert.deepEqual(
      counts,
      [...counts].sort((a, b) => a - b),
    );
    const count = value(now, 'nydusd_request_duration_seconds_count{opcode="READ"}');
    assert.equal(counts.at(-1), count);
    assert.equal(count, value(now, 'nydusd_requests_total{opcode="READ"}'));
    assert.ok(value(now, 'nydusd_request_duration_seconds_sum{opcode="READ"}') > 0);
    assert.ok(!now.includes('seconds_count{opcode="SYMLINK"}'), 'a histogram of an opcode that never came');
  });

  test('the depth of each queue', async () => {
    const node = client.walk('/containers/f');
    for (let i = 0; i < 20; i++) client.submit('GETATTR', Buffer.alloc(16), { nodeid: node, replyBytes: 104 });
    for (let i = 0; i < 20; i++) assert.ok(client.wait() !== null);
    const now = await text();
    for (const queue of ['0', '1']) assert.ok(value(now, `nydusd_queue_depth{queue="${queue}"}`) >= 0);
  });

  test('promtool has nothing to say against it', async (t) => {
    const promtool = spawnSync('promtool', ['check', 'metrics'], { input: await text(), encoding: 'utf8' });
    if (promtool.error !== undefined) return t.skip('promtool is not installed: apt-get install prometheus');
    assert.deepEqual([promtool.status, promtool.stdout + promtool.stderr], [0, '']);
  });
});

describe('in flight', () => {
  interface Inflight {
    inode: number;
    opcode: number;
    unique: number;
    timestamp_secs: number;
    age_ms: number;
  }
  const inflight = () => json<Inflight[]>('/api/v1/metrics/inflight');

  test('204 when nothing is', async () => {
    assert.equal((await daemon.get('/api/v1/metrics/inflight')).status, 204);
  });

  test('reads that wait for a dead registry: opcode, unique, inode and age; their wait is in the histogram', async () => {
    await server.mode('hang');
    const node = client.walk(`/rafs/dead/lowerdir${FILE}`);
    const fh = client.open(node) as bigint;
    for (let i = 0; i < 3; i++) client.submit('READ', readArgs(fh, 0, 4096), { nodeid: node, replyBytes: 4096 });
    await sleep(1100);
    const found = await inflight();
    assert.equal(found.length, 3);
    for (const request of found) {
      assert.equal(request.opcode, OPS.READ.op);
      assert.equal(request.inode, Number(node));
      assert.ok(request.age_ms >= 1000 && request.age_ms < 60_000, `${request.age_ms} ms`);
      assert.ok(Math.abs(request.timestamp_secs + request.age_ms / 1000 - Date.now() / 1000) < 5);
    }
    assert.equal(new Set(found.map(({ unique }) => unique)).size, 3);
    const now = (await daemon.get('/metrics')).text;
    assert.match(now, /^nydusd_inflight_requests 3$/m);
    assert.match(now, /^nydusd_parked_requests 3$/m);
    assert.match(now, /^nydusd_inflight_oldest_seconds [1-9]/m);
    assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/rafs/dead/lowerdir')).status, 204);
    for (let i = 0; i < 3; i++) assert.ok(client.wait(1, 5000) !== null);
    assert.equal((await daemon.get('/api/v1/metrics/inflight')).status, 204);
    const slow = /seconds_bucket\{opcode="READ",le="1"\} (\d+)\n.*le="2"\} (\d+)\n.*le="10"\} (\d+)/.exec(
      (await daemon.get('/metrics')).text,
    );
    assert.ok(slow !== null && Number(slow[3]) - Number(slow[1]) >= 3, 'waits above 1 s are not in the histogram');
  });
});
