/** v5 images as older builders wrote them, and what validation says of images whose digests are wrong. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { errno } from '../../sys/errno.ts';
import { bootPath, expectedTree, V5_CASES } from '../fixture-blobs.testing.ts';
import { Mounted } from '../mounted.testing.ts';
import { ImageWalker } from '../walk.ts';
import { placedRecords, reordered, withHole, withoutExtendedTable } from './synthetic.testing.ts';

const NAME = 'v5-zstd-blake3-4k';
const TREE = 'expect/small.json';
const CHUNK_BYTES = 4096;
const BOOT = readFileSync(bootPath(NAME));
const EIO = -errno.EIO;
const dir = mkdtempSync(join(tmpdir(), 'v5-variants-'));
after(() => rmSync(dir, { recursive: true }));

const expected = expectedTree(TREE);
const files = [...expected.values()].filter(({ sha256, path_base64 }) => sha256 !== undefined && !path_base64);
const large = files.find(({ size }) => (size ?? 0) > 3 * CHUNK_BYTES)!;
const link = [...expected.values()].find(({ type }) => type === 'symlink')!;

function saved(bytes: Buffer): string {
  const path = join(dir, `${NAME}.boot`);
  writeFileSync(path, bytes);
  return path;
}

function walked(path: string): string[] {
  const walker = new ImageWalker(path, true);
  try {
    return [...walker.walk()].map(({ path: name, inode, target, chunks }) =>
      JSON.stringify([name.toString('latin1'), { ...inode, offset: 0 }, target?.toString('latin1'), chunks()]),
    );
  } finally {
    walker.close();
  }
}

for (const [name, order] of [
  ['by index', 1],
  ['backwards', -1],
] as const) {
  test(`records ${name} in the file show the same tree`, () => {
    const bytes = reordered(BOOT, (a, b) => order * (a.index - b.index));
    assert.ok(!bytes.equals(BOOT));
    assert.deepEqual(walked(saved(bytes)), walked(bootPath(NAME)));
  });
}

test('without extended blob table every file has its bytes', () => {
  const mounted = new Mounted(saved(withoutExtendedTable(BOOT)));
  for (const { path, size, sha256 } of files) {
    const data = mounted.readAll(mounted.node(path), size!, 65_536);
    assert.equal(createHash('sha256').update(data).digest('hex'), sha256, path);
  }
  assert.deepEqual(mounted.lines, []);
  mounted.close();
});

test('a hole reads as zeros, and the rest as before', () => {
  const whole = new Mounted(bootPath(NAME));
  const data = whole.readAll(whole.node(large.path), large.size!, 65_536);
  whole.close();
  data.fill(0, CHUNK_BYTES, 2 * CHUNK_BYTES);
  const mounted = new Mounted(saved(withHole(BOOT, large.path, 1)), 8192, false);
  assert.deepEqual(mounted.readAll(mounted.node(large.path), large.size!, 10_000), data);
  mounted.close();
});

test('names of a hard link are one inode', () => {
  const mounted = new Mounted(bootPath(NAME));
  const linked = files.filter(({ nlink }) => nlink! > 1);
  const nodes = new Map<string, Set<number>>();
  for (const { path, sha256, nlink } of linked) {
    const key = `${sha256} ${nlink}`;
    nodes.set(key, (nodes.get(key) ?? new Set()).add(mounted.node(path)));
  }
  assert.ok(nodes.size > 0);
  for (const [key, set] of nodes) assert.equal(set.size, 1, key);
  mounted.close();
});

describe('digest tree', () => {
  /** A mount of the image with one byte of the digest of `path` flipped. */
  function flipped(path: string, validate: boolean): Mounted {
    const bytes = Buffer.from(BOOT);
    bytes[placedRecords(BOOT).get(path)!.offset] ^= 1;
    return new Mounted(saved(bytes), 8192, validate);
  }

  test('is right in every fixture', () => {
    for (const [name] of V5_CASES) assert.ok(walked(bootPath(name)).length > 0);
  });

  test('a wrong digest of a file shows in its directory, and nowhere else', () => {
    const parent = large.path.slice(0, large.path.lastIndexOf('/')) || '/';
    const mounted = flipped(large.path, true);
    const node = parent === '/' ? 1 : mounted.node(parent);
    assert.equal(mounted.guest.lookup(node, large.path.split('/').pop()!), EIO);
    assert.equal(mounted.guest.list(node, false), EIO);
    assert.match(mounted.lines[0], /digest of what it holds/);
    mounted.close();
  });

  test('a wrong digest of a directory is found above it', () => {
    const below = [...expected.values()].find(({ type, path }) => type === 'dir' && path.split('/').length === 2)!;
    const mounted = flipped(below.path, true);
    assert.equal(mounted.guest.list(1, true), EIO);
    mounted.close();
  });

  test('changed contents show when they are used: chunk list, target', () => {
    const bytes = Buffer.from(BOOT);
    const records = placedRecords(BOOT);
    bytes[records.get(large.path)!.chunksAt] ^= 1;
    const target = records.get(link.path)!;
    bytes[target.chunksAt - 8] ^= 1;
    const mounted = new Mounted(saved(bytes));
    const file = mounted.node(large.path);
    assert.equal(
      mounted.guest.read(file, 0, 10, () => assert.fail('fetched')),
      EIO,
    );
    assert.equal(mounted.guest.readlink(mounted.node(link.path)), EIO);
    mounted.close();
  });

  test('costs nothing and finds nothing without validation', () => {
    const mounted = flipped(large.path, false);
    assert.equal(mounted.readAll(mounted.node(large.path), large.size!, 65_536).length, large.size);
    assert.deepEqual(mounted.lines, []);
    mounted.close();
  });
});
