/** Space, mappings, programs: what the kernel does with files beyond reading and writing. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { FALLOC, fallocate, lseek, SEEK } from '../../sys/io.ts';
import { viewOf } from '../../sys/libc.ts';
import { MAP, mmap, overmap, PROT } from '../../sys/memory.ts';
import type { PosixCase } from './case.ts';
import { fails, withFile } from './tools.ts';

const at = (dir: string): string => join(dir, 'f');

export const SPACE_CASES: readonly PosixCase[] = [
  {
    id: 'copying a file, larger than one request',
    run: (dir) => {
      const bytes = Buffer.from(Array.from({ length: 3_000_001 }, (_, i) => (i * 31) >> 7));
      fs.writeFileSync(at(dir), bytes);
      fs.copyFileSync(at(dir), join(dir, 'copy'));
      assert.ok(fs.readFileSync(join(dir, 'copy')).equals(bytes));
      fails('EEXIST', () => fs.copyFileSync(at(dir), join(dir, 'copy'), fs.constants.COPYFILE_EXCL));
    },
  },
  {
    id: 'SEEK_DATA and SEEK_HOLE agree with what was written',
    needs: ['holes'],
    run: (dir) => {
      withFile(at(dir), 'w+', (fd) => {
        fs.writeSync(fd, Buffer.alloc(65_536, 1), 0, 65_536, 1 << 20);
        fs.fsyncSync(fd);
        const data = lseek(fd, 0, SEEK.DATA);
        assert.ok(data > 0 && data <= 1 << 20, `data at ${data}`);
        assert.equal(lseek(fd, 0, SEEK.HOLE), 0);
        assert.equal(lseek(fd, 1 << 20, SEEK.HOLE), (1 << 20) + 65_536);
        assert.equal(lseek(fd, 1 << 21, SEEK.DATA), -6, 'ENXIO beyond the end');
      });
    },
  },
  {
    id: 'fallocate grows, keeps the size if asked, punches holes',
    needs: ['holes'],
    run: (dir) => {
      withFile(at(dir), 'w+', (fd) => {
        fs.writeSync(fd, Buffer.alloc(20_000, 'd'));
        assert.equal(fallocate(fd, 0, 0, 50_000), 0);
        assert.equal(fs.fstatSync(fd).size, 50_000);
        assert.equal(fallocate(fd, FALLOC.KEEP_SIZE, 0, 90_000), 0);
        assert.equal(fs.fstatSync(fd).size, 50_000);
        assert.equal(fallocate(fd, FALLOC.PUNCH_HOLE | FALLOC.KEEP_SIZE, 4096, 8192), 0);
        const bytes = fs.readFileSync(at(dir));
        assert.ok(bytes.subarray(4096, 12_288).every((b) => b === 0) && bytes[4095] === 100 && bytes[12_288] === 100);
      });
    },
  },
  {
    id: 'a shared mapping and write(2) show the same bytes',
    needs: ['mmap'],
    run: (dir) => {
      withFile(at(dir), 'w+', (fd) => {
        fs.writeSync(fd, Buffer.alloc(8192, 'a'));
        const address = mmap(0, 8192, PROT.READ | PROT.WRITE, MAP.SHARED, fd, 0);
        assert.ok(address > 0, `mmap ${address}`);
        const view = new Uint8Array(viewOf(address, 8192));
        view[5000] = 0x62;
        const byte = Buffer.alloc(1);
        fs.readSync(fd, byte, 0, 1, 5000);
        assert.equal(byte.toString(), 'b');
        fs.writeSync(fd, 'c', 4000);
        assert.equal(view[4000], 0x63);
        overmap(address, 8192); // the file is let go; the view that lives on sees zeroes
      });
    },
  },
  {
    id: 'a program runs from it, and cannot be written meanwhile',
    needs: ['exec'],
    run: (dir) => {
      const program = join(dir, 'sh');
      fs.copyFileSync('/bin/sh', program);
      fs.chmodSync(program, 0o755);
      // Dash answers 42 if its own file cannot be opened for writing (ETXTBSY), as it must be while it runs.
      const script = `if true 2>/dev/null >> "${program}"; then exit 1; else exit 42; fi`;
      let status = 0;
      try {
        execFileSync(program, ['-c', script], { stdio: 'ignore' });
      } catch (error) {
        status = (error as { status: number }).status;
      }
      assert.ok(status === 42 || status === 2, `exit status ${status}`);
    },
  },
];
