import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { errno } from '../sys/errno.ts';
import { O } from '../sys/path.ts';
import { Table } from '../sys/table.ts';
import { needsRoot, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';
import { INODES_MAX } from './options.ts';

test('lookups are counted, and after the last FORGET table and descriptors are as before', () => {
  withShare({}, ({ dir, guest, fs, budget }) => {
    const before = fdCount();
    for (let i = 0; i < 50; i++) writeFileSync(join(dir, `f${i}`), '');
    const nodes = Array.from({ length: 50 }, (_, i) => guest.walk(`f${i}`).node);
    for (let i = 0; i < 50; i++) assert.equal(guest.walk(`f${i}`).node, nodes[i]);
    assert.equal(new Set(nodes).size, 50);
    assert.equal(fs.inodeCount, 50);
    assert.equal(fdCount(), before + 50);
    assert.equal(budget.used, 51);
    for (const node of nodes) guest.forget(node, 1);
    assert.equal(fs.inodeCount, 50);
    for (const node of nodes) guest.forget(node, 1);
    assert.equal(fs.inodeCount, 0);
    assert.equal(fdCount(), before);
    assert.equal(guest.getattr(nodes[0]), -errno.ESTALE);
    assert.ok(!nodes.includes(guest.walk('f0').node), 'an id came again');
  });
});

test('forget: unknown ids, the root, and more than was counted', () => {
  withShare({}, ({ dir, guest, fs }) => {
    writeFileSync(join(dir, 'f'), '');
    const { node } = guest.walk('f');
    guest.forget(99, 5);
    guest.forget(0, 1);
    guest.forget(0xffff_ffff, 1);
    guest.forget(ROOT_ID, 1_000_000);
    assert.ok(ok(guest.getattr(ROOT_ID)));
    guest.forget(node, Number.MAX_SAFE_INTEGER);
    assert.equal(fs.inodeCount, 0);
  });
});

test('lookup counts pass 2^32', () => {
  withShare({}, ({ dir, guest, fs, arena }) => {
    writeFileSync(join(dir, 'f'), '');
    const { node } = guest.walk('f');
    // Counting that far takes an hour: the saved record (words 4: id, 7 and 8: lookups) is put next to the edge.
    const table = new Table(arena, 'p.inodes', 10, INODES_MAX);
    let slot = table.next(0);
    while (table.get(slot, 4) !== node) slot = table.next(slot + 1);
    table.set(slot, 7, 0xffff_ffff);
    guest.walk('f');
    assert.deepEqual([table.get(slot, 7), table.get(slot, 8)], [0, 1]);
    guest.walk('f');
    guest.forget(node, 2 ** 32);
    assert.equal(fs.inodeCount, 1);
    guest.forget(node, 1);
    assert.equal(fs.inodeCount, 0);
  });
});

test('an inode forgotten while open: the handle goes on, the id does not', () => {
  withShare({}, ({ dir, guest, fs }) => {
    writeFileSync(join(dir, 'f'), 'still here');
    const { node } = guest.walk('f');
    const handle = ok(guest.open(node, O.RDONLY));
    guest.forget(node);
    assert.equal(fs.inodeCount, 0);
    assert.equal(ok(guest.read(node, handle, 0, 100)).toString(), 'still here');
    assert.equal(guest.open(node, O.RDONLY), -errno.ESTALE);
    assert.equal(guest.release(node, handle), 0);
    assert.equal(fs.handleCount, 0);
    assert.equal(fs.mountCount, 1);
  });
});

test('hard links are one inode, a renamed file stays itself, a replaced one does not', () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'a'), '1');
    const a = guest.walk('a');
    const b = ok(guest.link(a.node, ROOT_ID, 'b'));
    assert.equal(b.node, a.node);
    assert.equal(b.attr.nlink, 2);
    assert.equal(guest.walk('b').node, a.node);
    renameSync(join(dir, 'a'), join(dir, 'c'));
    assert.equal(guest.walk('c').node, a.node);
    rmSync(join(dir, 'b'));
    writeFileSync(join(dir, 'b'), '2');
    assert.notEqual(guest.walk('b').node, a.node);
    rmSync(join(dir, 'c'));
    assert.equal(ok(guest.getattr(a.node)).nlink, 0);
  });
});

