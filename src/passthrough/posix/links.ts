/** Names: hard links, symbolic links, rename. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { RENAME } from '../../sys/path.ts';
import type { PosixCase } from './case.ts';
import { fails, mknod, rename2 } from './tools.ts';

export const LINK_CASES: readonly PosixCase[] = [
  {
    id: 'hard links share inode, contents and count',
    run: (dir) => {
      const [a, b] = [join(dir, 'a'), join(dir, 'b')];
      fs.writeFileSync(a, '1');
      fs.linkSync(a, b);
      assert.equal(fs.statSync(a).ino, fs.statSync(b).ino);
      assert.deepEqual([fs.statSync(a).nlink, fs.statSync(b).nlink], [2, 2]);
      fs.appendFileSync(b, '2');
      assert.equal(fs.readFileSync(a, 'utf8'), '12');
      fs.unlinkSync(a);
      assert.equal(fs.statSync(b).nlink, 1);
      assert.equal(fs.readFileSync(b, 'utf8'), '12');
    },
  },
  {
    id: 'link: directories, taken names and missing files are refused',
    run: (dir) => {
      fs.mkdirSync(join(dir, 'd'));
      fs.writeFileSync(join(dir, 'f'), '');
      fails('EPERM', () => fs.linkSync(join(dir, 'd'), join(dir, 'x')));
      fails('EEXIST', () => fs.linkSync(join(dir, 'f'), join(dir, 'd')));
      fails('ENOENT', () => fs.linkSync(join(dir, 'none'), join(dir, 'x')));
    },
  },
  {
    id: 'a hard link to a symbolic link is a link to the link',
    run: (dir) => {
      fs.symlinkSync('target', join(dir, 's'));
      fs.linkSync(join(dir, 's'), join(dir, 't'));
      assert.equal(fs.readlinkSync(join(dir, 't')), 'target');
      assert.equal(fs.lstatSync(join(dir, 's')).nlink, 2);
    },
  },
  {
    id: 'readlink gives exactly what symlink was given',
    run: (dir) => {
      const targets = ['a', '/absolute', '../up', 'with space\nand line', `${'long/'.repeat(800)}x`, 'ü'];
      targets.forEach((target, i) => {
        fs.symlinkSync(target, join(dir, `${i}`));
        assert.equal(fs.readlinkSync(join(dir, `${i}`)), target);
        assert.equal(fs.lstatSync(join(dir, `${i}`)).size, Buffer.byteLength(target));
      });
      fails('EINVAL', () => fs.readlinkSync(dir));
      fails('EEXIST', () => fs.symlinkSync('x', join(dir, '0')));
      fails('ENOENT', () => fs.symlinkSync('', join(dir, 'empty')));
    },
  },
  {
    id: 'symbolic links resolve from where they lie; loops end in ELOOP',
    run: (dir) => {
      fs.mkdirSync(join(dir, 'd/e'), { recursive: true });
      fs.writeFileSync(join(dir, 'd/f'), 'found');
      fs.symlinkSync('../f', join(dir, 'd/e/up'));
      fs.symlinkSync('d/e', join(dir, 'short'));
      assert.equal(fs.readFileSync(join(dir, 'short/up'), 'utf8'), 'found');
      assert.ok(fs.statSync(`${join(dir, 'short')}/`).isDirectory());
      fs.symlinkSync('loop2', join(dir, 'loop1'));
      fs.symlinkSync('loop1', join(dir, 'loop2'));
      fails('ELOOP', () => fs.readFileSync(join(dir, 'loop1')));
      fs.symlinkSync('.', join(dir, 'self'));
      assert.ok(fs.statSync(join(dir, 'self/self/self')).isDirectory());
    },
  },
  {
    id: 'unlink and rename act on a link, not on what it means',
    run: (dir) => {
      fs.writeFileSync(join(dir, 'f'), 'kept');
      fs.symlinkSync('f', join(dir, 'l'));
      fs.renameSync(join(dir, 'l'), join(dir, 'm'));
      assert.equal(fs.readlinkSync(join(dir, 'm')), 'f');
      fs.unlinkSync(join(dir, 'm'));
      assert.equal(fs.readFileSync(join(dir, 'f'), 'utf8'), 'kept');
    },
  },
  {
    id: 'rename over a file replaces it; an open one goes on',
    run: (dir) => {
      fs.writeFileSync(join(dir, 'a'), 'A');
      fs.writeFileSync(join(dir, 'b'), 'B');
      const fd = fs.openSync(join(dir, 'b'), 'r');
      const { ino } = fs.statSync(join(dir, 'a'));
      fs.renameSync(join(dir, 'a'), join(dir, 'b'));
      assert.equal(fs.statSync(join(dir, 'b')).ino, ino);
      assert.equal(fs.readFileSync(join(dir, 'b'), 'utf8'), 'A');
      assert.equal(fs.readFileSync(fd, 'utf8'), 'B');
      assert.equal(fs.fstatSync(fd).nlink, 0);
      fs.closeSync(fd);
      fails('ENOENT', () => fs.statSync(join(dir, 'a')));
    },
  },
  {
    id: 'rename of one hard link over another does nothing',
    run: (dir) => {
      fs.writeFileSync(join(dir, 'a'), 'x');
      fs.linkSync(join(dir, 'a'), join(dir, 'b'));
      fs.renameSync(join(dir, 'a'), join(dir, 'b'));
      assert.equal(fs.statSync(join(dir, 'a')).nlink, 2);
    },
  },
  {
    id: 'rename of directories: over an empty one, and every refusal',
    run: (dir) => {
      for (const name of ['a', 'empty', 'full', 'a/sub']) fs.mkdirSync(join(dir, name));
      fs.writeFileSync(join(dir, 'full/f'), '');
      fs.writeFileSync(join(dir, 'file'), '');
      fails('ENOTEMPTY', () => fs.renameSync(join(dir, 'a'), join(dir, 'full')));
      fails('ENOTDIR', () => fs.renameSync(join(dir, 'a'), join(dir, 'file')));
      fails('EISDIR', () => fs.renameSync(join(dir, 'file'), join(dir, 'empty')));
      fails('EINVAL', () => fs.renameSync(join(dir, 'a'), join(dir, 'a/sub/x')));
      fails('ENOENT', () => fs.renameSync(join(dir, 'none'), join(dir, 'x')));
      fs.renameSync(join(dir, 'a'), join(dir, 'empty'));
      assert.deepEqual(fs.readdirSync(join(dir, 'empty')), ['sub']);
      fails('ENOENT', () => fs.statSync(join(dir, 'a')));
    },
  },
  {
    id: 'a directory moved elsewhere has a new parent',
    run: (dir) => {
      fs.mkdirSync(join(dir, 'one/child'), { recursive: true });
      fs.mkdirSync(join(dir, 'two'));
      fs.writeFileSync(join(dir, 'one/child/f'), 'moved');
      const fd = fs.openSync(join(dir, 'one/child'), 'r');
      fs.renameSync(join(dir, 'one/child'), join(dir, 'two/child'));
      assert.equal(fs.readFileSync(join(dir, 'two/child/f'), 'utf8'), 'moved');
      assert.equal(fs.statSync(join(dir, 'two/child/..')).ino, fs.statSync(join(dir, 'two')).ino);
      assert.equal(fs.readFileSync(`/proc/self/fd/${fd}/f`, 'utf8'), 'moved');
      fs.closeSync(fd);
      fs.rmdirSync(join(dir, 'one'));
    },
  },
  {
    id: 'RENAME_NOREPLACE and RENAME_EXCHANGE',
    run: (dir) => {
      const [a, b] = [join(dir, 'a'), join(dir, 'b')];
      fs.writeFileSync(a, 'A');
      fs.mkdirSync(b);
      fails('EEXIST', () => rename2(a, b, RENAME.NOREPLACE));
      rename2(a, b, RENAME.EXCHANGE);
      assert.ok(fs.statSync(a).isDirectory() && fs.readFileSync(b, 'utf8') === 'A');
      fails('ENOENT', () => rename2(a, join(dir, 'none'), RENAME.EXCHANGE));
      rename2(b, join(dir, 'c'), RENAME.NOREPLACE);
      assert.equal(fs.readFileSync(join(dir, 'c'), 'utf8'), 'A');
    },
  },
  {
    id: 'RENAME_WHITEOUT leaves a character device 0:0',
    needs: ['root', 'devices'],
    run: (dir) => {
      fs.writeFileSync(join(dir, 'a'), 'A');
      rename2(join(dir, 'a'), join(dir, 'b'), RENAME.WHITEOUT);
      const left = fs.lstatSync(join(dir, 'a'));
      assert.deepEqual([left.isCharacterDevice(), left.rdev], [true, 0]);
      assert.equal(fs.readFileSync(join(dir, 'b'), 'utf8'), 'A');
      mknod(join(dir, 'w'), 0o020000);
      assert.equal(fs.lstatSync(join(dir, 'w')).rdev, 0);
    },
  },
  {
    id: 'long names, odd bytes, and letters that differ in case only',
    run: (dir) => {
      const names = [Buffer.alloc(255, 'x'), Buffer.from([0xff, 0xc0, 0x80, 1, 10]), 'a', 'A', ' ', '...', '-rf'];
      for (const name of names) fs.writeFileSync(Buffer.concat([Buffer.from(`${dir}/`), Buffer.from(name)]), 'n');
      const found = fs.readdirSync(dir, { encoding: 'buffer' }).map((n) => n.toString('hex'));
      assert.deepEqual(found.sort(), names.map((n) => Buffer.from(n).toString('hex')).sort());
      fails('ENAMETOOLONG', () => fs.writeFileSync(join(dir, 'x'.repeat(256)), ''));
      fails('ENAMETOOLONG', () => fs.mkdirSync(join(dir, 'x'.repeat(256))));
      fails('ENAMETOOLONG', () => fs.statSync(join(dir, 'x'.repeat(256))));
    },
  },
];
