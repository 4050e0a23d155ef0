import assert from 'node:assert/strict';
import { chmodSync, lstatSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { FATTR } from '../fuse/flags.ts';
import { errno } from '../sys/errno.ts';
import { O } from '../sys/path.ts';
import { needsRoot, ok, withShare } from './harness.testing.ts';
import { ROOT_ID } from './inodes.ts';

test('setattr: mode, owner, size and times, alone and together', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), '0123456789');
    const { node } = guest.walk('f');
    assert.equal(ok(guest.setattr(node, FATTR.MODE, { mode: 0o100604 })).mode, 0o100604);
    const owned = ok(guest.setattr(node, FATTR.UID | FATTR.GID, { uid: 12, gid: 34 }));
    assert.deepEqual([owned.uid, owned.gid], [12, 34]);
    assert.deepEqual([ok(guest.setattr(node, FATTR.GID, { uid: 99, gid: 35 })).uid], [12]);
    assert.equal(ok(guest.setattr(node, FATTR.UID, { uid: 0xffff_ffff })).uid, 12);
    assert.equal(ok(guest.setattr(node, FATTR.SIZE, { size: 4 })).size, 4);
    assert.equal(readFileSync(join(dir, 'f'), 'utf8'), '0123');
    assert.equal(ok(guest.setattr(node, FATTR.SIZE, { size: 6 })).size, 6);
    assert.equal(readFileSync(join(dir, 'f'), 'latin1'), '0123\0\0');
    const all = ok(
      guest.setattr(node, FATTR.MODE | FATTR.UID | FATTR.GID | FATTR.SIZE | FATTR.MTIME, {
        mode: 0o600,
        uid: 1,
        gid: 2,
        size: 1,
        mtimeLow: 1000,
        mtimeNsec: 5,
      }),
    );
    assert.deepEqual([all.mode, all.uid, all.gid, all.size, all.mtime, all.mtimeNsec], [0o100600, 1, 2, 1, 1000, 5]);
  });
});

test('setattr times: given, now, untouched, before 1970, impossible', () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), '');
    const { node } = guest.walk('f');
    ok(
      guest.setattr(node, FATTR.ATIME | FATTR.MTIME, {
        atimeLow: 11,
        atimeNsec: 1,
        mtimeLow: 22,
        mtimeNsec: 999_999_999,
      }),
    );
    let attr = ok(guest.getattr(node));
    assert.deepEqual([attr.atime, attr.atimeNsec, attr.mtime, attr.mtimeNsec], [11, 1, 22, 999_999_999]);
    attr = ok(guest.setattr(node, FATTR.ATIME | FATTR.ATIME_NOW, { atimeLow: 5 }));
    assert.ok(Math.abs(attr.atime - Date.now() / 1000) < 60);
    assert.equal(attr.mtime, 22);
    ok(guest.setattr(node, FATTR.MTIME, { mtimeLow: 0xffff_fffe, mtimeHigh: 0xffff_ffff }));
    assert.equal(statSync(join(dir, 'f'), { bigint: true }).mtimeNs, -2_000_000_000n);
    for (const mtimeNsec of [1_000_000_000, 0x3fff_ffff, 0x3fff_fffe])
      assert.equal(guest.setattr(node, FATTR.MTIME, { mtimeNsec }), -errno.EINVAL);
    attr = ok(guest.setattr(node, FATTR.CTIME, {}));
    assert.equal(attr.size, 0);
  });
});

test('setattr through a handle works on an unlinked file; a handle of another node is refused', () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), 'abc');
    writeFileSync(join(dir, 'g'), '');
    const { node } = guest.walk('f');
    const other = guest.walk('g').node;
    const handle = ok(guest.open(node, O.RDWR));
    guest.unlink(ROOT_ID, 'f');
    const fh = { fhLow: handle.low, fhHigh: handle.high };
    assert.equal(ok(guest.setattr(node, FATTR.SIZE | FATTR.FH, { ...fh, size: 9 })).size, 9);
    assert.equal(ok(guest.setattr(node, FATTR.MODE | FATTR.FH, { ...fh, mode: 0o600 })).mode, 0o100600);
    assert.equal(ok(guest.setattr(node, FATTR.MTIME | FATTR.FH, { ...fh, mtimeLow: 7 })).mtime, 7);
    assert.equal(ok(guest.setattr(node, FATTR.SIZE, { size: 2 })).size, 2, 'and without it too');
    assert.equal(guest.setattr(other, FATTR.SIZE | FATTR.FH, { ...fh, size: 9 }), -errno.EBADF);
    assert.equal(guest.getattr(other, handle), -errno.EBADF);
    const readOnly = ok(guest.open(node, O.RDONLY));
    const roFh = { fhLow: readOnly.low, fhHigh: readOnly.high };
    assert.equal(guest.setattr(node, FATTR.SIZE | FATTR.FH, { ...roFh, size: 9 }), -errno.EINVAL);
  });
});

test('links and directories: what may be changed touches them, never a target', needsRoot, () => {
  withShare({}, ({ dir, outside, guest }) => {
    writeFileSync(join(outside, 'canary'), 'canary');
    chmodSync(join(outside, 'canary'), 0o600);
    symlinkSync(join(outside, 'canary'), join(dir, 'link'));
    mkdirSync(join(dir, 'd'));
    const link = guest.walk('link').node;
    const before = statSync(join(outside, 'canary'), { bigint: true });
    assert.equal(guest.setattr(link, FATTR.MODE, { mode: 0o777 }), -errno.EOPNOTSUPP);
    assert.equal(guest.setattr(link, FATTR.SIZE, { size: 0 }), -errno.EINVAL);
    assert.equal(ok(guest.setattr(link, FATTR.UID, { uid: 77 })).uid, 77);
    assert.equal(ok(guest.setattr(link, FATTR.MTIME, { mtimeLow: 123 })).mtime, 123);
    assert.equal(lstatSync(join(dir, 'link')).uid, 77);
    const after = statSync(join(outside, 'canary'), { bigint: true });
    assert.deepEqual(
      [after.mode, after.uid, after.size, after.mtimeNs],
      [before.mode, before.uid, before.size, before.mtimeNs],
    );
    assert.equal(guest.setattr(guest.walk('d').node, FATTR.SIZE, { size: 0 }), -errno.EISDIR);
  });
});

