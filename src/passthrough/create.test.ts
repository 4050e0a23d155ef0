import assert from 'node:assert/strict';
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { INIT, INIT2 } from '../fuse/flags.ts';
import { effectiveUid } from '../sys/credentials.ts';
import { errno } from '../sys/errno.ts';
import { O } from '../sys/path.ts';
import { needsRoot, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';

const RENAME = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 };

test('every kind of object is made with mode and owner of the caller', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    guest.as(4000, 5000);
    const made = {
      file: ok(guest.mknod(ROOT_ID, 'file', 0o100604)),
      plain: ok(guest.mknod(ROOT_ID, 'plain', 0o600)),
      fifo: ok(guest.mknod(ROOT_ID, 'fifo', 0o010644)),
      socket: ok(guest.mknod(ROOT_ID, 'socket', 0o140600)),
      whiteout: ok(guest.mknod(ROOT_ID, 'whiteout', 0o020000, 0, 0)),
      directory: ok(guest.mkdir(ROOT_ID, 'directory', 0o1770)),
      link: ok(guest.symlink(ROOT_ID, 'link', 'any/where')),
      created: ok(guest.create(ROOT_ID, 'created', O.WRONLY, 0o400)).entry,
    };
    const modes = {
      file: 0o100604,
      plain: 0o100600,
      fifo: 0o010644,
      socket: 0o140600,
      whiteout: 0o020000,
      directory: 0o041770,
      link: 0o120777,
      created: 0o100400,
    };
    for (const [name, entry] of Object.entries(made)) {
      const stat = lstatSync(join(dir, name));
      assert.deepEqual([stat.uid, stat.gid, stat.mode], [4000, 5000, modes[name as keyof typeof modes]], name);
      assert.deepEqual([entry.attr.uid, entry.attr.gid, entry.attr.mode], [stat.uid, stat.gid, stat.mode], name);
    }
    assert.equal(made.whiteout.attr.rdev, 0);
    assert.equal(readlinkSync(join(dir, 'link')), 'any/where');
    assert.equal(effectiveUid(), 0);
    const device = ok(guest.as(0, 0).mknod(ROOT_ID, 'dev', 0o060600, 0x123, 0x45678));
    assert.equal(device.attr.rdev, ((0x45678 & 0xff) | (0x123 << 8) | ((0x45678 & 0xfff00) << 12)) >>> 0);
  });
});

test('whatever fails, the daemon is itself again', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'there'), '');
    guest.as(4000, 5000, [6000]);
    assert.equal(guest.mkdir(ROOT_ID, 'there'), -errno.EEXIST);
    assert.equal(guest.symlink(ROOT_ID, 'there', 'x'), -errno.EEXIST);
    assert.equal(guest.mknod(ROOT_ID, Buffer.alloc(256, 'n'), 0o100600), -errno.ENAMETOOLONG);
    assert.equal(guest.mknod(ROOT_ID, 'dev', 0o020600, 1, 3), -errno.EPERM, 'a device is root’s to make');
    assert.equal(guest.create(ROOT_ID, 'there', O.RDWR | O.EXCL), -errno.EEXIST);
    assert.equal(effectiveUid(), 0);
    const root = ok(guest.as(0, 0).mkdir(ROOT_ID, 'mine'));
    assert.deepEqual([root.attr.uid, root.attr.gid], [0, 0]);
    const group = ok(guest.as(0, 42).mkdir(ROOT_ID, 'group'));
    assert.deepEqual([group.attr.uid, group.attr.gid], [0, 42]);
  });
});

test('unmapped ids make nothing', () => {
  withShare({}, ({ dir, guest }) => {
    for (const [uid, gid] of [
      [0xffff_ffff, 0],
      [0, 0xffff_ffff],
      [0xffff_ffff, 0xffff_ffff],
    ]) {
      guest.as(uid, gid);
      assert.equal(guest.mkdir(ROOT_ID, 'x'), -errno.EOVERFLOW);
      assert.equal(guest.create(ROOT_ID, 'x', O.RDWR), -errno.EOVERFLOW);
      assert.equal(existsSync(join(dir, 'x')), false);
    }
    writeFileSync(join(dir, 'f'), '');
    assert.equal(guest.rename(ROOT_ID, 'f', ROOT_ID, 'g'), 0, 'what makes nothing needs no ids');
    assert.equal(guest.unlink(ROOT_ID, 'g'), 0);
  });
});

