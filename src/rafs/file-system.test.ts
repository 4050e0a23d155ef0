import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { fsyncSync, ftruncateSync } from 'node:fs';
import { after, before, describe, test } from 'node:test';
import * as A from '../fuse/args.ts';
import { FOPEN, S } from '../fuse/flags.ts';
import { Request } from '../fuse/request.ts';
import { OPEN_OUT } from '../fuse/wire/layout.ts';
import { encodeRdev } from '../fuse/wire/out.ts';
import { errno } from '../sys/errno.ts';
import { bootPath, type Expected, expectedTree, READABLE_CASES } from './fixture-blobs.testing.ts';
import type { Attributes, Guest, Listed } from './guest.testing.ts';
import { Mounted } from './mounted.testing.ts';

const ROOT = 1;
const TYPES = {
  dir: S.IFDIR,
  file: S.IFREG,
  symlink: S.IFLNK,
  char: S.IFCHR,
  block: S.IFBLK,
  fifo: S.IFIFO,
  socket: S.IFSOCK,
};

/** Walks by READDIRPLUS, and by LOOKUP for every name. */
function* tree(mounted: Mounted, dir: number, path: string): Generator<[path: string, node: number, a: Attributes]> {
  const entries = mounted.guest.list(dir, true) as Listed[];
  for (const { name, node, attributes, ino } of entries) {
    if (name.equals(Buffer.from('.')) || name.equals(Buffer.from('..'))) continue;
    assert.ok(attributes !== null);
    const entry = mounted.guest.lookup(dir, name);
    assert.deepEqual(entry, { node, attributes });
    assert.equal(attributes.ino, ino);
    const childPath = `${path}/${name.toString('latin1')}`;
    yield [childPath, node, attributes];
    if ((attributes.mode & S.IFMT) === S.IFDIR) yield* tree(mounted, node, childPath);
  }
}

function compare(expected: Expected, found: Attributes): void {
  assert.equal(found.mode, TYPES[expected.type] | Number(expected.mode), `${expected.path} mode`);
  assert.equal(found.uid, expected.uid, `${expected.path} uid`);
  assert.equal(found.gid, expected.gid, `${expected.path} gid`);
  assert.equal(found.mtime, expected.mtime, `${expected.path} mtime`);
  if (expected.nlink !== undefined) assert.equal(found.nlink, expected.nlink, `${expected.path} nlink`);
  if (expected.size !== undefined) assert.equal(found.size, expected.size, `${expected.path} size`);
  const rdev = expected.rdev === undefined ? 0 : encodeRdev(...expected.rdev);
  assert.equal(found.rdev, rdev, `${expected.path} rdev`);
}

for (const [name, treeFile] of READABLE_CASES) {
  describe(`fixture ${name}`, () => {
    let mounted: Mounted;
    before(() => {
      mounted = new Mounted(bootPath(name));
    });
    after(() => mounted.close());

    test('equals its expected tree through the handlers', () => {
      const expected = expectedTree(treeFile);
      const links = new Map<string, number>();
      for (const [path, node, attributes] of tree(mounted, ROOT, '')) {
        const record = expected.get(path);
        assert.ok(record, `unexpected ${path}`);
        expected.delete(path);
        compare(record, attributes);
        assert.deepEqual(mounted.guest.getattr(node), attributes);
        const names = mounted.guest.listxattr(node) as string[];
        assert.deepEqual(names.sort(), Object.keys(record.xattrs ?? {}).sort(), path);
        for (const [xattr, value] of Object.entries(record.xattrs ?? {})) {
          assert.equal((mounted.guest.getxattr(node, xattr) as Buffer).toString('base64'), value);
        }
        if (record.target !== undefined) {
          const target = Buffer.from(record.target, record.target_base64 ? 'base64' : 'utf8');
          assert.deepEqual(mounted.guest.readlink(node), target);
        }
        if (record.sha256 !== undefined) {
          const data = mounted.readAll(node, attributes.size, 128 * 1024);
          assert.equal(createHash('sha256').update(data).digest('hex'), record.sha256, path);
          if (attributes.nlink > 1) links.set(record.sha256, (links.get(record.sha256) ?? 0) + 1);
        }
      }
      assert.deepEqual([...expected.keys()], ['/']);
      assert.deepEqual(mounted.lines, []);
    });

    test('fetches each chunk once and none that is there', () => {
      assert.equal(new Set(mounted.blobs.fetched).size, mounted.blobs.fetched.length);
    });
  });
}

