/** What goes wrong around a store: wrong cache files, full and read-only disks, dead backends, closing. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  fstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openDescriptors } from '../common/descriptors.testing.ts';
import { type Logger, SILENT } from '../common/log.ts';
import { errno } from '../sys/errno.ts';
import {
  assertCached,
  assertServed,
  type BlobServer,
  freshDir,
  httpConfig,
  isReady,
  localConfig,
  mountMissing,
  startBlobServer,
} from './cache/cache.testing.ts';
import { errnoOf } from './errors.ts';
import { blobBytes, blobTable, chunkDigests, expectedChunks, wantAll } from './fixtures.testing.ts';
import { BlobStore } from './store.ts';
import { FEATURE } from './tables/blob-layout.ts';
import type { BlobInfo } from './types.ts';

const NAME = 'v6-none-blake3-4k';
const [INFO] = blobTable(NAME);
const CHUNKS = expectedChunks(INFO);
const DIGESTS = chunkDigests(NAME, 0);
/** Only what is wanted, so that requests can be counted. */
const EXACT = { amplify_io: 0 };

const stores: BlobStore[] = [];
after(() => Promise.all(stores.map((store) => store.close())));

function newStore(log: Logger = SILENT): BlobStore {
  const store = new BlobStore(log);
  stores.push(store);
  return store;
}

test('a data file cut under an open blob: what was ready is fetched again, never zeros', async () => {
  const workDir = freshDir();
  const store = newStore();
  const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir, undefined, EXACT));
  await store.fetch(handle.handle, wantAll(CHUNKS.slice(0, 8)));
  for (const bytes of [0, 4096]) {
    truncateSync(join(workDir, `${INFO.id}.blob.data`), bytes);
    await store.fetch(handle.handle, wantAll(CHUNKS.slice(8, 12)));
    assert.equal(fstatSync(handle.dataFd).size, INFO.uncompressedSize);
    await store.fetch(handle.handle, wantAll(CHUNKS.slice(0, 12)));
    for (const chunk of CHUNKS.slice(0, 12)) assertCached(handle, chunk);
  }
});

describe('a data file cut while a chunk is on its way into it', () => {
  const [first, last] = [CHUNKS[4], CHUNKS[CHUNKS.length - 1]];
  for (const [id, late] of Object.entries({ 'some chunk': first, 'the last chunk, which makes it long again': last })) {
    test(`${id}: what is read is right, then and later`, async () => {
      const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
      after(() => server.close());
      const workDir = freshDir();
      const store = newStore();
      const handle = store.openBlob(INFO, DIGESTS, httpConfig(workDir, server.url, 'blobs', EXACT));
      await store.fetch(handle.handle, wantAll(CHUNKS.slice(0, 2)));
      server.onRequest = (send) => {
        truncateSync(join(workDir, `${INFO.id}.blob.data`), 0);
        send();
      };
      await store.fetch(handle.handle, wantAll([late]));
      assertServed(handle, late);
      server.onRequest = (send) => send();
      const read = [...CHUNKS.slice(0, 2), CHUNKS[8], late];
      for (const chunk of read) await store.fetch(handle.handle, wantAll([chunk]));
      for (const chunk of read) assertServed(handle, chunk);
    });
  }
});

describe('cache files of others', () => {
  /** Fills a cache, lets `damage` loose on its files, and counts the requests a second store makes for all chunks. */
  async function afterDamage(damage: (data: string, map: string) => void): Promise<number> {
    const workDir = freshDir();
    const data = join(workDir, `${INFO.id}.blob.data`);
    const first = newStore();
    await first.fetch(first.openBlob(INFO, DIGESTS, localConfig(workDir)).handle, wantAll(CHUNKS));
    await first.close();
    damage(data, `${data}.chunk_map`);
    const second = newStore();
    const handle = second.openBlob(INFO, DIGESTS, localConfig(workDir));
    await second.fetch(handle.handle, wantAll(CHUNKS));
    for (const chunk of CHUNKS) assertCached(handle, chunk);
    const { requests } = second.stats;
    assert.deepEqual(
      readdirSync(workDir).filter((name) => name.endsWith('.tmp')),
      [],
    );
    await second.close();
    return requests;
  }
  test('whole ones are used', async () => assert.equal(await afterDamage(() => {}), 0));
  const damages: Record<string, (data: string, map: string) => void> = {
    'data file gone, map left': (data) => unlinkSync(data),
    'map gone': (_, map) => unlinkSync(map),
    'data file truncated': (data) => truncateSync(data, 100),
    'data file empty': (data) => truncateSync(data, 0),
    'data file too long': (data) => truncateSync(data, INFO.uncompressedSize + 1),
    'map truncated': (_, map) => truncateSync(map, 4100),
    'map empty': (_, map) => truncateSync(map, 0),
    'map too long': (_, map) => writeFileSync(map, Buffer.concat([readFileSync(map), Buffer.alloc(1)])),
    'map without magic': (_, map) => {
      const bytes = readFileSync(map);
      bytes[0] ^= 1;
      writeFileSync(map, bytes);
    },
  };
  for (const [id, damage] of Object.entries(damages)) {
    test(`${id}: fetched again`, async () => assert.ok((await afterDamage(damage)) > 0));
  }
});

