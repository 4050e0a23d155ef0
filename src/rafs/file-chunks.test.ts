import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { FileChunks } from './file-chunks.ts';
import { bootPath } from './fixture-blobs.testing.ts';
import { openImage } from './open-image.ts';
import { CHUNK_INDEX, CHUNK_INDEX_BYTES, chunkIndexOffset } from './v6/inode-layout.ts';
import { ImageWalker } from './walk.ts';

const NAME = 'v6-zstd-sha256-4k';
const PATH = '/big/multi-chunk';

test('chunks that do not decode are a pause each: a long file of them does not hold up its caller', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'file-chunks-'));
  t.after(() => rmSync(dir, { recursive: true }));
  const walker = new ImageWalker(bootPath(NAME));
  const file = [...walker.walk()].find(({ path }) => path.toString() === PATH);
  walker.close();
  assert.ok(file !== undefined);
  const { offset, bytes, xattrBytes, size } = file.inode;
  const count = Math.ceil(size / walker.metadata.chunkSize);
  const boot = readFileSync(bootPath(NAME));
  const at = chunkIndexOffset(offset, bytes, xattrBytes);
  for (let k = 0; k < count; k++) boot[at + k * CHUNK_INDEX_BYTES + CHUNK_INDEX.DEVICE] = 0;
  const path = join(dir, 'boot');
  writeFileSync(path, boot);
  const image = openImage(path);
  const files = FileChunks.open(image.fd, path, image.geometry, image.blobs);
  const found = [...files.below(files.nodeAt(PATH) ?? 0)];
  files.close();
  image.close();
  closeSync(image.fd);
  assert.ok(count > 3);
  assert.deepEqual(found, Array(count).fill(null));
});