test('names are bytes: not UTF-8, 255 of them, and one more', () => {
  withShare({}, ({ guest }) => {
    const odd = Buffer.from([0xff, 0xfe, 0x0a, 0x80, 0x01]);
    const long = Buffer.alloc(255, 'n');
    for (const name of [odd, long]) {
      const made = ok(guest.mknod(ROOT_ID, name, 0o100644));
      assert.equal(ok(guest.lookup(ROOT_ID, name)).node, made.node);
    }
    assert.equal(guest.lookup(ROOT_ID, Buffer.alloc(256, 'n')), -errno.ENAMETOOLONG);
    const names = guest.list(ROOT_ID).map((d) => d.name.toString('hex'));
    assert.ok(names.includes(odd.toString('hex')) && names.includes(long.toString('hex')));
  });
});

test('readlink: targets as they are, up to the page', () => {
  withShare({}, ({ dir, guest }) => {
    symlinkSync('/etc/passwd', join(dir, 'abs'));
    const entry = guest.walk('abs');
    assert.equal(entry.attr.mode & 0o170000, 0o120000);
    assert.equal(guest.readlink(entry.node), '/etc/passwd');
    const long = `${'x/'.repeat(2000)}y`;
    assert.equal(guest.readlink(ok(guest.symlink(ROOT_ID, 'long', long)).node), long);
    assert.equal(guest.readlink(ROOT_ID), -errno.EINVAL);
    assert.equal(guest.readlink(4711), -errno.ESTALE);
  });
});

test('an entry that does not fit the reply is not counted', () => {
  withShare({}, ({ dir, guest, fs }) => {
    writeFileSync(join(dir, 'f'), '');
    guest.walk('f');
    const { request } = guest;
    const real = fs.lookup.bind(fs);
    guest.fs.lookup = (r, a) => {
      r.replySpace = 127;
      return real(r, a);
    };
    assert.equal(guest.lookup(ROOT_ID, 'f'), -errno.EIO);
    guest.fs.lookup = real;
    assert.equal(request.replySpace, 127);
    guest.forget(guest.walk('f').node, 2);
    assert.equal(fs.inodeCount, 0);
  });
});

test('the budget: ENFILE for one request, and again room after a FORGET', () => {
  withShare({}, ({ dir, guest, budget, fs }) => {
    for (let i = 0; i < 5; i++) writeFileSync(join(dir, `f${i}`), '');
    const used = budget.used;
    Object.defineProperty(budget, 'limit', { value: used + 3 });
    const nodes = [0, 1, 2].map((i) => guest.walk(`f${i}`).node);
    assert.equal(guest.lookup(ROOT_ID, 'f3'), -errno.ENFILE);
    assert.equal(guest.open(nodes[0], O.RDONLY), -errno.ENFILE);
    assert.equal(guest.opendir(ROOT_ID), -errno.ENFILE);
    assert.equal(guest.create(ROOT_ID, 'new', O.RDWR), -errno.ENFILE);
    assert.equal(guest.mkdir(ROOT_ID, 'new', 0o700), -errno.ENFILE);
    assert.equal(guest.mknod(ROOT_ID, 'new', 0o100600), -errno.ENFILE);
    assert.equal(guest.symlink(ROOT_ID, 'new', 'f0'), -errno.ENFILE);
    assert.equal(existsSync(join(dir, 'new')), false, 'what could not be shown was made');
    assert.equal(guest.walk('f1').node, nodes[1], 'a known inode needs no descriptor');
    guest.forget(nodes[0]);
    const handle = ok(guest.opendir(ROOT_ID));
    const page = ok(guest.readdir(ROOT_ID, handle, 0, 0, 65536, true));
    assert.deepEqual(page.map((d) => d.name.toString()).sort(), ['.', '..', 'f0', 'f1', 'f2', 'f3', 'f4']);
    assert.equal(page.filter((d) => d.node !== 0).length, 2, 'names without a descriptor keep nodeid 0');
    guest.releasedir(ROOT_ID, handle);
    assert.equal(fs.handleCount, 0);
  });
});

test('a directory without permission for anybody is still the guest kernel’s to judge', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    mkdirSync(join(dir, 'closed'));
    chmodSync(join(dir, 'closed'), 0);
    writeFileSync(join(dir, 'closed/f'), 'x');
    guest.as(1000, 1000);
    assert.equal(guest.walk('closed/f').attr.size, 1);
  });
});
