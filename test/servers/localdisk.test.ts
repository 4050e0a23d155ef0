/** A blob in a GPT partition that sfdisk made, read through the store. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, openSync, truncateSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { freshDir } from '../../src/storage/cache/cache.testing.ts';
import { BLOBS, Reader } from './image.ts';

const skip = spawnSync('sfdisk', ['--version']).status === 0 ? false : 'sfdisk is not installed (apt package fdisk)';

test('an image on a disk', { skip }, async () => {
  const disk = join(freshDir(), 'disk');
  closeSync(openSync(disk, 'w'));
  truncateSync(disk, 64 << 20);
  for (const [id, bytes] of BLOBS) {
    const uuid = id.slice(32).replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
    const script = `label: gpt\nstart=2048, size=${Math.ceil(bytes.length / 512)}, name=${id.slice(0, 32)}, uuid=${uuid}\n`;
    execFileSync('sfdisk', ['--quiet', disk], { input: script, stdio: ['pipe', 'ignore', 'inherit'] });
    const fd = openSync(disk, 'r+');
    writeSync(fd, bytes, 0, bytes.length, 2048 * 512);
    closeSync(fd);
  }
  const reader = new Reader('localdisk', { device_path: disk });
  await reader.read(100);
  assert.equal(reader.store.stats.failedRequests, 0);
  await reader.close();
});
