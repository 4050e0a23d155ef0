/**
 * The root file system that `build` builds and `coldstart` boots from: Debian packages, unpacked once into
 * `.cache/bench-root` of the repository. An interpreter with its libraries, and much that a start never reads.
 */
import { lstatSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { makeRootfs, SERVICE_PACKAGES } from '../scripts/rootfs.ts';
import { REPOSITORY } from './tree.ts';

export const ROOT_HOME = join(REPOSITORY, '.cache', 'bench-root');

/** Headers and sources (many small files), libraries and debug-free compilers (few large ones). */
const PACKAGES = [
  ...SERVICE_PACKAGES,
  ...['libboost-dev', 'linux-headers-amd64', 'golang-src', 'g++', 'llvm-dev', 'python3-sympy'],
];
const FILES_MIN = 50_000;
const BYTES_MIN = 1e9;

export interface Root {
  path: string;
  /** Entries of all kinds, and bytes of regular files. */
  files: number;
  bytes: number;
}

/** Makes it unless it is there. @throws Error when apt cannot fetch the packages, or they have become too small */
export function benchRoot(): Root {
  const path = makeRootfs(ROOT_HOME, PACKAGES);
  const root = { path, files: 0, bytes: 0 };
  count(path, root);
  if (root.files < FILES_MIN || root.bytes < BYTES_MIN)
    throw new Error(`${path} holds ${root.files} files and ${root.bytes} bytes: too few to measure with`);
  return root;
}

function count(dir: string, into: Root): void {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    const path = join(dir, entry.name);
    into.files++;
    if (entry.isDirectory()) count(path, into);
    else if (entry.isFile()) into.bytes += lstatSync(path).size;
  }
}