test(
  'KILL_SUIDGID clears set-ID bits on truncate, write and open with O_TRUNC; without it root keeps them',
  needsRoot,
  () => {
    withShare({}, ({ dir, guest }) => {
      const path = join(dir, 'f');
      writeFileSync(path, 'abc');
      const { node } = guest.walk('f');
      const reset = (): void => chmodSync(path, 0o6755);
      const mode = (): number => statSync(path).mode & 0o7777;
      reset();
      ok(guest.setattr(node, FATTR.SIZE, { size: 2 }));
      assert.equal(mode(), 0o6755);
      ok(guest.setattr(node, FATTR.SIZE | FATTR.KILL_SUIDGID, { size: 1 }));
      assert.equal(mode(), 0o755);
      reset();
      const handle = ok(guest.open(node, O.WRONLY));
      assert.equal(guest.write(node, handle, 0, 'x'), 1);
      assert.equal(mode(), 0o6755);
      assert.equal(guest.write(node, handle, 0, 'x', 0, 4), 1);
      assert.equal(mode(), 0o755);
      reset();
      ok(guest.open(node, O.WRONLY | O.TRUNC, true));
      assert.equal(mode(), 0o755);
      reset();
      ok(guest.setattr(node, FATTR.UID, { uid: 5 }));
      assert.equal(mode(), 0o755, 'chown clears them always');
      reset();
      assert.equal(guest.write(node, handle, 0, 'x'), 1);
      assert.equal(mode(), 0o6755, 'and the capability is back');
    });
  },
);

test('FALLOCATE and COPY_FILE_RANGE, which have no flag for it, clear set-ID bits for all but root', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'from'), 'other code');
    const path = join(dir, 'to');
    writeFileSync(path, 'program');
    const from = guest.walk('from').node;
    const node = guest.walk('to').node;
    const source = ok(guest.open(from, O.RDONLY));
    const handle = ok(guest.open(node, O.RDWR));
    const changes = {
      fallocate: () => assert.equal(guest.fallocate(node, handle, 0, 0, 100), 0),
      copy: () => assert.equal(guest.copy(from, source, 0, { node, handle }, 0, 10), 10),
    };
    for (const [name, change] of Object.entries(changes)) {
      for (const [uid, expected] of [
        [0, 0o6755],
        [1000, 0o755],
        [0xffff_ffff, 0o755],
      ] as const) {
        chmodSync(path, 0o6755);
        guest.as(uid, uid);
        change();
        assert.equal(statSync(path).mode & 0o7777, expected, `${name} by ${uid}`);
      }
    }
  });
});

test('statfs: the numbers of the host', () => {
  withShare({}, ({ guest }) => {
    const words = guest.statfs(ROOT_ID) as Uint32Array;
    assert.ok(words[10] > 0 && words[11] === 255, 'block size and name length');
    assert.ok(words[0] + words[1] * 2 ** 32 > 0, 'blocks');
    assert.equal(guest.statfs(4711), -errno.ESTALE);
  });
});

test('access: mode bits', needsRoot, () => {
  withShare({}, ({ dir, guest }) => {
    writeFileSync(join(dir, 'f'), '');
    chmodSync(join(dir, 'f'), 0o640);
    const { node } = guest.walk('f');
    ok(guest.setattr(node, FATTR.UID | FATTR.GID, { uid: 10, gid: 20 }));
    assert.deepEqual([guest.as(10, 1).access(node, 6), guest.access(node, 1)], [0, -errno.EACCES]);
    assert.deepEqual([guest.as(1, 20).access(node, 4), guest.access(node, 2)], [0, -errno.EACCES]);
    assert.equal(guest.as(1, 1).access(node, 4), -errno.EACCES);
    assert.deepEqual([guest.as(0, 0).access(node, 6), guest.access(node, 1)], [0, -errno.EACCES]);
    assert.deepEqual([guest.access(ROOT_ID, 7), guest.access(node, 8)], [0, -errno.EINVAL]);
  });
});

test('time-outs follow the cache policy', () => {
  for (const [cache, seconds] of [
    ['never', 0],
    ['auto', 1],
    ['metadata', 86400],
    ['always', 86400],
  ] as const) {
    withShare({ cache }, ({ dir, guest }) => {
      writeFileSync(join(dir, 'f'), '');
      mkdirSync(join(dir, 'd'));
      const entry = guest.walk('f');
      assert.deepEqual([entry.entryValid, entry.attrValid], [seconds, seconds]);
      const file = ok(guest.open(entry.node, O.RDONLY)).flags;
      const directory = ok(guest.opendir(guest.walk('d').node)).flags;
      assert.equal((file & 1) !== 0, cache === 'never' || cache === 'metadata', 'DIRECT_IO');
      assert.equal((file & 2) !== 0, cache === 'always', 'KEEP_CACHE');
      assert.equal((directory & 10) === 10, cache === 'always' || cache === 'metadata', 'KEEP_CACHE and CACHE_DIR');
      const plus = guest.list(ROOT_ID, true).filter((d) => d.node !== 0).length;
      assert.equal(plus, cache === 'never' ? 0 : 2);
    });
  }
});
