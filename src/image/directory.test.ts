import assert from 'node:assert/strict';
import fs, {
  chmodSync,
  closeSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { S_IFCHR, S_IFIFO, S_IFMT, S_IFSOCK } from '../rafs/v6/inode-layout.ts';
import { close } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { AT, mknodat, O, openPath, utimensat } from '../sys/path.ts';
import { setxattr } from '../sys/xattr.ts';
import { DirectorySource } from './directory.ts';
import type { SourceEntry } from './source.ts';

let dir = '';
let entries = new Map<string, SourceEntry>();
const names = new NativeMemory(8192);
/** Not UTF-8: a lone 0xff, and a truncated sequence. */
const ODD_NAME = Buffer.from([0x66, 0xff, 0xe2, 0x82]);
const isRoot = process.getuid?.() === 0;

function xattr(path: string | Buffer, name: string, value: Buffer): number {
  const fd = openPath(path, O.PATH | O.NOFOLLOW | O.CLOEXEC);
  names.u8.set(value, 4096);
  const done = setxattr(
    names.putText(0, `/proc/self/fd/${fd}`),
    names.putText(100, name),
    names.address + 4096,
    value.length,
    0,
  );
  close(fd);
  return done;
}

function special(name: string, mode: number, major = 0, minor = 0): number {
  return mknodat(AT.FDCWD, names.putText(0, join(dir, name)), mode, major, minor);
}

before(() => {
  dir = mkdtempSync(join(tmpdir(), 'image-directory-'));
  mkdirSync(join(dir, 'sub'));
  writeFileSync(join(dir, 'sub/file'), 'content');
  chmodSync(join(dir, 'sub/file'), 0o4751);
  linkSync(join(dir, 'sub/file'), join(dir, 'again'));
  symlinkSync(Buffer.concat([Buffer.from('to '), ODD_NAME]), join(dir, 'link'));
  // Node's own utimes calls turn times before 1970 into now.
  names.view.setBigInt64(4096, 0n, true);
  names.view.setBigInt64(4104, 0n, true);
  names.view.setBigInt64(4112, -86401n, true);
  names.view.setBigInt64(4120, 500_000_000n, true);
  assert.equal(utimensat(AT.FDCWD, names.putText(0, join(dir, 'link')), names.address + 4096, AT.SYMLINK_NOFOLLOW), 0);
  writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), ODD_NAME]), '');
  assert.equal(special('fifo', S_IFIFO | 0o600), 0);
  assert.equal(special('socket', S_IFSOCK | 0o600), 0);
  entries = new Map([...new DirectorySource(dir).entries()].map((entry) => [entry.path, entry]));
});
after(() => rmSync(dir, { recursive: true, force: true }));

test('every entry once, parents before children', () => {
  const seen = new Set<string>();
  for (const path of entries.keys()) {
    const parent = path.slice(0, path.lastIndexOf('/')) || '/';
    assert.ok(path === '/' || seen.has(parent));
    seen.add(path);
  }
  const odd = `/${ODD_NAME.toString('latin1')}`;
  assert.deepEqual([...seen].sort(), ['/', '/again', '/fifo', '/link', '/socket', '/sub', '/sub/file', odd].sort());
});

test('attributes', () => {
  const file = entries.get('/sub/file');
  assert.equal(file?.mode, 0o104751);
  assert.equal(file.sizeBytes, 7);
  assert.equal(file.uid, process.getuid?.());
  assert.equal((entries.get('/fifo')?.mode ?? 0) & S_IFMT, S_IFIFO);
  assert.equal((entries.get('/socket')?.mode ?? 0) & S_IFMT, S_IFSOCK);
});

test('a time before 1970, with nanoseconds', () => {
  const link = entries.get('/link');
  assert.deepEqual([link?.mtime, link?.mtimeNs], [-86401, 500_000_000]);
});

test('hard links share a key, single names have none', () => {
  assert.ok(entries.get('/again')?.linkKey);
  assert.equal(entries.get('/again')?.linkKey, entries.get('/sub/file')?.linkKey);
  assert.equal(entries.get('/fifo')?.linkKey, null);
});

test('targets are bytes', () => {
  assert.equal(entries.get('/link')?.target, `to ${ODD_NAME.toString('latin1')}`);
  assert.equal(entries.get('/link')?.sizeBytes, 3 + ODD_NAME.length);
});

test('contents, and a file that is shorter than it was', () => {
  const source = new DirectorySource(`${dir}/`);
  const content = source.open('/sub/file', 7);
  const into = Buffer.alloc(5);
  assert.equal(content.read(into, 2), 5);
  assert.equal(into.toString(), 'ntent');
  assert.equal(content.read(into, 4), 3);
  content.close();
});

