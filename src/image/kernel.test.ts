/**
 * The kernel as judge: its EROFS driver mounts what was built, with the filled cache file of the blob as device, and
 * shows the tree that went in. Needs root, loop devices and EROFS; where one is missing the test says so and skips,
 * except in CI, where none may be missing.
 */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, type TestContext, test } from 'node:test';
import { ImageWalker } from '../rafs/walk.ts';
import { BLOBS_DIR, FIXTURES } from '../storage/fixtures.testing.ts';
import { buildImage } from './build.ts';
import { DirectorySource } from './directory.ts';
import { defaults, FinishedImage, writeFilledData } from './image-source.testing.ts';
import type { ImageSource, SourceEntry } from './source.ts';

/** Why this machine cannot mount, or null. */
function missing(): string | null {
  if (process.getuid?.() !== 0) return 'mounting needs root';
  spawnSync('modprobe', ['erofs']);
  if (!/\berofs\b/.test(readFileSync('/proc/filesystems', 'utf8'))) return 'the kernel has no EROFS';
  const loop = spawnSync('losetup', ['-f'], { encoding: 'utf8' });
  if (loop.status !== 0) return `no loop device: ${loop.error?.message ?? loop.stderr.trim()}`;
  return null;
}

let dir = '';
let why: string | null = null;
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'image-kernel-'));
  why = missing();
});
after(() => rmSync(dir, { recursive: true, force: true }));

function cannot(t: TestContext): boolean {
  if (why === null) return false;
  if (process.env['CI'] === 'true') assert.fail(`in CI nothing may be missing: ${why}`);
  t.skip(why);
  return true;
}

/** Mounts `bootstrap` with its blobs found in `blobDir` (none, when it has none) while `use` runs. */
async function mounted(bootstrap: string, blobDir: string, use: (root: string) => Promise<void> | void): Promise<void> {
  const image = new ImageWalker(bootstrap);
  image.close();
  const devices: string[] = [];
  const root = join(dir, 'mnt');
  mkdirSync(root, { recursive: true });
  try {
    for (const blob of image.blobs) {
      const data = join(dir, `${blob.index}.blob.data`);
      writeFilledData(blob, readFileSync(join(blobDir, blob.id)), data);
      devices.push(execFileSync('losetup', ['-f', '--show', '-r', data], { encoding: 'utf8' }).trim());
    }
    // The bootstrap gets a loop device too: mounting a file directly makes some kernels warn.
    const device = execFileSync('losetup', ['-f', '--show', '-r', bootstrap], { encoding: 'utf8' }).trim();
    devices.push(device);
    const options = ['ro', ...devices.slice(0, -1).map((one) => `device=${one}`)].join(',');
    execFileSync('mount', ['-t', 'erofs', '-o', options, device, root]);
    try {
      await use(root);
    } finally {
      execFileSync('umount', [root]);
    }
  } finally {
    for (const device of devices) execFileSync('losetup', ['-d', device]);
  }
}

interface Seen extends Omit<SourceEntry, 'linkKey'> {
  sha256: string;
  /** The first path of the same file. */
  sameAs: string | null;
}

/** Everything a source says about its entries, with contents as digests; the root's time is not part of an image. */
function everything(source: ImageSource): Map<string, Seen> {
  const first = new Map<string, string>();
  const seen = new Map<string, Seen>();
  for (const { linkKey, ...entry } of [...source.entries()].sort((a, b) => (a.path < b.path ? -1 : 1))) {
    if (linkKey !== null && !first.has(linkKey)) first.set(linkKey, entry.path);
    const sameAs = linkKey === null ? null : (first.get(linkKey) ?? null);
    const mtime = entry.path === '/' ? 0 : entry.mtime;
    seen.set(entry.path, { ...entry, xattrs: entry.xattrs.map(plain), mtime, sha256: digest(source, entry), sameAs });
  }
  return seen;
}

function plain({ name, value }: { name: string; value: Uint8Array }) {
  return { name, value: Buffer.from(value) };
}

function digest(
  source: ImageSource,
  { path, mode, sizeBytes }: Pick<SourceEntry, 'path' | 'mode' | 'sizeBytes'>,
): string {
  if ((mode & 0o170000) !== 0o100000) return '';
  const bytes = Buffer.alloc(sizeBytes);
  const content = source.open(path, sizeBytes);
  assert.equal(content.read(bytes, 0), sizeBytes, path);
  content.close();
  return createHash('sha256').update(bytes).digest('hex');
}

const TREES = { small: 'v6-none-blake3-4k', full: 'v6-zstd-blake3' } as const;

function fixture(tree: keyof typeof TREES): string {
  return join(FIXTURES, 'images/boot', `${TREES[tree]}.boot`);
}

describe('the kernel shows the source', () => {
  for (const tree of ['small', 'full'] as const) {
    for (const compressor of ['none', 'lz4_block', 'zstd'] as const) {
      for (const chunkSize of tree === 'small' ? [0x1000, 0x10000, 0x100000] : [0x100000]) {
        test(`${tree}, ${compressor}, 0x${chunkSize.toString(16)}`, async (t) => {
          if (cannot(t)) return;
          const source = new FinishedImage(fixture(tree), BLOBS_DIR);
          const result = await buildImage(source, { ...defaults(dir), compressor, chunkSize });
          await mounted(result.bootstrapPath, dir, (root) => {
            assert.deepEqual(everything(new DirectorySource(root)), everything(source));
          });
        });
      }
    }
  }

  test('an image without data needs no device', async (t) => {
    if (cannot(t)) return;
    const source: ImageSource = {
      inOrder: true,
      *entries() {
        const blank = { uid: 0, gid: 0, sizeBytes: 0, mtime: 0, mtimeNs: 0, rdevMajor: 0, rdevMinor: 0, target: null };
        yield { ...blank, path: '/', mode: 0o040755, xattrs: [], linkKey: null };
        yield { ...blank, path: '/empty', mode: 0o100644, xattrs: [], linkKey: null };
      },
      open: () => assert.fail('nothing to open'),
    };
    const result = await buildImage(source, defaults(dir));
    assert.equal(result.blobPath, null);
    await mounted(result.bootstrapPath, dir, (root) => {
      assert.deepEqual([...everything(new DirectorySource(root)).keys()], ['/', '/empty']);
    });
  });
});

test("a build from the kernel's view of upstream's image gives upstream's image", async (t) => {
  if (cannot(t)) return;
  await mounted(fixture('small'), BLOBS_DIR, async (root) => {
    const options = { ...defaults(dir), compressor: 'none', chunkSize: 0x1000 } as const;
    const fromMount = await buildImage(new DirectorySource(root), options);
    const bytes = readFileSync(fromMount.bootstrapPath);
    const fromImage = await buildImage(new FinishedImage(fixture('small'), BLOBS_DIR), options);
    assert.equal(fromMount.blobId, fromImage.blobId);
    assert.deepEqual(bytes, readFileSync(fromImage.bootstrapPath));
  });
});

test('fsck.erofs finds nothing', async (t) => {
  if (cannot(t)) return;
  if (spawnSync('fsck.erofs', ['--version']).error) return t.skip('fsck.erofs is not installed');
  const result = await buildImage(new FinishedImage(fixture('full'), BLOBS_DIR), defaults(dir));
  await mounted(result.bootstrapPath, dir, () => {
    execFileSync('fsck.erofs', [`--device=${join(dir, '0.blob.data')}`, result.bootstrapPath]);
  });
});