describe('cache directories that take nothing', { skip: mountMissing() ?? false }, () => {
  const lines: string[] = [];
  const log: Logger = { ...SILENT, warn: (text) => lines.push(text) };

  test('full: reads go on uncached, and what is fetched is cached again when there is space', async () => {
    const workDir = freshDir();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', workDir]);
    try {
      const ballast = join(workDir, 'ballast');
      writeFileSync(ballast, Buffer.alloc(900 << 10));
      const store = newStore(log);
      const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir));
      lines.length = 0;
      await store.fetch(handle.handle, wantAll(CHUNKS.slice(0, -1)));
      for (const chunk of CHUNKS.slice(0, -1)) assertServed(handle, chunk);
      assert.ok(store.stats.chunksUncached > 0 && store.stats.chunksUncached < CHUNKS.length - 1);
      assert.equal(lines.length, 1);
      assert.match(lines[0], /NO_SPACE.*uncached/);
      rmSync(ballast);
      const last = CHUNKS[CHUNKS.length - 1];
      await store.fetch(handle.handle, wantAll([last]));
      assertCached(handle, last);
      await store.close();
      assert.ok(!openDescriptors().some((path) => path.startsWith(workDir)), 'descriptors left');
    } finally {
      execFileSync('umount', ['-l', workDir]);
    }
  });

  test('full from the start: mount and reads work, and the cache does when there is space', async () => {
    const workDir = freshDir();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', workDir]);
    try {
      const ballast = join(workDir, 'ballast');
      try {
        writeFileSync(ballast, Buffer.alloc(2 << 20));
      } catch {}
      const store = newStore(log);
      const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir));
      await store.fetch(handle.handle, wantAll(CHUNKS.slice(0, 100)));
      for (const chunk of CHUNKS.slice(0, 100)) assertServed(handle, chunk);
      assert.ok(store.stats.chunksUncached > 0);
      rmSync(ballast);
      await store.fetch(handle.handle, wantAll(CHUNKS.slice(100)));
      for (const chunk of CHUNKS.slice(100)) assertCached(handle, chunk);
      await store.close();
      assert.ok(!openDescriptors().some((path) => path.startsWith(workDir)), 'descriptors left');
    } finally {
      execFileSync('umount', ['-l', workDir]);
    }
  });

  test('read-only: what is cached is served from there, the rest uncached until it is writable', async () => {
    const workDir = freshDir();
    const first = newStore();
    const handleOfFirst = first.openBlob(INFO, DIGESTS, localConfig(workDir, undefined, EXACT));
    await first.fetch(handleOfFirst.handle, wantAll(CHUNKS.slice(0, 5)));
    await first.close();
    execFileSync('mount', ['--bind', workDir, workDir]);
    execFileSync('mount', ['-o', 'remount,bind,ro', workDir]);
    try {
      lines.length = 0;
      const store = newStore(log);
      const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir, undefined, EXACT));
      assert.equal(lines.length, 1);
      assert.match(lines[0], /READ_ONLY/);
      await store.fetch(handle.handle, wantAll(CHUNKS.slice(0, 5)));
      for (const chunk of CHUNKS.slice(0, 5)) assertCached(handle, chunk);
      await store.fetch(handle.handle, wantAll([CHUNKS[5]]));
      assert.ok(!isReady(handle, 5));
      assertServed(handle, CHUNKS[5]);
      execFileSync('mount', ['-o', 'remount,bind,rw', workDir]);
      await store.fetch(handle.handle, wantAll([CHUNKS[6]]));
      for (const chunk of [...CHUNKS.slice(0, 5), CHUNKS[6]]) assertCached(handle, chunk);
      await store.close();
    } finally {
      execFileSync('umount', ['-l', workDir]);
    }
  });
});

test('a cache directory that is a file: uncached, until somebody makes it one', async () => {
  const workDir = join(freshDir(), 'cache');
  writeFileSync(workDir, '');
  const store = newStore();
  const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir));
  await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
  assertServed(handle, CHUNKS[0]);
  unlinkSync(workDir);
  await store.fetch(handle.handle, wantAll([CHUNKS[100]]));
  assertCached(handle, CHUNKS[100]);
});

