/** What goes wrong around a store: wrong bytes, wrong files, full and read-only disks, dead backends, closing. */
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
  statSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { type Logger, SILENT } from '../common/log.ts';
import { errno } from '../sys/errno.ts';
import { FEATURE } from './blob-layout.ts';
import {
  assertCached,
  type BlobServer,
  freshDir,
  httpConfig,
  isReady,
  localConfig,
  startBlobServer,
} from './cache.testing.ts';
import { errnoOf } from './errors.ts';
import { blobBytes, blobTable, chunkDigests, expectedChunks, makeBlob, wantAll } from './fixtures.testing.ts';
import { BlobStore } from './store.ts';
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

/** A directory of blobs with one byte of chunk `index` flipped; `repair` puts the right file there. */
function damagedBlobs(info: BlobInfo, file: Buffer, at: number): { dir: string; repair: () => void } {
  const dir = freshDir();
  const damaged = Buffer.from(file);
  damaged[at] ^= 0x10;
  writeFileSync(join(dir, info.id), damaged);
  return { dir, repair: () => writeFileSync(join(dir, info.id), file) };
}

describe('wrong bytes', () => {
  test('a flipped byte of a raw chunk: DIGEST after a second try, not cached, read again when repaired', async () => {
    const { dir, repair } = damagedBlobs(INFO, blobBytes(INFO.id), CHUNKS[3].compressedOffset + 5);
    const store = newStore();
    const config = localConfig(freshDir(), dir, { ...EXACT, digest_validate: true });
    const handle = store.openBlob(INFO, DIGESTS, config);
    await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[3]])), (error) => {
      assert.equal((error as { code: string }).code, 'DIGEST');
      assert.equal(errnoOf(error), errno.EIO);
      return true;
    });
    assert.equal(store.stats.requests, 3, 'table, chunk, chunk again');
    assert.ok(!isReady(handle, 3));
    await store.fetch(handle.handle, wantAll([CHUNKS[2], CHUNKS[4]]));
    assertCached(handle, CHUNKS[2]);
    repair();
    await store.fetch(handle.handle, wantAll([CHUNKS[3]]));
    assertCached(handle, CHUNKS[3]);
  });
  test('one bad chunk of a merged range fails alone', async () => {
    const { dir } = damagedBlobs(INFO, blobBytes(INFO.id), CHUNKS[3].compressedOffset + 5);
    const store = newStore();
    const handle = store.openBlob(INFO, DIGESTS, localConfig(freshDir(), dir, { digest_validate: true }));
    await assert.rejects(store.fetch(handle.handle, wantAll(CHUNKS.slice(0, 8))), { code: 'DIGEST' });
    for (const index of [0, 1, 2, 4, 5, 6, 7]) {
      await store.fetch(handle.handle, wantAll([CHUNKS[index]]));
      assertCached(handle, CHUNKS[index]);
    }
    assert.ok(!isReady(handle, 3));
  });
  for (const name of ['v6-zstd-blake3', 'v6-lz4_block-sha256-4k']) {
    test(`${name}: every 10th chunk flipped, nothing wrong is ever served`, async () => {
      const [info] = blobTable(name);
      const chunks = expectedChunks(info).filter(({ index }) => chunkDigests(name, 0)(index) !== null);
      const file = Buffer.from(blobBytes(info.id));
      const bad = chunks.filter((_, i) => i % 10 === 0);
      for (const chunk of bad) file[chunk.compressedOffset + (chunk.compressedSize >> 1)] ^= 1;
      const dir = freshDir();
      writeFileSync(join(dir, info.id), file);
      const store = newStore();
      const config = localConfig(freshDir(), dir, { digest_validate: true });
      const handle = store.openBlob(info, chunkDigests(name, 0), config);
      const results = await Promise.allSettled(chunks.map((chunk) => store.fetch(handle.handle, wantAll([chunk]))));
      let rejected = 0;
      results.forEach(({ status }, i) => {
        // A flipped match offset of a repetitive lz4 chunk may decode to the right bytes: then serving them is right.
        if (status === 'fulfilled') assertCached(handle, chunks[i]);
        else rejected++;
        if (status === 'rejected') assert.ok(bad.includes(chunks[i]));
      });
      assert.ok(rejected >= bad.length * 0.8, `${rejected} of ${bad.length}`);
    });
  }
  test('a CRC in the table is checked with validation off, too', async () => {
    const made = makeBlob([Buffer.alloc(5000, 'a'), Buffer.alloc(9000, 'b')], { compressor: 'none', crc: true });
    const { dir } = damagedBlobs(made.info, made.file, 100);
    const store = newStore();
    const handle = store.openBlob(made.info, () => null, localConfig(freshDir(), dir));
    const [first, second] = expectedChunks(made.info, made.file);
    await assert.rejects(store.fetch(handle.handle, wantAll([first])), { code: 'DIGEST', message: /CRC-32C/ });
    await store.fetch(handle.handle, wantAll([second]));
    assertCached(handle, second);
  });
  test('validation on and no digest anywhere is an error', async () => {
    const store = newStore();
    const handle = store.openBlob(INFO, () => null, localConfig(freshDir(), undefined, { digest_validate: true }));
    await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[0]])), { code: 'CHUNK', message: /no digest/ });
  });
  test('16 MiB chunks, all compressors', async () => {
    for (const compressor of ['none', 'lz4_block', 'zstd'] as const) {
      // V2 entries hold stored sizes below 16 MiB only, so a raw chunk cannot have all of it.
      const longest = compressor === 'none' ? (1 << 24) - 1 : 1 << 24;
      const contents = [Buffer.alloc(longest, 'some text '), Buffer.from('x')];
      const made = makeBlob(contents, { compressor, crc: true });
      const dir = freshDir();
      writeFileSync(join(dir, made.info.id), made.file);
      const store = newStore();
      const handle = store.openBlob(made.info, made.digests, localConfig(freshDir(), dir, { digest_validate: true }));
      const chunks = expectedChunks(made.info, made.file);
      await store.fetch(handle.handle, wantAll(chunks));
      for (const chunk of chunks) assertCached(handle, chunk);
    }
  });
});

