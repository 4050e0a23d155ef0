/** The parts of the harness that need no guest: archive, frames, comparison. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { which } from './assets.ts';
import { type Frame, FrameReader } from './channel.ts';
import { differences, IMAGE_FIELDS, SHARE_FIELDS } from './compare.ts';
import { Initrd } from './initrd.ts';
import { type Entry, type Manifest, parseManifest } from './manifest.ts';

test('the archive is one that busybox unpacks', () => {
  const archive = new Initrd()
    .file('a/b/c.txt', 'content')
    .file('odd', 'xyz', 0o4755)
    .symlink('a/link', 'b/c.txt')
    .charDevice('dev/console', 5, 1)
    .bytes();
  const listing = execFileSync(which('busybox'), ['cpio', '-tv'], { input: archive, encoding: 'utf8' });
  const lines = listing.split('\n').map((line) => line.split(/\s+/));
  const named = (name: string): string[] => lines.find((words) => words.includes(name)) ?? assert.fail(`no ${name}`);
  assert.equal(named('a')[0], 'drwxr-xr-x');
  assert.equal(named('a/b/c.txt')[0], '-rw-r--r--');
  assert.equal(named('odd')[0], '-rwsr-xr-x');
  assert.equal(named('dev/console')[0], 'crw-------');
  assert.equal(named('a/link').at(-1), 'b/c.txt');
});

test('the archive refuses one name twice', () => {
  assert.throws(() => new Initrd().file('a', '1').file('a', '2'), /two initrd entries/);
});

const STREAM = Buffer.from('hello\nstart one\ndata list 5\na\nb\nccase one 3 4\noopsask more\ncase two 0 0\ndone 2\n');
const FRAMES: Frame[] = [
  { kind: 'hello' },
  { kind: 'start', name: 'one' },
  { kind: 'data', name: 'list', content: Buffer.from('a\nb\nc') },
  { kind: 'case', name: 'one', status: 3, output: Buffer.from('oops') },
];

test('frames arrive whole however the stream is split', () => {
  for (let at = 0; at <= STREAM.length; at++) {
    const reader = new FrameReader();
    const frames = [...reader.push(STREAM.subarray(0, at)), ...reader.push(STREAM.subarray(at))];
    assert.deepEqual(frames.slice(0, 4), FRAMES, `split at ${at}`);
    assert.deepEqual(
      frames.slice(4).map((frame) => frame.kind),
      ['ask', 'case', 'done'],
    );
  }
});

for (const noise of ['what\n', 'data x -1\n', 'data x\n', 'case a 0 99999999999\n', 'done many\n', 'x'.repeat(300)]) {
  test(`not a frame: ${JSON.stringify(noise.slice(0, 30))}`, () => {
    assert.throws(() => new FrameReader().push(Buffer.from(noise)), { code: 'VM_FRAME' });
  });
}

const FILE: Entry = {
  type: 'file',
  mode: 0o644,
  uid: 0,
  gid: 0,
  ino: '5',
  nlink: 1,
  size: 3,
  mtimeSec: 1,
  mtimeNsec: 2,
  target: null,
  rdev: null,
  sha256: 'aa',
  xattrs: [],
};

const one = (path: string, changes: Partial<Entry>): Manifest => new Map([[path, { ...FILE, ...changes }]]);

const CHANGES: Partial<Entry>[] = [
  { type: 'fifo' },
  { mode: 0o600 },
  { uid: 1 },
  { gid: 1 },
  { ino: '6' },
  { nlink: 2 },
  { size: 4 },
  { mtimeSec: 2 },
  { mtimeNsec: 3 },
  { target: 'x' },
  { rdev: '1:3' },
  { sha256: 'ab' },
  { xattrs: ['user.a=YQ=='] },
];

for (const change of CHANGES) {
  const [field] = Object.keys(change);
  test(`a difference in ${field} is seen`, () => {
    assert.deepEqual(differences(one('/f', FILE), one('/f', {}), SHARE_FIELDS), []);
    const lines = differences(one('/f', change), one('/f', {}), SHARE_FIELDS);
    assert.ok(
      lines.some((line) => line.startsWith(`/f: ${field} is`)),
      lines.join(),
    );
  });
}

test('names that should share a file and do not are seen', () => {
  const pair = (second: string): Manifest =>
    new Map([...one('/a', { nlink: 2, ino: '7' }), ...one('/b', { nlink: 2, ino: second })]);
  assert.deepEqual(differences(pair('7'), pair('7'), IMAGE_FIELDS), []);
  assert.match(differences(pair('7'), pair('8'), IMAGE_FIELDS).join(), /\/b: links is \/b, expected \/a/);
});

test('a list that was cut off is refused', () => {
  const parts = { find: Buffer.from('f\0'), rdev: Buffer.alloc(0), sha256: Buffer.alloc(0), xattr: Buffer.alloc(0) };
  assert.throws(() => parseManifest(parts), /cut off/);
  assert.throws(() => parseManifest({ ...parts, find: Buffer.from('f\x344') }), /cut off/);
});
