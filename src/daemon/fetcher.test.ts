import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { SILENT } from '../common/log.ts';
import { storageError } from '../storage/errors.ts';
import { errno } from '../sys/errno.ts';
import type { ToDevice } from '../virtiofs/control.ts';
import { type FetchChunks, Fetcher } from './fetcher.ts';

/** What the device thread is told for a fetch that ends like `fetchChunks`. */
async function answerTo(fetchChunks: FetchChunks): Promise<ToDevice> {
  return new Promise((resolve) =>
    new Fetcher(fetchChunks, resolve, SILENT).fetch({ type: 'fetch', ticket: 9, blob: 1, chunks: [] }),
  );
}

test('a fetch is answered with 0, or with the errno its failure stands for', async () => {
  const cases: [FetchChunks, number][] = [
    [async () => {}, 0],
    [async () => Promise.reject(new Error('no route')), -errno.EIO],
    // A full cache is our trouble, not the guest's; an image that went away is told apart.
    [async () => Promise.reject(storageError('NO_SPACE', { path: '/cache' })), -errno.EIO],
    [async () => Promise.reject(storageError('CLOSED', { blobId: 'b' })), -errno.ESTALE],
    [
      () => {
        throw new Error('synchronously');
      },
      -errno.EIO,
    ],
  ];
  for (const [fetchChunks, result] of cases) {
    assert.deepEqual(await answerTo(fetchChunks), { type: 'fetched', ticket: 9, result });
  }
});

test('a fetch that fails is an error in the log, unless its image was unmounted meanwhile', async () => {
  const errors: string[] = [];
  const log = { ...SILENT, error: (text: string) => void errors.push(text) };
  for (const code of ['CLOSED', 'UNCACHED'] as const) {
    const failing = () => Promise.reject(storageError(code, { blobId: 'b', path: 'p' }));
    await new Promise((resolve) =>
      new Fetcher(failing, resolve, log).fetch({ type: 'fetch', ticket: 9, blob: 1, chunks: [] }),
    );
  }
  assert.equal(errors.length, 1);
  assert.match(errors[0]!, /UNCACHED/);
});

test('syncs are answered with 0 or the errno', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'fetcher-'));
  const good = openSync(join(dir, 'file'), 'w');
  const done = (op: 'fsync' | 'fdatasync' | 'syncfs', fd: number): Promise<ToDevice> =>
    new Promise((resolve) => new Fetcher(async () => {}, resolve, SILENT).io({ type: 'io', ticket: 3, op, fd }));
  for (const op of ['fsync', 'fdatasync', 'syncfs'] as const) {
    assert.deepEqual(await done(op, good), { type: 'io', ticket: 3, result: 0 }, op);
  }
  assert.deepEqual(await done('fsync', 1 << 20), { type: 'io', ticket: 3, result: -errno.EBADF });
  closeSync(good);
  rmSync(dir, { recursive: true });
});