test('set-group-ID directories give their group, and the bit to directories below', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    mkdirSync(join(dir, 'd'));
    chownSync(join(dir, 'd'), 0, 700);
    chmodSync(join(dir, 'd'), 0o2777);
    const { node } = guest.walk('d');
    guest.as(4000, 5000);
    assert.equal(ok(guest.mknod(node, 'f', 0o100644)).attr.gid, 700);
    const sub = ok(guest.mkdir(node, 's', 0o755));
    assert.deepEqual([sub.attr.gid, sub.attr.mode], [700, 0o042755]);
    assert.equal(ok(guest.mknod(node, 'strip', 0o102775)).attr.mode, 0o100775, 'not a member: the bit falls');
    const member = ok(guest.as(4000, 5000, [700]).mknod(node, 'keep', 0o102775));
    assert.equal(member.attr.mode, 0o102775, 'the group came with the request: it stays');
    assert.equal(ok(guest.as(4000, 5000).mknod(node, 'strip2', 0o102775)).attr.mode, 0o100775, 'and it is gone after');
  });
});

test('the umask is the guest’s business, until it says otherwise', () => {
  withShare({}, ({ guest }) => {
    assert.equal(ok(guest.mkdir(ROOT_ID, 'a', 0o777, 0o022)).attr.mode & 0o777, 0o777);
    guest.request.negotiated.flags |= INIT.DONT_MASK;
    assert.equal(ok(guest.mkdir(ROOT_ID, 'b', 0o777, 0o022)).attr.mode & 0o777, 0o755);
    assert.equal(ok(guest.mknod(ROOT_ID, 'c', 0o100666, 0, 0, 0o027)).attr.mode & 0o777, 0o640);
    assert.equal(ok(guest.create(ROOT_ID, 'd', O.RDWR, 0o666, 0o077)).entry.attr.mode & 0o777, 0o600);
    assert.equal(ok(guest.mkdir(ROOT_ID, 'e', 0o777, 0)).attr.mode & 0o777, 0o777, 'none is left over');
  });
});

test('a security context is set before the guest sees the object, or there is none', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    const { request } = guest;
    request.negotiated.flags2 |= INIT2.SECURITY_CTX;
    const give = (name: string): void => {
      request.contextName.address = request.memory.putText(70_000, name);
      request.contextAddress = request.memory.putText(71_000, 'ctx');
      request.contextBytes = 3;
    };
    give('trusted.context');
    const file = ok(guest.create(ROOT_ID, 'file', O.RDWR)).entry.node;
    const made = ok(guest.mkdir(ROOT_ID, 'dir')).node;
    give('nonsense');
    assert.equal(guest.create(ROOT_ID, 'no', O.RDWR), -errno.EOPNOTSUPP);
    assert.equal(guest.mkdir(ROOT_ID, 'no'), -errno.EOPNOTSUPP);
    assert.equal(guest.symlink(ROOT_ID, 'no', 'x'), -errno.EOPNOTSUPP);
    assert.equal(existsSync(join(dir, 'no')), false);
    request.contextBytes = 0;
    for (const node of [file, made]) assert.equal(ok(guest.getxattr(node, 'trusted.context')).toString(), 'ctx');
  });
});

