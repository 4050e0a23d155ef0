/** Prefetch over a counting registry: what is fetched, how often, and when it ends. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomFillSync } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { FaultServer } from './fault-server.ts';
import { NYDUSD, Nydusd } from './nydusd.ts';

const ROOT = fs.mkdtempSync(path.join(tmpdir(), 'prefetch-'));
const SOURCE = path.join(ROOT, 'src');
const BLOBS = path.join(ROOT, 'blobs');
const FILES = 60;
const FILE_BYTES = 200_000;
/** Two thirds of the files are small: many chunks to a range. */
const SMALL_BYTES = 9_000;
const WAIT_MS_MAX = 30_000;

interface Cache {
  prefetch_state: string;
  prefetch_data_amount: number;
  prefetch_requests_count: number;
  prefetch_begin_time_secs: number;
  prefetch_end_time_secs: number;
  data_all_ready: boolean;
  chunks_total: number;
  chunks_ready: number;
}

let server: FaultServer;
const daemons: Nydusd[] = [];

function makeImage(): string {
  for (let i = 0; i < FILES; i++) {
    const dir = path.join(SOURCE, `d${i % 6}`);
    if (i < 6) fs.mkdirSync(dir, { recursive: true });
    const bytes = Buffer.alloc(i % 3 === 0 ? FILE_BYTES : SMALL_BYTES);
    randomFillSync(bytes);
    fs.writeFileSync(path.join(dir, `f${i}`), bytes);
  }
  const bootstrap = path.join(ROOT, 'boot');
  fs.mkdirSync(BLOBS);
  const image = path.join(path.dirname(NYDUSD), 'nydus-image');
  execFileSync(image, ['create', '--chunk-size', '0x10000', '-B', bootstrap, '-D', BLOBS, SOURCE]);
  return bootstrap;
}

const blobBytes = (): number => fs.statSync(path.join(BLOBS, fs.readdirSync(BLOBS)[0]!)).size;

let caches = 0;

function bodyOf(source: string, prefetch: object, more: object = {}): object {
  const config = {
    device: {
      id: 'p',
      backend: { type: 'registry', config: { scheme: 'http', host: server.host, repo: 'r' } },
      cache: { type: 'blobcache', config: { work_dir: path.join(ROOT, `cache${caches++}`) } },
    },
    mode: 'direct',
    digest_validate: true,
    fs_prefetch: prefetch,
    ...more,
  };
  return { fs_type: 'rafs', source, config: JSON.stringify(config) };
}

async function start(): Promise<Nydusd> {
  const daemon = await Nydusd.start();
  daemons.push(daemon);
  await server.mode('ok');
  return daemon;
}

async function cacheOf(daemon: Nydusd): Promise<Cache> {
  return JSON.parse((await daemon.get('/api/v1/metrics/blobcache?id=p')).text) as Cache;
}

async function until(daemon: Nydusd, what: (cache: Cache) => boolean): Promise<Cache> {
  const deadline = performance.now() + WAIT_MS_MAX;
  for (;;) {
    const cache = await cacheOf(daemon);
    if (what(cache)) return cache;
    assert.ok(performance.now() < deadline, `${JSON.stringify(cache)}\n${daemon.output}`);
    await sleep(10);
  }
}

const ended = (cache: Cache): boolean => cache.prefetch_end_time_secs > 0;

