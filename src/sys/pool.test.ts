import assert from 'node:assert/strict';
import { closeSync, openSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { test } from 'node:test';
import { errno } from './errno.ts';
import { syncfsInPool } from './pool.ts';

const syncfs = (fd: number) => new Promise<number>((resolve) => syncfsInPool(fd, resolve));

test('syncfs of a directory succeeds, of no descriptor fails', async () => {
  const fd = openSync(tmpdir(), 'r');
  assert.equal(await syncfs(fd), 0);
  closeSync(fd);
  assert.equal(await syncfs(-1), -errno.EIO);
});
