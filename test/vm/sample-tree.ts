/** Makes a directory tree with everything an image has to carry; the same every time. Needs root (owners, devices). */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  ftruncateSync,
  linkSync,
  lutimesSync,
  mkdirSync,
  openSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';

const FILES_PER_DIRECTORY = 100;
/** More names than one directory block of any format holds. */
const WIDE_DIRECTORY_FILES = 1500;
const NAME_BYTES_MAX = 255;
const MTIME_SEC = 1_600_000_000;

/** Bytes that look random, do not compress to nothing, and need no state: xorshift over the seed. */
export function sampleBytes(seed: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  let state = (seed * 2654435761) >>> 0 || 1;
  for (let at = 0; at < size; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    // Half of the bytes repeat a short alphabet, so that compressors find something.
    bytes[at] = state & 0x100 ? 0x61 + (state & 7) : state & 0xff;
  }
  return bytes;
}

/** Fills `root` with about `files` small files plus one of every special kind. */
export function makeSampleTree(root: string, files: number): void {
  mkdirSync(root, { recursive: true });
  for (let index = 0; index < files; index++) {
    const folder = join(root, 'many', String(Math.floor(index / FILES_PER_DIRECTORY)));
    if (index % FILES_PER_DIRECTORY === 0) mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, `file-${index}`), sampleBytes(index, (index * 37) % 3000));
  }
  const wide = join(root, 'wide');
  mkdirSync(wide);
  for (let index = 0; index < Math.min(WIDE_DIRECTORY_FILES, 5 * files); index++)
    writeFileSync(join(wide, `entry-${index}`), '');
  makeContents(join(root, 'contents'));
  makeNames(join(root, 'names'));
  makeSpecials(join(root, 'specials'));
  stampTimes(root);
}

/** Sizes around block and chunk borders, and a hole. */
function makeContents(folder: string): void {
  mkdirSync(folder);
  const sizes = [0, 1, 4095, 4096, 4097, 65_536, 1_048_575, 1_048_576, 1_048_577, 2_500_000];
  for (const size of sizes) writeFileSync(join(folder, `size-${size}`), sampleBytes(size, size));
  writeFileSync(join(folder, 'same-as-65536'), sampleBytes(65_536, 65_536));
  const fd = openSync(join(folder, 'sparse'), 'w');
  writeSync(fd, 'start', 0);
  writeSync(fd, 'middle', 3_000_000);
  ftruncateSync(fd, 6_000_000);
  closeSync(fd);
}

function makeNames(folder: string): void {
  mkdirSync(folder);
  const raw = (bytes: number[]): Buffer => Buffer.concat([Buffer.from(`${folder}/`), Buffer.from(bytes)]);
  writeFileSync(raw([0x62, 0xff, 0xfe, 0x80]), 'not UTF-8');
  writeFileSync(join(folder, 'new\nline'), 'newline');
  writeFileSync(join(folder, 'back\\slash "quotes" = é 漢'), 'odd');
  writeFileSync(join(folder, 'n'.repeat(NAME_BYTES_MAX)), 'long');
  const deep = join(folder, ...Array.from({ length: 40 }, (_, level) => `level-${level}`));
  mkdirSync(deep, { recursive: true });
  writeFileSync(join(deep, 'bottom'), 'deep');
}

function makeSpecials(folder: string): void {
  mkdirSync(folder);
  const at = (name: string): string => join(folder, name);
  writeFileSync(at('hard-1'), 'one file, three names');
  mkdirSync(at('other'));
  linkSync(at('hard-1'), at('hard-2'));
  linkSync(at('hard-1'), join(folder, 'other', 'hard-3'));
  symlinkSync('hard-1', at('relative'));
  symlinkSync('/nowhere/at/all', at('dangling'));
  symlinkSync('x'.repeat(1000), at('long-target'));
  writeFileSync(at('xattrs'), 'has some');
  writeFileSync(at('setuid'), 'mode bits');
  mkdirSync(at('sticky'));
  const run = (program: string, ...args: string[]): void => void execFileSync(program, args, { stdio: 'pipe' });
  run('mknod', at('char'), 'c', '5', '1');
  run('mknod', at('block'), 'b', '259', '70000');
  run('mkfifo', at('fifo'));
  run('setfattr', '-n', 'user.text', '-v', 'value', at('xattrs'));
  run('setfattr', '-n', 'user.binary', '-v', '0x00ff0a3d22', at('xattrs'));
  run('setfattr', '-n', 'user.empty', at('xattrs'));
  run('setfattr', '-n', 'trusted.mark', '-v', 'root only', at('sticky'));
  run('setfattr', '-n', 'user.long', '-v', 'v'.repeat(1500), at('xattrs'));
  run('chown', '1234:100000', at('xattrs'));
  run('chown', '-h', '7:8', at('relative'));
  chmodSync(at('setuid'), 0o6711);
  chmodSync(at('sticky'), 0o1777);
}

/** Last of all: making an entry changes its folder's time. */
function stampTimes(root: string): void {
  execFileSync('find', [root, '-exec', 'touch', '-h', '-d', `@${MTIME_SEC}.123456789`, '{}', '+']);
  lutimesSync(root, MTIME_SEC, MTIME_SEC);
}
