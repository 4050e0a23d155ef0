import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises';
import { type Logger, SILENT } from '../../common/log.ts';
import { assertCached, freshDir, httpConfig, localConfig, mountMissing } from '../cache/cache.testing.ts';
import type { StorageConfig } from '../config/config.ts';
import { expectedChunks, makeBlob, wantAll } from '../fixtures.testing.ts';
import { Gate } from '../gate.ts';
import { BlobStore } from '../store.ts';
import { Prefetch, type PrefetchOptions, type Stage } from './prefetch.ts';
import { Pace } from './prefetch-pace.ts';

const CHUNK_BYTES = 64 << 10;
const COUNT = 128;
const MADE = makeBlob(
  Array.from({ length: COUNT }, (_, i) => Buffer.alloc(CHUNK_BYTES, i + 1)),
  { compressor: 'none', crc: true },
);
const CHUNKS = expectedChunks(MADE.info, MADE.file);
const BLOBS = freshDir();
writeFileSync(join(BLOBS, MADE.info.id), MADE.file);

/** A plan is waited for however slow the machine is. */
const OPTIONS: PrefetchOptions = {
  threads: 8,
  mergingBytes: 1 << 20,
  bytesPerSecond: 0,
  workDir: null,
  planMs: 60_000,
  isWhole: true,
};

function start(
  config: StorageConfig,
  options: Partial<PrefetchOptions> = {},
  log: Logger = SILENT,
  stage: Stage = 'behind',
) {
  const store = new BlobStore(log);
  const handle = store.openBlob(MADE.info, MADE.digests, config);
  const prefetch = new Prefetch(
    (asked) => (asked === stage ? [{ handle: handle.handle, chunks: stage === 'soon' ? wantAll(CHUNKS) : 'all' }] : []),
    (number, owner) => store.prefetchTarget(number, owner),
    { ...OPTIONS, ...options },
    log,
  );
  store.awaitPlan(handle.handle, prefetch.planned);
  return { store, handle, prefetch };
}

