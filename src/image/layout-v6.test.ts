/** The allocation algorithm on random trees: nothing overlaps, everything keeps its rules. Exactness is build.test.ts. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { DIRENT_BYTES, INODE_EXTENDED_BYTES, NID_UNIT_BYTES } from '../rafs/v6/inode-layout.ts';
import { BLOCK_BYTES } from '../rafs/v6/layout.ts';
import { directoryEntries, placeNodes, xattrNameIndex } from './layout-v6.ts';
import type { SourceEntry } from './source.ts';
import { buildTree } from './tree.testing.ts';
import type { TreeNode } from './tree.ts';

const blank = {
  uid: 0,
  gid: 0,
  mtime: 0,
  mtimeNs: 0,
  rdevMajor: 0,
  rdevMinor: 0,
  target: null,
  xattrs: [],
  linkKey: null,
};
const MODES = [0o100644, 0o040755, 0o120777, 0o010644, 0o140644];

const name = fc
  .string({
    unit: fc
      .integer({ min: 0x21, max: 0xff })
      .filter((c) => c !== 0x2f)
      .map((c) => String.fromCharCode(c)),
    minLength: 1,
    maxLength: 255,
  })
  .filter((text) => text !== '.' && text !== '..');
const item = fc.record({
  name,
  parent: fc.nat(),
  mode: fc.constantFrom(...MODES),
  chunks: fc.oneof(fc.nat(4), fc.nat(2000)),
  target: fc.integer({ min: 1, max: 4095 }),
  xattr: fc.option(fc.nat(5000), { freq: 3 }),
});

/** Random items as a tree: each hangs below one of the directories made before it. */
function treeOf(
  items: { name: string; parent: number; mode: number; chunks: number; target: number; xattr: number | null }[],
) {
  const dirs = [''];
  const seen = new Set<string>();
  const entries: SourceEntry[] = [{ ...blank, path: '/', mode: 0o040755, sizeBytes: 0 }];
  const chunks = new Map<string, number>();
  for (const one of items) {
    const path = `${dirs[one.parent % dirs.length]}/${one.name}`;
    if (seen.has(path)) continue;
    seen.add(path);
    if (one.mode === 0o040755) dirs.push(path);
    if (one.mode === 0o100644) chunks.set(path, one.chunks);
    const symlink = one.mode === 0o120777;
    const xattrs = one.xattr === null ? [] : [{ name: 'user.x', value: Buffer.alloc(one.xattr) }];
    const target = symlink ? 't'.repeat(one.target) : null;
    entries.push({ ...blank, path, mode: one.mode, sizeBytes: symlink ? one.target : 0, target, xattrs });
  }
  const tree = buildTree(entries, { whiteouts: 'none', explicitIds: true });
  for (const node of tree.nodes) node.chunkCount = chunks.get(node.path) ?? 0;
  return tree;
}

/** Byte ranges a node occupies. */
function ranges(node: TreeNode): [from: number, to: number][] {
  const head = node.offset + INODE_EXTENDED_BYTES + node.xattrBytes;
  if (node.isFile) return [[node.offset, Math.ceil(head / 8) * 8 + node.chunkCount * 8]];
  if (!node.isDirectory && !node.isSymlink) return [[node.offset, head]];
  const tail = Math.max(node.tailBytes, 0);
  return [
    [node.offset, head + tail],
    [node.dataOffset, node.dataOffset + node.dataBytes - tail],
  ];
}

test('nothing overlaps and nothing lies outside', () => {
  fc.assert(
    fc.property(fc.array(item, { maxLength: 120 }), (items) => {
      const tree = treeOf(items);
      const end = placeNodes(tree);
      const all = tree.nodes
        .flatMap(ranges)
        .filter(([from, to]) => to > from)
        .sort((a, b) => a[0] - b[0]);
      assert.equal(tree.root.offset, BLOCK_BYTES);
      assert.equal(end % NID_UNIT_BYTES, 0);
      assert.ok(all[0][0] >= BLOCK_BYTES && all[all.length - 1][1] <= end);
      for (let i = 1; i < all.length; i++) assert.ok(all[i - 1][1] <= all[i][0], `${all[i - 1]} and ${all[i]}`);
      for (const node of tree.nodes) {
        assert.equal(node.offset % NID_UNIT_BYTES, 0);
        if (node.dataBytes > Math.max(node.tailBytes, 0)) assert.equal(node.dataOffset % BLOCK_BYTES, 0);
        if (node.tailBytes > 0) {
          const last = node.offset + INODE_EXTENDED_BYTES + node.xattrBytes + node.tailBytes - 1;
          assert.equal(Math.floor(node.offset / BLOCK_BYTES), Math.floor(last / BLOCK_BYTES));
        }
      }
    }),
    { numRuns: 150 },
  );
});

