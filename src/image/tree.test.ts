import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { SourceEntry } from './source.ts';
import { buildTree } from './tree.testing.ts';
import type { Tree, TreeRules } from './tree.ts';

const RULES: TreeRules = { whiteouts: 'oci', explicitIds: true };

function entry(path: string, more: Partial<SourceEntry> = {}): SourceEntry {
  return {
    path,
    mode: 0o100644,
    uid: 7,
    gid: 8,
    sizeBytes: 0,
    mtime: 5,
    mtimeNs: 6,
    rdevMajor: 0,
    rdevMinor: 0,
    target: null,
    xattrs: [],
    linkKey: null,
    ...more,
  };
}

const dir = (path: string, more: Partial<SourceEntry> = {}) => entry(path, { mode: 0o040755, ...more });
const paths = (tree: Tree) => tree.nodes.map((node) => node.path);

test('numbers siblings first, names in byte order', () => {
  const tree = buildTree(
    [
      dir('/'),
      dir('/b'),
      entry('/b/z'),
      entry('/b/\xff'),
      entry('/b/a'),
      entry('/a!'),
      dir('/a'),
      entry('/a/x'),
      entry('/a.'),
    ],
    RULES,
  );
  assert.deepEqual(paths(tree), ['/', '/a', '/a!', '/a.', '/b', '/a/x', '/b/a', '/b/z', '/b/\xff']);
  assert.deepEqual(
    tree.nodes.map((node) => node.index),
    [1, 2, 3, 4, 5, 6, 7, 8, 9],
  );
  assert.equal(tree.root.nlink, 4);
});

test("the root's time is 0, others keep theirs", () => {
  const tree = buildTree([dir('/'), entry('/f')], RULES);
  assert.deepEqual([tree.root.mtime, tree.root.mtimeNs], [0, 0]);
  assert.deepEqual([tree.nodes[1].mtime, tree.nodes[1].mtimeNs], [5, 6]);
});

test('the first name by number owns a hard-linked file, whatever came first', () => {
  const linkKey = '1:2';
  const tree = buildTree(
    [
      dir('/'),
      dir('/d'),
      entry('/d/late', { linkKey }),
      entry('/z', { linkKey }),
      entry('/a', { linkKey }),
      entry('/one', { linkKey: '3:4' }),
    ],
    RULES,
  );
  const find = (path: string) => tree.nodes.find((node) => node.path === path);
  assert.equal(find('/a')?.first, null);
  for (const path of ['/z', '/d/late']) assert.equal(find(path)?.first, find('/a'));
  for (const path of ['/a', '/z', '/d/late']) assert.equal(find(path)?.nlink, 3);
  assert.equal(find('/one')?.nlink, 1);
});

describe('whiteout markers of a first layer', () => {
  const opaque = { name: 'trusted.overlay.opaque', value: Buffer.from('y') };
  const entries = [
    dir('/'),
    entry('/.wh.gone'),
    dir('/.wh.dir'),
    entry('/.wh.dir/inside'),
    dir('/d', { xattrs: [opaque, { name: 'user.a', value: Buffer.from('b') }] }),
    entry('/d/.wh..wh..opq'),
    entry('/d/null', { mode: 0o020644, rdevMajor: 1, rdevMinor: 3 }),
    entry('/d/hidden', { mode: 0o020644 }),
  ];
  const build = (whiteouts: TreeRules['whiteouts']) => buildTree(entries, { ...RULES, whiteouts });
  test('oci', () => assert.deepEqual(paths(build('oci')), ['/', '/d', '/d/hidden', '/d/null']));
  test('overlayfs', () => {
    const tree = build('overlayfs');
    assert.deepEqual(paths(tree), [
      '/',
      '/.wh.dir',
      '/.wh.gone',
      '/d',
      '/.wh.dir/inside',
      '/d/.wh..wh..opq',
      '/d/null',
    ]);
    assert.deepEqual(
      tree.nodes[3].xattrs.map(({ name }) => name),
      ['user.a'],
    );
  });
  test('none', () => {
    const tree = build('none');
    assert.equal(tree.nodes.length, entries.length);
    assert.equal(tree.nodes.find((node) => node.name === 'd')?.xattrs.length, 2);
  });
});

test('--repeatable stores no owner', () => {
  const tree = buildTree([dir('/'), entry('/f')], { ...RULES, explicitIds: false });
  assert.deepEqual([tree.nodes[1].uid, tree.nodes[1].gid], [0, 0]);
});

describe('what the format cannot hold is refused by name', () => {
  const cases: [rule: RegExp, entries: SourceEntry[]][] = [
    [/256-byte name/, [dir('/'), entry(`/${'n'.repeat(256)}`)]],
    [/symlink target/, [dir('/'), entry('/l', { mode: 0o120777, target: 't'.repeat(4096), sizeBytes: 4096 })]],
    [/mode/, [dir('/'), entry('/x', { mode: 0o644 })]],
    [/no directory/, [entry('/')]],
    [/no root/, []],
  ];
  for (const [rule, entries] of cases) {
    test(String(rule), () => assert.throws(() => buildTree(entries, RULES), { code: 'SOURCE_LIMIT', message: rule }));
  }
});
