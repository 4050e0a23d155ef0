/** The store against registries and networks: what it fetches, when it gives up, and that the thread stays free. */
import assert from 'node:assert/strict';
import { closeSync, mkdirSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Logger, SILENT } from '../common/log.ts';
import { assertCached, freshDir, httpConfig, localConfig, startBlobServer } from './cache/cache.testing.ts';
import { type BackendConfig, parseConfig } from './config/config.ts';
import { blobBytes, blobTable, chunkDigests, expectedChunks, makeBlob, wantAll } from './fixtures.testing.ts';
import { Prefetch } from './prefetch/prefetch.ts';
import { registryMissing, startRegistry } from './registry.testing.ts';
import { DEMAND_POLICY } from './retry.ts';
import { HOST_REQUESTS_MAX } from './shared-backends.ts';
import { BlobStore } from './store.ts';

const NAME = 'v6-zstd-blake3';
const [INFO] = blobTable(NAME);
const CHUNKS = expectedChunks(INFO);

describe('a real registry', { skip: registryMissing() ?? false }, () => {
  for (const mode of ['none', 'token'] as const) {
    test(`auth ${mode}: every chunk, validated`, async () => {
      const dir = freshDir();
      const registry = await startRegistry(dir, mode, 'team/app', new Map([[INFO.id, blobBytes(INFO.id)]]));
      const workDir = join(dir, 'cache');
      mkdirSync(workDir);
      const config = parseConfig(
        JSON.stringify({
          device: {
            backend: {
              type: 'registry',
              config: { scheme: 'http', host: registry.host, repo: 'team/app', auth: registry.auth },
            },
            cache: { type: 'blobcache', config: { work_dir: workDir } },
          },
          mode: 'direct',
          digest_validate: true,
        }),
      );
      const store = new BlobStore(SILENT);
      try {
        const handle = store.openBlob(INFO, chunkDigests(NAME, 0), config);
        await Promise.all(CHUNKS.map((chunk) => store.fetch(handle.handle, wantAll([chunk]))));
        for (const chunk of CHUNKS) assertCached(handle, chunk);
        assert.ok(store.stats.fetchedBytes < INFO.compressedSize * 1.05, `${store.stats.fetchedBytes} bytes`);
      } finally {
        await store.close();
        await registry.close();
      }
    });
  }
});

test('retry_limit asks for more tries than our own', async () => {
  const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
  const policy = { ...DEMAND_POLICY, delayMs: 1, delayMaxMs: 1 };
  const outcome = async (retryLimit: number) => {
    let refusals = 6;
    server.onRequest = (send, response) => (refusals-- > 0 ? response.writeHead(503).end() : send());
    const backend = { type: 'http-proxy', config: { addr: server.url, path: 'x', retry_limit: retryLimit } };
    const cache = { type: 'blobcache', config: { work_dir: freshDir() } };
    const store = new BlobStore(SILENT, policy);
    const config = parseConfig(JSON.stringify({ device: { backend, cache }, mode: 'direct' }));
    const handle = store.openBlob(INFO, chunkDigests(NAME, 0), config);
    const reading = store.fetch(handle.handle, wantAll([CHUNKS[0]]));
    const code = await reading.then(
      () => 'read',
      (error: { code: string }) => error.code,
    );
    await store.close();
    return code;
  };
  try {
    assert.equal(await outcome(0), 'HTTP_BUSY');
    assert.equal(await outcome(8), 'read');
  } finally {
    server.close();
  }
});

test('32 reads on a registry that swallows requests all fail within the deadline', async () => {
  const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
  const store = new BlobStore(SILENT, { ...DEMAND_POLICY, deadlineMs: 1500 });
  const handle = store.openBlob(
    INFO,
    chunkDigests(NAME, 0),
    httpConfig(freshDir(), server.url, 'x', { amplify_io: 0 }),
  );
  await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
  server.onRequest = () => {};
  const started = Date.now();
  const spread = Array.from({ length: 32 }, (_, i) => CHUNKS[10 + i * 12]);
  const results = await Promise.allSettled(spread.map((chunk) => store.fetch(handle.handle, wantAll([chunk]))));
  for (const result of results) {
    assert.equal(result.status, 'rejected');
    assert.equal((result.reason as { code: string }).code, 'DEADLINE');
  }
  assert.ok(Date.now() - started < 3000, `${Date.now() - started} ms`);
  server.onRequest = (send) => send();
  await store.fetch(handle.handle, wantAll(spread));
  await store.close();
  server.close();
});