test('the same tree is placed the same way twice', () => {
  fc.assert(
    fc.property(fc.array(item, { maxLength: 60 }), (items) => {
      const places = [treeOf(items), treeOf(items)].map((tree) => {
        placeNodes(tree);
        return tree.nodes.map((node) => node.offset);
      });
      assert.deepEqual(places[0], places[1]);
    }),
    { numRuns: 30 },
  );
});

test('names that sort before the dots come before them', () => {
  const names = ['!', '-x', '.a', '..b', 'A', '\xff'];
  const entries = [{ ...blank, path: '/', mode: 0o040755, sizeBytes: 0 }];
  const files = names.map((text) => ({ ...blank, path: `/${text}`, mode: 0o100644, sizeBytes: 0 }));
  const { root } = buildTree([...entries, ...files], { whiteouts: 'none', explicitIds: true });
  assert.deepEqual(
    directoryEntries(root).map((one) => one.name),
    ['!', '-x', '.', '..', '..b', '.a', 'A', '\xff'],
  );
});

test('a directory that just fills its blocks, and one byte more', () => {
  // `.` and `..` take 27 bytes.
  const full = BLOCK_BYTES - 27;
  for (const [lengths, bytes] of [
    [[full - DIRENT_BYTES - 16 * 240 - 0, ...Array(16).fill(228)], BLOCK_BYTES],
    [[full - DIRENT_BYTES - 16 * 240 + 1, ...Array(16).fill(228)], BLOCK_BYTES + 240],
  ] as [number[], number][]) {
    const files = lengths.map((length, i) => ({
      ...blank,
      path: `/${String.fromCharCode(0x61 + i).padEnd(length, '_')}`,
      mode: 0o100644,
      sizeBytes: 0,
    }));
    const tree = buildTree([{ ...blank, path: '/', mode: 0o040755, sizeBytes: 0 }, ...files], {
      whiteouts: 'none',
      explicitIds: true,
    });
    placeNodes(tree);
    assert.equal(tree.root.dataBytes, bytes);
  }
});

describe('xattr names', () => {
  const known: [string, number][] = [
    ['user.a', 1],
    ['system.posix_acl_access', 2],
    ['system.posix_acl_default', 3],
    ['trusted.overlay.opaque', 4],
    ['security.capability', 6],
    ['user.', -1],
    ['system.posix_acl_accessx', -1],
    ['system.nfs4_acl', -1],
    ['lustre.lov', -1],
    ['User.a', -1],
  ];
  for (const [text, index] of known) test(text, () => assert.equal(xattrNameIndex(text), index));
});

describe('xattrs that do not fit are refused', () => {
  const big = (name: string, bytes: number) => ({ name, value: Buffer.alloc(bytes) });
  const cases: [code: string, rule: RegExp, xattrs: { name: string; value: Buffer }[]][] = [
    ['XATTR', /system\.nfs4_acl/, [big('system.nfs4_acl', 1)]],
    ['SOURCE_LIMIT', /65536 bytes/, [big('user.a', 65_536)]],
    ['SOURCE_LIMIT', /of extended attributes/, ['a', 'b', 'c', 'd', 'e'].map((key) => big(`user.${key}`, 65_535))],
  ];
  for (const [code, message, xattrs] of cases) {
    test(String(message), () => {
      const entries = [{ ...blank, path: '/', mode: 0o040755, sizeBytes: 0, xattrs }];
      const tree = buildTree(entries, { whiteouts: 'none', explicitIds: true });
      assert.throws(() => placeNodes(tree), { code, message });
    });
  }
});