describe('handlers', () => {
  let mounted: Mounted;
  let guest: Guest;
  before(() => {
    mounted = new Mounted(bootPath('v6-zstd-blake3'));
    guest = mounted.guest;
  });
  after(() => mounted.close());

  test('root is node 1 and its own parent, with the nid as inode number', () => {
    const root = guest.getattr(ROOT) as Attributes;
    assert.equal(root.ino, 128);
    assert.equal(root.mode & S.IFMT, S.IFDIR);
    const entries = guest.list(ROOT, false) as Listed[];
    const dots = entries.filter(({ name }) => name.toString().startsWith('.')).slice(0, 2);
    assert.deepEqual(
      dots.map(({ name, ino, type }) => [name.toString(), ino, type]),
      [
        ['.', 128, 4],
        ['..', 128, 4],
      ],
    );
    assert.equal((guest.lookup(mounted.node('/big'), '..') as { node: number }).node, ROOT);
  });

  test('an absent name is a negative entry that may be cached', () => {
    const entry = guest.lookup(ROOT, 'absent');
    assert.ok(typeof entry !== 'number');
    assert.equal(entry.node, 0);
    assert.equal(guest.request.reply.u32[Request.BODY_WORD + 4], 365 * 24 * 3600);
    assert.equal(guest.lookup(ROOT, 'x'.repeat(256)), -errno.ENAMETOOLONG);
  });

  test('nodes that cannot exist are stale', () => {
    for (const node of [0, 0x7fff_ffff, 0xffff_ffff]) assert.equal(guest.getattr(node), -errno.ESTALE);
    // The root's nid stands for nid 1, which this image has not: it lies in the boot area.
    assert.notEqual((guest.getattr(128) as Attributes).ino, 128);
  });

  test('directories list the same in calls of any size, and from every cookie', () => {
    const dir = mounted.node('/many');
    const whole = guest.list(dir, false, 128 * 1024) as Listed[];
    assert.ok(whole.length > 250, `${whole.length} entries`);
    const brief = (entries: Listed[]) => entries.map(({ name, ino, cookie }) => [name.toString(), ino, cookie]);
    for (const size of [280, 1000, 4096]) {
      assert.deepEqual(brief(guest.list(dir, false, size) as Listed[]), brief(whole));
      assert.deepEqual(brief(guest.list(dir, true, size + 128) as Listed[]), brief(whole));
    }
    for (const i of [0, 1, 100, whole.length - 2, whole.length - 1]) {
      assert.deepEqual(brief(guest.list(dir, false, 4096, whole[i].cookie) as Listed[]), brief(whole.slice(i + 1)));
    }
    assert.equal(new Set(whole.map(({ cookie }) => cookie)).size, whole.length);
    assert.equal(guest.list(dir, false, 20), -errno.EINVAL);
    assert.equal(guest.list(dir, false, 4096, 511), -errno.EINVAL);
    assert.equal(guest.list(dir, false, 4096, -1), -errno.EINVAL);
  });

  test('reads end at the end of the file, whatever their offset and size', () => {
    const path = [...expectedTree('expect/full.json').values()].find(({ size }) => (size ?? 0) > 1_500_000)!;
    const node = mounted.node(path.path);
    const size = path.size!;
    const whole = mounted.readAll(node, size, 1024 * 1024);
    const none = (): never => assert.fail('everything is in the cache');
    for (const [offset, bytes] of [
      [0, 1],
      [1, 4096],
      [1024 * 1024 - 3, 7],
      [size - 5, 4096],
      [4097, 700_001],
    ]) {
      assert.deepEqual(guest.read(node, offset, bytes, none), whole.subarray(offset, offset + bytes));
    }
    assert.deepEqual(guest.read(node, size, 4096, none), Buffer.alloc(0));
    assert.deepEqual(guest.read(node, size + 10 ** 12, 4096, none), Buffer.alloc(0));
  });

  test('a read whose chunks never come ends with EIO, a full parking table with EBUSY', () => {
    const lazy = new Mounted(bootPath('v6-zstd-blake3'));
    const file = [...expectedTree('expect/full.json').values()].find(({ size }) => (size ?? 0) > 4096)!;
    const node = lazy.node(file.path);
    let attempts = 0;
    assert.equal(
      lazy.guest.read(node, 0, 4096, () => attempts++),
      -errno.EIO,
    );
    assert.equal(attempts, 4);
    assert.match(lazy.lines.join(), /not in the cache although they were fetched/);
    lazy.guest.refuseParking = true;
    assert.equal(
      lazy.guest.read(node, 0, 4096, () => attempts++),
      -errno.EBUSY,
    );
    assert.equal(lazy.guest.fetches.length, 0);
    lazy.close();
  });

  test('a cache file that was cut is filled again, else EIO, never wrong bytes', () => {
    const cut = new Mounted(bootPath('v6-none-blake3-4k'));
    const file = [...expectedTree('expect/small.json').values()].find(({ size }) => (size ?? 0) > 8192)!;
    const node = cut.node(file.path);
    cut.readAll(node, file.size!, 128 * 1024);
    const good = cut.guest.read(node, 0, 8192, () => {});
    ftruncateSync(cut.blobs.handles[0].dataFd, 0);
    assert.equal(
      cut.guest.read(node, 0, 8192, () => {}),
      -errno.EIO,
    );
    assert.match(cut.lines.join(), /not in the cache/);
    const again = cut.guest.read(node, 0, 8192, ({ handle, chunks }) => cut.blobs.fetch(handle, chunks));
    assert.deepEqual(again, good);
    cut.close();
  });

  test('xattr sizes, short buffers and absent names', () => {
    const node = mounted.node('/xattr/cap');
    assert.equal(guest.getxattr(node, 'security.capability', 0), 20);
    assert.equal(guest.getxattr(node, 'security.capability', 19), -errno.ERANGE);
    assert.equal(guest.getxattr(node, 'security.capabilit'), -errno.ENODATA);
    assert.equal(guest.getxattr(node, 'trusted.overlay.opaque'), -errno.ENODATA);
    assert.equal(guest.listxattr(node, 0), 'security.capability'.length + 1);
    assert.equal(guest.listxattr(node, 5), -errno.ERANGE);
    assert.equal(guest.getxattr(ROOT, 'security.capability'), -errno.ENODATA);
    assert.deepEqual(guest.listxattr(ROOT), []);
  });

  test('opens for reading keep the cache; opens for writing and every change are EROFS', () => {
    const { rafs } = mounted;
    const { request } = guest;
    const open = new A.OpenArgs();
    request.nodeLow = mounted.node('/xattr/cap');
    assert.equal(rafs.open(request, open), 16);
    const flags = () => request.reply.u32[Request.BODY_WORD + OPEN_OUT.OPEN_FLAGS];
    assert.equal(flags(), FOPEN.KEEP_CACHE | FOPEN.NOFLUSH);
    for (const write of [1, 2, 0o1000]) {
      open.flags = write;
      assert.equal(rafs.open(request, open), -errno.EROFS);
    }
    open.flags = 0;
    assert.equal(rafs.opendir(request), -errno.ENOTDIR);
    request.nodeLow = ROOT;
    assert.equal(rafs.open(request, open), -errno.EISDIR);
    assert.equal(rafs.opendir(request), 16);
    assert.equal(flags(), FOPEN.KEEP_CACHE | FOPEN.CACHE_DIR);
    for (const change of [rafs.setattr(), rafs.mkdir(), rafs.unlink(), rafs.write(), rafs.setxattr(), rafs.create()]) {
      assert.equal(change, -errno.EROFS);
    }
    const access = new A.AccessArgs();
    access.mask = 4;
    assert.equal(rafs.access(request, access), 0);
    access.mask = 2;
    assert.equal(rafs.access(request, access), -errno.EROFS);
  });

  test('lseek finds data up to the end and no hole before it', () => {
    const { request } = guest;
    const args = new A.LseekArgs();
    request.nodeLow = mounted.node('/xattr/cap');
    const seek = (whence: number, offset: number) => {
      args.whence = whence;
      args.offset = offset;
      const result = mounted.rafs.lseek(request, args);
      return result < 0 ? result : request.reply.u32[Request.BODY_WORD];
    };
    assert.equal(seek(3, 1), 1);
    assert.equal(seek(4, 1), 3);
    assert.equal(seek(3, 3), -errno.ENXIO);
    assert.equal(seek(0, 0), -errno.EINVAL);
  });

  test('statfs counts names and 4096-byte blocks', () => {
    assert.equal(mounted.rafs.statfs(guest.request), 80);
    const { u32 } = guest.request.reply;
    assert.equal(u32[Request.BODY_WORD + 6], 528);
    assert.equal(u32[Request.BODY_WORD + 10], 4096);
    assert.equal(u32[Request.BODY_WORD + 11], 255);
  });

  test('a read over missing chunks parks once and asks for all of them', () => {
    const lazy = new Mounted(bootPath('v6-none-sha256-4k'));
    const file = [...expectedTree('expect/small.json').values()].find(({ size }) => (size ?? 0) > 65536)!;
    const args = new A.ReadArgs();
    args.size = 65536;
    let parked = 0;
    const data = lazy.guest.read(lazy.node(file.path), 0, args.size, ({ handle, chunks }) => {
      parked++;
      assert.equal(chunks.length, new Set(chunks.map(({ chunkIndex }) => chunkIndex)).size);
      lazy.blobs.fetch(handle, chunks);
    });
    assert.ok(typeof data !== 'number' && data.length === 65536);
    assert.equal(parked, 1);
    lazy.close();
  });

  test('a read of pages that are not in memory waits for the disk elsewhere, and gets its bytes', (t) => {
    const cold = new Mounted(bootPath('v6-none-sha256-4k'));
    const file = [...expectedTree('expect/small.json').values()].find(({ size }) => (size ?? 0) > 150_000)!;
    const node = cold.node(file.path);
    const warm = cold.readAll(node, file.size!, 128 * 1024);
    fsyncSync(cold.blobs.handles[0].dataFd);
    execFileSync('dd', [`if=${cold.blobs.cachePath(0)}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' });
    assert.deepEqual(cold.readAll(node, file.size!, 128 * 1024), warm);
    // On tmpfs everything is in memory.
    t.diagnostic(`${cold.guest.slowReads} reads by the kernel`);
    cold.close();
  });
});
