import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { type Logger, SILENT } from '../common/log.ts';
import { FileChunks } from '../rafs/file-chunks.ts';
import { bootPath } from '../rafs/fixture-blobs.testing.ts';
import { openImage } from '../rafs/open-image.ts';
import { withoutExtendedTable } from '../rafs/v5/synthetic.testing.ts';
import { parseConfig } from '../storage/config/config.ts';
import { BLOBS_DIR, FIXTURES } from '../storage/fixtures.testing.ts';
import { BlobStore } from '../storage/store.ts';
import { parseTrace, parseTraceText } from './access-trace.ts';
import { cacheMetrics } from './image-metrics.ts';
import { prefetchImage } from './prefetch.ts';

const dir = mkdtempSync(join(tmpdir(), 'prefetch-'));
after(() => rmSync(dir, { recursive: true }));

const NAMES = readFileSync(join(FIXTURES, 'images/cases.tsv'), 'utf8')
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => line.split('\t')[0]!);

type Lists = Parameters<typeof prefetchImage>[1];
const NOTHING: Lists = { prefetchFiles: null, prefetchTrace: null };

/** Prefetches, waits for the end, and gives what is needed to look at the result. */
async function prefetched(t: TestContext, name: string, prefetch: object, lists = NOTHING, bootstrap = bootPath(name)) {
  const lines: string[] = [];
  const tell = (text: string) => void lines.push(text);
  const log: Logger = { ...SILENT, info: tell, warn: tell, error: tell };
  const backend = name.startsWith('inline-') ? { blob_file: bootPath(name) } : { dir: BLOBS_DIR };
  const workDir = mkdtempSync(join(dir, 'cache-'));
  const config = parseConfig(
    JSON.stringify({
      device: {
        backend: { type: 'localfs', config: backend },
        cache: { type: 'blobcache', config: { work_dir: workDir } },
      },
      mode: 'direct',
      digest_validate: true,
      fs_prefetch: prefetch,
    }),
  );
  const image = openImage(bootstrap);
  const store = new BlobStore(log);
  const handles = image.blobs.map((blob) => store.openBlob(blob, image.digests(blob.index), config).handle);
  const opened = { path: name, bootstrap: image, bootstrapFd: image.fd, config, handles };
  const running = prefetchImage(opened, lists, store, log);
  t.after(async () => {
    await running.stop();
    await store.close();
    image.close();
    closeSync(image.fd);
  });
  await running.ended;
  const files = FileChunks.open(image.fd, name, image.geometry, image.blobs);
  /** Chunks of a file or directory that a reader would have to wait for. */
  const misses = async (path: string) => {
    let missing = 0;
    for (const chunk of files.below(files.nodeAt(path)!)) {
      if (chunk === null) continue;
      const before = store.stats.chunksFetched;
      await store.fetch(handles[chunk.blob]!, [chunk.wanted]);
      missing += store.stats.chunksFetched - before;
    }
    return missing;
  };
  const isAllReady = () => {
    const ready = handles.reduce((sum, handle) => sum + store.chunksReady(handle), 0);
    const chunks = image.blobs.reduce((sum, { chunkCount }) => sum + chunkCount, 0);
    const metrics = cacheMetrics(config.cache, image, running.progress, { chunks, ready });
    return (metrics as { data_all_ready: boolean }).data_all_ready;
  };
  return { store, progress: running.progress, misses, lines, isAllReady };
}