for (const first of ['the chunk table', 'prefetch']) {
  test(`time-outs are off, and what was asked for ahead never comes (${first}): its readers ask for themselves`, async () => {
    const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
    const store = new BlobStore(SILENT, { ...DEMAND_POLICY, deadlineMs: 500 });
    const config = httpConfig(freshDir(), server.url, 'blobs', { amplify_io: 0 });
    config.backend = { ...config.backend, timeoutMs: 0, connectTimeoutMs: 0 } as BackendConfig;
    const { handle } = store.openBlob(INFO, () => null, config);
    const hangOnce = () => {
      server.onRequest = () => {
        server.onRequest = (send) => send();
      };
    };
    if (first === 'prefetch') {
      await store.fetch(handle, wantAll(CHUNKS.slice(-1)));
      hangOnce();
      const chunks = wantAll(CHUNKS.slice(0, 2));
      const prefetch = new Prefetch(
        (stage) => (stage === 'soon' ? [{ handle, chunks }] : []),
        (number, owner) => store.prefetchTarget(number, owner),
        { threads: 1, mergingBytes: 0, bytesPerSecond: 0, workDir: null, planMs: 60_000, isWhole: false },
        SILENT,
      );
      await prefetch.planned;
    } else {
      hangOnce();
      store.prepare(handle);
    }
    await store.fetch(handle, wantAll(CHUNKS.slice(0, 2)));
    await store.close();
    server.close();
  });
}

test('more readers than a slow server serves within one deadline: none fails while it answers', async () => {
  const made = makeBlob(
    Array.from({ length: 400 }, (_, i) => Buffer.alloc(4096, i + 1)),
    { compressor: 'none', crc: true },
  );
  const server = await startBlobServer(new Map([[made.info.id, made.file]]));
  server.onRequest = (send) => void setTimeout(send, 150);
  const store = new BlobStore(SILENT, { ...DEMAND_POLICY, deadlineMs: 2000 });
  const config = httpConfig(freshDir(), server.url, 'blobs', { amplify_io: 0 });
  const { handle } = store.openBlob(made.info, made.digests, config);
  // Every other one, so that each is a request.
  const chunks = wantAll(expectedChunks(made.info, made.file)).filter((_, i) => i % 2 === 0);
  await Promise.all(chunks.map((chunk) => store.fetch(handle, [chunk])));
  await store.close();
  server.close();
});

test('the budget of requests belongs to the host: mounts with configurations of their own share it', async () => {
  const ids = Array.from({ length: 4 }, (_, i) => `${i}`.repeat(64));
  const server = await startBlobServer(new Map(ids.map((id) => [id, blobBytes(INFO.id)])));
  let underWay = 0;
  let most = 0;
  server.onRequest = (send) => {
    most = Math.max(most, ++underWay);
    setTimeout(() => {
      underWay--;
      send();
    }, 20);
  };
  const store = new BlobStore(SILENT);
  const reads = ids.map(async (id, i) => {
    const config = httpConfig(freshDir(), server.url, `path${i}`, { amplify_io: 0 });
    const { handle } = store.openBlob({ ...INFO, id }, chunkDigests(NAME, 0), config);
    await store.fetch(handle, wantAll([CHUNKS[0]]));
    await Promise.all(Array.from({ length: 8 }, (_, j) => store.fetch(handle, wantAll([CHUNKS[20 + j * 40]]))));
  });
  await Promise.all(reads);
  assert.equal(most, HOST_REQUESTS_MAX);
  await store.close();
  server.close();
});

test('Retry-After is obeyed', async () => {
  const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
  const store = new BlobStore(SILENT);
  const handle = store.openBlob(INFO, chunkDigests(NAME, 0), httpConfig(freshDir(), server.url, 'x'));
  const times: number[] = [];
  server.onRequest = (send, response) => {
    times.push(Date.now());
    if (times.length === 1) response.writeHead(503, { 'retry-after': '1' }).end();
    else send();
  };
  await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
  assert.ok(times[1] - times[0] >= 1000, `${times[1] - times[0]} ms`);
  await store.close();
  server.close();
});

test('Retry-After to one reader holds back all readers of that host', async () => {
  const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
  const store = new BlobStore(SILENT);
  const config = httpConfig(freshDir(), server.url, 'x', { amplify_io: 0 });
  const handle = store.openBlob(INFO, chunkDigests(NAME, 0), config);
  await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
  const times: number[] = [];
  server.onRequest = (send, response) => {
    times.push(Date.now());
    if (times.length === 1) response.writeHead(429, { 'retry-after': '1' }).end();
    else send();
  };
  const limited = store.fetch(handle.handle, wantAll([CHUNKS[50]]));
  while (store.stats.failedRequests === 0) await sleep(1);
  await Promise.all([100, 150, 200].map((index) => store.fetch(handle.handle, wantAll([CHUNKS[index]]))));
  await limited;
  const [first = 0, ...others] = times;
  assert.equal(others.length, 4);
  for (const time of others) assert.ok(time - first >= 990, `${time - first} ms`);
  await store.close();
  server.close();
});

