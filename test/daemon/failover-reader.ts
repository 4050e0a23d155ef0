/**
 * Reads all files of an image again and again, past the page cache, and tells of each round on stdout. One file stays
 * open from the beginning, and so does the root directory, half read. Ends when stdin does, and when something is wrong.
 *
 *     argv: root of the image, JSON of path → SHA-256
 */
import { createHash } from 'node:crypto';
import { closeSync, constants, opendirSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';

const READ_BYTES = 64 * 1024;
const [root = '', sumsText = '{}'] = process.argv.slice(2);
const sums = JSON.parse(sumsText) as Record<string, string>;
const names = Object.keys(sums);
const buffer = Buffer.alloc(READ_BYTES);
let stallMs = 0;
let ends = false;

process.stdin.on('end', () => {
  ends = true;
});
process.stdin.resume();

function timed<T>(call: () => T): T {
  const from = performance.now();
  const result = call();
  stallMs = Math.max(stallMs, performance.now() - from);
  return result;
}

const open = (name: string): number => timed(() => openSync(join(root, name), constants.O_RDONLY | constants.O_DIRECT));

function hashOf(fd: number): string {
  const hash = createHash('sha256');
  for (let at = 0; ; ) {
    const n = timed(() => readSync(fd, buffer, 0, READ_BYTES, at));
    if (n === 0) return hash.digest('hex');
    hash.update(buffer.subarray(0, n));
    at += n;
  }
}

const held = open(names[0]!);
let directory = opendirSync(root, { bufferSize: 1 });

/** A few names further in the open directory; from the start again at its end. */
function walkOn(): void {
  for (let i = 0; i < 400; i++) {
    if (timed(() => directory.readSync()) !== null) continue;
    directory.closeSync();
    directory = opendirSync(root, { bufferSize: 1 });
  }
}

while (!ends) {
  const wrong: string[] = [];
  stallMs = 0;
  try {
    for (const name of names) {
      const fd = open(name);
      if (hashOf(fd) !== sums[name]) wrong.push(`${name} has other bytes`);
      closeSync(fd);
      await turn();
    }
    if (hashOf(held) !== sums[names[0]!]) wrong.push('the open file has other bytes');
    walkOn();
  } catch (error) {
    wrong.push(String(error));
  }
  process.stdout.write(`${JSON.stringify({ stallMs, wrong })}\n`);
  if (wrong.length > 0) break;
  await turn();
}
process.stdin.destroy();