test('a cache directory that is deleted under a mount: reads go on', async () => {
  const workDir = join(freshDir(), 'cache');
  const store = newStore();
  const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir, undefined, EXACT));
  await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
  rmSync(workDir, { recursive: true });
  await store.fetch(handle.handle, wantAll([CHUNKS[1]]));
  for (const chunk of CHUNKS.slice(0, 2)) assertCached(handle, chunk);
  const untouched = store.openBlob(INFO, DIGESTS, localConfig(join(workDir, 'other')));
  rmSync(workDir, { recursive: true });
  await store.fetch(untouched.handle, wantAll([CHUNKS[2]]));
  assertCached(untouched, CHUNKS[2]);
});

describe('over HTTP', () => {
  const withServer = async (run: (server: BlobServer) => Promise<void>) => {
    const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
    try {
      await run(server);
    } finally {
      server.close();
    }
  };
  test('fifty readers of one chunk make one request', () =>
    withServer(async (server) => {
      const store = newStore();
      const handle = store.openBlob(INFO, DIGESTS, httpConfig(freshDir(), server.url, 'b', EXACT));
      const reads = Array.from({ length: 50 }, () => store.fetch(handle.handle, wantAll([CHUNKS[9]])));
      await Promise.all(reads);
      assert.equal(server.served.length, 2, 'the chunk table and the chunk');
      assertCached(handle, CHUNKS[9]);
      await store.close();
    }));
  test('nothing is asked for before the first miss', () =>
    withServer(async (server) => {
      const store = newStore();
      store.openBlob(INFO, DIGESTS, httpConfig(freshDir(), server.url, 'b'));
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.equal(server.served.length, 0);
      await store.close();
    }));
  test('500, then garbage, then the truth: the read succeeds', () =>
    withServer(async (server) => {
      const store = newStore();
      const handle = store.openBlob(
        INFO,
        DIGESTS,
        httpConfig(freshDir(), server.url, 'b', { ...EXACT, digest_validate: true }),
      );
      await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
      let count = 0;
      server.onRequest = (send, response, { first, last }) => {
        if (count++ === 0) return void response.writeHead(500).end();
        if (count > 2) return send();
        const headers = { 'content-range': `bytes ${first}-${last}/${INFO.compressedSize}` };
        response.writeHead(206, headers).end(Buffer.alloc(last - first + 1, 0x55));
      };
      await store.fetch(handle.handle, wantAll([CHUNKS[7]]));
      assertCached(handle, CHUNKS[7]);
      assert.equal(count, 3);
      await store.close();
    }));
  test('a dead server: an error in bounded time, and the next read tries again', () =>
    withServer(async (server) => {
      const store = newStore();
      const handle = store.openBlob(INFO, DIGESTS, httpConfig(freshDir(), server.url, 'b', EXACT));
      server.onRequest = (_, response) => response.socket?.resetAndDestroy();
      const started = Date.now();
      await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[0]])), { code: 'HTTP_CONNECT' });
      assert.ok(Date.now() - started < 10_000);
      server.onRequest = (send) => send();
      await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
      assertCached(handle, CHUNKS[0]);
      await store.close();
    }));
  test('closing aborts what is under way with CLOSED and leaks no descriptor', () =>
    withServer(async (server) => {
      const store = newStore();
      const warm = store.openBlob(INFO, DIGESTS, httpConfig(freshDir(), server.url, 'b', EXACT));
      await store.fetch(warm.handle, wantAll([CHUNKS[0]]));
      const before = cacheDescriptors();
      server.onRequest = () => {};
      const workDir = freshDir();
      for (let round = 0; round < 10; round++) {
        const handle = store.openBlob(INFO, DIGESTS, httpConfig(workDir, server.url, 'b', EXACT));
        const reads = CHUNKS.slice(0, 32).map((chunk) => store.fetch(handle.handle, wantAll([chunk])));
        await new Promise((resolve) => setTimeout(resolve, 20));
        store.closeBlob(handle.handle);
        for (const result of await Promise.allSettled(reads)) {
          assert.equal(result.status, 'rejected');
          assert.equal(errnoOf(result.reason), errno.ESTALE);
        }
        await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[0]])), { code: 'CLOSED' });
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
      assert.deepEqual(cacheDescriptors(), before);
      await store.close();
    }));
});

/** Open files of caches, and /dev/null placeholders. */
function cacheDescriptors(): string[] {
  return openDescriptors()
    .filter((target) => target.includes('.blob.') || target === '/dev/null')
    .sort();
}

