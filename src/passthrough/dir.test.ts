import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, rmdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { errno } from '../sys/errno.ts';
import type { Dirent } from './guest.testing.ts';
import { needsRoot, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';

const sorted = (list: Dirent[]): string[] => list.map((d) => d.name.toString()).sort();

test('entries carry inode number and type; "." and ".." are there; the parent of the share is not', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    mkdirSync(join(dir, 'd'));
    writeFileSync(join(dir, 'f'), '');
    symlinkSync('f', join(dir, 'l'));
    ok(guest.mknod(ROOT_ID, 'fifo', 0o010600));
    ok(guest.mknod(ROOT_ID, 'white', 0o020000));
    for (const plus of [false, true]) {
      const list = new Map(guest.list(ROOT_ID, plus).map((d) => [d.name.toString(), d]));
      const types = Object.fromEntries([...list].map(([name, d]) => [name, d.type]));
      assert.deepEqual(types, { '.': 4, '..': 4, d: 4, f: 8, l: 10, fifo: 1, white: 2 });
      for (const name of ['d', 'f', 'l', 'fifo', 'white'])
        assert.equal(list.get(name)?.ino, lstatSync(join(dir, name), { bigint: true }).ino, name);
      const root = lstatSync(dir, { bigint: true }).ino;
      assert.deepEqual([list.get('.')?.ino, list.get('..')?.ino], [root, root]);
    }
    const inside = guest.list(guest.walk('d').node);
    assert.equal(inside.find((d) => d.name.toString() === '..')?.ino, lstatSync(dir, { bigint: true }).ino);
  });
});

test('every cookie is a place to go on from, also out of order and with other streams between', () => {
  withShare({}, ({ dir, guest }) => {
    for (let i = 0; i < 300; i++) writeFileSync(join(dir, `n${i}`), '');
    const handles = Array.from({ length: 12 }, () => ok(guest.opendir(ROOT_ID)));
    const all = guest.list(ROOT_ID, false, 131072);
    for (let step = 0; step < all.length; step += 37) {
      const { low, high } = all[step];
      for (const handle of handles) {
        const page = ok(guest.readdir(ROOT_ID, handle, low, high, 512));
        assert.deepEqual(
          page.map((d) => d.name.toString()),
          all.slice(step + 1, step + 1 + page.length).map((d) => d.name.toString()),
        );
        assert.ok(page.length > 0 || step === all.length - 1);
      }
    }
    const back = ok(guest.readdir(ROOT_ID, handles[0], 0, 0, 131072));
    assert.equal(back.length, all.length);
  });
});

test('rewinding shows what changed; entries removed meanwhile do not end the stream', () => {
  withShare({}, ({ dir, guest }) => {
    for (let i = 0; i < 100; i++) writeFileSync(join(dir, `n${i}`), '');
    const handle = ok(guest.opendir(ROOT_ID));
    const first = ok(guest.readdir(ROOT_ID, handle, 0, 0, 1024));
    writeFileSync(join(dir, 'late'), '');
    for (const d of first) if (d.name[0] !== 0x2e) rmSync(join(dir, d.name.toString()));
    let { low, high } = first[first.length - 1];
    const rest: Dirent[] = [];
    for (;;) {
      const page = ok(guest.readdir(ROOT_ID, handle, low, high, 1024));
      if (page.length === 0) break;
      rest.push(...page);
      ({ low, high } = page[page.length - 1]);
    }
    const seen = new Set([...first, ...rest].map((d) => d.name.toString()));
    for (let i = 0; i < 100; i++) assert.ok(seen.has(`n${i}`), `n${i}`);
    const again = sorted(ok(guest.readdir(ROOT_ID, handle, 0, 0, 131072)));
    const removed = first.filter((d) => d.name[0] !== 0x2e).length;
    assert.ok(again.includes('late'));
    assert.equal(again.length, 100 - removed + 3);
  });
});

test('readdirplus counts each entry once, "." and ".." not at all, and only what fits', () => {
  withShare({}, ({ dir, guest, fs }) => {
    for (let i = 0; i < 60; i++) writeFileSync(join(dir, `${'long-name-'.repeat(15)}${i}`), '');
    const handle = ok(guest.opendir(ROOT_ID));
    const page = ok(guest.readdir(ROOT_ID, handle, 0, 0, 1000, true));
    const counted = page.filter((d) => d.node !== 0);
    assert.equal(fs.inodeCount, counted.length);
    assert.ok(page.length < 7 && counted.every((d) => d.name[0] !== 0x2e));
    for (const d of counted) guest.forget(d.node, 1);
    assert.equal(fs.inodeCount, 0);
    guest.list(ROOT_ID, true);
    guest.list(ROOT_ID, true);
    assert.equal(fs.inodeCount, 60);
    for (const d of guest.list(ROOT_ID, true)) if (d.node !== 0) guest.forget(d.node, 3);
    assert.equal(fs.inodeCount, 0);
  });
});

test('a name that vanished before its lookup stays in the list, without an inode', () => {
  withShare({}, ({ dir, guest }) => {
    for (let i = 0; i < 30; i++) writeFileSync(join(dir, `n${i}`), '');
    const handle = ok(guest.opendir(ROOT_ID));
    const first = ok(guest.readdir(ROOT_ID, handle, 0, 0, 400, true));
    const rest = Array.from({ length: 30 }, (_, i) => `n${i}`).filter(
      (n) => !first.some((d) => d.name.toString() === n),
    );
    for (const name of rest) rmSync(join(dir, name));
    const { low, high } = first[first.length - 1];
    const page = ok(guest.readdir(ROOT_ID, handle, low, high, 131072, true));
    const vanished = page.filter((d) => rest.includes(d.name.toString()));
    assert.equal(vanished.length, rest.length);
    assert.ok(vanished.every((d) => d.node === 0 && d.type === 8));
  });
});

test('too small for one record, empty and removed directories, impossible cookies', () => {
  withShare({}, ({ dir, guest }) => {
    mkdirSync(join(dir, 'd'));
    const { node } = guest.walk('d');
    const handle = ok(guest.opendir(node));
    assert.equal(guest.readdir(node, handle, 0, 0, 31), -errno.EINVAL);
    assert.equal(guest.readdir(node, handle, 0, 0, 159, true), -errno.EINVAL);
    assert.deepEqual(sorted(ok(guest.readdir(node, handle, 0, 0, 64))), ['.', '..']);
    const far = guest.readdir(node, handle, 0xffff_fff0, 0xffff_ffff, 4096);
    assert.ok(far === -errno.EINVAL || ok(far).length === 0);
    assert.equal(ok(guest.readdir(node, handle, 0, 0, 4096)).length, 2);
    rmdirSync(join(dir, 'd'));
    const gone = guest.readdir(node, handle, 0, 0, 4096);
    assert.ok(typeof gone === 'number' ? gone === -errno.ENOENT : gone.length <= 2);
    assert.equal(guest.releasedir(node, handle), 0);
    assert.equal(guest.fsync(node, handle, true), -errno.EBADF);
  });
});