test('errors name the path on the host', () => {
  assert.throws(() => [...new DirectorySource(join(dir, 'none')).entries()], {
    code: 'SOURCE',
    message: /image-directory-.*none.*ENOENT/,
  });
  assert.throws(() => new DirectorySource(dir).open('/link', 1), { code: 'SOURCE', message: /ELOOP/ });
});

test('a path that is longer than system calls take is named', () => {
  const root = dir + '/.'.repeat((4091 - dir.length) / 2);
  assert.throws(() => [...new DirectorySource(root).entries()], {
    code: 'SOURCE',
    message: /again failed: ENAMETOOLONG/,
  });
});

test('a link to a directory may be the source', () => {
  symlinkSync(join(dir, 'sub'), join(dir, 'link', '..', 'sub-link'));
  const [root, file] = [...new DirectorySource(join(dir, 'sub-link')).entries()];
  assert.deepEqual([root.path, file.path], ['/', '/file']);
});

test('a directory of more directories than a call takes arguments', (t) => {
  // Making them takes a minute: one directory is met again and again.
  const names = Array<string>(130_000).fill('sub');
  t.mock.method(fs, 'readdirSync', () => names.splice(0));
  syncBuiltinESMExports();
  try {
    let found = 0;
    for (const entry of new DirectorySource(dir).entries()) found += entry.path === '/sub' ? 1 : 0;
    assert.equal(found, 130_000);
  } finally {
    t.mock.restoreAll();
    syncBuiltinESMExports();
  }
});

describe('extended attributes', () => {
  test('in name order, empty values kept', (t) => {
    const path = join(dir, 'with-xattrs');
    writeFileSync(path, '');
    const set = xattr(path, 'user.b', Buffer.from([0, 1, 0xff]));
    if (set === -95) return t.skip(`no user xattrs on ${dir}`);
    xattr(path, 'user.a', Buffer.alloc(0));
    const entry = [...new DirectorySource(dir).entries()].find((one) => one.path === '/with-xattrs');
    assert.deepEqual(
      entry?.xattrs.map(({ name, value }) => [name, [...value]]),
      [
        ['user.a', []],
        ['user.b', [0, 1, 255]],
      ],
    );
  });

  test('of a symlink itself, and device numbers', (t) => {
    if (!isRoot) return t.skip('trusted xattrs and devices need root');
    assert.equal(xattr(join(dir, 'link'), 'trusted.t', Buffer.from('v')), 0);
    assert.equal(special('dev', S_IFCHR | 0o600, 259, 70000), 0);
    const all = new Map([...new DirectorySource(dir).entries()].map((entry) => [entry.path, entry]));
    assert.equal(all.get('/link')?.xattrs[0].name, 'trusted.t');
    assert.deepEqual([all.get('/dev')?.rdevMajor, all.get('/dev')?.rdevMinor], [259, 70000]);
  });
});

describe('holes', () => {
  const MIB = 1 << 20;
  function holes(write: (path: string) => void, sizeBytes: number): boolean[] {
    const path = join(dir, 'sparse');
    rmSync(path, { force: true });
    writeFileSync(path, '');
    truncateSync(path, sizeBytes);
    write(path);
    const content = new DirectorySource(dir).open('/sparse', sizeBytes);
    const known: boolean[] = [];
    for (let at = 0; at < sizeBytes; at += MIB) known.push(content.isHole(at, Math.min(MIB, sizeBytes - at)));
    content.close();
    return known;
  }
  const at = (path: string, ...offsets: number[]) => {
    const fd = openSync(path, 'r+');
    for (const offset of offsets) writeSync(fd, Buffer.from('x'), 0, 1, offset);
    closeSync(fd);
  };

  test('are known where the file system tells, and never where there is data', (t) => {
    const all = holes(() => {}, 5 * MIB + 1);
    if (!all[0]) return t.skip(`${dir} does not tell holes`);
    assert.deepEqual(all, Array(6).fill(true));
    assert.deepEqual(
      holes((path) => at(path, 0), 3 * MIB),
      [false, true, true],
    );
    assert.deepEqual(
      holes((path) => at(path, 3 * MIB - 1), 3 * MIB),
      [true, true, false],
    );
    assert.deepEqual(
      holes((path) => at(path, MIB, 3 * MIB + 5), 5 * MIB),
      [true, false, true, false, true],
    );
    assert.deepEqual(
      holes((path) => writeFileSync(path, Buffer.alloc(2 * MIB, 1)), 2 * MIB),
      [false, false],
    );
    // It has shrunk: what is behind its end is no hole, and reading finds it missing.
    assert.deepEqual(
      holes((path) => writeFileSync(path, Buffer.alloc(MIB, 1)), 3 * MIB),
      [false, false, false],
    );
  });
});