describe('prefetch', () => {
  let boot = '';
  before(async () => {
    boot = makeImage();
    server = await FaultServer.start(BLOBS);
  });
  afterEach(() => {
    for (const daemon of daemons.splice(0)) daemon.kill();
  });
  after(() => {
    server.stop();
    fs.rmSync(ROOT, { recursive: true, force: true });
  });

  test('the whole image: every byte once, and readers need nothing more', async () => {
    const daemon = await start();
    assert.equal((await daemon.mount('/i', bodyOf(boot, { enable: true }))).status, 204);
    const cache = await until(daemon, ended);
    assert.equal(cache.prefetch_state, 'done');
    assert.ok(cache.data_all_ready && cache.chunks_ready === cache.chunks_total, JSON.stringify(cache));
    const fetched = await server.mode('ok');
    assert.ok(fetched.bytes <= blobBytes() && fetched.bytes > blobBytes() * 0.98, `${fetched.bytes} of ${blobBytes()}`);
    assert.ok(fetched.requests < 12, `${fetched.requests} requests`);
    assert.ok(cache.prefetch_data_amount > blobBytes() * 0.9 && cache.prefetch_data_amount <= fetched.bytes);
    const client = new FuseClient(daemon.sock);
    client.init();
    for (let i = 0; i < FILES; i++) {
      const file = path.join(`d${i % 6}`, `f${i}`);
      assert.ok(client.readFile(`/i/${file}`).equals(fs.readFileSync(path.join(SOURCE, file))), file);
    }
    client.close();
    assert.equal((await server.mode('ok')).requests, 0);
  });

  test('who asks right after the mount sees what is asked for', async () => {
    const amounts: number[] = [];
    // A plan may be late on a busy machine, and nobody waits longer than for a plan.
    for (let i = 0; i < 5 && !amounts.some((amount) => amount > 0); i++) {
      const daemon = await start();
      const body = { ...bodyOf(boot, { enable: true }), prefetch_files: ['/'] };
      assert.equal((await daemon.mount('/i', body)).status, 204);
      const { text } = await daemon.get('/api/v1/metrics/blobcache');
      amounts.push((JSON.parse(text) as Cache).prefetch_data_amount);
    }
    assert.ok(amounts.at(-1)! > 0, String(amounts));
  });

  test('off, or on without anything to fetch: nothing is fetched but the chunk tables', async () => {
    const daemon = await start();
    assert.equal((await daemon.mount('/i', bodyOf(boot, { enable: false, prefetch_all: true }))).status, 204);
    assert.equal((await daemon.mount('/j', bodyOf(boot, { enable: true, prefetch_all: false }))).status, 204);
    await sleep(200);
    const { requests, bytes } = await server.mode('ok');
    assert.ok(requests <= 2 && bytes < blobBytes() * 0.1, `${requests} requests, ${bytes} bytes`);
  });

  test('umount and SIGTERM do not wait for it', async () => {
    const daemon = await start();
    const slow = { enable: true, bandwidth_rate: 200_000 };
    assert.equal((await daemon.mount('/i', bodyOf(boot, slow))).status, 204);
    await until(daemon, (cache) => cache.chunks_ready > 0);
    const startedAt = performance.now();
    assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/i')).status, 204);
    assert.ok(performance.now() - startedAt < 1000, `umount took ${performance.now() - startedAt} ms`);
    await server.mode('ok');
    await sleep(300);
    assert.equal((await server.mode('ok')).requests, 0, 'requests after the umount');
    assert.equal((await daemon.mount('/i', bodyOf(boot, slow))).status, 204);
    await until(daemon, (cache) => cache.chunks_ready > 0);
    const { code, ms } = await daemon.stop();
    assert.equal(code, 0);
    assert.ok(ms < 3000, `SIGTERM took ${ms} ms`);
  });

  test('a bandwidth limit holds, but not for what a reader waits for', async () => {
    const daemon = await start();
    const bytesPerSecond = 1_000_000;
    assert.equal(
      (await daemon.mount('/i', bodyOf(boot, { enable: true, bandwidth_rate: bytesPerSecond }))).status,
      204,
    );
    const startedAt = performance.now();
    const under = await until(daemon, (cache) => cache.chunks_ready > 5);
    assert.equal(under.prefetch_state, 'running');
    const ctl = path.join(path.dirname(NYDUSD), 'nydusctl');
    const shown = execFileSync(ctl, ['-S', daemon.apisock, 'top', '-I', '1', '-n', '1'], { encoding: 'utf8' });
    assert.match(shown, /prefetch=[\d.]+MB@\d+%/);
    const scraped = (await daemon.get('/metrics')).text;
    assert.match(scraped, /nydusd_prefetch_running\{mountpoint="\/i"\} 1/);
    assert.match(scraped, /nydusd_image_cached_chunks\{mountpoint="\/i"\} [1-9]/);
    const client = new FuseClient(daemon.sock);
    client.init();
    const file = path.join('d3', 'f57');
    const readAt = performance.now();
    assert.ok(client.readFile(`/i/${file}`).equals(fs.readFileSync(path.join(SOURCE, file))));
    const readMs = performance.now() - readAt;
    client.close();
    const atRate = (blobBytes() / bytesPerSecond) * 1000;
    assert.ok(readMs < atRate / 3, `a reader waited ${readMs} ms, prefetch takes ${atRate}`);
    await until(daemon, ended);
    const lastedMs = performance.now() - startedAt;
    assert.ok(lastedMs > atRate * 0.6, `${lastedMs} ms for ${atRate} ms worth of bytes`);
  });

  test('lists and traces of the mount request; bad ones are refused with the reason', async () => {
    const daemon = await start();
    const off = { enable: false };
    const listed = ['/d1', '/d9/missing', '/d0/f0'];
    assert.equal((await daemon.mount('/i', { ...bodyOf(boot, off), prefetch_files: listed })).status, 204);
    const some = await until(daemon, ended);
    assert.ok(some.chunks_ready > 0 && some.chunks_ready < some.chunks_total / 2, JSON.stringify(some));
    await daemon.printed(/1 listed paths are not in the image/);
    await daemon.request('DELETE', '/api/v1/mount?mountpoint=/i');
    const trace = { version: 'v1', files: [{ path: '/d3/f57', ranges: [[0, FILE_BYTES]] }] };
    for (const prefetch_trace of [trace, JSON.stringify(trace)]) {
      await server.mode('ok');
      assert.equal((await daemon.mount('/t', { ...bodyOf(boot, off), prefetch_trace })).status, 204);
      await until(daemon, ended);
      const { bytes, requests } = await server.mode('ok');
      assert.ok(bytes < 2 * FILE_BYTES && requests === 2, `${bytes} bytes in ${requests} requests`);
      await daemon.request('DELETE', '/api/v1/mount?mountpoint=/t');
    }
    const refused: [object, RegExp][] = [
      [{ prefetch_files: ['relative'] }, /invalid prefetch file list/],
      [{ prefetch_trace: { ...trace, version: 'v9' } }, /invalid prefetch trace: .*version.*v9/],
      [{ prefetch_trace: '{"version":' }, /invalid prefetch trace: no JSON/],
    ];
    for (const [member, reason] of refused) {
      const answer = await daemon.mount('/b', { ...bodyOf(boot, off), ...member });
      assert.equal(answer.status, 500);
      assert.match(answer.text, reason);
    }
  });

  test('--prefetch-files: a list with bad lines, a trace, nothing at all', async () => {
    const config = path.join(ROOT, 'config.json');
    const list = path.join(ROOT, 'list');
    const withList = async (text: string | null): Promise<Nydusd> => {
      fs.writeFileSync(config, (bodyOf(boot, { enable: false }) as { config: string }).config);
      if (text === null) fs.rmSync(list);
      else fs.writeFileSync(list, text);
      const flags = ['--bootstrap', boot, '--config', config, '--prefetch-files', list];
      const daemon = await Nydusd.start((sock, apisock) => [
        'virtiofs',
        '--sock',
        sock,
        '--apisock',
        apisock,
        ...flags,
      ]);
      daemons.push(daemon);
      return daemon;
    };
    const some = await until(await withList('\n/d3/f57\nrelative/path\n\n/nowhere\n'), ended);
    assert.ok(some.chunks_ready > 0 && some.chunks_ready <= 8, JSON.stringify(some));
    const trace = { version: 'v1', files: [{ path: '/d3/f57', ranges: [] }] };
    assert.equal((await until(await withList(JSON.stringify(trace)), ended)).chunks_ready, some.chunks_ready);
    await (await withList('{ "version": 3 }')).printed(/it is left out/);
    await (await withList(null)).printed(/ENOENT.*it is left out/);
  });

  test('the trace of one run, given to the next: the same reads miss nothing', async () => {
    const files = ['d3/f57', 'd0/f30', 'd1/f1', 'd5/f41', 'd2/f2'];
    const read = (daemon: Nydusd) => {
      const client = new FuseClient(daemon.sock);
      client.init();
      for (const file of files) {
        assert.ok(client.readFile(`/i/${file}`).equals(fs.readFileSync(path.join(SOURCE, file))), file);
      }
      client.close();
    };
    const first = await start();
    assert.equal((await first.mount('/i', bodyOf(boot, { enable: false }))).status, 204);
    read(first);
    const answer = await first.get('/api/v1/trace?mountpoint=/i');
    assert.equal(answer.status, 200);
    const trace = JSON.parse(answer.text) as { version: string; files: { path: string; ranges: number[][] }[] };
    assert.deepEqual([trace.version, trace.files.map((file) => file.path)], ['v1', files.map((file) => `/${file}`)]);
    assert.deepEqual(trace.files[0]!.ranges, [[0, FILE_BYTES]]);
    assert.equal((await first.get('/api/v1/trace?mountpoint=/nowhere')).status, 404);
    assert.equal((await first.get('/api/v1/trace')).status, 400);
    const second = await start();
    const body = { ...bodyOf(boot, { enable: false }), prefetch_trace: trace };
    assert.equal((await second.mount('/i', body)).status, 204);
    await until(second, ended);
    assert.ok((await server.mode('ok')).requests > 0);
    read(second);
    assert.deepEqual(await server.mode('ok'), { requests: 0, bytes: 0, ranges: [] });
    // What is cached is seen too: the trace of a warm run is the same.
    assert.equal((await second.get('/api/v1/trace?mountpoint=/i')).text, answer.text);
  });

  test('a registry that fails for a while: prefetch goes on behind it', async () => {
    const daemon = await start();
    await server.mode('503');
    assert.equal((await daemon.mount('/i', bodyOf(boot, { enable: true }))).status, 204);
    await sleep(300);
    assert.equal((await cacheOf(daemon)).prefetch_state, 'running');
    await server.mode('ok');
    assert.ok((await until(daemon, ended)).data_all_ready);
  });
});