test('rename: plain, over another, NOREPLACE, EXCHANGE, across directories', () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'a'), 'A');
    writeFileSync(join(dir, 'b'), 'B');
    const d = ok(guest.mkdir(ROOT_ID, 'd')).node;
    const a = guest.walk('a').node;
    assert.equal(guest.rename(ROOT_ID, 'a', ROOT_ID, 'b', RENAME.NOREPLACE), -errno.EEXIST);
    assert.equal(guest.rename(ROOT_ID, 'a', ROOT_ID, 'b', RENAME.EXCHANGE), 0);
    assert.equal(guest.walk('b').node, a);
    assert.equal(readFileSync(join(dir, 'a'), 'utf8'), 'B');
    assert.equal(guest.rename(ROOT_ID, 'b', d, 'c'), 0);
    assert.equal(guest.walk('d/c').node, a);
    assert.equal(guest.rename(d, 'c', ROOT_ID, 'a'), 0);
    assert.equal(readFileSync(join(dir, 'a'), 'utf8'), 'A');
    assert.equal(guest.rename(ROOT_ID, 'none', ROOT_ID, 'x'), -errno.ENOENT);
    assert.equal(guest.rename(ROOT_ID, 'd', d, 'x'), -errno.EINVAL, 'into itself');
    assert.equal(guest.rename(ROOT_ID, 'a', ROOT_ID, 'x', 8), -errno.EINVAL);
    assert.equal(guest.rename(ROOT_ID, 'a', 4711, 'x'), -errno.ESTALE);
    assert.equal(guest.rename(ROOT_ID, 'a', ROOT_ID, 'x', RENAME.EXCHANGE | RENAME.NOREPLACE), -errno.EINVAL);
  });
});

test('rename with WHITEOUT leaves a char 0:0 that belongs to the caller', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    for (const [uid, gid] of [
      [0, 0],
      [4000, 5000],
      [0xffff_ffff, 0xffff_ffff],
    ]) {
      writeFileSync(join(dir, 'f'), 'x');
      guest.as(uid, gid);
      assert.equal(guest.rename(ROOT_ID, 'f', ROOT_ID, 'moved', RENAME.WHITEOUT), 0);
      const stat = lstatSync(join(dir, 'f'));
      assert.deepEqual([stat.mode & 0o170000, stat.rdev], [0o020000, 0]);
      assert.deepEqual([stat.uid, stat.gid], uid === 4000 ? [4000, 5000] : [0, 0]);
      assert.equal(lstatSync(join(dir, 'moved')).uid, 0);
      assert.equal(guest.unlink(ROOT_ID, 'f'), 0);
    }
  });
});

test('unlink, rmdir and link refuse what the host refuses', () => {
  withShare({}, ({ dir, guest }) => {
    const d = ok(guest.mkdir(ROOT_ID, 'd')).node;
    writeFileSync(join(dir, 'd/f'), '');
    const f = guest.walk('d/f').node;
    assert.equal(guest.rmdir(ROOT_ID, 'd'), -errno.ENOTEMPTY);
    assert.equal(guest.unlink(ROOT_ID, 'd'), -errno.EISDIR);
    assert.equal(guest.rmdir(d, 'f'), -errno.ENOTDIR);
    assert.equal(guest.link(d, ROOT_ID, 'x'), -errno.EPERM);
    assert.equal(guest.link(f, d, 'f'), -errno.EEXIST);
    assert.equal(guest.link(4711, d, 'x'), -errno.ESTALE);
    const symlink = ok(guest.symlink(ROOT_ID, 's', 'target')).node;
    const second = ok(guest.link(symlink, ROOT_ID, 's2'));
    assert.deepEqual([second.node, second.attr.nlink, readlinkSync(join(dir, 's2'))], [symlink, 2, 'target']);
    assert.equal(guest.unlink(d, 'f'), 0);
    assert.equal(guest.link(f, d, 'again'), -errno.ENOENT, 'a file without a name gets none again');
    assert.equal(guest.rmdir(ROOT_ID, 'd'), 0);
    assert.equal(guest.lookup(d, 'x'), -errno.ENOENT);
    assert.equal(guest.create(d, 'x', O.RDWR), -errno.ENOENT);
    assert.equal(guest.mkdir(4711, 'x'), -errno.ESTALE);
    assert.equal(guest.mknod(ROOT_ID, 'x', 0o040755), -errno.EINVAL);
  });
});
