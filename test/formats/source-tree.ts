/** Source trees of the matrix: everything an image carries, and files whose sizes lie around one chunk size. */
import { execFileSync } from 'node:child_process';
import { chmodSync, linkSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const NAMES = 200;
const SMALL_FILES = 40;
const TIME_SEC = 1_650_000_000;
const DEPTH = 60;

/** Needs root, for devices. */
export function makeSourceTree(root: string, chunkBytes: number): void {
  const at = (...names: string[]) => join(root, ...names);
  for (const dir of ['boundaries', 'small', 'many', 'sub']) mkdirSync(at(dir), { recursive: true });
  // 0, 1, chunk - 1, chunk, chunk + 1 and 3 chunks + 7.
  for (const size of [0, 1, chunkBytes - 1, chunkBytes, chunkBytes + 1, 3 * chunkBytes + 7]) {
    writeFileSync(at('boundaries', `${size}`), content(size, size));
  }
  // Together more than one batch.
  for (let i = 0; i < SMALL_FILES; i++) {
    const size = Math.max(20, Math.floor(chunkBytes / 30));
    writeFileSync(at('small', `${i}`), content(size, size + 1 + i));
  }
  for (let i = 0; i < NAMES; i++) writeFileSync(at('many', `name-${i}`), `${i}`);
  writeFileSync(at('name'), 'one inode');
  linkSync(at('name'), at('sub', 'other'));
  writeFileSync(at('sub', 'same'), content(chunkBytes, chunkBytes));
  symlinkSync('x'.repeat(3000), at('sub', 'long'));
  symlinkSync('other', at('sub', 'short'));
  writeFileSync(at('sub', 'xattrs'), 'has some');
  chmodSync(at('sub', 'xattrs'), 0o4750);
  const run = (program: string, ...args: string[]) => execFileSync(program, args, { stdio: 'pipe' });
  run('setfattr', '-n', 'user.text', '-v', 'value', at('sub', 'xattrs'));
  run('setfattr', '-n', 'user.long', '-v', 'v'.repeat(500), at('sub', 'xattrs'));
  run('chown', '1234:70000', at('sub', 'xattrs'));
  run('mknod', at('sub', 'device'), 'c', '5', '1');
  run('mkfifo', at('sub', 'fifo'));
  addOddities(at('odd'));
  run('mknod', at('odd', 'disk'), 'b', '259', '70000');
  run('chown', '100000:100001', at('odd', 'disk'));
  run('find', root, '-exec', 'touch', '-h', '-d', `@${TIME_SEC}`, '{}', '+');
}

/** Names of every byte and of every length that matters, targets as long as they get, depth, modes. */
function addOddities(dir: string): void {
  const bytes = (...parts: (string | Buffer)[]) => Buffer.concat(parts.map((part) => Buffer.from(part as string)));
  mkdirSync(join(dir, 'bytes'), { recursive: true });
  for (let byte = 1; byte < 256; byte++) {
    if (byte === 0x2e || byte === 0x2f) continue;
    writeFileSync(bytes(`${dir}/bytes/`, Buffer.from([byte])), `${byte}`);
  }
  for (const name of [
    'n'.repeat(255),
    '漢'.repeat(85),
    '.a',
    '..a',
    '...',
    '!',
    '-',
    'a b',
    'back\\slash',
    'new\nline',
  ]) {
    writeFileSync(join(dir, name), name);
  }
  for (const size of [1, 511, 512, 3999, 4000, 4031, 4032, 4033, 4095])
    symlinkSync('t'.repeat(size), join(dir, `to-${size}`));
  const deep = join(dir, ...Array.from({ length: DEPTH }, (_, level) => `${level}`));
  mkdirSync(deep, { recursive: true });
  writeFileSync(join(deep, 'bottom'), 'deep');
  mkdirSync(join(dir, 'empty'));
  for (const mode of [0, 0o777, 0o7777, 0o2755, 0o1644]) {
    writeFileSync(join(dir, `mode-${mode}`), '');
    chmodSync(join(dir, `mode-${mode}`), mode);
  }
}

/** Half of it compresses; no two seeds share a chunk. */
function content(size: number, seed: number): Buffer {
  const bytes = Buffer.alloc(size, 0x61);
  for (let at = 0, n = seed >>> 0; at < size; at += 64) {
    n = (Math.imul(n, 1_664_525) + 1_013_904_223) >>> 0;
    for (let i = 0; i < 8 && at + i * 4 + 4 <= size; i++) bytes.writeUInt32LE(Math.imul(n, i + 1) >>> 0, at + i * 4);
  }
  return bytes;
}