describe('image and blob disagree', () => {
  const [chunk] = CHUNKS;
  const good = { chunkIndex: 0, uncompressedOffset: chunk.uncompressedOffset, bytes: chunk.bytes.length };
  for (const wrong of [
    { chunkIndex: INFO.chunkCount },
    { chunkIndex: -1 },
    { chunkIndex: Number.NaN },
    { uncompressedOffset: 4096 },
    { bytes: chunk.bytes.length + 1 },
  ]) {
    test(JSON.stringify(wrong), async () => {
      const store = newStore();
      const handle = store.openBlob(INFO, DIGESTS, localConfig(freshDir()));
      await assert.rejects(store.fetch(handle.handle, [{ ...good, ...wrong }]), { code: 'CHUNK' });
      await store.fetch(handle.handle, [good]);
    });
  }
});

describe('chunk tables that lie', () => {
  const made = makeBlob([Buffer.alloc(5000, 'a'), Buffer.alloc(9000, 'b')], { compressor: 'zstd', crc: true });
  const chunks = expectedChunks(made.info, made.file);
  const at = made.info.ciOffset;
  const headerAt = at + made.info.ciCompressedSize;
  const cases: Record<string, (file: Buffer) => void> = {
    'no magic': (file) => file.writeUInt8(0, headerAt),
    'another count': (file) => file.writeUInt32LE(3, headerAt + 12),
    'another offset': (file) => file.writeUInt32LE(1, headerAt + 16),
    'another compressor': (file) => file.writeUInt32LE(3, headerAt + 8),
    'chunks overlap': (file) => file.writeUInt32LE(0, at + 24),
    'chunk behind the blob': (file) => file.writeUInt32LE(1000, at + 24),
    'stored bytes behind the data': (file) => file.writeUInt32LE(1 << 20, at + 24 + 8),
    'no stored bytes': (file) => file.writeUInt32LE(file.readUInt32LE(at + 12) & 0xff, at + 12),
    'raw with two sizes': (file) => file.writeUInt8(0x10, at + 7),
    'zran flag': (file) => file.writeUInt8(0x13, at + 7),
    'CRC flag without CRC': (file) => file.writeUInt32LE(0, at + 16),
  };
  for (const [id, damage] of Object.entries(cases)) {
    test(id, async () => {
      const dir = freshDir();
      const workDir = freshDir();
      const file = Buffer.from(made.file);
      damage(file);
      writeFileSync(join(dir, made.info.id), file);
      const store = newStore();
      const handle = store.openBlob(made.info, made.digests, localConfig(workDir, dir));
      await assert.rejects(store.fetch(handle.handle, wantAll(chunks)), { code: 'BLOB_META' });
      // The next read asks the backend again.
      writeFileSync(join(dir, made.info.id), made.file);
      await store.fetch(handle.handle, wantAll(chunks));
      for (const chunk of chunks) assertCached(handle, chunk);
    });
  }
  test('a damaged blob.meta in the cache is fetched anew; a good one is used', async () => {
    const dir = freshDir();
    const workDir = freshDir();
    writeFileSync(join(dir, made.info.id), made.file);
    const path = join(workDir, `${made.info.id}.blob.meta`);
    for (const [damage, requests] of [
      [() => {}, 2],
      [() => truncateSync(path, 100), 2],
      [() => writeFileSync(path, Buffer.alloc(statSync(path).size)), 2],
      [() => {}, 1],
    ] as const) {
      damage();
      for (const suffix of ['.blob.data', '.blob.data.chunk_map'])
        rmSync(join(workDir, made.info.id + suffix), { force: true });
      const store = newStore();
      const handle = store.openBlob(made.info, made.digests, localConfig(workDir, dir));
      await store.fetch(handle.handle, wantAll(chunks));
      assert.equal(store.stats.requests, requests);
      await store.close();
    }
    const meta = readFileSync(path);
    assert.equal(meta.length, 4096 + 4096);
    assert.ok(meta.subarray(4096).equals(made.file.subarray(headerAt)));
  });
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

/** Mounts need root and a kernel that lets us. */
function mountMissing(): string | null {
  if (process.getuid?.() !== 0) return 'mounting needs root';
  const dir = freshDir();
  try {
    execFileSync('mount', ['-t', 'tmpfs', 'tmpfs', dir], { stdio: 'ignore' });
    execFileSync('umount', [dir]);
    return null;
  } catch {
    return 'mount is not permitted here';
  }
}

describe('cache directories that take nothing', { skip: mountMissing() ?? false }, () => {
  const lines: string[] = [];
  const log: Logger = { ...SILENT, warn: (text) => lines.push(text) };

  test('full: NO_SPACE, and the same read works when there is space', async () => {
    const workDir = freshDir();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', workDir]);
    try {
      const ballast = join(workDir, 'ballast');
      writeFileSync(ballast, Buffer.alloc(900 << 10));
      const store = newStore(log);
      const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir));
      await assert.rejects(store.fetch(handle.handle, wantAll(CHUNKS)), (error) => {
        assert.equal((error as { code: string }).code, 'NO_SPACE');
        assert.equal(errnoOf(error), errno.EIO);
        return true;
      });
      rmSync(ballast);
      await store.fetch(handle.handle, wantAll(CHUNKS));
      for (const chunk of CHUNKS) assertCached(handle, chunk);
      await store.close();
      assert.ok(!openFiles().some((path) => path.startsWith(workDir)), 'descriptors left');
    } finally {
      execFileSync('umount', ['-l', workDir]);
    }
  });

  test('full from the start: the mount works, reads fail until there is space', async () => {
    const workDir = freshDir();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', workDir]);
    try {
      const ballast = join(workDir, 'ballast');
      try {
        writeFileSync(ballast, Buffer.alloc(2 << 20));
      } catch {}
      const store = newStore(log);
      const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir));
      await assert.rejects(store.fetch(handle.handle, wantAll(CHUNKS)), { code: 'NO_SPACE' });
      rmSync(ballast);
      await store.fetch(handle.handle, wantAll(CHUNKS));
      for (const chunk of CHUNKS) assertCached(handle, chunk);
      await store.close();
      assert.ok(!openFiles().some((path) => path.startsWith(workDir)), 'descriptors left');
    } finally {
      execFileSync('umount', ['-l', workDir]);
    }
  });

  test('read-only: what is cached is served, the rest is READ_ONLY until it is writable', async () => {
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
      await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[5]])), { code: 'READ_ONLY' });
      execFileSync('mount', ['-o', 'remount,bind,rw', workDir]);
      await store.fetch(handle.handle, wantAll([CHUNKS[5]]));
      for (const chunk of CHUNKS.slice(0, 6)) assertCached(handle, chunk);
      await store.close();
    } finally {
      execFileSync('umount', ['-l', workDir]);
    }
  });
});

