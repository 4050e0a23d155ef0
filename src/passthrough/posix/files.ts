/** File contents: open flags, offsets, sizes, life after unlink. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs';
import { join } from 'node:path';
import type { PosixCase } from './case.ts';
import { fails, withFile } from './tools.ts';

const { O_APPEND, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY } = fs.constants;
const at = (dir: string): string => join(dir, 'f');

export const FILE_CASES: readonly PosixCase[] = [
  {
    id: 'O_EXCL refuses files, directories and dangling links',
    run: (dir) => {
      fs.writeFileSync(at(dir), 'x');
      fs.symlinkSync('nowhere', join(dir, 'dangling'));
      for (const path of [at(dir), dir, join(dir, 'dangling')])
        fails('EEXIST', () => fs.openSync(path, O_RDWR | O_CREAT | O_EXCL));
      fails('ENOENT', () => fs.statSync(join(dir, 'nowhere')));
    },
  },
  {
    id: 'O_CREAT through a dangling link makes its target',
    run: (dir) => {
      fs.symlinkSync('target', join(dir, 'link'));
      fs.writeFileSync(join(dir, 'link'), 'via');
      assert.equal(fs.readFileSync(join(dir, 'target'), 'utf8'), 'via');
    },
  },
  {
    id: 'what is not there is ENOENT, below a file ENOTDIR',
    run: (dir) => {
      fs.writeFileSync(at(dir), '');
      fails('ENOENT', () => fs.openSync(join(dir, 'none'), 'r'));
      fails('ENOENT', () => fs.openSync('', 'r'));
      fails('ENOTDIR', () => fs.openSync(join(dir, 'f/x'), 'r'));
      fails('ENOTDIR', () => fs.openSync(`${at(dir)}/`, 'r'));
    },
  },
  {
    id: 'O_TRUNC empties, also for an open reader',
    run: (dir) => {
      fs.writeFileSync(at(dir), 'contents');
      withFile(at(dir), 'r', (reader) => {
        withFile(at(dir), O_WRONLY | O_TRUNC, () => assert.equal(fs.fstatSync(reader).size, 0));
        assert.equal(fs.readSync(reader, Buffer.alloc(8), 0, 8, 0), 0);
      });
    },
  },
  {
    id: 'O_APPEND: two writers never overwrite each other',
    run: (dir) => {
      withFile(at(dir), 'a', (one) => {
        withFile(at(dir), O_WRONLY | O_APPEND, (two) => {
          for (let i = 0; i < 50; i++) {
            fs.writeSync(one, `one ${i}\n`);
            fs.writeSync(two, `two ${i}\n`);
          }
        });
      });
      const lines = fs.readFileSync(at(dir), 'utf8').trimEnd().split('\n');
      assert.equal(lines.length, 100);
      assert.deepEqual(lines.slice(0, 2), ['one 0', 'two 0']);
    },
  },
  {
    id: 'O_APPEND: read position and append position are apart',
    run: (dir) => {
      fs.writeFileSync(at(dir), 'abc');
      withFile(at(dir), 'a+', (fd) => {
        const bytes = Buffer.alloc(3);
        fs.writeSync(fd, 'def');
        fs.readSync(fd, bytes, 0, 3, 0);
        assert.equal(bytes.toString(), 'abc');
        fs.writeSync(fd, 'ghi');
      });
      assert.equal(fs.readFileSync(at(dir), 'utf8'), 'abcdefghi');
    },
  },
  {
    id: 'the wrong access mode is EBADF',
    run: (dir) => {
      fs.writeFileSync(at(dir), 'abc');
      withFile(at(dir), O_RDONLY, (fd) => fails('EBADF', () => fs.writeSync(fd, 'x')));
      withFile(at(dir), O_WRONLY, (fd) => fails('EBADF', () => fs.readSync(fd, Buffer.alloc(1))));
    },
  },
  {
    id: 'a directory is not read or written as a file',
    run: (dir) => {
      fails('EISDIR', () => fs.openSync(dir, 'w'));
      fails('EISDIR', () => fs.openSync(dir, O_RDWR));
      fails('EISDIR', () => fs.truncateSync(dir));
      fails('EISDIR', () => fs.readFileSync(dir));
    },
  },
  {
    id: 'an unlinked open file lives until it is closed',
    run: (dir) => {
      withFile(at(dir), 'w+', (fd) => {
        fs.writeSync(fd, 'before');
        fs.unlinkSync(at(dir));
        fails('ENOENT', () => fs.statSync(at(dir)));
        assert.equal(fs.fstatSync(fd).nlink, 0);
        fs.writeSync(fd, ' after');
        fs.ftruncateSync(fd, 9);
        fs.fchmodSync(fd, 0o600);
        const bytes = Buffer.alloc(20);
        assert.equal(bytes.toString('utf8', 0, fs.readSync(fd, bytes, 0, 20, 0)), 'before af');
      });
    },
  },
  {
    id: 'a new file under the name of an unlinked open one is another file',
    run: (dir) => {
      fs.writeFileSync(at(dir), 'old');
      withFile(at(dir), 'r', (fd) => {
        fs.unlinkSync(at(dir));
        fs.writeFileSync(at(dir), 'new one');
        assert.notEqual(fs.fstatSync(fd).ino, fs.statSync(at(dir)).ino);
        assert.equal(fs.readFileSync(fd, 'utf8'), 'old');
        assert.equal(fs.readFileSync(at(dir), 'utf8'), 'new one');
      });
    },
  },
  {
    id: 'writing beyond the end leaves zeroes between',
    run: (dir) => {
      withFile(at(dir), 'w+', (fd) => {
        fs.writeSync(fd, 'end', 100_000);
        assert.equal(fs.fstatSync(fd).size, 100_003);
        const bytes = fs.readFileSync(at(dir));
        assert.ok(bytes.subarray(0, 100_000).every((b) => b === 0) && bytes.subarray(100_000).toString() === 'end');
      });
    },
  },
  {
    id: 'truncate cuts, and grows with zeroes where data was',
    run: (dir) => {
      fs.writeFileSync(at(dir), Buffer.alloc(10_000, 'x'));
      fs.truncateSync(at(dir), 5000);
      fs.truncateSync(at(dir), 9000);
      const bytes = fs.readFileSync(at(dir));
      assert.equal(bytes.length, 9000);
      assert.ok(bytes.subarray(0, 5000).every((b) => b === 0x78) && bytes.subarray(5000).every((b) => b === 0));
    },
  },
  {
    id: 'offsets beyond 4 GiB',
    run: (dir) => {
      const far = 5 * 2 ** 30 + 7;
      withFile(at(dir), 'w+', (fd) => {
        fs.writeSync(fd, 'far', far);
        assert.equal(fs.fstatSync(fd).size, far + 3);
        const bytes = Buffer.alloc(10);
        assert.equal(fs.readSync(fd, bytes, 0, 10, far), 3);
        assert.equal(fs.readSync(fd, bytes, 0, 10, far - 2 ** 32), 10);
        fs.ftruncateSync(fd, 1);
        assert.equal(fs.fstatSync(fd).size, 1);
      });
    },
  },
  {
    id: 'reading at and beyond the end gives nothing',
    run: (dir) => {
      fs.writeFileSync(at(dir), 'abc');
      withFile(at(dir), 'r', (fd) => {
        const bytes = Buffer.alloc(10);
        assert.deepEqual(
          [0, 2, 3, 4, 1e9].map((o) => fs.readSync(fd, bytes, 0, 10, o)),
          [3, 1, 0, 0, 0],
        );
      });
    },
  },
  {
    id: 'random writes of all sizes equal a model',
    run: (dir) => {
      const model = Buffer.alloc(600_000);
      let end = 0;
      let random = 99;
      const next = (n: number): number => (random = (Math.imul(random, 1_664_525) + 1_013_904_223) >>> 0) % n;
      withFile(at(dir), 'w+', (fd) => {
        for (let i = 0; i < 200; i++) {
          const offset = next(400_000);
          const bytes = Buffer.alloc(1 + next(i % 5 === 0 ? 200_000 : 5000), i);
          assert.equal(fs.writeSync(fd, bytes, 0, bytes.length, offset), bytes.length);
          bytes.copy(model, offset);
          end = Math.max(end, offset + bytes.length);
        }
      });
      assert.ok(fs.readFileSync(at(dir)).equals(model.subarray(0, end)));
    },
  },
  {
    id: 'readv and writev',
    run: (dir) => {
      withFile(at(dir), 'w+', (fd) => {
        assert.equal(fs.writevSync(fd, [Buffer.from('one'), Buffer.alloc(0), Buffer.from('two')], 1), 6);
        const [a, b] = [Buffer.alloc(2), Buffer.alloc(10)];
        assert.equal(fs.readvSync(fd, [a, b], 0), 7);
        assert.equal(a.toString('latin1') + b.toString('latin1', 0, 5), '\0onetwo');
      });
    },
  },
  {
    id: 'fsync and fdatasync of files and directories',
    run: (dir) => {
      withFile(at(dir), 'w', (fd) => {
        fs.writeSync(fd, 'x');
        fs.fdatasyncSync(fd);
        fs.fsyncSync(fd);
      });
      withFile(dir, 'r', (fd) => fs.fsyncSync(fd));
    },
  },
  {
    id: 'two descriptors see each other’s writes at once',
    run: (dir) => {
      withFile(at(dir), 'w+', (one) => {
        withFile(at(dir), 'r+', (two) => {
          fs.writeSync(one, 'from one', 0);
          fs.writeSync(two, 'two', 5);
          const bytes = Buffer.alloc(8);
          fs.readSync(one, bytes, 0, 8, 0);
          assert.equal(bytes.toString(), 'from two');
        });
      });
    },
  },
];
