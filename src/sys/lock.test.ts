import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { errno } from './errno.ts';
import { dupOver, tryLock, unlock } from './lock.ts';

const dir = mkdtempSync(join(tmpdir(), 'lock-'));
const path = join(dir, 'file');
writeFileSync(path, 'x');
after(() => rmSync(dir, { recursive: true }));

const BEYOND_U32 = 2 ** 33 + 5;

test('two descriptions of one file exclude each other per byte', () => {
  const a = openSync(path, 'r+');
  const b = openSync(path, 'r+');
  assert.equal(tryLock(a, 10, 10), 0);
  assert.equal(tryLock(b, 19, 1), -errno.EAGAIN);
  assert.equal(tryLock(b, 20, 1), 0);
  assert.equal(tryLock(a, 0, 1000), -errno.EAGAIN);
  assert.equal(tryLock(b, BEYOND_U32, 1), 0);
  assert.equal(tryLock(a, BEYOND_U32, 1), -errno.EAGAIN);
  assert.equal(tryLock(a, 5, 1), 0);
  assert.equal(unlock(a, 10, 5), 0);
  assert.equal(tryLock(b, 10, 5), 0);
  assert.equal(tryLock(b, 15, 1), -errno.EAGAIN);
  closeSync(a);
  assert.equal(tryLock(b, 15, 1), 0);
  closeSync(b);
});

test('a lock dies with its process', async () => {
  const child = spawn(
    process.execPath,
    [
      '--import',
      'tsx',
      '--input-type=module',
      '-e',
      `import { openSync } from 'node:fs';
       import { tryLock } from ${JSON.stringify(join(import.meta.dirname, 'lock.ts'))};
       console.log(tryLock(openSync(${JSON.stringify(path)}, 'r+'), 7, 3));
       setInterval(() => {}, 1000);`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  );
  const [said] = await once(child.stdout, 'data');
  assert.equal(String(said).trim(), '0');
  const fd = openSync(path, 'r+');
  assert.equal(tryLock(fd, 9, 1), -errno.EAGAIN);
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.equal(tryLock(fd, 9, 1), 0);
  closeSync(fd);
});

test('numbers that are not whole are refused', () => {
  const fd = openSync(path, 'r+');
  for (const [offset, bytes] of [
    [Number.NaN, 1],
    [-1, 1],
    [0.5, 1],
    [0, 0],
    [0, Number.NaN],
    [Number.MAX_SAFE_INTEGER, 2],
  ]) {
    assert.equal(tryLock(fd, offset, bytes), -errno.EINVAL);
  }
  assert.equal(tryLock(-1, 0, 1), -errno.EINVAL);
  closeSync(fd);
});

test('dupOver swaps the file below a descriptor', () => {
  const other = join(dir, 'other');
  writeFileSync(other, 'other');
  const stable = openSync('/dev/null', 'r');
  const from = openSync(other, 'r');
  assert.equal(dupOver(from, stable), stable);
  closeSync(from);
  assert.equal(readFileSync(stable, 'utf8'), 'other');
  closeSync(stable);
  assert.equal(dupOver(999_999, 0), -errno.EBADF);
});