test('a cache directory that is a file, until somebody makes it one', async () => {
  const workDir = join(freshDir(), 'cache');
  writeFileSync(workDir, '');
  const store = newStore();
  const handle = store.openBlob(INFO, DIGESTS, localConfig(workDir));
  await assert.rejects(store.fetch(handle.handle, wantAll([CHUNKS[0]])), { code: 'CACHE_IO' });
  unlinkSync(workDir);
  await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
  assertCached(handle, CHUNKS[0]);
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

function openFiles(): string[] {
  return readdirSync('/proc/self/fd').map((fd) =>
    existsSync(`/proc/self/fd/${fd}`) ? readlinkSync(`/proc/self/fd/${fd}`) : '',
  );
}

/** Open files of caches, and /dev/null placeholders. */
function cacheDescriptors(): string[] {
  return openFiles()
    .filter((target) => target.includes('.blob.') || target === '/dev/null')
    .sort();
}

test('two mounts of one blob share it, and the last one closes it', async () => {
  const store = newStore();
  const config = localConfig(freshDir());
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
  store.closeBlob(b.handle);
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.throws(() => fstatSync(b.dataFd), { code: 'EBADF' });
});

describe('named slots and refusals at mount', () => {
  const config = localConfig(freshDir());
  const cases: [string, Partial<BlobInfo>, string][] = [
    ['zran', { features: FEATURE.ZRAN | FEATURE.CHUNK_INFO_V2 }, 'UNSUPPORTED'],
    ['separate', { features: FEATURE.SEPARATE }, 'UNSUPPORTED'],
    ['batch', { features: FEATURE.BATCH | FEATURE.CHUNK_INFO_V2 }, 'UNSUPPORTED'],
    ['encrypted', { features: FEATURE.ENCRYPTED | FEATURE.CHUNK_INFO_V2 }, 'UNSUPPORTED'],
    ['cipher', { cipher: 1 }, 'UNSUPPORTED'],
    ['tarfs', { features: FEATURE.TARFS }, 'UNSUPPORTED'],
    ['external', { features: FEATURE.EXTERNAL }, 'UNSUPPORTED'],
    ['gzip', { compressor: 'gzip' }, 'UNSUPPORTED'],
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
  test('no cache configured', () => {
    assert.throws(() => newStore().openBlob(INFO, DIGESTS, { ...config, cache: null }), { code: 'CONFIG' });
  });
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
