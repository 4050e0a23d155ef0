/**
 * The reference tool's own verdict about what was built, where NYDUS_IMAGE names one. A black box: it is never needed,
 * and nothing is taken from it.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { BLOBS_DIR, FIXTURES } from '../storage/fixtures.testing.ts';
import { buildImage } from './build.ts';
import { defaults, FinishedImage } from './image-source.testing.ts';

const TOOL = process.env['NYDUS_IMAGE'];
let dir = '';
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'image-upstream-'));
});
after(() => rmSync(dir, { recursive: true, force: true }));

for (const compressor of ['none', 'lz4_block', 'zstd'] as const) {
  for (const toc of [false, true]) {
    test(`the reference tool takes ${compressor}${toc ? ' with TOC' : ''}`, async (t) => {
      if (TOOL === undefined) return t.skip('NYDUS_IMAGE names no reference tool');
      const source = new FinishedImage(join(FIXTURES, 'images/boot/v6-zstd-blake3.boot'), BLOBS_DIR);
      const { bootstrapPath, blobId } = await buildImage(source, { ...defaults(dir), compressor, toc });
      const { status, stdout, stderr } = spawnSync(TOOL, ['check', '-D', dir, bootstrapPath], { encoding: 'utf8' });
      assert.equal(status, 0, stderr);
      assert.ok(stdout.includes(blobId ?? ''));
    });
  }
}
