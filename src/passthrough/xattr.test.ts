import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { INIT } from '../fuse/flags.ts';
import { errno } from '../sys/errno.ts';
import { needsRoot, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';

test('set, get, list, remove on a file and a directory, trusted.* included', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), '');
    for (const node of [guest.walk('f').node, ROOT_ID]) {
      assert.equal(guest.setxattr(node, 'user.one', 'value'), 0);
      assert.equal(guest.setxattr(node, 'trusted.overlay.opaque', 'y'), 0);
      assert.equal(ok(guest.getxattr(node, 'user.one')).toString(), 'value');
      assert.equal(ok(guest.getxattr(node, 'user.one', 0)).readUInt32LE(0), 5);
      assert.equal(guest.getxattr(node, 'user.one', 4), -errno.ERANGE);
      assert.equal(guest.getxattr(node, 'user.none'), -errno.ENODATA);
      const names = ok(guest.listxattr(node)).toString().split('\0').filter(Boolean).sort();
      assert.deepEqual(
        names.filter((n) => !n.startsWith('security.')),
        ['trusted.overlay.opaque', 'user.one'],
      );
      assert.ok(ok(guest.listxattr(node, 0)).readUInt32LE(0) >= 32);
      assert.equal(guest.listxattr(node, 3), -errno.ERANGE);
      assert.equal(guest.setxattr(node, 'user.one', 'x', 1), -errno.EEXIST);
      assert.equal(guest.setxattr(node, 'user.two', 'x', 2), -errno.ENODATA);
      assert.equal(guest.setxattr(node, 'user.two', 'x', 4), -errno.EINVAL);
      assert.equal(guest.setxattr(node, 'user.empty', ''), 0);
      assert.equal(ok(guest.getxattr(node, 'user.empty')).length, 0);
      assert.equal(guest.removexattr(node, 'user.one'), 0);
      assert.equal(guest.removexattr(node, 'user.one'), -errno.ENODATA);
    }
  });
});

test('links and whiteouts: their own attributes, nothing is followed or opened', needsRoot, () => {
  withShare({}, ({ dir, outside, guest }) => {
    writeFileSync(join(outside, 'canary'), '');
    const link = ok(guest.symlink(ROOT_ID, 'link', join(outside, 'canary'))).node;
    const whiteout = ok(guest.mknod(ROOT_ID, 'white', 0o020000, 0, 0)).node;
    for (const node of [link, whiteout]) {
      assert.equal(guest.setxattr(node, 'trusted.overlay.x', 'own'), 0);
      assert.equal(ok(guest.getxattr(node, 'trusted.overlay.x')).toString(), 'own');
      assert.equal(guest.setxattr(node, 'user.x', 'v'), -errno.EPERM);
    }
    writeFileSync(join(dir, 'copy'), '');
    assert.equal(guest.getxattr(guest.walk('copy').node, 'trusted.overlay.x'), -errno.ENODATA);
  });
});

const NOBODY = 0xffff_ffff;

/** system.posix_acl_access: version 2, then {tag u16, permissions u16, id u32}. */
function aclOf(...entries: [number, number, number][]): Buffer {
  const bytes = Buffer.alloc(4 + entries.length * 8);
  bytes.writeUInt32LE(2, 0);
  entries.forEach(([tag, permissions, id], i) => {
    bytes.writeUInt16LE(tag, 4 + i * 8);
    bytes.writeUInt16LE(permissions, 6 + i * 8);
    bytes.writeUInt32LE(id, 8 + i * 8);
  });
  return bytes;
}

test('ACLs are neither shown nor set unless the guest enforces them', () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), '');
    const { node } = guest.walk('f');
    const acl = aclOf([1, 6, NOBODY], [2, 6, 1000], [4, 4, NOBODY], [16, 6, NOBODY], [32, 4, NOBODY]);
    const flags = guest.request.negotiated.flags;
    guest.request.negotiated.flags |= INIT.POSIX_ACL;
    const set = guest.setxattr(node, 'system.posix_acl_access', acl);
    assert.equal(set, 0);
    assert.ok(ok(guest.listxattr(node)).includes('system.posix_acl_access'));
    assert.ok(ok(guest.getxattr(node, 'system.posix_acl_access')).equals(acl));
    guest.request.negotiated.flags = flags;
    guest.setxattr(node, 'user.a', '1');
    assert.equal(ok(guest.listxattr(node)).includes('posix_acl'), false);
    assert.ok(ok(guest.listxattr(node)).includes('user.a'));
    assert.equal(guest.getxattr(node, 'system.posix_acl_access'), -errno.EOPNOTSUPP);
    assert.equal(guest.setxattr(node, 'system.posix_acl_default', acl), -errno.EOPNOTSUPP);
    assert.equal(guest.removexattr(node, 'system.posix_acl_access'), -errno.EOPNOTSUPP);
  });
});

test('switched off: EOPNOTSUPP, never ENOSYS', () => {
  withShare({ xattr: false }, ({ guest }) => {
    const all = [
      guest.setxattr(ROOT_ID, 'user.a', 'b'),
      guest.getxattr(ROOT_ID, 'user.a'),
      guest.listxattr(ROOT_ID),
      guest.removexattr(ROOT_ID, 'user.a'),
    ];
    assert.deepEqual(
      all,
      all.map(() => -errno.EOPNOTSUPP),
    );
  });
});
