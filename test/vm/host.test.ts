/**
 * The same trees without a guest: over /dev/fuse, and our images through the kernel's own EROFS driver, whose device
 * is the cache file that reading over /dev/fuse has filled.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { skipUnless } from './assets.ts';
import { assertSame, expectedTree, IMAGE_FIELDS, SHARE_FIELDS } from './compare.ts';
import { type Backend, type Daemon, rafsConfig, withDaemon } from './daemon.ts';
import { type FixtureCase, fixtureCases, registryCases } from './fixture-cases.ts';
import { BlobServer, buildImage, type Compressor, REPO } from './image.ts';
import { hostManifest, type Manifest } from './manifest.ts';
import { makeSampleTree } from './sample-tree.ts';

const FILES = 10_000;
const COMPRESSORS: readonly Compressor[] = ['none', 'lz4_block', 'zstd'];

const scratch = mkdtempSync(join(tmpdir(), 'nydus-host-'));
const source = join(scratch, 'source');
let made: Promise<Manifest> | null = null;

/** Makes the source tree when the first test needs it, and lists it. */
function prepared(): Promise<Manifest> {
  made ??= (async () => {
    makeSampleTree(source, FILES);
    return await hostManifest(source);
  })();
  return made;
}

after(() => rmSync(scratch, { recursive: true, force: true }));

function hostTest(name: string, body: () => Promise<void>): void {
  test(`host: ${name}`, { skip: skipUnless('host', name) }, body);
}

/** Runs `body` with `nydusd fuse` on a fresh folder, which must be unmounted when the daemon has ended. */
async function withFuse(body: (daemon: Daemon) => Promise<void>, folder: string): Promise<void> {
  mkdirSync(folder);
  try {
    await withDaemon(body, { mountpoint: folder });
    assert.doesNotMatch(readFileSync('/proc/self/mountinfo', 'latin1'), new RegExp(` ${folder} `), 'still mounted');
  } finally {
    execFileSync('sh', ['-c', 'umount --lazy "$1" 2>/dev/null || true', 'sh', folder]);
  }
}

for (const compressor of COMPRESSORS) {
  hostTest(`a 10,000-file image (${compressor}) equals its source over /dev/fuse and through EROFS`, async () => {
    const expected = await prepared();
    const image = buildImage(source, join(scratch, compressor), compressor);
    const blobs = await BlobServer.start(image.blobDir);
    const cache = join(scratch, `cache-${compressor}`);
    const folder = join(scratch, `fuse-${compressor}`);
    try {
      await withFuse(async (daemon) => {
        const config = rafsConfig({ type: 'registry', host: blobs.host, repo: REPO }, cache, true);
        await daemon.mountImage('/image', image.bootstrap, config);
        assertSame(
          expected,
          await hostManifest(join(folder, 'image')),
          [...IMAGE_FIELDS, 'mtimeNsec'],
          'over /dev/fuse',
        );
      }, folder);
      const [data] = readdirSync(cache).filter((name) => name.endsWith('.blob.data'));
      assert.ok(data !== undefined, `no cache file in ${cache}`);
      const seen = await throughErofs(image.bootstrap, join(cache, data), join(scratch, `erofs-${compressor}`));
      assertSame(expected, seen, [...IMAGE_FIELDS, 'mtimeNsec'], 'through EROFS');
    } finally {
      blobs.stop();
    }
  });
}

/** Mounts `bootstrap` with the kernel's driver, chunks coming from `data`, and lists it. */
async function throughErofs(bootstrap: string, data: string, folder: string): Promise<Manifest> {
  mkdirSync(folder);
  const device = execFileSync('losetup', ['--find', '--show', '--read-only', data], { encoding: 'utf8' }).trim();
  try {
    execFileSync('mount', ['-t', 'erofs', '-o', `ro,loop,device=${device}`, bootstrap, folder]);
    try {
      return await hostManifest(folder);
    } finally {
      execFileSync('umount', [folder]);
    }
  } finally {
    execFileSync('losetup', ['--detach', device]);
  }
}

/** Two of the four combinations in CI, all with `npm run test:matrix`. */
const isWhole = process.env['FORMAT_MATRIX'] === 'whole';
for (const validate of isWhole ? [true, false] : [true]) {
  hostTest(`images of the fixtures equal their trees over /dev/fuse, validation ${validate}`, () =>
    compareFixtures(fixtureCases(), validate, `localfs-${validate}`),
  );
}
for (const validate of isWhole ? [true, false] : [false]) {
  hostTest(`the same out of a registry, validation ${validate}`, async () => {
    const dir = join(scratch, `registry-${validate}`);
    mkdirSync(dir);
    const { cases, blobs } = registryCases(dir);
    for (const [id, bytes] of blobs) writeFileSync(join(dir, id), bytes);
    const server = await BlobServer.start(dir);
    const backend = { type: 'registry', host: server.host, repo: REPO } as const;
    try {
      const fromRegistry = cases.map((entry) => ({ ...entry, backend }));
      await compareFixtures(fromRegistry, validate, `registry-fuse-${validate}`);
    } finally {
      server.stop();
    }
  });
}

async function compareFixtures(
  cases: readonly (Omit<FixtureCase, 'backend'> & { backend: Backend })[],
  validate: boolean,
  run: string,
): Promise<void> {
  const folder = join(scratch, `fuse-${run}`);
  await withFuse(async (daemon) => {
    for (const { name, expect, bootstrap, backend } of cases) {
      await daemon.mountImage(`/${name}`, bootstrap, rafsConfig(backend, join(scratch, `${run}-${name}`), validate));
      assertSame(expectedTree(expect), await hostManifest(join(folder, name)), IMAGE_FIELDS, name);
    }
  }, folder);
}

hostTest('a host directory equals itself over /dev/fuse', async () => {
  const expected = await prepared();
  const folder = join(scratch, 'fuse-share');
  await withFuse(async (daemon) => {
    await daemon.mountShare('/share', source);
    // Without submounts in the host's FUSE, inode numbers carry the member's id, so that no two members collide.
    const fields = SHARE_FIELDS.filter((field) => field !== 'ino');
    assertSame(expected, await hostManifest(join(folder, 'share')), fields, 'shared directory');
  }, folder);
});
