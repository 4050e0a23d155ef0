/** Blobs and images that are closed while something is under way for them. */
import assert from 'node:assert/strict';
import { closeSync, openSync, readlinkSync } from 'node:fs';
import { after, test } from 'node:test';
import { openDescriptors } from '../common/descriptors.testing.ts';
import { SILENT } from '../common/log.ts';
import { assertCached, freshDir, httpConfig, localConfig, startBlobServer } from './cache/cache.testing.ts';
import { blobBytes, blobTable, chunkDigests, expectedChunks, wantAll } from './fixtures.testing.ts';
import type { Manner, PrefetchRange } from './prefetch/blob-prefetch.ts';
import { Pace } from './prefetch/prefetch-pace.ts';
import { BlobStore } from './store.ts';

const NAME = 'v6-none-blake3-4k';
const [INFO] = blobTable(NAME);
const CHUNKS = expectedChunks(INFO);
const DIGESTS = chunkDigests(NAME, 0);
const MANNER: Manner = {
  rank: 'behind',
  batchBytes: 1 << 20,
  rangeBytes: 1 << 20,
  gapBytes: 0,
  gapShare: 0,
  nearBytes: 1 << 20,
  isPromised: false,
};

test('prefetch that comes too late for its blob changes no descriptor, which may be another file by now', async () => {
  const store = new BlobStore(SILENT);
  const { handle, dataFd } = store.openBlob(INFO, DIGESTS, localConfig(freshDir()));
  const { behind } = store.prefetchTarget(handle, store)!;
  const ranges: PrefetchRange[] = [];
  for await (const range of behind.ranges('all', DIGESTS, MANNER)) ranges.push(range);
  await store.close();
  const before = openDescriptors();
  const taken: number[] = [];
  while (taken.at(-1) !== dataFd && taken.length < 20) taken.push(openSync('/dev/zero', 'r'));
  assert.equal(taken.at(-1), dataFd);
  const options = {
    manner: MANNER,
    pace: new Pace({ isBusy: false }, 0),
    signal: new AbortController().signal,
    room: null,
    batchRoom: Buffer.alloc(1 << 20),
  };
  await assert.rejects(behind.stream(ranges[0], options), { code: 'CLOSED' });
  assert.equal(readlinkSync(`/proc/self/fd/${dataFd}`), '/dev/zero');
  // Nor is a chunk table opened that nobody would close.
  await assert.rejects(behind.ranges('all', DIGESTS, MANNER).next(), { code: 'CLOSED' });
  for (const fd of taken) closeSync(fd);
  // What was open may be closed meanwhile: a blob's file is when its thread comes to it. Nothing is more, however often it was open.
  const left = openDescriptors();
  for (const path of before) if (left.includes(path)) left.splice(left.indexOf(path), 1);
  assert.deepEqual(left, []);
});

for (const first of ['a reader', 'read-ahead', 'prefetch']) {
  test(`two mounts of one blob: what ${first} of the one began serves readers of the other when that goes`, async () => {
    const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
    after(() => server.close());
    const store = new BlobStore(SILENT);
    const more = { digest_validate: true, amplify_io: first === 'read-ahead' ? 1 << 16 : 0 };
    const config = httpConfig(freshDir(), server.url, 'blobs', more);
    let isOpen = true;
    const digests = (index: number) => {
      // As a table whose descriptor was closed; or worse, what another file has there.
      if (!isOpen) throw Object.assign(new Error('bad file descriptor'), { code: 'EBADF' });
      return DIGESTS(index);
    };
    const going = store.openBlob(INFO, digests, config);
    const staying = store.openBlob(INFO, DIGESTS, config);
    await store.fetch(staying.handle, wantAll(CHUNKS.slice(200, 201)));
    let send = (): void => {};
    const isAsked = new Promise<void>((resolve) => {
      server.onRequest = (answer) => {
        send = answer;
        server.onRequest = (next) => next();
        resolve();
      };
    });
    if (first === 'prefetch') {
      const { behind, digests: own } = store.prefetchTarget(going.handle, store)!;
      const options = { manner: MANNER, pace: new Pace({ isBusy: false }, 0), signal: new AbortController().signal };
      const memory = { room: null, batchRoom: Buffer.alloc(1 << 20) };
      void (async () => {
        for await (const range of behind.ranges(wantAll(CHUNKS.slice(0, 8)), own, MANNER)) {
          await behind.stream(range, { ...options, ...memory }).catch(() => {});
          behind.drop(range);
        }
      })();
    } else {
      void store.fetch(going.handle, wantAll(CHUNKS.slice(0, 1))).catch(() => {});
    }
    await isAsked;
    const wanted = CHUNKS.slice(0, 4);
    const read = store.fetch(staying.handle, wantAll(wanted));
    store.closeBlob(going.handle);
    isOpen = false;
    send();
    await read;
    for (const chunk of wanted) assertCached(staying, chunk);
    await store.close();
  });
}
