/** Blobs without a chunk table of their own: readers say where their chunks are, as RAFS v5 and tarfs images do. */
import assert from 'node:assert/strict';
import { readdirSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { type Logger, SILENT } from '../common/log.ts';
import { freshDir, isReady, localConfig } from './cache/cache.testing.ts';
import { CODECS } from './codecs/codecs.ts';
import { crc32c, DIGESTS } from './codecs/digests.ts';
import { expectedChunks, makeBlob } from './fixtures.testing.ts';
import { Prefetch } from './prefetch/prefetch.ts';
import { BlobStore } from './store.ts';
import { FEATURE } from './tables/blob-layout.ts';
import {
  type BlobHandle,
  type BlobInfo,
  type ChunkSource,
  FEATURE_NO_EXTENDED_TABLE,
  type WantedChunk,
} from './types.ts';

const CONTENTS = [
  Buffer.alloc(9000, 'abc'),
  Buffer.from('short'),
  Buffer.alloc(70_000, 'xyzzy'),
  Buffer.alloc(4096, 1),
];
const MADE = makeBlob(CONTENTS, { compressor: 'zstd', crc: true });
const INFO: BlobInfo = {
  ...MADE.info,
  features: FEATURE.CAP_TAR_TOC,
  ciOffset: 0,
  ciCompressedSize: 0,
  ciUncompressedSize: 0,
  described: true,
};
const CHUNKS = expectedChunks(MADE.info, MADE.file);
const SOURCES: ChunkSource[] = CHUNKS.map((chunk) => ({
  compressedOffset: chunk.compressedOffset,
  compressedSize: chunk.compressedSize,
  uncompressedSize: chunk.bytes.length,
  compressed: chunk.compressedSize < chunk.bytes.length,
  crc32: crc32c(chunk.bytes),
  digest: DIGESTS.blake3.digest(chunk.bytes),
}));
const WANTED: WantedChunk[] = CHUNKS.map((chunk, index) => ({
  chunkIndex: index,
  uncompressedOffset: chunk.uncompressedOffset,
  bytes: chunk.bytes.length,
  source: SOURCES[index],
}));

const blobs = freshDir();
writeFileSync(join(blobs, INFO.id), MADE.file);
const stores: BlobStore[] = [];
after(() => Promise.all(stores.map((store) => store.close())));

function newStore(log: Logger = SILENT): BlobStore {
  const store = new BlobStore(log);
  stores.push(store);
  return store;
}

function open(store: BlobStore, workDir: string, info = INFO, validate = true): BlobHandle {
  return store.openBlob(info, () => null, localConfig(workDir, blobs, { digest_validate: validate }));
}

function assertServed(handle: BlobHandle, wanted: WantedChunk, bytes: Buffer): void {
  assert.ok(isReady(handle, wanted.chunkIndex));
  const got = Buffer.alloc(bytes.length);
  readSync(handle.dataFd, got, 0, got.length, wanted.uncompressedOffset);
  assert.ok(got.equals(bytes), `chunk ${wanted.chunkIndex}`);
}

test('chunks come as described, neighbours in one request, and stay in the cache', async () => {
  const workDir = freshDir();
  const store = newStore();
  const handle = open(store, workDir);
  await store.fetch(handle.handle, WANTED);
  for (const [i, wanted] of WANTED.entries()) assertServed(handle, wanted, CONTENTS[i]);
  assert.equal(store.stats.requests, 1);
  const second = newStore();
  const again = open(second, workDir);
  await second.fetch(again.handle, WANTED);
  for (const [i, wanted] of WANTED.entries()) assertServed(again, wanted, CONTENTS[i]);
  assert.equal(second.stats.requests, 0);
});

test('chunks packed side by side, as v5 has them: what lies between those that are fetched together keeps its bytes', async () => {
  let end = 0;
  const packed = WANTED.map((wanted) => {
    const uncompressedOffset = end;
    end += wanted.bytes;
    return { ...wanted, uncompressedOffset };
  });
  const info = { ...INFO, uncompressedSize: end };
  const store = newStore();
  const handle = open(store, freshDir(), info);
  await store.fetch(handle.handle, [packed[1]]);
  const chunks = [packed[0], packed[2], packed[3]];
  const options = { threads: 1, mergingBytes: 0, bytesPerSecond: 0, workDir: null, planMs: 0, isWhole: true };
  const prefetch = new Prefetch(
    (stage) => (stage === 'soon' ? [{ handle: handle.handle, chunks }] : []),
    (number, owner) => store.prefetchTarget(number, owner),
    options,
    SILENT,
  );
  await prefetch.ended;
  for (const [i, wanted] of packed.entries()) assertServed(handle, wanted, CONTENTS[i]);
});

test('what one image says of a blob does not bind another', async () => {
  const store = newStore();
  const workDir = freshDir();
  const hostile = open(store, workDir, INFO, false);
  const honest = open(store, workDir);
  const lie = { ...WANTED[0], source: { ...SOURCES[3], crc32: null, digest: null } };
  const reading = store.fetch(hostile.handle, [{ ...lie, bytes: 1 }]);
  await Promise.all([reading.catch(() => {}), store.fetch(honest.handle, WANTED.slice(1))]);
  for (const i of [1, 2, 3]) assertServed(honest, WANTED[i], CONTENTS[i]);
});

describe('chunks without numbers', () => {
  const info = {
    ...INFO,
    features: FEATURE_NO_EXTENDED_TABLE,
    chunkCount: 100,
    compressedSize: 0,
    uncompressedSize: 0,
  };
  test('are known by their digests, fetched once, and leave nothing behind', async () => {
    const workDir = freshDir();
    const store = newStore();
    const handle = open(store, workDir, info);
    const twice = WANTED.flatMap((wanted, i) => [
      { ...wanted, chunkIndex: 10 + i },
      { ...wanted, chunkIndex: 50 + i },
    ]);
    await store.fetch(handle.handle, twice);
    for (const [i, wanted] of twice.entries()) assertServed(handle, wanted, CONTENTS[i >> 1]);
    assert.equal(store.stats.chunksFetched, CONTENTS.length);
    assert.deepEqual(readdirSync(workDir), []);
  });
  test('are not shared between mounts', async () => {
    const workDir = freshDir();
    const store = newStore();
    const first = open(store, workDir, info);
    const second = open(store, workDir, info);
    await store.fetch(first.handle, [{ ...WANTED[0], chunkIndex: 7 }]);
    await store.fetch(second.handle, [{ ...WANTED[2], chunkIndex: 7 }]);
    assertServed(first, { ...WANTED[0], chunkIndex: 7 }, CONTENTS[0]);
    assertServed(second, { ...WANTED[2], chunkIndex: 7 }, CONTENTS[2]);
  });
});

test('a tar is served as it is, with one warning that nothing can verify it', async () => {
  const lines: string[] = [];
  const store = newStore({ ...SILENT, warn: (text) => lines.push(text) });
  const tar = Buffer.concat([Buffer.alloc(512, 'h'), Buffer.alloc(1000, 'd'), Buffer.alloc(536)]);
  const features = FEATURE.TARFS | FEATURE.CAP_TAR_TOC;
  const info = { ...INFO, id: 'tar', features, compressor: 'none' as const, chunkCount: 1 };
  writeFileSync(join(blobs, 'tar'), tar);
  const handle = open(store, freshDir(), { ...info, compressedSize: tar.length, uncompressedSize: tar.length });
  const source = { compressedOffset: 512, compressedSize: 1000, uncompressedSize: 1000 };
  const wanted: WantedChunk = {
    chunkIndex: 0,
    uncompressedOffset: 512,
    bytes: 1000,
    source: { ...source, compressed: false, crc32: null, digest: null },
  };
  await store.fetch(handle.handle, [wanted]);
  assertServed(handle, wanted, tar.subarray(512, 1512));
  assert.deepEqual(
    lines.filter((line) => /unverified/.test(line)),
    ['blob tar has no digests: served unverified'],
  );
});

describe('external data', () => {
  const bytes = Buffer.alloc(20_000, 'external ');
  const info: BlobInfo = {
    ...INFO,
    id: 'external',
    features: FEATURE.EXTERNAL | FEATURE.ALIGNED | FEATURE.CAP_TAR_TOC,
    compressor: 'none',
    compressedSize: bytes.length,
    uncompressedSize: bytes.length,
  };
  writeFileSync(join(blobs, info.id), bytes);
  const source = { compressedOffset: 4096, compressedSize: 8192, uncompressedSize: 8192, compressed: false };
  const wanted: WantedChunk = {
    chunkIndex: 1,
    uncompressedOffset: 4096,
    bytes: 8192,
    source: { ...source, crc32: null, digest: null },
  };
  const crcOf = (value: number) => {
    const crc = Buffer.alloc(4);
    crc.writeUInt32LE(value);
    return crc;
  };
  const openWith = (store: BlobStore, proof: Uint8Array | null) =>
    store.openBlob(info, () => proof, localConfig(freshDir(), blobs, { digest_validate: true }));

  test('is checked with the CRC that the image has', async () => {
    const store = newStore();
    const handle = openWith(store, crcOf(crc32c(bytes.subarray(4096, 12_288))));
    await store.fetch(handle.handle, [wanted]);
    assertServed(handle, wanted, bytes.subarray(4096, 12_288));
    const bad = openWith(store, crcOf(1));
    await assert.rejects(store.fetch(bad.handle, [wanted]), { code: 'DIGEST', message: /CRC-32C/ });
  });

  test('without any is served all the same, with a warning', async () => {
    const lines: string[] = [];
    const store = newStore({ ...SILENT, warn: (text) => lines.push(text) });
    const handle = openWith(store, null);
    await store.fetch(handle.handle, [wanted]);
    assertServed(handle, wanted, bytes.subarray(4096, 12_288));
    assert.deepEqual(lines, ['blob external is external: chunks without CRC are served unverified']);
  });
});

describe('a blob known through a generated dictionary', () => {
  // It lists the third and the first chunk, and counts them 0 and 1.
  const listed = [2, 0];
  const info: BlobInfo = {
    ...MADE.info,
    features: MADE.info.features | FEATURE.IS_CHUNKDICT_GENERATED,
    chunkCount: listed.length,
    compressedSize: 0,
    uncompressedSize: 0,
  };
  const wanted = listed.map((own, chunkIndex) => ({
    chunkIndex,
    uncompressedOffset: CHUNKS[own].uncompressedOffset,
    bytes: CHUNKS[own].bytes.length,
  }));
  const digests = (index: number) => DIGESTS.blake3.digest(CONTENTS[listed[index]]);
  const openIt = (store: BlobStore, workDir: string) =>
    store.openBlob(info, digests, localConfig(workDir, blobs, { digest_validate: true }));

  test('gives its chunks by their place, beside a mount that counts them as the blob does', async () => {
    const store = newStore();
    const workDir = freshDir();
    const handle = openIt(store, workDir);
    const exact = localConfig(workDir, blobs, { digest_validate: true, amplify_io: 0 });
    const whole = store.openBlob(MADE.info, MADE.digests, exact);
    await store.fetch(whole.handle, [{ chunkIndex: 1, uncompressedOffset: CHUNKS[1].uncompressedOffset, bytes: 1 }]);
    await store.fetch(handle.handle, wanted);
    for (const [i, chunk] of wanted.entries()) assertServed(handle, chunk, CONTENTS[listed[i]]);
    assert.ok(!isReady(whole, 0));
  });

  test('has no chunk where the blob has none', async () => {
    const store = newStore();
    const handle = openIt(store, freshDir());
    const nowhere = { ...wanted[0], uncompressedOffset: wanted[0].uncompressedOffset + 4096 };
    await assert.rejects(store.fetch(handle.handle, [nowhere]), { code: 'CHUNK', message: /where the blob has none/ });
  });
});

test('a legacy gzip chunk whose stored size is an estimate beyond the blob', async () => {
  const bytes = Buffer.alloc(50_000, 'stargz ');
  const file = CODECS.gzip.compress(bytes);
  const info = { ...INFO, id: 'gz', compressor: 'gzip' as const, chunkCount: 1, chunkSize: 1 << 22 };
  writeFileSync(join(blobs, 'gz'), file);
  const store = newStore();
  const handle = open(store, freshDir(), { ...info, compressedSize: file.length, uncompressedSize: 53_248 });
  const source = { ...SOURCES[0], compressedOffset: 0, compressedSize: file.length + 500, crc32: null };
  const digest = DIGESTS.blake3.digest(bytes);
  const wanted = {
    ...WANTED[0],
    bytes: 1,
    source: { ...source, uncompressedSize: bytes.length, compressed: true, digest },
  };
  await store.fetch(handle.handle, [wanted]);
  assertServed(handle, wanted, bytes);
});

test('a chunk without description is an error', async () => {
  const { source: _, ...bare } = WANTED[0];
  const store = newStore();
  const reading = store.fetch(open(store, freshDir()).handle, [bare]);
  await assert.rejects(reading, { code: 'CHUNK', message: /not described/ });
});

describe('descriptions that cannot be', () => {
  const source = SOURCES[0];
  const cases: [string, Partial<WantedChunk>, RegExp][] = [
    ['behind the blob', { source: { ...source, compressedOffset: INFO.compressedSize } }, /behind the blob/],
    ['behind the cache file', { uncompressedOffset: INFO.uncompressedSize }, /behind the cache file/],
    ['negative', { uncompressedOffset: -4096 }, /senseless/],
    ['fraction', { source: { ...source, compressedOffset: 0.5 } }, /senseless/],
    ['empty', { source: { ...source, compressedSize: 0 } }, /empty/],
    ['huge', { source: { ...source, uncompressedSize: (1 << 24) + 1 } }, /long/],
    ['too short for the file', { bytes: 9001 }, /needs 9001/],
    ['raw with two sizes', { source: { ...source, compressed: false } }, /two sizes/],
    ['number behind the last', { chunkIndex: 4 }, /not in the blob/],
  ];
  for (const [id, change, message] of cases) {
    test(id, async () => {
      const store = newStore();
      const handle = open(store, freshDir());
      const reading = store.fetch(handle.handle, [{ ...WANTED[0], ...change }]);
      await assert.rejects(reading, { code: 'CHUNK', message });
      await store.fetch(handle.handle, [WANTED[0]]);
      assertServed(handle, WANTED[0], CONTENTS[0]);
    });
  }
});