/** What a descriptor of this process names; '' when it was closed meanwhile. */
function linkOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return '';
  }
}

test('what an image says wrong of one chunk is an error of its reader alone, and none that nobody hears of', async () => {
  const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
  after(() => server.close());
  const store = newStore();
  const config = httpConfig(freshDir(), server.url, 'blobs', { amplify_io: 8192 });
  const { handle } = store.openBlob(INFO, DIGESTS, config);
  const [first, ahead, ...others] = wantAll(CHUNKS);
  const wrong = { ...ahead, uncompressedOffset: ahead.uncompressedOffset + 4096 };
  await store.fetch(handle, [first, { ...wrong, isAhead: true }]);
  server.onRequest = (_, response) => void response.writeHead(400).end();
  await assert.rejects(store.fetch(handle, [others[200], wrong]), { code: 'CHUNK' });
  await assert.rejects(store.fetch(handle, [others[200]]), { code: 'HTTP_STATUS' });
});

test('two mounts of one blob share it, and the last one closes it', async () => {
  const store = newStore();
  const workDir = freshDir();
  const config = localConfig(workDir);
  const a = store.openBlob(INFO, DIGESTS, config);
  const b = store.openBlob({ ...INFO, index: 3 }, DIGESTS, config);
  const other = store.openBlob(INFO, DIGESTS, localConfig(freshDir()));
  assert.notEqual(a.handle, b.handle);
  assert.equal(a.dataFd, b.dataFd);
  assert.equal(a.ready, b.ready);
  assert.notEqual(a.dataFd, other.dataFd);
  store.closeBlob(a.handle);
  store.closeBlob(a.handle);
  await store.fetch(b.handle, wantAll([CHUNKS[0]]));
  assertCached(b, CHUNKS[0]);
  const isOpen = () => readdirSync('/proc/self/fd').some((fd) => linkOf(fd).startsWith(workDir));
  assert.ok(isOpen());
  store.closeBlob(b.handle);
  for (const from = performance.now(); isOpen() && performance.now() - from < 5000; ) await sleep(5);
  assert.ok(!isOpen());
});

describe('named slots and refusals at mount', () => {
  const config = localConfig(freshDir());
  const cases: [string, Partial<BlobInfo>, string][] = [
    ['both zran and batch', { features: FEATURE.ZRAN | FEATURE.BATCH | FEATURE.CHUNK_INFO_V2 }, 'BLOB_META'],
    ['zran with entries too short for it', { features: FEATURE.ZRAN }, 'BLOB_META'],
    ['separate, and no name of the meta blob', { features: FEATURE.SEPARATE, extra: Buffer.alloc(48) }, 'BLOB_META'],
    ['encrypted without cipher', { features: FEATURE.ENCRYPTED | FEATURE.CHUNK_INFO_V2 }, 'BLOB_META'],
    ['cipher without encryption', { cipher: 1 }, 'BLOB_META'],
    [
      'dictionary with a table of 400 MiB',
      { ...INFO, features: INFO.features | FEATURE.IS_CHUNKDICT_GENERATED, ciUncompressedSize: 400 << 20 },
      'BLOB_META',
    ],
    ['unknown feature', { features: 0x2000 }, 'BLOB_META'],
    ['no chunk table', { ciCompressedSize: 0, ciUncompressedSize: 0 }, 'BLOB_META'],
    ['table of another size', { ciUncompressedSize: 17 }, 'BLOB_META'],
    ['too many chunks', { chunkCount: (1 << 24) + 1 }, 'BLOB_META'],
    ['senseless size', { uncompressedSize: Number.NaN }, 'BLOB_META'],
    ['id with a path', { id: '../../etc/passwd' }, 'CONFIG'],
  ];
  for (const [id, change, code] of cases) {
    test(id, () => {
      assert.throws(() => newStore().openBlob({ ...INFO, ...change }, DIGESTS, config), { code });
    });
  }
  test('a blob without chunks opens, and every read of it is an error', async () => {
    const empty = { chunkCount: 0, uncompressedSize: 0, ciCompressedSize: 0, ciUncompressedSize: 0 };
    const store = newStore();
    const handle = store.openBlob({ ...INFO, ...empty }, DIGESTS, localConfig(freshDir()));
    await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[0]])), { code: 'CHUNK' });
  });
  test('the cache directory is made', () => {
    const workDir = join(freshDir(), 'a/b/c');
    newStore().openBlob(INFO, DIGESTS, localConfig(workDir));
    assert.ok(existsSync(join(workDir, `${INFO.id}.blob.data`)));
    mkdirSync(workDir, { recursive: true });
  });
});
