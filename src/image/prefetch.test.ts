import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { dataOrder, namedNodes, parsePatterns } from './prefetch.ts';
import { buildTree } from './tree.testing.ts';

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
const tree = buildTree(
  ['/', '/a', '/a/one', '/a/two', '/b', '/b/three', '/bx', '/empty', '/last'].map((path) => ({
    ...blank,
    path,
    mode: ['/', '/a', '/b'].includes(path) ? 0o040755 : 0o100644,
    sizeBytes: path === '/empty' ? 0 : 5,
  })),
  { whiteouts: 'oci', explicitIds: true },
);

describe('patterns', () => {
  const parse = (text: string) => parsePatterns(Buffer.from(text));
  test('one absolute path a line, slashes tidied', () => {
    assert.deepEqual(parse('/a\n\n  //b//c/ \n/\n').patterns, ['/a', '/b/c', '/']);
  });
  test('relative ones are named, those below an earlier one dropped', () => {
    assert.deepEqual(parse('/b\nrel\n/b/x\n/bx\n/b'), { patterns: ['/b', '/bx'], ignored: ['rel'] });
    assert.deepEqual(parse('/\n/b').patterns, ['/']);
  });
  test('bytes survive', () => {
    assert.deepEqual(parsePatterns(Buffer.from([0x2f, 0xff])).patterns, ['/\xff']);
    assert.deepEqual(parse(' /voil\u00e0\r\n').patterns, ['/voil\xc3\xa0']);
  });
});

test('matched files come first, by pattern, then the others; empty files have no data', () => {
  const order = dataOrder(tree, ['/last', '/b', '/nothing', '/a/two']).map((node) => node.path);
  assert.deepEqual(order, ['/last', '/b/three', '/a/two', '/bx', '/a/one']);
  assert.deepEqual(
    dataOrder(tree, []).map((node) => node.path),
    ['/bx', '/last', '/a/one', '/a/two', '/b/three'],
  );
});

test('a directory given after one of its files still covers the others', () => {
  const order = dataOrder(tree, ['/a/two', '/a', '/b']).map((node) => node.path);
  assert.deepEqual(order, ['/a/two', '/a/one', '/b/three', '/bx', '/last']);
  assert.deepEqual(
    dataOrder(tree, ['/b', '/'])
      .map((node) => node.path)
      .slice(0, 2),
    ['/b/three', '/bx'],
  );
});

test('a long list of names of one directory is looked up at once', () => {
  const paths = Array.from({ length: 50_000 }, (_, i) => `/f${i}`);
  const file = { ...blank, mode: 0o100644, sizeBytes: 0 };
  const entries = paths.map((path) => ({ ...file, path }));
  const wide = buildTree([{ ...file, path: '/', mode: 0o040755 }, ...entries], { whiteouts: 'oci', explicitIds: true });
  const startMs = performance.now();
  assert.equal(namedNodes(wide, paths).length, paths.length);
  // One by one it takes 10 s and more; so, 50 ms.
  assert.ok(performance.now() - startMs < 3000);
});

test('the table names what exists, in pattern order', () => {
  const named = namedNodes(tree, ['/last', '/nothing/x', '/b', '/last/x', '/']);
  assert.deepEqual(
    named.map((node) => node.path),
    ['/last', '/b', '/'],
  );
});
