/**
 * Every image of the fixtures through the built daemon and virtqueues, out of a directory and out of a registry,
 * validation off and on. Two of the four combinations in CI, all with `npm run test:matrix`; guests and /dev/fuse are in
 * test/vm.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { registryMissing, startRegistry, type TestRegistry } from '../../src/storage/registry.testing.ts';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { Nydusd } from '../daemon/nydusd.ts';
import { assertSame, expectedTree, IMAGE_FIELDS } from '../vm/compare.ts';
import { BLOBS, type FixtureCase, fixtureCases, registryCases } from '../vm/fixture-cases.ts';
import { clientManifest } from './client-tree.ts';

const REPO = 'fixtures';
const isWhole = process.env['FORMAT_MATRIX'] === 'whole';
const scratch = mkdtempSync(join(tmpdir(), 'fixtures-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

const packed = registryCases(scratch);
let registry: TestRegistry | null = null;
before(async () => {
  if (registryMissing() === null) registry = await startRegistry(scratch, 'basic', REPO, packed.blobs);
});
after(async () => registry?.close());

const localfs = fixtureCases().map((entry) => {
  const { backend } = entry;
  const config = 'blobFile' in backend ? { blob_file: backend.blobFile } : { dir: BLOBS };
  return { ...entry, backend: { type: 'localfs', config } };
});

for (const validate of isWhole ? [false, true] : [false]) {
  test(`from a directory, validation ${validate}`, () => compareAll(localfs, validate));
}
for (const validate of isWhole ? [false, true] : [true]) {
  test(`from a registry, validation ${validate}`, { skip: registryMissing() ?? false }, async () => {
    const { host, auth } = registry!;
    const backend = { type: 'registry', config: { scheme: 'http', host, repo: REPO, auth } };
    await compareAll(
      packed.cases.map((entry) => ({ ...entry, backend })),
      validate,
    );
  });
}

type Case = Omit<FixtureCase, 'backend'> & { backend: object };

async function compareAll(cases: readonly Case[], validate: boolean): Promise<void> {
  const daemon = await Nydusd.start();
  const client = new FuseClient(daemon.sock, { timeoutMs: 30_000, queueSize: 256 });
  try {
    client.init();
    for (const entry of cases) await compare(daemon, client, entry, validate);
  } finally {
    client.close();
    daemon.kill();
  }
}

async function compare(daemon: Nydusd, client: FuseClient, { name, backend, ...entry }: Case, validate: boolean) {
  const cache = { type: 'blobcache', config: { work_dir: mkdtempSync(join(scratch, 'cache-')) } };
  const config = { device: { backend, cache }, mode: 'direct', digest_validate: validate, enable_xattr: true };
  const body = { fs_type: 'rafs', source: entry.bootstrap, config: JSON.stringify(config) };
  const mounted = await daemon.mount(`/${name}`, body);
  assert.equal(mounted.status, 204, `${name}: ${mounted.text}`);
  assertSame(expectedTree(entry.expect), clientManifest(client, `/${name}`), IMAGE_FIELDS, name);
  assert.equal((await daemon.request('DELETE', `/api/v1/mount?mountpoint=/${name}`)).status, 204);
}