describe('a server that sends long ranges slowly', () => {
  const PIECE_MS = 15;
  const asked: [from: number, bytes: number][] = [];
  let server: Server;
  let url = '';
  let isLongRefused = false;
  before(async () => {
    server = createServer(async (call, reply) => {
      const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(call.headers.range ?? '')!.map(Number);
      const bytes = to - from + 1;
      asked.push([from, bytes]);
      if (isLongRefused && bytes > 1 << 20) return void reply.writeHead(503).end();
      const range = `bytes ${from}-${to}/${MADE.file.length}`;
      reply.writeHead(206, { 'content-length': bytes, 'content-range': range });
      for (let at = from; at <= to; at += CHUNK_BYTES) {
        reply.write(MADE.file.subarray(at, Math.min(to + 1, at + CHUNK_BYTES)));
        if (bytes > 1 << 20) await sleep(PIECE_MS);
      }
      reply.end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => server.close());

  test('readers take what is near from the stream and fetch the rest themselves; nothing comes twice into the cache', async () => {
    asked.length = 0;
    const { store, handle, prefetch } = start(httpConfig(freshDir(), url, 'b', { amplify_io: 0 }), { threads: 1 });
    while (store.chunksReady(handle.handle) === 0) await sleep(1);
    // The first range has 32 chunks: its last one is far from the first bytes, the next few are near.
    const requests = asked.length;
    await store.fetch(handle.handle, wantAll([CHUNKS[4]]));
    assert.equal(asked.length, requests, 'a near chunk needs no request of its own');
    await store.fetch(handle.handle, wantAll([CHUNKS[31]]));
    assert.deepEqual(asked.at(-1), [31 * CHUNK_BYTES, CHUNK_BYTES]);
    await prefetch.ended;
    assert.equal(prefetch.progress.state, 'done');
    assert.equal(store.stats.chunksFetched, COUNT);
    for (const chunk of CHUNKS) assertCached(handle, chunk);
    await store.close();
  });

  test('a list is promised: who reads of it makes no request, and what is waited for comes next', async () => {
    asked.length = 0;
    const config = httpConfig(freshDir(), url, 'b', { amplify_io: 1 << 20 });
    const { store, handle, prefetch } = start(config, { threads: 1 }, SILENT, 'soon');
    await store.fetch(handle.handle, wantAll([CHUNKS[COUNT - 1]]));
    await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
    await prefetch.ended;
    const rangeBytes = 2 << 20;
    const data = asked.filter(([from]) => from < COUNT * CHUNK_BYTES);
    assert.deepEqual(
      data.map(([from, bytes]) => [from / rangeBytes, bytes]),
      [0, 3, 1, 2].map((place) => [place, rangeBytes]),
    );
    for (const chunk of CHUNKS) assertCached(handle, chunk);
    await store.close();
  });

  test('within a bandwidth nothing is promised: readers ask for themselves', async () => {
    const config = httpConfig(freshDir(), url, 'b', { amplify_io: 0 });
    const { store, handle, prefetch } = start(config, { threads: 1, bytesPerSecond: 100_000 }, SILENT, 'soon');
    await prefetch.planned;
    asked.length = 0;
    await store.fetch(handle.handle, wantAll([CHUNKS[COUNT - 1]]));
    assert.ok(asked.some(([from, bytes]) => from === (COUNT - 1) * CHUNK_BYTES && bytes === CHUNK_BYTES));
    await prefetch.stop();
    await store.close();
  });

  for (const end of ['its request fails', 'it is stopped'] as const) {
    test(`a promise that is not kept because ${end}: the reader asks for himself`, async () => {
      const config = httpConfig(freshDir(), url, 'b', { amplify_io: 0 });
      isLongRefused = end === 'its request fails';
      try {
        const { store, handle, prefetch } = start(config, { threads: 1 }, SILENT, 'soon');
        await prefetch.planned;
        const reading = store.fetch(handle.handle, wantAll([CHUNKS[COUNT - 1]]));
        if (end === 'it is stopped') await prefetch.stop();
        await reading;
        assertCached(handle, CHUNKS[COUNT - 1]);
        await prefetch.stop();
        await store.close();
      } finally {
        isLongRefused = false;
      }
    });
  }

  test('it holds still while readers wait, and ends at once when told', async () => {
    const { store, handle, prefetch } = start(httpConfig(freshDir(), url, 'b', { amplify_io: 0 }));
    while (store.chunksReady(handle.handle) === 0) await sleep(1);
    const startedAt = performance.now();
    await prefetch.stop();
    assert.ok(performance.now() - startedAt < 1000);
    assert.equal(prefetch.progress.state, 'stopped');
    await store.close();
  });
});

test('what lies a header apart, as small files of a tar do, comes in one request', async () => {
  const many = makeBlob(
    Array.from({ length: 1600 }, (_, i) => Buffer.alloc(1024, i)),
    { compressor: 'none', crc: true },
  );
  const dir = freshDir();
  writeFileSync(join(dir, many.info.id), many.file);
  const store = new BlobStore(SILENT);
  const { handle } = store.openBlob(many.info, many.digests, localConfig(freshDir(), dir));
  const chunks = wantAll(expectedChunks(many.info, many.file).filter(({ index }) => index % 2 === 0));
  const prefetch = new Prefetch(
    (stage) => (stage === 'behind' ? [{ handle, chunks }] : []),
    (number, owner) => store.prefetchTarget(number, owner),
    OPTIONS,
    SILENT,
  );
  await prefetch.ended;
  assert.deepEqual([prefetch.progress.requests, store.chunksReady(handle)], [1, chunks.length]);
  await store.close();
});

test('two processes over one cache directory: every chunk is fetched once', async () => {
  const workDir = freshDir();
  const both = [start(localConfig(workDir, BLOBS)), start(localConfig(workDir, BLOBS))];
  await Promise.all(both.map(({ prefetch }) => prefetch.ended));
  for (const { prefetch } of both) assert.equal(prefetch.progress.state, 'done');
  const fetched = both.reduce((sum, { store }) => sum + store.stats.chunksFetched, 0);
  assert.equal(fetched, COUNT);
  for (const { store, handle } of both) {
    await store.fetch(handle.handle, wantAll(CHUNKS));
    await store.close();
  }
});

test('two mounts of one blob: the second waits for nothing and fetches nothing', async () => {
  const config = localConfig(freshDir(), BLOBS);
  const { store, prefetch } = start(config);
  const second = store.openBlob(MADE.info, MADE.digests, config);
  const other = new Prefetch(
    (stage) => (stage === 'behind' ? [{ handle: second.handle, chunks: 'all' }] : []),
    (number, owner) => store.prefetchTarget(number, owner),
    OPTIONS,
    SILENT,
  );
  await Promise.all([prefetch.ended, other.ended]);
  assert.equal(store.stats.chunksFetched, COUNT);
  assert.deepEqual([prefetch.progress.state, other.progress.state], ['done', 'done']);
  await store.close();
});

test('what one mount leaves when it goes, another goes on with', async () => {
  const config = localConfig(freshDir(), BLOBS);
  const { store, prefetch } = start(config, { bytesPerSecond: 1 << 20 });
  const second = store.openBlob(MADE.info, MADE.digests, config);
  while (store.chunksReady(second.handle) === 0) await sleep(1);
  const other = new Prefetch(
    (stage) => (stage === 'behind' ? [{ handle: second.handle, chunks: 'all' }] : []),
    (number, owner) => store.prefetchTarget(number, owner),
    OPTIONS,
    SILENT,
  );
  await sleep(50);
  await prefetch.stop();
  await other.ended;
  assert.equal(other.progress.state, 'done');
  assert.equal(store.chunksReady(second.handle), COUNT);
  await store.close();
});

describe('a small disk', { skip: mountMissing() ?? false }, () => {
  const onDisk = async (run: (workDir: string, lines: string[], log: Logger) => Promise<void>) => {
    const workDir = freshDir();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', workDir]);
    const lines: string[] = [];
    try {
      await run(workDir, lines, { ...SILENT, warn: (text) => lines.push(text) });
    } finally {
      execFileSync('umount', ['-l', workDir]);
    }
  };

  test('prefetch leaves room, and says why it ends; readers go on', () =>
    onDisk(async (workDir, lines, log) => {
      const { store, handle, prefetch } = start(localConfig(workDir, BLOBS), { workDir }, log);
      await prefetch.ended;
      assert.equal(prefetch.progress.state, 'disk short');
      assert.equal(lines.length, 1);
      assert.match(lines[0], /disk short.*bytes are free/);
      assert.equal(store.stats.chunksUncached, 0);
      const missing = CHUNKS.at(-1)!;
      await store.fetch(handle.handle, wantAll([missing]));
      await store.close();
    }));

  test('one that fills up all the same: what does not fit ends it', () =>
    onDisk(async (workDir, lines, log) => {
      const { store, prefetch } = start(localConfig(workDir, BLOBS), {}, log);
      await prefetch.ended;
      assert.equal(prefetch.progress.state, 'disk short');
      assert.ok(
        lines.some((line) => /takes nothing/.test(line)),
        lines.join('\n'),
      );
      await store.close();
    }));
});

describe('who goes first', () => {
  const never = new AbortController().signal;

  test('demand, then what is wanted soon, then the background; each within its places', async () => {
    const gate = new Gate(12);
    const most = { demand: 0, soon: 0, behind: 0 };
    const now = { demand: 0, soon: 0, behind: 0 };
    const order: string[] = [];
    const work = (rank: keyof typeof now) =>
      gate.run(
        never,
        async () => {
          order.push(rank);
          most[rank] = Math.max(most[rank], ++now[rank]);
          await sleep(2);
          now[rank]--;
        },
        rank,
      );
    const all = (['behind', 'soon', 'demand'] as const).flatMap((rank) => Array.from({ length: 20 }, () => work(rank)));
    await Promise.all(all);
    assert.deepEqual([most.soon, most.behind], [6, 2]);
    assert.ok(order.lastIndexOf('demand') < order.lastIndexOf('soon'));
    assert.ok(order.lastIndexOf('soon') < order.lastIndexOf('behind'));
  });

  test('busy while readers wait and for a moment after; background work makes nobody busy', async () => {
    const gate = new Gate(2);
    assert.equal(gate.isBusy, false);
    await gate.run(never, async () => assert.equal(gate.isBusy, false), 'behind');
    assert.equal(gate.isBusy, false);
    await gate.run(never, async () => assert.equal(gate.isBusy, true));
    assert.equal(gate.isBusy, true);
  });

  test('a bandwidth is kept, except for what a reader waits for', async () => {
    const pace = new Pace({ isBusy: false }, 1_000_000);
    const spentAt = performance.now();
    pace.spend(100_000);
    const wanted = pace.hold(never, () => true).then(() => 'goes on');
    assert.equal(await Promise.race([wanted, nextTurn('waits')]), 'goes on');
    await pace.hold(never);
    assert.ok(performance.now() - spentAt >= 100);
    assert.equal(pace.isHeldUp, false);
  });

  test('readers hold the background up, but not for ever', async () => {
    const pace = new Pace({ isBusy: true }, 0);
    const startedAt = performance.now();
    await pace.hold(never);
    const waitedMs = performance.now() - startedAt;
    assert.ok(waitedMs > 900, `${waitedMs} ms`);
    await pace.hold(AbortSignal.abort());
  });
});
