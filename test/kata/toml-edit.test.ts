import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CREATED, entriesOf, merge, tablesOf, unmerge, valueAt } from '../../hack/kata/toml-edit.ts';

const CONTAINERD = `version = 2
root = "/var/lib/containerd"   # here

# Other people's plug-ins
[plugins]
  [plugins.'io.containerd.grpc.v1.cri'.containerd]
    # names [like.this] in comments
    snapshotter = "overlayfs"
    discard_unpacked_layers = true # saves space
    list = [
      "a # not a comment",
      "b", # [no.table]
    ]
    [plugins . "io.containerd.grpc.v1.cri" . containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
[[stream]]
  snapshotter = "other"
`;
const CRI = 'plugins."io.containerd.grpc.v1.cri".containerd';
const ENTRIES = [
  { table: '', key: 'version', value: '2' },
  { table: '', key: 'oom_score', value: '-999' },
  { table: CRI, key: 'discard_unpacked_layers', value: 'false' },
  { table: CRI, key: 'disable_snapshot_annotations', value: 'false' },
  { table: CRI, key: 'list', value: '[]' },
  { table: 'proxy_plugins.nydus', key: 'type', value: '"snapshot"' },
  { table: 'proxy_plugins.nydus', key: 'address', value: '"/run/x#y.sock"' },
];

test('reading', () => {
  assert.equal(valueAt(CONTAINERD, '', 'root'), '"/var/lib/containerd"');
  assert.equal(valueAt(CONTAINERD, CRI, 'snapshotter'), '"overlayfs"');
  assert.equal(valueAt(CONTAINERD, CRI, 'discard_unpacked_layers'), 'true');
  assert.match(valueAt(CONTAINERD, CRI, 'list') ?? '', /"a # not a comment",\n\s+"b",\n\s+\]$/);
  assert.equal(valueAt(CONTAINERD, `${CRI}.runtimes.runc`, 'runtime_type'), '"io.containerd.runc.v2"');
  assert.equal(valueAt(CONTAINERD, '', 'snapshotter'), null);
  assert.deepEqual(tablesOf(CONTAINERD), ['plugins', CRI, `${CRI}.runtimes.runc`]);
  assert.deepEqual(entriesOf('# c\na = 1\n[t]\nb = ["x"] # why\n'), [
    { table: '', key: 'a', value: '1' },
    { table: 't', key: 'b', value: '["x"]' },
  ]);
});

describe('merge', () => {
  const merged = merge(CONTAINERD, ENTRIES, true);
  test('sets every key, keeps what it does not name', () => {
    for (const { table, key, value } of ENTRIES) assert.equal(valueAt(merged, table, key), value, key);
    assert.equal(valueAt(merged, CRI, 'snapshotter'), '"overlayfs"');
    assert.ok(CONTAINERD.split('\n').every((line) => merged.includes(line)));
  });
  test('a value that is set already is not touched', () => {
    assert.match(merged, /^version = 2\n/);
  });
  test('twice is once', () => assert.equal(merge(merged, ENTRIES, true), merged));
  test('new values replace ours, the original stays', () => {
    const again = merge(merged, [{ table: CRI, key: 'discard_unpacked_layers', value: '0' }], true);
    assert.equal(valueAt(again, CRI, 'discard_unpacked_layers'), '0');
    assert.equal(unmerge(again).text, CONTAINERD);
  });
  test('a copy carries no marks', () => assert.doesNotMatch(merge(CONTAINERD, ENTRIES, false), /nydusd-ts/));
});

describe('unmerge gives back the same bytes', () => {
  const rows: [string, string][] = [
    ['a whole file', CONTAINERD],
    ['no newline at the end', CONTAINERD.trimEnd()],
    ['blank lines at the end', `${CONTAINERD}\n\n`],
    ['an empty file', ''],
    ['a comment without newline', '# only this'],
    ['a newline', '\n'],
  ];
  for (const [name, text] of rows) {
    test(name, () => assert.deepEqual(unmerge(merge(text, ENTRIES, true)), { text, wasCreated: false }));
  }
  test('a file we made', () => {
    assert.deepEqual(unmerge(merge(`${CREATED}\n`, ENTRIES, true)), { text: '', wasCreated: true });
  });
});

describe('foreign edits after the merge stay', () => {
  const merged = merge(CONTAINERD.trimEnd(), ENTRIES, true);
  test('lines of others', () => {
    const edited = merged.replace('# Other', 'added = 1\n# Other').concat('\n[late]\nkey = 1\n');
    const { text } = unmerge(edited);
    assert.equal(text, `${CONTAINERD.replace('# Other', 'added = 1\n# Other')}\n[late]\nkey = 1\n`);
  });
  test('our line, changed by them', () => {
    const edited = merged.replace('discard_unpacked_layers = false # nydusd-ts', 'discard_unpacked_layers = maybe');
    const { text } = unmerge(edited);
    assert.equal(valueAt(text, CRI, 'discard_unpacked_layers'), 'maybe');
    assert.doesNotMatch(text, /nydusd-ts|saves space/);
  });
});