test('a missing blob fails at once, says so in words, and is found when it comes', async () => {
  const blobsDir = freshDir();
  const lines: string[] = [];
  const log: Logger = { ...SILENT, debug: (text) => lines.push(text) };
  const store = new BlobStore(log);
  const handle = store.openBlob(INFO, chunkDigests(NAME, 0), localConfig(freshDir(), blobsDir));
  await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[0]])), { code: 'BLOB_NOT_FOUND' });
  assert.equal(lines.length, 1);
  assert.equal(store.stats.requests, 1, 'it was tried again');
  writeFileSync(join(blobsDir, INFO.id), blobBytes(INFO.id));
  await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
  await store.close();
});

describe('a cold read of one file of a large image', () => {
  // 64 MB of stored chunks: what lies beyond the read-ahead does not matter, so more would show nothing more.
  const CHUNK_BYTES = 64 << 10;
  const COUNT = 1000;
  const contents = Array.from({ length: COUNT }, (_, i) => {
    const bytes = Buffer.alloc(CHUNK_BYTES);
    bytes.writeUInt32LE(i, 0);
    return bytes;
  });
  const made = makeBlob(contents, { compressor: 'none', crc: true });
  const chunks = expectedChunks(made.info, made.file);
  const dir = freshDir();
  writeFileSync(join(dir, made.info.id), made.file);
  const metadataBytes = made.info.ciCompressedSize + 4096;

  const files: Record<string, number[]> = {
    'one chunk': [500],
    'contiguous, 20 MB': Array.from({ length: 320 }, (_, i) => 100 + i),
    'the last of the blob': [COUNT - 1],
    'in pieces all over the blob': Array.from({ length: 90 }, (_, i) => i * 11),
    'in pieces close together': Array.from({ length: 300 }, (_, i) => i * 3),
  };
  for (const [id, file] of Object.entries(files)) {
    for (const atOnce of [1, 8]) {
      test(`${id}, ${atOnce} at a time: less than 1 MiB beyond`, async () => {
        const workDir = freshDir();
        const store = new BlobStore(SILENT);
        const handle = store.openBlob(made.info, made.digests, localConfig(workDir, dir));
        for (let i = 0; i < file.length; i += atOnce) {
          const part = file.slice(i, i + atOnce).map((index) => chunks[index]);
          await store.fetch(handle.handle, wantAll(part));
        }
        // Readers have their chunks before the read-ahead behind them is there.
        const { stats } = store;
        const least = file.length * CHUNK_BYTES;
        for (let seen = -1; seen !== stats.fetchedBytes || seen < least; await sleep(30)) seen = stats.fetchedBytes;
        const beyond = store.stats.fetchedBytes - file.length * CHUNK_BYTES - metadataBytes;
        assert.ok(beyond >= 0 && beyond < 1 << 20, `${beyond} bytes in ${store.stats.requests} requests`);
        if (id.startsWith('contiguous')) assert.ok(store.stats.requests < 60, `${store.stats.requests} requests`);
        await store.close();
        rmSync(workDir, { recursive: true });
      });
    }
  }
});

/** CPU time that each turn of this thread takes while `work` is under way, in ms, shortest first. */
async function turnsDuring(work: () => Promise<unknown>): Promise<number[]> {
  const schedstat = openSync(`/proc/self/task/${process.pid}/schedstat`, 'r');
  const text = Buffer.alloc(128);
  const cpuMs = (): number =>
    Number(text.toString('latin1', 0, readSync(schedstat, text, 0, text.length, 0)).split(' ')[0]) / 1e6;
  const turns: number[] = [];
  let before = cpuMs();
  const timer = setInterval(() => {
    const now = cpuMs();
    turns.push(now - before);
    before = now;
  }, 1);
  await work();
  clearInterval(timer);
  closeSync(schedstat);
  return turns.sort((a, b) => a - b);
}

test('the thread stays free while 16 MiB chunks come in', async () => {
  const contents = Array.from({ length: 3 }, (_, i) => {
    const bytes = Buffer.alloc(1 << 24);
    for (let at = 0; at < bytes.length; at += 4) bytes.writeUInt32LE((at * 2654435761 + i) >>> 0, at);
    return bytes;
  });
  const made = makeBlob(contents, { compressor: 'zstd', crc: true });
  const dir = freshDir();
  writeFileSync(join(dir, made.info.id), made.file);
  const chunks = expectedChunks(made.info, made.file);
  const store = new BlobStore(SILENT);
  const handle = store.openBlob(made.info, made.digests, localConfig(freshDir(), dir, { digest_validate: true }));
  await store.fetch(handle.handle, wantAll([chunks[0]])); // loads the libraries
  await sleep(20);
  const turns = await turnsDuring(() => store.fetch(handle.handle, wantAll([chunks[1], chunks[2]])));
  const [median, longest] = [turns[turns.length >> 1]!, turns.at(-1)!];
  assert.ok(median < 5, `median turn ${median} ms of ${turns.length}`);
  // 12 ms on an idle machine and on a busy one.
  assert.ok(longest < 30, `longest turn ${longest} ms of ${turns.length}`);
  for (const chunk of chunks) assertCached(handle, chunk);
  await store.close();
});
