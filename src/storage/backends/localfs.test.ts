/** Directories of blobs with many readers. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { openDescriptors } from '../../common/descriptors.testing.ts';
import { NEVER } from '../backend.suite.ts';
import { freshDir } from '../cache/cache.testing.ts';
import { openLocalfs } from './localfs.ts';

const BYTES = 1 << 20;

function openDir(blobs: number) {
  const dir = freshDir();
  const ids = Array.from({ length: blobs }, (_, i) => `blob-${i}`);
  for (const [i, id] of ids.entries()) writeFileSync(join(dir, id), Buffer.alloc(BYTES, i));
  return { dir, ids, backend: openLocalfs({ kind: 'localfs', blobFile: '', dir, altDirs: [] }) };
}

/** Takes the bytes piece by piece, and its time between two of them, as prefetch does. */
const newSink = () => ({ buffer: Buffer.alloc(BYTES), arrived: () => sleep(2) });

test('more blobs than files are kept open, all at once: every read succeeds, and no descriptor is left', async () => {
  const { ids, backend } = openDir(100);
  const before = openDescriptors().length;
  const reads = ids.flatMap((id) => [1, 2].map(() => backend.read(id, 0, BYTES, NEVER, newSink())));
  for (const [i, bytes] of (await Promise.all(reads)).entries()) assert.equal(bytes[BYTES - 1], i >> 1);
  backend.close();
  for (let tries = 0; openDescriptors().length > before && tries < 100; tries++) {
    await sleep(20);
  }
  assert.equal(openDescriptors().length, before);
});

test('a read that fails ends no other read of the blob', async () => {
  const { ids, backend } = openDir(1);
  const reads = Array.from({ length: 8 }, () => [
    assert.rejects(backend.read(ids[0], BYTES, 1, NEVER), { code: 'BLOB_SHORT' }),
    backend.read(ids[0], 0, BYTES, NEVER, newSink()),
  ]);
  await Promise.all(reads.flat());
  backend.close();
});
