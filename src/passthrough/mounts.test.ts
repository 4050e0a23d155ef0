import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, rmdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { INIT } from '../fuse/flags.ts';
import { errno } from '../sys/errno.ts';
import { O } from '../sys/path.ts';
import { type Fixture, needsRoot, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';

const SUBMOUNT = 1;

function mounted(path: string, args: string[], use: () => void): void {
  execFileSync('mount', [...args, path]);
  try {
    use();
  } finally {
    execFileSync('umount', ['-l', path]);
  }
}

function withMount(options: object, use: (fixture: Fixture, path: string) => void): void {
  withShare(options, (fixture) => {
    const path = join(fixture.dir, 'm');
    mkdirSync(path);
    writeFileSync(join(path, 'below'), 'below');
    mounted(path, ['-t', 'tmpfs', 'tmpfs'], () => {
      writeFileSync(join(path, 'on-it'), 'mounted');
      use(fixture, path);
      fixture.fs.reset();
    });
  });
}

test('a host mount below the share is crossed and announced', needsRoot, () => {
  withMount({}, ({ guest, fs }, path) => {
    const entry = guest.walk('m');
    assert.equal(entry.attr.flags, SUBMOUNT);
    assert.equal(entry.attr.ino, statSync(path, { bigint: true }).ino);
    assert.equal(guest.lookup(entry.node, 'below'), -errno.ENOENT);
    const file = guest.walk('m/on-it');
    assert.equal(file.attr.flags, 0);
    const handle = ok(guest.open(file.node, O.RDONLY));
    assert.equal(ok(guest.read(file.node, handle, 0, 100)).toString(), 'mounted');
    assert.equal(fs.mountCount, 2);
    const listed = guest.list(ROOT_ID, true).find((d) => d.name.toString() === 'm');
    assert.deepEqual([listed?.node, listed?.attrFlags], [entry.node, SUBMOUNT]);
    assert.equal(guest.syncfs(entry.node), 0);
    assert.equal(guest.rename(ROOT_ID, 'm', ROOT_ID, 'n'), -errno.EBUSY);
    const made = ok(guest.create(entry.node, 'new', O.RDWR));
    assert.equal(guest.link(made.entry.node, ROOT_ID, 'x'), -errno.EXDEV);
  });
});

test('a guest that knows no submounts gets other inode numbers for another device instead', needsRoot, () => {
  withMount({}, ({ guest }, path) => {
    guest.request.negotiated.flags &= ~INIT.SUBMOUNTS;
    const entry = guest.walk('m');
    assert.equal(entry.attr.flags, 0);
    const host = statSync(path, { bigint: true }).ino;
    assert.notEqual(entry.attr.ino, host);
    assert.equal(entry.attr.ino & 0xffff_ffffn, host & 0xffff_ffffn);
    const file = guest.walk('m/on-it');
    assert.equal(guest.list(entry.node).find((d) => d.name.toString() === 'on-it')?.ino, file.attr.ino);
  });
  withMount({ announceSubmounts: false }, ({ guest }) => assert.equal(guest.walk('m').attr.flags, 0));
});

test(
  'A13, A14: a bind mount made later is seen; taken away, FORGET leaves no descriptor and the host may rmdir',
  needsRoot,
  () => {
    withShare({}, ({ dir, outside, guest, fs }) => {
      const before = fdCount();
      const path = join(dir, 'volume');
      mkdirSync(path);
      const bare = guest.walk('volume').node;
      writeFileSync(join(outside, 'data'), 'bound');
      let volume = 0;
      let data = 0;
      mounted(path, ['--bind', outside], () => {
        const entry = guest.walk('volume');
        volume = entry.node;
        assert.notEqual(volume, bare);
        assert.equal(entry.attr.ino, statSync(outside, { bigint: true }).ino);
        data = guest.walk('volume/data').node;
        assert.equal(guest.syncfs(volume), 0);
      });
      assert.equal(guest.lookup(ROOT_ID, 'volume') instanceof Object && guest.walk('volume').node, bare);
      assert.equal(guest.lookup(bare, 'data'), -errno.ENOENT);
      guest.forget(data, 1);
      guest.forget(volume, 2);
      guest.forget(bare, 3);
      assert.equal(fs.inodeCount, 0);
      assert.equal(fs.mountCount, 1);
      assert.equal(fdCount(), before);
      rmdirSync(path);
      assert.equal(guest.lookup(ROOT_ID, 'volume'), -errno.ENOENT);
    });
  },
);

test('the same file through two mounts is two inodes', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    const path = join(dir, 'twice');
    mkdirSync(path);
    mkdirSync(join(dir, 'd'));
    writeFileSync(join(dir, 'd/f'), '');
    mounted(path, ['--bind', join(dir, 'd')], () => {
      const [one, two] = [guest.walk('d/f'), guest.walk('twice/f')];
      assert.equal(one.attr.ino, two.attr.ino);
      assert.notEqual(one.node, two.node);
    });
  });
});
