/** Modes, owners, times, special files, space. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import type { PosixCase } from './case.ts';
import { asUser, fails, mknod, UTIME, utimens } from './tools.ts';

const mode = (path: string): number => fs.lstatSync(path).mode & 0o7777;
const { O_NONBLOCK, O_RDWR, R_OK, W_OK, X_OK } = fs.constants;

/** A directory every user may pass, whatever the suite's own has. */
function open(dir: string, bits: number): string {
  fs.chmodSync(dir, 0o755);
  const path = join(dir, 'open');
  fs.mkdirSync(path);
  fs.chmodSync(path, bits);
  return path;
}

export const METADATA_CASES: readonly PosixCase[] = [
  {
    id: 'modes come back as set, and the umask counts',
    run: (dir) => {
      const path = join(dir, 'f');
      const old = process.umask(0o027);
      try {
        fs.writeFileSync(path, '', { mode: 0o666 });
        fs.mkdirSync(join(dir, 'd'), { mode: 0o777 });
      } finally {
        process.umask(old);
      }
      assert.deepEqual([mode(path), mode(join(dir, 'd'))], [0o640, 0o750]);
      for (const bits of [0, 0o777, 0o1644, 0o4755, 0o400]) {
        fs.chmodSync(path, bits);
        assert.equal(mode(path), bits);
      }
    },
  },
  {
    id: 'chmod through a link changes the target',
    run: (dir) => {
      fs.writeFileSync(join(dir, 'f'), '');
      fs.symlinkSync('f', join(dir, 'l'));
      fs.chmodSync(join(dir, 'l'), 0o600);
      assert.deepEqual([mode(join(dir, 'f')), mode(join(dir, 'l'))], [0o600, 0o777]);
    },
  },
  {
    id: 'chown and lchown',
    needs: ['root'],
    run: (dir) => {
      fs.writeFileSync(join(dir, 'f'), '');
      fs.symlinkSync('f', join(dir, 'l'));
      fs.chownSync(join(dir, 'l'), 11, 22);
      fs.lchownSync(join(dir, 'l'), 33, 44);
      const [f, l] = [fs.statSync(join(dir, 'f')), fs.lstatSync(join(dir, 'l'))];
      assert.deepEqual([f.uid, f.gid, l.uid, l.gid], [11, 22, 33, 44]);
      fs.chownSync(join(dir, 'f'), -1 >>> 0, 55);
      assert.deepEqual([fs.statSync(join(dir, 'f')).uid, fs.statSync(join(dir, 'f')).gid], [11, 55]);
    },
  },
  {
    id: 'chown clears set-ID bits of a program',
    needs: ['root'],
    run: (dir) => {
      fs.writeFileSync(join(dir, 'f'), '');
      fs.chmodSync(join(dir, 'f'), 0o6755);
      fs.chownSync(join(dir, 'f'), 5, 5);
      assert.equal(mode(join(dir, 'f')), 0o755);
    },
  },
  {
    id: 'a write or truncate by another user clears set-ID bits',
    needs: ['root', 'users'],
    run: (dir) => {
      const path = join(open(dir, 0o777), 'f');
      fs.writeFileSync(path, 'abc');
      for (const change of [() => fs.writeFileSync(path, 'x', { flag: 'r+' }), () => fs.truncateSync(path, 1)]) {
        fs.chmodSync(path, 0o6777);
        asUser(1000, 1000, change);
        assert.equal(mode(path), 0o777, `${change}`);
      }
    },
  },
  {
    id: 'files belong to who made them',
    needs: ['root', 'users'],
    run: (dir) => {
      const path = open(dir, 0o777);
      asUser(1234, 2345, () => {
        fs.writeFileSync(join(path, 'f'), '');
        fs.mkdirSync(join(path, 'd'));
        fs.symlinkSync('x', join(path, 'l'));
        mknod(join(path, 'p'), 0o010600);
      });
      for (const name of ['f', 'd', 'l', 'p']) {
        const { uid, gid } = fs.lstatSync(join(path, name));
        assert.deepEqual([uid, gid], [1234, 2345], name);
      }
    },
  },
  {
    id: 'permissions are enforced for other users',
    needs: ['root', 'users'],
    run: (dir) => {
      const path = open(dir, 0o755);
      fs.writeFileSync(join(path, 'secret'), 'x');
      fs.chmodSync(join(path, 'secret'), 0o600);
      asUser(1000, 1000, () => {
        fails('EACCES', () => fs.readFileSync(join(path, 'secret')));
        fails('EACCES', () => fs.writeFileSync(join(path, 'new'), ''));
        fails('EACCES', () => fs.unlinkSync(join(path, 'secret')));
        fails('EPERM', () => fs.chmodSync(join(path, 'secret'), 0o777));
        fails('EPERM', () => fs.chownSync(join(path, 'secret'), 1000, 1000));
        fails('EPERM', () => fs.utimesSync(join(path, 'secret'), 1, 1));
      });
      fs.chmodSync(path, 0o700);
      asUser(1000, 1000, () => fails('EACCES', () => fs.statSync(join(path, 'secret'))));
    },
  },
  {
    id: 'in a sticky directory only the owner removes a file',
    needs: ['root', 'users'],
    run: (dir) => {
      const path = open(dir, 0o1777);
      asUser(1000, 1000, () => fs.writeFileSync(join(path, 'f'), ''));
      asUser(2000, 2000, () => {
        fails('EPERM', () => fs.unlinkSync(join(path, 'f')));
        fails('EPERM', () => fs.renameSync(join(path, 'f'), join(path, 'g')));
      });
      asUser(1000, 1000, () => fs.unlinkSync(join(path, 'f')));
    },
  },
  {
    id: 'a set-group-ID directory gives group and bit to what is made in it',
    needs: ['root'],
    run: (dir) => {
      const path = open(dir, 0o755);
      fs.chownSync(path, 0, 777);
      fs.chmodSync(path, 0o2755);
      fs.writeFileSync(join(path, 'f'), '');
      fs.mkdirSync(join(path, 'd'));
      assert.equal(fs.statSync(join(path, 'f')).gid, 777);
      assert.deepEqual([fs.statSync(join(path, 'd')).gid, mode(join(path, 'd')) & 0o2000], [777, 0o2000]);
    },
  },
  {
    id: 'times to the nanosecond, before 1970 and after 2038',
    run: (dir) => {
      const path = join(dir, 'f');
      fs.writeFileSync(path, '');
      utimens(path, [1, 2], [3, 999_999_999]);
      let stat = fs.statSync(path, { bigint: true });
      assert.deepEqual([stat.atimeNs, stat.mtimeNs], [1_000_000_002n, 3_999_999_999n]);
      utimens(path, [-5, 1], [4_000_000_000, 0]);
      stat = fs.statSync(path, { bigint: true });
      assert.deepEqual([stat.atimeNs, stat.mtimeNs], [-4_999_999_999n, 4_000_000_000_000_000_000n]);
    },
  },
  {
    id: 'UTIME_OMIT leaves, UTIME_NOW sets to now',
    run: (dir) => {
      const path = join(dir, 'f');
      fs.writeFileSync(path, '');
      utimens(path, [100, 0], [200, 0]);
      utimens(path, [0, UTIME.OMIT], [300, 0]);
      assert.deepEqual([fs.statSync(path).atimeMs, fs.statSync(path).mtimeMs], [100_000, 300_000]);
      utimens(path, [0, UTIME.NOW], [0, UTIME.OMIT]);
      assert.ok(Math.abs(fs.statSync(path).atimeMs - Date.now()) < 60_000);
      assert.equal(fs.statSync(path).mtimeMs, 300_000);
    },
  },
  {
    id: 'times of a link are its own',
    run: (dir) => {
      fs.writeFileSync(join(dir, 'f'), '');
      fs.symlinkSync('f', join(dir, 'l'));
      const before = fs.statSync(join(dir, 'f')).mtimeMs;
      fs.lutimesSync(join(dir, 'l'), 50, 60);
      assert.equal(fs.lstatSync(join(dir, 'l')).mtimeMs, 60_000);
      assert.equal(fs.statSync(join(dir, 'f')).mtimeMs, before);
    },
  },
  {
    id: 'writing changes mtime, chmod only ctime, stat nothing',
    run: (dir) => {
      const path = join(dir, 'f');
      fs.writeFileSync(path, 'x');
      utimens(path, [1000, 0], [1000, 0]);
      const before = fs.statSync(path);
      fs.chmodSync(path, 0o600);
      fs.statSync(path);
      const after = fs.statSync(path);
      assert.deepEqual([after.atimeMs, after.mtimeMs], [1_000_000, 1_000_000]);
      assert.ok(after.ctimeMs >= before.ctimeMs);
      fs.appendFileSync(path, 'y');
      assert.ok(fs.statSync(path).mtimeMs > 1_000_000_000);
    },
  },
  {
    id: 'a hole takes no blocks',
    needs: ['holes'],
    run: (dir) => {
      fs.writeFileSync(join(dir, 'f'), '');
      fs.truncateSync(join(dir, 'f'), 1 << 26);
      const stat = fs.statSync(join(dir, 'f'));
      assert.ok(stat.size === 1 << 26 && stat.blocks * 512 < 1 << 20, `${stat.blocks} blocks`);
    },
  },
  {
    id: 'statfs tells space',
    run: (dir) => {
      const stat = fs.statfsSync(dir);
      assert.ok(stat.bsize >= 512 && stat.blocks >= stat.bfree && stat.bfree >= stat.bavail && stat.blocks > 0);
    },
  },
  {
    id: 'access follows the mode',
    needs: ['root'],
    run: (dir) => {
      const path = join(dir, 'f');
      fs.writeFileSync(path, '');
      fs.chmodSync(path, 0o644);
      fs.accessSync(path, R_OK | W_OK);
      fails('EACCES', () => fs.accessSync(path, X_OK));
      fs.chmodSync(path, 0o755);
      fs.accessSync(path, X_OK);
      fails('ENOENT', () => fs.accessSync(join(dir, 'none')));
    },
  },
  {
    id: 'a fifo carries bytes, a socket node is one',
    run: (dir) => {
      mknod(join(dir, 'fifo'), 0o010644);
      mknod(join(dir, 'socket'), 0o140644);
      assert.ok(fs.lstatSync(join(dir, 'fifo')).isFIFO() && fs.lstatSync(join(dir, 'socket')).isSocket());
      const fd = fs.openSync(join(dir, 'fifo'), O_RDWR | O_NONBLOCK);
      fs.writeSync(fd, 'through');
      const bytes = Buffer.alloc(7);
      fs.readSync(fd, bytes);
      fs.closeSync(fd);
      assert.equal(bytes.toString(), 'through');
      fails('ENXIO', () => fs.openSync(join(dir, 'socket'), 'r'));
    },
  },
  {
    id: 'device nodes keep their numbers',
    needs: ['root', 'devices'],
    run: (dir) => {
      mknod(join(dir, 'c'), 0o020600, 1, 3);
      mknod(join(dir, 'b'), 0o060600, 259, 70_000);
      const [c, b] = [fs.lstatSync(join(dir, 'c')), fs.lstatSync(join(dir, 'b'))];
      assert.ok(c.isCharacterDevice() && b.isBlockDevice());
      assert.equal(c.rdev, 0x103);
      assert.equal(b.rdev, (70_000 & 0xff) + 259 * 0x100 + (70_000 >> 8) * 0x100000);
    },
  },
  {
    id: 'inode numbers are stable and differ',
    run: (dir) => {
      const names = ['a', 'b', 'c'].map((n) => join(dir, n));
      for (const name of names) fs.writeFileSync(name, '');
      const inos = names.map((name) => fs.statSync(name, { bigint: true }).ino);
      assert.equal(new Set(inos).size, 3);
      const again = names.map((name) => fs.statSync(name, { bigint: true }).ino);
      assert.deepEqual(again, inos);
    },
  },
];
