/**
 * Brings what a row reads into the page cache. Rows are about a hot set, but a kernel may drop file pages that were quiet
 * for some seconds although memory is free (DAMON's reclaim does), and then a slice measures the disk.
 */
import { closeSync, existsSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';

const piece = Buffer.allocUnsafeSlow(1 << 20);

/** Reads files whole, and directories with the files in them. What is not there yet is left out. */
export function bringIn(paths: readonly string[]): void {
  for (const path of paths) {
    if (!existsSync(path)) continue;
    const stat = statSync(path);
    if (stat.isDirectory()) bringIn(readdirSync(path).map((name) => join(path, name)));
    else if (stat.isFile()) readWhole(path);
  }
}

function readWhole(path: string): void {
  const fd = openSync(path, 'r');
  try {
    for (let at = 0, got = -1; got !== 0; at += got) got = readSync(fd, piece, 0, piece.length, at);
  } finally {
    closeSync(fd);
  }
}