describe('whole image', () => {
  for (const name of NAMES) {
    test(`${name}: no reader has to wait, nothing comes twice`, async (t) => {
      const { store, progress, misses, isAllReady } = await prefetched(t, name, { enable: true, merging_size: 65536 });
      assert.equal(progress.state, 'done');
      assert.ok(isAllReady());
      const { requests, fetchedBytes } = store.stats;
      assert.equal(await misses('/'), 0);
      assert.deepEqual([store.stats.requests, store.stats.fetchedBytes], [requests, fetchedBytes]);
      assert.ok(progress.bytes > 0 && progress.bytes <= fetchedBytes);
      assert.equal(store.stats.badChunks, 0);
    });
  }

  test('a v5 image without extended blob table: chunks without numbers', async (t) => {
    const bootstrap = join(dir, 'old.boot');
    writeFileSync(bootstrap, withoutExtendedTable(readFileSync(bootPath('v5-lz4_block-sha256-4k'))));
    const { store, misses } = await prefetched(t, 'v5-lz4_block-sha256-4k', { enable: true }, NOTHING, bootstrap);
    const { requests } = store.stats;
    assert.equal(await misses('/'), 0);
    assert.equal(store.stats.requests, requests);
  });
});

for (const name of ['v5-zstd-sha256-4k', 'v6-zstd-sha256-4k', 'v6-batch']) {
  describe(`lists, ${name}`, () => {
    const only = { enable: true, prefetch_all: false };
    const file = '/big/multi-chunk';

    test('files and directories', async (t) => {
      const all = await prefetched(t, name, { enable: true });
      const listed = await prefetched(t, name, only, { prefetchFiles: [file], prefetchTrace: null });
      assert.equal(await listed.misses(file), 0);
      assert.ok(!listed.isAllReady());
      assert.ok(listed.progress.bytes < all.progress.bytes, `${listed.progress.bytes} of ${all.progress.bytes}`);
      const below = await prefetched(t, name, only, { prefetchFiles: ['/many'], prefetchTrace: null });
      assert.equal(await below.misses('/many'), 0);
    });

    test('100,000 paths that are not there, and a list without prefetch being on', async (t) => {
      const paths = Array.from({ length: 100_000 }, (_, i) => `/many/missing/${i}`);
      const lists = { prefetchFiles: [...paths, file], prefetchTrace: null };
      const { misses, lines } = await prefetched(t, name, { enable: false }, lists);
      assert.equal(await misses(file), 0);
      assert.ok(
        lines.some((line) => line.includes('100000 listed paths')),
        lines.join('\n'),
      );
    });

    test('a trace: its ranges, and what is no longer there is passed over', async (t) => {
      const files = [
        { path: '/gone', ranges: [[0, 10]] },
        { path: file, ranges: [[4096, 4096]] },
      ];
      const prefetchTrace = parseTrace({ version: 'v1', files });
      const { progress, store, misses } = await prefetched(t, name, only, { prefetchFiles: null, prefetchTrace });
      assert.equal(progress.state, 'done');
      assert.ok(store.stats.chunksFetched > 0);
      if (!name.includes('batch')) {
        assert.equal(store.stats.chunksFetched, 1);
        assert.ok((await misses(file)) > 0);
      }
    });
  });
}

describe('traces', () => {
  const bad: [string, unknown][] = [
    ['no object', []],
    ['no version', { files: [] }],
    ['another version', { version: 'v2', files: [] }],
    ['no files', { version: 'v1' }],
    ['a file that is a text', { version: 'v1', files: ['/x'] }],
    ['a relative path', { version: 'v1', files: [{ path: 'x', ranges: [] }] }],
    ['a range of one number', { version: 'v1', files: [{ path: '/x', ranges: [[1]] }] }],
    ['a negative offset', { version: 'v1', files: [{ path: '/x', ranges: [[-1, 5]] }] }],
    ['a fraction', { version: 'v1', files: [{ path: '/x', ranges: [[0.5, 5]] }] }],
    ['too many ranges', { version: 'v1', files: [{ path: '/x', ranges: new Array(300_000).fill([0, 1]) }] }],
  ];
  for (const [id, value] of bad) {
    test(`${id} is refused`, () => assert.throws(() => parseTrace(value), { code: 'PREFETCH_TRACE' }));
  }
  test('no JSON is refused', () => assert.throws(() => parseTraceText('{"version"'), { code: 'PREFETCH_TRACE' }));
});
