/** Directories and their streams. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import type { PosixCase } from './case.ts';
import { fails, Stream } from './tools.ts';

function fill(dir: string, count: number): string[] {
  const names = Array.from({ length: count }, (_, i) => `entry-${i}`);
  for (const name of names) fs.writeFileSync(join(dir, name), '');
  return names;
}

function readAll(stream: Stream, bytes: number): { name: string; low: number; high: number }[] {
  const all: { name: string; low: number; high: number }[] = [];
  for (let page = stream.read(bytes); page.length > 0; page = stream.read(bytes)) all.push(...page);
  return all;
}

export const DIRECTORY_CASES: readonly PosixCase[] = [
  {
    id: 'mkdir and rmdir refuse what they must',
    run: (dir) => {
      fs.mkdirSync(join(dir, 'd'));
      fs.writeFileSync(join(dir, 'd/f'), '');
      fails('EEXIST', () => fs.mkdirSync(join(dir, 'd')));
      fails('EEXIST', () => fs.mkdirSync(join(dir, 'd/f')));
      fails('ENOENT', () => fs.mkdirSync(join(dir, 'x/y')));
      fails('ENOTEMPTY', () => fs.rmdirSync(join(dir, 'd')));
      fails('ENOTDIR', () => fs.rmdirSync(join(dir, 'd/f')));
      fails('EINVAL', () => fs.rmdirSync(`${dir}/d/.`));
      fails('ENOTEMPTY', () => fs.rmdirSync(`${dir}/d/..`));
      fails('ENOENT', () => fs.rmdirSync(join(dir, 'none')));
      fails('EISDIR', () => fs.unlinkSync(join(dir, 'd')));
    },
  },
  {
    id: 'links of a directory count its subdirectories, or are always 1',
    run: (dir) => {
      const empty = fs.statSync(dir).nlink;
      fs.mkdirSync(join(dir, 'a'));
      fs.mkdirSync(join(dir, 'b'));
      fs.writeFileSync(join(dir, 'f'), '');
      const two = fs.statSync(dir).nlink;
      assert.ok((empty === 2 && two === 4) || (empty === 1 && two === 1), `${empty} then ${two}`);
    },
  },
  {
    id: '2000 entries, each seen exactly once',
    run: (dir) => {
      const names = fill(dir, 2000);
      assert.deepEqual(fs.readdirSync(dir).sort(), names.sort());
    },
  },
  {
    id: 'types of entries are told',
    run: (dir) => {
      fs.mkdirSync(join(dir, 'd'));
      fs.writeFileSync(join(dir, 'f'), '');
      fs.symlinkSync('f', join(dir, 'l'));
      const kinds = fs
        .readdirSync(dir, { withFileTypes: true })
        .map((e) => `${e.name}${+e.isDirectory()}${+e.isFile()}${+e.isSymbolicLink()}`);
      assert.deepEqual(kinds.sort(), ['d100', 'f010', 'l001']);
    },
  },
  {
    id: 'small steps see the same as large ones, "." and ".." included',
    run: (dir) => {
      const names = ['.', '..', ...fill(dir, 300)].sort();
      for (const bytes of [512, 4096, 65_536]) {
        const stream = new Stream(dir);
        assert.deepEqual(
          readAll(stream, bytes)
            .map((e) => e.name)
            .sort(),
          names,
        );
        stream.close();
      }
    },
  },
  {
    id: 'seekdir goes on after any entry',
    run: (dir) => {
      fill(dir, 200);
      const stream = new Stream(dir);
      const all = readAll(stream, 65_536);
      for (let i = 0; i < all.length; i += 23) {
        stream.seek(all[i].low, all[i].high);
        assert.deepEqual(
          readAll(stream, 1024).map((e) => e.name),
          all.slice(i + 1).map((e) => e.name),
        );
      }
      stream.close();
    },
  },
  {
    id: 'rewinding shows entries made meanwhile',
    run: (dir) => {
      fill(dir, 10);
      const stream = new Stream(dir);
      readAll(stream, 4096);
      fs.writeFileSync(join(dir, 'late'), '');
      fs.unlinkSync(join(dir, 'entry-3'));
      stream.seek(0, 0);
      const names = readAll(stream, 4096).map((e) => e.name);
      assert.ok(names.includes('late') && !names.includes('entry-3') && names.length === 12);
      stream.close();
    },
  },
  {
    id: 'removing what was read does not hide what comes',
    run: (dir) => {
      const names = fill(dir, 400);
      const stream = new Stream(dir);
      const seen: string[] = [];
      for (let page = stream.read(1024); page.length > 0; page = stream.read(1024)) {
        for (const { name } of page) {
          if (name === '.' || name === '..') continue;
          seen.push(name);
          fs.unlinkSync(join(dir, name));
        }
      }
      stream.close();
      assert.deepEqual(seen.sort(), names.sort());
      assert.deepEqual(fs.readdirSync(dir), []);
    },
  },
  {
    id: 'a removed directory takes no new entries, and its open stream ends',
    run: (dir) => {
      const path = join(dir, 'gone');
      fs.mkdirSync(path);
      const fd = fs.openSync(path, 'r');
      const stream = new Stream(path);
      fs.rmdirSync(path);
      fails('ENOENT', () => fs.writeFileSync(`/proc/self/fd/${fd}/x`, ''));
      fails('ENOENT', () => fs.mkdirSync(`/proc/self/fd/${fd}/x`));
      try {
        assert.ok(stream.read(4096).length <= 2);
      } catch (error) {
        assert.equal((error as { code: string }).code, 'ENOENT');
      }
      stream.close();
      fs.closeSync(fd);
    },
  },
  {
    id: 'deep trees are made, walked and removed',
    run: (dir) => {
      const deep = join(dir, ...Array.from({ length: 60 }, (_, i) => `level-${i}`));
      fs.mkdirSync(deep, { recursive: true });
      fs.writeFileSync(join(deep, 'f'), 'deep');
      assert.equal(fs.readFileSync(join(deep, 'f'), 'utf8'), 'deep');
      assert.equal(fs.realpathSync.native(`${deep}/../..`), fs.realpathSync.native(join(deep, '..', '..')));
      fs.rmSync(join(dir, 'level-0'), { recursive: true });
      assert.deepEqual(fs.readdirSync(dir), []);
    },
  },
  {
    id: 'changing a directory changes its times, reading it does not',
    run: (dir) => {
      const path = join(dir, 'd');
      fs.mkdirSync(path);
      fs.utimesSync(path, 1000, 1000);
      fs.readdirSync(path);
      assert.equal(fs.statSync(path).mtimeMs, 1_000_000);
      for (const change of [
        () => fs.writeFileSync(join(path, 'f'), ''),
        () => fs.renameSync(join(path, 'f'), join(path, 'g')),
        () => fs.unlinkSync(join(path, 'g')),
        () => fs.mkdirSync(join(path, 's')),
        () => fs.rmdirSync(join(path, 's')),
      ]) {
        fs.utimesSync(path, 1000, 1000);
        change();
        assert.ok(fs.statSync(path).mtimeMs > 1_000_000_000, `${change}`);
      }
    },
  },
  {
    id: 'mkdtemp, existsSync and a file as directory',
    run: (dir) => {
      const made = fs.mkdtempSync(join(dir, 'tmp-'));
      assert.equal(fs.statSync(made).mode & 0o777, 0o700);
      fs.writeFileSync(join(made, 'f'), '');
      assert.equal(fs.existsSync(join(made, 'f/x')), false);
      fails('ENOTDIR', () => fs.readdirSync(join(made, 'f')));
    },
  },
];
