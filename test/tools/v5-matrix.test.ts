/**
 * v5 images of upstream's builder against their source, read through our handlers and store with validation on: every
 * compressor, digester and chunk size, files whose sizes lie around the chunk's. Our own builder writes v6 only.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SILENT } from '../../src/common/log.ts';
import { Rafs } from '../../src/rafs/file-system.ts';
import { Guest } from '../../src/rafs/guest.testing.ts';
import { openImage } from '../../src/rafs/open-image.ts';
import { ImageWalker } from '../../src/rafs/walk.ts';
import { parseConfig } from '../../src/storage/config.ts';
import { BlobStore } from '../../src/storage/store.ts';

/** Pairwise: each value of a column meets each of every other. `V5_MATRIX=whole` takes the product. */
const PAIRS = [
  ['none', 'blake3', 0x1000],
  ['lz4_block', 'sha256', 0x1000],
  ['zstd', 'blake3', 0x1000],
  ['none', 'sha256', 0x1_0000],
  ['lz4_block', 'blake3', 0x1_0000],
  ['zstd', 'sha256', 0x1_0000],
  ['none', 'blake3', 0x10_0000],
  ['lz4_block', 'sha256', 0x10_0000],
  ['zstd', 'sha256', 0x10_0000],
  ['none', 'sha256', 0x100_0000],
  ['lz4_block', 'blake3', 0x100_0000],
  ['zstd', 'blake3', 0x100_0000],
] as const;
type Cell = (typeof PAIRS)[number];

const values = <C extends 0 | 1 | 2>(column: C): Cell[C][] => [...new Set(PAIRS.map((cell) => cell[column]))];
const WHOLE = values(0).flatMap((c) => values(1).flatMap((d) => values(2).map((size) => [c, d, size] as const)));
const CELLS = process.env['V5_MATRIX'] === 'whole' ? WHOLE : PAIRS;
const READ_BYTES = 131_072;

/** Upstream's tool: named, or where cargo installs it. Not looked for on PATH: ours has the same name. */
const BUILDER = [process.env['NYDUS_IMAGE'] ?? '', join(homedir(), '.cargo/bin/nydus-image')].find(
  (path) => path !== '' && fs.existsSync(path),
);
const missing =
  BUILDER === undefined
    ? "nydus-image of crate nydus-rs is not installed (set NYDUS_IMAGE, or 'cargo install nydus-rs')"
    : false;

describe('v5 images of nydus-image', { skip: missing }, () => {
  const root = fs.mkdtempSync(join(tmpdir(), 'v5-matrix-'));
  const source = join(root, 'source');
  before(() => fillSource(source));
  after(() => fs.rmSync(root, { recursive: true }));

  for (const [compressor, digester, chunkBytes] of CELLS) {
    test(`${compressor} ${digester} ${chunkBytes}`, async () => {
      const out = fs.mkdtempSync(join(root, 'image-'));
      addBoundaryFiles(source, chunkBytes);
      const boot = join(out, 'image.boot');
      const options = [
        '--compressor',
        compressor,
        '--digester',
        digester,
        '--chunk-size',
        `0x${chunkBytes.toString(16)}`,
      ];
      execFileSync(BUILDER!, ['create', '--fs-version', '5', ...options, '-D', out, '-B', boot, source], {
        stdio: 'pipe',
      });
      await compareTrees(boot, out, source);
      fs.rmSync(out, { recursive: true });
    });
  }
});

function fillSource(source: string): void {
  fs.mkdirSync(join(source, 'sub'), { recursive: true });
  fs.mkdirSync(join(source, 'many'));
  for (let i = 0; i < 200; i++) fs.writeFileSync(join(source, 'many', `n${i}`), `${i}`);
  fs.writeFileSync(join(source, 'name'), 'one inode');
  fs.linkSync(join(source, 'name'), join(source, 'sub/other'));
  fs.symlinkSync('x'.repeat(3000), join(source, 'sub/long'));
}

/** Files of 0, 1, chunk-1, chunk, chunk+1 and 3·chunk+7 bytes. */
function addBoundaryFiles(source: string, chunkBytes: number): void {
  const dir = join(source, 'boundaries');
  fs.rmSync(dir, { recursive: true, force: true });
  fs.mkdirSync(dir);
  const sizes = [0, 1, chunkBytes - 1, chunkBytes, chunkBytes + 1, 3 * chunkBytes + 7];
  for (const size of sizes) fs.writeFileSync(join(dir, `${size}`), content(size));
}

/** Half of it compresses; no two sizes share a chunk. */
function content(size: number): Buffer {
  const bytes = Buffer.alloc(size, 0x61);
  for (let at = 0, n = size >>> 0; at < size; at += 64) {
    n = (Math.imul(n, 1_664_525) + 1_013_904_223) >>> 0;
    for (let i = 0; i < 8 && at + i * 4 + 4 <= size; i++) bytes.writeUInt32LE(Math.imul(n, i + 1) >>> 0, at + i * 4);
  }
  return bytes;
}

async function compareTrees(boot: string, blobDir: string, source: string): Promise<void> {
  const image = openImage(boot);
  const cache = { type: 'blobcache', config: { work_dir: join(blobDir, 'cache') } };
  fs.mkdirSync(cache.config.work_dir);
  const device = { backend: { type: 'localfs', config: { dir: blobDir } }, cache };
  const config = parseConfig(JSON.stringify({ device, mode: 'direct', digest_validate: true }));
  const store = new BlobStore(SILENT);
  const blobs = image.blobs.map((blob) => store.openBlob(blob, image.digests(blob.index), config));
  const guest: Guest = new Guest(() => rafs);
  const options = { bootstrapFd: image.fd, label: boot, blobs, validate: true, fetch: guest.fetch, log: SILENT };
  const rafs = new Rafs(options);
  const walker = new ImageWalker(boot, true);
  const names: string[] = [];
  try {
    for (const { path, inode, target } of walker.walk()) {
      const real = join(source, path.toString());
      const stat = fs.lstatSync(real);
      names.push(path.toString());
      assert.equal(inode.mode, stat.mode, real);
      assert.equal(target?.toString(), stat.isSymbolicLink() ? fs.readlinkSync(real) : undefined);
      if (!stat.isFile()) continue;
      assert.equal(inode.size, stat.size, real);
      assert.equal(inode.nlink, stat.nlink, real);
      const hash = createHash('sha256');
      for (let at = 0; at < stat.size; at += READ_BYTES) {
        const data = await guest.readLazily(inode.node, at, READ_BYTES, ({ handle, chunks }) =>
          store.fetch(handle, chunks),
        );
        assert.ok(typeof data !== 'number', `${real} at ${at}: ${data}`);
        hash.update(data);
      }
      assert.equal(hash.digest('hex'), createHash('sha256').update(fs.readFileSync(real)).digest('hex'), real);
    }
    const all = fs.readdirSync(source, { recursive: true }).map((name) => `/${name}`);
    assert.deepEqual(names.sort(), ['/', ...all].sort());
  } finally {
    walker.close();
    rafs.destroy();
    await store.close();
    image.close();
  }
}
