/**
 * The files every row works on, made once and kept in `.cache/bench` of the repository:
 *
 *     share/hot/f000000 … f000063     64 KiB each
 *     share/list/f000000 … f000999    empty: READDIRPLUS
 *     share/large/d000 … d099/        1,000 empty files each, f000000 … f099999 over all
 *     share/big.bin                   128 MiB: READ
 *     share/write.bin                 64 MiB: WRITE
 *     share/tmp/                      CREATE and UNLINK
 *     image.boot, blobs/              share without write.bin and tmp, as a zstd v6 image
 */
import { execFileSync } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { findProgram } from './programs.ts';

export const REPOSITORY = dirname(dirname(fileURLToPath(import.meta.url)));

export const HOT_FILES = 64;
export const HOT_FILE_BYTES = 64 * 1024;
export const LIST_FILES = 1000;
export const LARGE_DIRS = 100;
export const LARGE_FILES_PER_DIR = 1000;
/** Objects of the large set on a share: every peer can hold their descriptors where the hard limit is low. */
export const LARGE_SHARE_FILES = 8000;
export const BIG_BYTES = 128 * 2 ** 20;
export const WRITE_BYTES = 64 * 2 ** 20;

/** Word `index` of big.bin, for samples of what was read. */
export function bigWord(index: number): number {
  const x = Math.imul(index ^ (index >>> 15), 0x2c1b3c6d);
  return (x ^ (x >>> 12)) >>> 0;
}

/** Directory in `large/` of object `index` of the large set. */
export function largeDir(index: number): string {
  return `large/d${String(Math.floor(index / LARGE_FILES_PER_DIR)).padStart(3, '0')}`;
}

export function fileName(index: number): string {
  return `f${String(index).padStart(6, '0')}`;
}

export interface Tree {
  share: string;
  bootstrap: string;
  blobs: string;
}

/** Makes the tree unless it is there; the image by our own builder where the peer's is not installed. */
export function makeTree(): Tree {
  const home = join(REPOSITORY, '.cache', 'bench');
  const tree = { share: join(home, 'share'), bootstrap: join(home, 'image.boot'), blobs: join(home, 'blobs') };
  if (existsSync(join(home, 'complete'))) {
    rmSync(join(tree.share, 'tmp'), { recursive: true, force: true });
    mkdirSync(join(tree.share, 'tmp'));
    return tree;
  }
  process.stderr.write('bench: making the files and the image, once\n');
  rmSync(home, { recursive: true, force: true });
  const image = join(home, 'image');
  mkdirSync(image, { recursive: true });
  fill(image);
  mkdirSync(tree.blobs);
  execFileSync(
    findProgram('nydus-image', 'NYDUS_IMAGE') ?? join(REPOSITORY, 'bin', 'nydus-image'),
    ['create', '-t', 'dir-rafs', '-v', '6', '--compressor', 'zstd', '-B', tree.bootstrap, '-D', tree.blobs, image],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  renameSync(image, tree.share);
  mkdirSync(join(tree.share, 'tmp'));
  writeFileSync(join(tree.share, 'write.bin'), Buffer.alloc(WRITE_BYTES, 1));
  writeFileSync(join(home, 'complete'), '');
  return tree;
}

function fill(root: string): void {
  mkdirSync(join(root, 'hot'));
  for (let i = 0; i < HOT_FILES; i++)
    writeFileSync(join(root, 'hot', fileName(i)), Buffer.alloc(HOT_FILE_BYTES, i + 1));
  mkdirSync(join(root, 'list'));
  for (let i = 0; i < LIST_FILES; i++) writeFileSync(join(root, 'list', fileName(i)), '');
  for (let d = 0; d < LARGE_DIRS; d++) {
    const dir = join(root, 'large', `d${String(d).padStart(3, '0')}`);
    mkdirSync(dir, { recursive: true });
    for (let i = 0; i < LARGE_FILES_PER_DIR; i++) writeFileSync(join(dir, fileName(d * LARGE_FILES_PER_DIR + i)), '');
  }
  const part = new Uint32Array(2 ** 18);
  const fd = openSync(join(root, 'big.bin'), 'w');
  for (let at = 0; at < BIG_BYTES / 4; at += part.length) {
    for (let i = 0; i < part.length; i++) part[i] = bigWord(at + i);
    writeSync(fd, Buffer.from(part.buffer));
  }
  closeSync(fd);
}
