/** The real way of a cold read: image, handlers and BlobStore together, digests verified or not. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { closeSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, type TestContext, test } from 'node:test';
import { SILENT } from '../common/log.ts';
import { parseConfig } from '../storage/config/config.ts';
import { BLOBS_DIR, FIXTURES } from '../storage/fixtures.testing.ts';
import { registryMissing, startRegistry } from '../storage/registry.testing.ts';
import { BlobStore } from '../storage/store.ts';
import { Rafs } from './file-system.ts';
import { bootPath, expectedTree } from './fixture-blobs.testing.ts';
import { Guest } from './guest.testing.ts';
import { ROOT_LOCAL } from './nodes.ts';
import { openImage } from './open-image.ts';
import { withoutExtendedTable } from './v5/synthetic.testing.ts';

const dir = mkdtempSync(join(tmpdir(), 'rafs-store-'));
after(() => rmSync(dir, { recursive: true }));

const STEP_BYTES = 128 * 1024;
const REPO = 'team/app';

/** Every image, with the name of its expected tree. */
const CASES: readonly (readonly [name: string, tree: string])[] = readFileSync(
  join(FIXTURES, 'images/cases.tsv'),
  'utf8',
)
  .split('\n')
  .filter((line) => line !== '')
  .map((line) => line.split('\t'))
  .map(([name, tree]) => [name, tree]);
/** Blobs that are not plain chunks behind each other. */
const PACKED = CASES.filter(([name]) => /batch|encrypt|zran/.test(name));

/** Reads every file of an image in the order of the tree and compares it. */
async function readAll(
  t: TestContext,
  [name, tree]: readonly [string, string],
  backend: object,
  validate: boolean,
  bootstrap = bootPath(name),
  cache: object = { type: 'blobcache', config: { work_dir: mkdtempSync(join(dir, 'cache-')) } },
) {
  const text = JSON.stringify({ device: { backend, cache }, mode: 'direct', digest_validate: validate });
  const store = new BlobStore(SILENT);
  const image = openImage(bootstrap);
  const blobs = image.blobs.map((blob) => store.openBlob(blob, image.digests(blob.index), parseConfig(text)));
  const guest = new Guest(() => rafs);
  const options = { bootstrapFd: image.fd, label: name, blobs, fetch: guest.fetch, validate, log: SILENT };
  const rafs = new Rafs(options);
  t.after(async () => {
    rafs.destroy();
    await store.close();
    image.close();
  });
  for (const [path, expected] of expectedTree(tree)) {
    if (expected.sha256 === undefined) continue;
    let node = ROOT_LOCAL;
    let size = 0;
    for (const part of path.split('/').slice(1)) {
      const entry = guest.lookup(node, Buffer.from(part, 'latin1'));
      assert.ok(typeof entry !== 'number' && entry.node !== 0, path);
      node = entry.node;
      size = entry.attributes.size;
    }
    const hash = createHash('sha256');
    for (let offset = 0; offset < size; offset += STEP_BYTES) {
      const data = await guest.readLazily(node, offset, STEP_BYTES, ({ handle, chunks }) =>
        store.fetch(handle, chunks),
      );
      assert.ok(typeof data !== 'number', `${path} at ${offset}: ${data}`);
      hash.update(data);
    }
    assert.equal(hash.digest('hex'), expected.sha256, path);
  }
  assert.equal(store.stats.badChunks, 0);
  return store.stats;
}

for (const one of CASES) {
  for (const validate of one[0].includes('-4k') ? [true] : [false, true]) {
    test(`${one[0]}: every file has its bytes, fetched through the store, validation ${validate}`, async (t) => {
      // A bootstrap inside its blob: the one file is both.
      const config = one[0].startsWith('inline-') ? { blob_file: bootPath(one[0]) } : { dir: BLOBS_DIR };
      await readAll(t, one, { type: 'localfs', config }, validate);
    });
  }
}

for (const one of CASES.filter(([name]) => !name.includes('-4k'))) {
  test(`${one[0]}: every file has its bytes out of a compressed cache, the second time without its blobs`, async (t) => {
    const config = one[0].startsWith('inline-') ? { blob_file: bootPath(one[0]) } : { dir: BLOBS_DIR };
    const workDir = mkdtempSync(join(dir, 'raw-'));
    const cache = { type: 'blobcache', compressed: true, config: { work_dir: workDir } };
    await readAll(t, one, { type: 'localfs', config }, false, bootPath(one[0]), cache);
    assert.ok(readdirSync(workDir).every((name) => !name.endsWith('.blob.data')));
    const gone = { type: 'localfs', config: { dir: workDir } };
    const stats = await readAll(t, one, gone, true, bootPath(one[0]), cache);
    // Images whose digests lie in the blob itself ask for these.
    assert.equal(stats.chunksFetched, 0);
  });
  test(`${one[0]}: every file has its bytes without a cache`, async (t) => {
    const config = one[0].startsWith('inline-') ? { blob_file: bootPath(one[0]) } : { dir: BLOBS_DIR };
    const stats = await readAll(t, one, { type: 'localfs', config }, true, bootPath(one[0]), { type: 'dummycache' });
    assert.equal(stats.chunksUncached, stats.chunksFetched);
  });
}

for (const validate of [false, true]) {
  test(`a v5 image of 2020, without extended blob table: every file has its bytes, validation ${validate}`, async (t) => {
    const name = 'v5-lz4_block-sha256-4k';
    const bootstrap = join(dir, 'old.boot');
    writeFileSync(bootstrap, withoutExtendedTable(readFileSync(bootPath(name))));
    const one = [name, 'expect/small.json'] as const;
    const backend = { type: 'localfs', config: { dir: BLOBS_DIR } };
    const stats = await readAll(t, one, backend, validate, bootstrap);
    await readAll(t, one, backend, validate, bootstrap, { type: '' });
    const [blob] = openAndClose(bootPath(name)).blobs;
    // Chunks that several files share have a number in each, and are fetched once.
    assert.equal(stats.chunksFetched, blob.chunkCount);
  });
}

function openAndClose(path: string): ReturnType<typeof openImage> {
  const image = openImage(path);
  image.close();
  closeSync(image.fd);
  return image;
}

describe('from a registry', { skip: registryMissing() ?? false }, () => {
  for (const one of PACKED) {
    test(`${one[0]}: every file has its bytes, units are fetched once`, async (t) => {
      const image = openImage(bootPath(one[0]));
      const names = image.blobs.flatMap(({ id, extra, cipher }) =>
        cipher === 0 ? [id, Buffer.from(extra.subarray(0, 32)).toString('hex')] : [id],
      );
      const files = new Map(
        names.filter((id) => !/^0*$/.test(id)).map((id) => [id, readFileSync(join(BLOBS_DIR, id))] as const),
      );
      image.close();
      const registry = await startRegistry(mkdtempSync(join(dir, 'registry-')), 'basic', REPO, files);
      t.after(() => registry.close());
      const { host, auth } = registry;
      const backend = { type: 'registry', config: { scheme: 'http', host, repo: REPO, auth } };
      const stats = await readAll(t, one, backend, true);
      const stored = [...files.values()].reduce((sum, bytes) => sum + bytes.length, 0);
      assert.ok(stats.fetchedBytes <= stored * 1.1, `${stats.fetchedBytes} bytes of ${stored}`);
    });
  }
});
