import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { errno } from '../sys/errno.ts';
import { O } from '../sys/path.ts';
import { Guest } from './guest.testing.ts';
import { MEMBER } from './guest-names.testing.ts';
import { needsRoot, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';

test('lookup, getattr, open, read: what the host has', () => {
  withShare({}, ({ dir, guest }) => {
    mkdirSync(join(dir, 'd'));
    writeFileSync(join(dir, 'd/f'), 'hello passthrough');
    const entry = guest.walk('d/f');
    const stat = statSync(join(dir, 'd/f'), { bigint: true });
    assert.equal(entry.high, MEMBER);
    assert.equal(entry.attr.ino, stat.ino);
    assert.equal(entry.attr.size, 17);
    assert.equal(entry.attr.mode, Number(stat.mode));
    assert.deepEqual([entry.entryValid, entry.attrValid], [1, 1]);
    assert.deepEqual(ok(guest.getattr(entry.node)), entry.attr);
    const handle = ok(guest.open(entry.node, O.RDONLY));
    assert.equal(ok(guest.read(entry.node, handle, 0, 4096)).toString(), 'hello passthrough');
    assert.equal(ok(guest.read(entry.node, handle, 6, 4)).toString(), 'pass');
    assert.equal(ok(guest.read(entry.node, handle, 17, 4)).length, 0);
    assert.equal(ok(guest.getattr(entry.node, handle)).size, 17);
    assert.equal(guest.release(entry.node, handle), 0);
    assert.equal(guest.release(entry.node, handle), -errno.EBADF);
    assert.equal(guest.lookup(ROOT_ID, 'missing'), -errno.ENOENT);
    assert.equal(guest.lookup(entry.node, 'x'), -errno.ENOTDIR);
    assert.equal(guest.lookup(4711, 'x'), -errno.ESTALE);
  });
});

test('create and write: the file is there, as the caller', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    guest.as(1234, 2345);
    const { entry, handle } = ok(guest.create(ROOT_ID, 'new', O.RDWR, 0o640));
    assert.deepEqual([entry.attr.uid, entry.attr.gid, entry.attr.mode], [1234, 2345, 0o100640]);
    assert.equal(guest.write(entry.node, handle, 0, 'abcdef'), 6);
    assert.equal(guest.write(entry.node, handle, 3, 'XY'), 2);
    assert.equal(readFileSync(join(dir, 'new'), 'utf8'), 'abcXYf');
    assert.equal(ok(guest.read(entry.node, handle, 2, 100)).toString(), 'cXYf');
    assert.equal(guest.create(ROOT_ID, 'new', O.RDWR | O.EXCL), -errno.EEXIST);
    const again = ok(guest.create(ROOT_ID, 'new', O.RDWR | O.TRUNC));
    assert.equal(again.entry.node, entry.node);
    assert.equal(again.entry.attr.size, 0);
    symlinkSync('new', join(dir, 'link'));
    assert.equal(guest.create(ROOT_ID, 'link', O.RDWR), -errno.ESTALE);
  });
});

test('readdir and readdirplus: all names, all pages', () => {
  withShare({}, ({ dir, guest, fs }) => {
    const names = Array.from({ length: 500 }, (_, i) => `entry-${i}`);
    for (const name of names) writeFileSync(join(dir, name), name);
    const want = ['.', '..', ...names].sort();
    for (const size of [400, 4096, 131072]) {
      assert.deepEqual(
        guest
          .list(ROOT_ID, false, size)
          .map((d) => d.name.toString())
          .sort(),
        want,
      );
    }
    assert.equal(fs.inodeCount, 0);
    const plus = guest.list(ROOT_ID, true);
    assert.deepEqual(plus.map((d) => d.name.toString()).sort(), want);
    assert.equal(fs.inodeCount, 500);
    for (const d of plus) if (d.node !== 0) guest.forget(d.node);
    assert.equal(fs.inodeCount, 0);
    assert.ok(guest instanceof Guest);
  });
});
