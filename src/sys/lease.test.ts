import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { errno } from './errno.ts';
import { takeLease } from './lease.ts';

const dir = mkdtempSync(join(tmpdir(), 'lease-'));
after(() => rmSync(dir, { recursive: true }));

function fileOf(name: string): string {
  const path = join(dir, name);
  writeFileSync(path, 'x');
  return path;
}

/** A process that opens the file and says so, then stays. */
function opener(path: string): { child: ChildProcess; opened: Promise<unknown> } {
  const child = spawn('sh', ['-c', 'exec 3< "$1"; echo open; exec sleep 60', 'sh', path], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  return { child, opened: once(child.stdout!, 'data') };
}

test('a file that nobody else has open is leased; one that is open here a second time is not', () => {
  const path = fileOf('mine');
  const fd = openSync(path, 'r');
  assert.equal(takeLease(fd), 0);
  assert.equal(takeLease(fd), 0, 'again, by its holder');
  closeSync(fd);
  const [a, b] = [openSync(path, 'r'), openSync(path, 'r')];
  assert.equal(takeLease(a), -errno.EAGAIN);
  closeSync(b);
  assert.equal(takeLease(a), 0);
  closeSync(a);
});

test('a file that another process has open is not leased, until that one ends', async () => {
  const path = fileOf('theirs');
  const { child, opened } = opener(path);
  await opened;
  const fd = openSync(path, 'r');
  assert.equal(takeLease(fd), -errno.EAGAIN);
  child.kill('SIGKILL');
  await once(child, 'close');
  assert.equal(takeLease(fd), 0);
  closeSync(fd);
});

test('whoever opens a leased file waits until it is given back, and this process goes on', async () => {
  const path = fileOf('waits');
  const fd = openSync(path, 'r');
  assert.equal(takeLease(fd), 0);
  const { child, opened } = opener(path);
  const first = await Promise.race([opened.then(() => 'open'), sleep(300, 'waiting')]);
  assert.equal(first, 'waiting');
  closeSync(fd);
  await opened;
  child.kill('SIGKILL');
  await once(child, 'close');
});

test('what cannot be leased is an errno', () => {
  const pipe = openSync('/dev/null', 'r');
  assert.ok(takeLease(pipe) < 0);
  closeSync(pipe);
  assert.equal(takeLease(1_000_000), -errno.EBADF);
});
