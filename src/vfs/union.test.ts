import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as A from '../fuse/args.ts';
import { ATTR_SUBMOUNT, S } from '../fuse/flags.ts';
import { Request } from '../fuse/request.ts';
import { ENTRY_OUT_BYTES } from '../fuse/wire/layout.ts';
import { putEntryHead } from '../fuse/wire/out.ts';
import { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { type Entry, FsClient, type Handle, ROOT } from './testing/client.ts';
import { MemoryFs } from './testing/memory-fs.ts';
import { Union } from './union.ts';

function setUp(submounts = true): { union: Union; guest: FsClient } {
  const union = new Union(Arena.create());
  return { union, guest: new FsClient(union, submounts) };
}

function memory(files: Record<string, string>): MemoryFs {
  const fs = new MemoryFs();
  for (const [path, content] of Object.entries(files)) fs.addFile(path, content);
  return fs;
}

function entry(result: Entry | number): Entry {
  assert.ok(typeof result === 'object', `errno ${result}`);
  return result;
}

function handle(result: Handle | number): Handle {
  assert.ok(typeof result === 'object', `errno ${result}`);
  return result;
}

function names(result: ReturnType<FsClient['list']>): string[] {
  assert.ok(typeof result === 'object', `errno ${result}`);
  return result.map((dirent) => dirent.name);
}

function content(guest: FsClient, path: string): string | number {
  const file = guest.walk(path);
  if (typeof file === 'number') return file;
  const opened = handle(guest.open(file.node));
  const text = guest.read(file.node, opened);
  guest.release(file.node, opened);
  guest.forget(file.node);
  return text;
}

describe('pseudo directories', () => {
  test('attributes, entries and time-outs', () => {
    const { union, guest } = setUp();
    assert.equal(union.mount('/rafs/c1/lowerdir', memory({})), 0);
    assert.equal(union.mount('/rafs/c2/lowerdir', memory({})), 0);
    const rafs = entry(guest.lookup(ROOT, 'rafs'));
    assert.equal(rafs.mode, S.IFDIR | 0o755);
    assert.equal(rafs.nlink, 4);
    assert.equal(rafs.node.high, 0);
    assert.ok(rafs.entryValidMs <= 1000 && rafs.validMs <= 1000);
    assert.equal(guest.lookup(ROOT, 'nothing'), -errno.ENOENT);
    const root = guest.getattr(ROOT);
    assert.ok(typeof root === 'object' && root.nlink === 3 && root.ino !== rafs.ino);
    for (const plus of [false, true]) {
      const list = guest.list(rafs.node, plus);
      assert.deepEqual(names(list), ['.', '..', 'c1', 'c2']);
      assert.ok(typeof list === 'object' && list.every((dirent) => dirent.type === S.IFDIR >> 12));
      if (plus) assert.ok(list.every((dirent) => dirent.node?.low === 0 && dirent.node.high === 0));
      assert.equal(list[0]?.ino, rafs.ino);
      assert.equal(list[1]?.ino, root.ino);
    }
    union.destroy();
  });

  test('cookies survive entries that come and go, in replies of one record each', () => {
    const { union, guest } = setUp();
    for (let i = 0; i < 10; i++) union.mount(`/d/m${i}`, memory({}));
    const d = entry(guest.lookup(ROOT, 'd'));
    assert.equal(names(guest.list(d.node, false, 40)).length, 12);
    const opened = handle(guest.opendir(d.node));
    const first = guest.readdir(d.node, opened, false, 32 * 5);
    assert.ok(typeof first === 'object');
    assert.deepEqual(
      first.map((dirent) => dirent.name),
      ['.', '..', 'm0', 'm1', 'm2'],
    );
    union.umount('/d/m2');
    union.umount('/d/m3');
    union.mount('/d/late', memory({}));
    const rest = guest.readdir(d.node, opened, false, 4096, first[4]?.cookie);
    assert.ok(typeof rest === 'object');
    assert.deepEqual(
      rest.map((dirent) => dirent.name),
      ['m4', 'm5', 'm6', 'm7', 'm8', 'm9', 'late'],
    );
    assert.equal(guest.readdir(d.node, opened, false, 8), -errno.EINVAL);
    union.destroy();
  });

  test('nothing can be changed; MKDIR alone may answer ENOSYS', () => {
    const { union, guest } = setUp();
    union.mount('/a/b', memory({}));
    const a = entry(guest.lookup(ROOT, 'a'));
    assert.equal(guest.mkdir(a.node, 'b'), -errno.EEXIST);
    assert.equal(guest.mkdir(a.node, 'new'), -errno.ENOSYS);
    assert.equal(guest.create(a.node, 'new'), -errno.EROFS);
    assert.equal(guest.unlink(a.node, 'b'), -errno.EROFS);
    assert.equal(guest.rmdir(a.node, 'b'), -errno.EROFS);
    assert.equal(guest.rename(a.node, 'b', a.node, 'c'), -errno.EROFS);
    assert.equal(guest.link(a.node, a.node, 'c'), -errno.EROFS);
    const request = guest.on(a.node);
    const answers = [
      union.setattr(request, new A.SetattrArgs()),
      union.symlink(request, new A.SymlinkArgs()),
      union.mknod(request, new A.MknodArgs()),
      union.setxattr(request, new A.SetxattrArgs()),
      union.removexattr(request, new A.NameArgs()),
      union.fallocate(request, new A.FallocateArgs()),
      union.copyFileRange(request, new A.CopyFileRangeArgs()),
      union.getxattr(request, new A.GetxattrArgs()),
      union.listxattr(request, new A.ListxattrArgs()),
      union.statfs(request),
      union.open(request, new A.OpenArgs()),
      union.readlink(request),
      union.syncfs(request),
      union.access(request, new A.AccessArgs()),
    ];
    assert.deepEqual(answers.slice(0, 8), [...Array(7).fill(-errno.EROFS), -errno.ENODATA]);
    assert.ok(answers.every((answer) => answer !== -errno.ENOSYS));
    union.destroy();
  });

  test('they vanish with the last mount below, and their numbers never come again', () => {
    const { union, guest } = setUp();
    union.mount('/x/y/z', memory({}));
    const x = entry(guest.lookup(ROOT, 'x'));
    union.umount('/x/y/z');
    assert.equal(guest.lookup(ROOT, 'x'), -errno.ENOENT);
    assert.equal(guest.getattr(x.node), -errno.ESTALE);
    assert.equal(guest.opendir(x.node), -errno.ESTALE);
    assert.deepEqual(names(guest.list(ROOT)), ['.', '..']);
    union.mount('/x/y/z', memory({}));
    assert.notEqual(entry(guest.lookup(ROOT, 'x')).node.low, x.node.low);
    union.destroy();
  });

  test('paths: one spelling, and what is none', () => {
    const { union } = setUp();
    assert.equal(union.mount('//a///b/', memory({})), 0);
    assert.equal(union.list()[0]?.path, '/a/b');
    assert.equal(union.mount('/a/b', memory({})), -errno.EEXIST);
    assert.equal(union.check('/a/b'), -errno.EEXIST);
    assert.equal(union.check('/a'), 0);
    for (const path of ['', 'a', '/a/../b', '/./a', '/a\0b', `/${'n'.repeat(256)}`, '/n'.repeat(2100)]) {
      assert.equal(union.mount(path, memory({})), -errno.EINVAL, path.slice(0, 20));
      assert.equal(union.umount(path), -errno.EINVAL);
    }
    assert.equal(union.umount('/a'), -errno.ENOENT);
    assert.equal(union.umount('/never'), -errno.ENOENT);
    assert.equal(union.remount('/never', memory({})), -errno.ENOENT);
    assert.equal(union.umount('/a/b'), 0);
    assert.deepEqual(union.list(), []);
  });
});

describe('mount roots', () => {
  test('short time-outs, submount mark, own inode numbers', () => {
    const { union, guest } = setUp();
    union.mount('/m', memory({ '/f': 'x' }));
    const m = entry(guest.lookup(ROOT, 'm'));
    assert.deepEqual(m.node, { low: 1, high: 1 });
    assert.equal(m.flags, ATTR_SUBMOUNT);
    assert.equal(m.entryValidMs, 1000);
    assert.equal(m.validMs, 1000);
    assert.equal(m.ino, '0:1');
    const attributes = guest.getattr(m.node);
    assert.ok(typeof attributes === 'object' && attributes.flags === ATTR_SUBMOUNT && attributes.validMs === 1000);
    const f = entry(guest.lookup(m.node, 'f'));
    assert.equal(f.flags, 0);
    assert.equal(f.validMs, 60_000);
    union.destroy();
  });

  test('a member without time-outs keeps none', () => {
    const { union, guest } = setUp();
    union.mount('/m', new MemoryFs(0));
    const m = entry(guest.lookup(ROOT, 'm'));
    assert.equal(m.validMs, 0);
    const attributes = guest.getattr(m.node);
    assert.ok(typeof attributes === 'object' && attributes.validMs === 0);
    union.destroy();
  });

  test('without submounts no two members share an inode number, and listings agree with stat', () => {
    const { union, guest } = setUp(false);
    const seen = new Set<string>();
    for (let i = 0; i < 50; i++) {
      union.mount(`/m${i}`, memory({ '/f': 'x' }));
      const m = entry(guest.lookup(ROOT, `m${i}`));
      const f = entry(guest.lookup(m.node, 'f'));
      assert.equal(m.flags, 0);
      for (const plus of [false, true]) {
        const list = guest.list(m.node, plus);
        assert.ok(typeof list === 'object');
        assert.equal(list.find((dirent) => dirent.name === 'f')?.ino, f.ino);
        assert.equal(list.find((dirent) => dirent.name === '.')?.ino, m.ino);
      }
      const again = guest.getattr(f.node);
      assert.ok(typeof again === 'object' && again.ino === f.ino);
      seen.add(m.ino).add(f.ino);
    }
    assert.equal(seen.size, 100);
    union.destroy();
  });
});

describe('across members', () => {
  test('RENAME, LINK and COPY_FILE_RANGE answer EXDEV', () => {
    const { union, guest } = setUp();
    union.mount('/a', memory({ '/f': 'x' }));
    union.mount('/b', memory({ '/g': 'y' }));
    const a = entry(guest.lookup(ROOT, 'a'));
    const b = entry(guest.lookup(ROOT, 'b'));
    const f = entry(guest.lookup(a.node, 'f'));
    assert.equal(guest.rename(a.node, 'f', b.node, 'f'), -errno.EXDEV);
    assert.equal(guest.rename(a.node, 'f', ROOT, 'f'), -errno.EXDEV);
    assert.equal(guest.link(f.node, b.node, 'f'), -errno.EXDEV);
    const args = new A.CopyFileRangeArgs();
    args.nodeOutLow = 2;
    args.nodeOutHigh = b.node.high;
    assert.equal(union.copyFileRange(guest.on(f.node), args), -errno.EXDEV);
    assert.equal(guest.rename(a.node, 'f', a.node, 'f2'), 0);
    assert.equal(content(guest, '/a/f2'), 'x');
    entry(guest.link(f.node, a.node, 'f3'));
    assert.equal(content(guest, '/a/f3'), 'x');
    union.destroy();
  });
});

describe('nested mounts', () => {
  test('a mount inside a member covers the name there, and is listed once', () => {
    const { union, guest } = setUp();
    union.mount('/a', memory({ '/b/own': 'covered', '/f': 'x' }));
    union.mount('/a/b', memory({ '/inner': 'y' }));
    union.mount('/a/deep/er', memory({ '/deepest': 'z' }));
    assert.equal(content(guest, '/a/f'), 'x');
    assert.equal(content(guest, '/a/b/inner'), 'y');
    assert.equal(content(guest, '/a/b/own'), -errno.ENOENT);
    assert.equal(content(guest, '/a/deep/er/deepest'), 'z');
    const a = entry(guest.lookup(ROOT, 'a'));
    for (const plus of [false, true]) {
      for (const size of [200, 4096]) {
        assert.deepEqual(names(guest.list(a.node, plus, size)).sort(), ['.', '..', 'b', 'deep', 'f']);
      }
    }
    assert.equal(guest.rmdir(a.node, 'b'), -errno.EBUSY);
    assert.equal(guest.unlink(a.node, 'b'), -errno.EBUSY);
    assert.equal(guest.rename(a.node, 'b', a.node, 'c'), -errno.EBUSY);
    assert.equal(guest.rename(a.node, 'f', a.node, 'b'), -errno.EBUSY);
    assert.equal(guest.mkdir(a.node, 'b'), -errno.EEXIST);
    assert.equal(guest.create(a.node, 'b'), -errno.EISDIR);
    union.umount('/a/b');
    assert.equal(content(guest, '/a/b/own'), 'covered');
    union.umount('/a');
    assert.deepEqual(names(guest.list(ROOT)), ['.', '..', 'a']);
    assert.equal(content(guest, '/a/deep/er/deepest'), 'z');
    assert.equal(content(guest, '/a/f'), -errno.ENOENT);
    union.destroy();
  });

  test('a listing of covered names only does not end early', () => {
    const { union, guest } = setUp();
    const files: Record<string, string> = {};
    for (let i = 0; i < 40; i++) files[`/n${i}`] = '';
    files['/last'] = '';
    union.mount('/', memory(files));
    for (let i = 0; i < 40; i++) union.mount(`/n${i}`, memory({}));
    for (const plus of [false, true]) {
      const got = names(guest.list(ROOT, plus, 320));
      assert.equal(got.length, 43);
      assert.equal(new Set(got).size, 43);
    }
    union.destroy();
  });

  test('covered names in READDIRPLUS leave no lookups behind', () => {
    const { union, guest } = setUp();
    const lower = memory({ '/b/own': '', '/f': '' });
    union.mount('/a', lower);
    union.mount('/a/b', memory({}));
    const a = entry(guest.lookup(ROOT, 'a'));
    const list = guest.list(a.node, true);
    assert.ok(typeof list === 'object');
    for (const dirent of list) {
      if (dirent.node?.low && !dirent.name.startsWith('.')) guest.forget(dirent.node);
    }
    guest.forget(a.node);
    assert.ok([...lower.nodes.values()].every((node) => node.lookups === 0));
    assert.equal(union.list().find((mount) => mount.path === '/a')?.lookups, 0);
    union.destroy();
  });
});

describe('names in a root are trusted for a second only, since mounts may come there', () => {
  /** An image: absent names are answered, for a year like all else. */
  class Lasting extends MemoryFs {
    constructor() {
      super(365 * 24 * 3600 * 1000);
      this.addFile('/dir/f', 'x');
    }

    override lookup(request: Request, args: A.NameArgs): number {
      const n = super.lookup(request, args);
      if (n !== -errno.ENOENT) return n;
      putEntryHead(request.reply.u32, Request.BODY_WORD, 0, 0, this.validMs, 0);
      return ENTRY_OUT_BYTES;
    }
  }

  for (const path of ['/', '/a']) {
    test(`mounted on ${path}`, () => {
      const { union, guest } = setUp();
      union.mount(path, new Lasting());
      const root = path === '/' ? ROOT : entry(guest.walk(path)).node;
      const dir = entry(guest.lookup(root, 'dir'));
      const absent = entry(guest.lookup(root, 'absent'));
      assert.equal(absent.node.low, 0);
      assert.deepEqual([dir.entryValidMs, absent.entryValidMs], [1000, 1000]);
      assert.ok(entry(guest.lookup(dir.node, 'f')).entryValidMs > 1000, 'below the root nothing changes');
      assert.ok(entry(guest.lookup(dir.node, 'absent')).entryValidMs > 1000);
      const lasting = (node: Entry['node']): string[] => {
        const list = guest.list(node, true);
        assert.ok(typeof list === 'object');
        return list.filter(({ entryValidMs }) => entryValidMs > 1000).map(({ name }) => name);
      };
      assert.deepEqual(lasting(root), []);
      assert.ok(lasting(dir.node).includes('f'));
      union.destroy();
    });
  }
});

describe('a member on "/"', () => {
  test('answers for nodeid 1, keeps its inode numbers, lets mounts nest', () => {
    const { union, guest } = setUp(false);
    union.mount('/', memory({ '/bin/sh': '#!', '/f': 'x' }));
    union.mount('/mnt/more', memory({ '/g': 'y' }));
    const root = guest.getattr(ROOT);
    assert.ok(typeof root === 'object' && root.ino === '0:1' && root.validMs <= 1000);
    assert.equal(content(guest, '/bin/sh'), '#!');
    assert.equal(content(guest, '/mnt/more/g'), 'y');
    assert.deepEqual(names(guest.list(ROOT)).sort(), ['.', '..', 'bin', 'f', 'mnt']);
    const made = guest.create(ROOT, 'new');
    assert.ok(typeof made === 'object');
    assert.equal(guest.write(made.entry.node, made.handle, 'hello'), 5);
    assert.equal(guest.rename(ROOT, 'new', ROOT, 'newer'), 0);
    assert.equal(content(guest, '/newer'), 'hello');
    assert.equal(guest.rename(ROOT, 'newer', made.entry.node, 'x') < 0, true);
    entry(guest.link(made.entry.node, ROOT, 'hard'));
    assert.equal(content(guest, '/hard'), 'hello');
    union.destroy();
  });

  test('an open root directory stays with the member it was opened on', () => {
    const { union, guest } = setUp();
    const before = handle(guest.opendir(ROOT));
    union.mount('/', memory({ '/one': '1' }));
    const first = handle(guest.opendir(ROOT));
    union.remount('/', memory({ '/two': '2' }));
    const second = handle(guest.opendir(ROOT));
    const read = (opened: Handle): string[] => {
      const list = guest.readdir(ROOT, opened);
      assert.ok(typeof list === 'object', `errno ${list}`);
      return list.map((dirent) => dirent.name);
    };
    assert.deepEqual(read(before), ['.', '..']);
    assert.deepEqual(read(first), ['.', '..', 'one']);
    assert.deepEqual(read(second), ['.', '..', 'two']);
    assert.equal(guest.releasedir(ROOT, first), 0);
    union.collect();
    assert.equal(guest.readdir(ROOT, first), -errno.ESTALE);
    union.umount('/');
    assert.equal(guest.readdir(ROOT, second), -errno.ESTALE);
    assert.equal(guest.releasedir(ROOT, second), 0);
    assert.deepEqual(names(guest.list(ROOT)), ['.', '..']);
  });
});
