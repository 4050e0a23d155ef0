/**
 * Images of every kind, compressor, digester and chunk size against their source, read completely through our handlers
 * and store, validation on and off. Pairwise in CI; `npm run test:matrix` takes every cell (FORMAT_MATRIX=whole).
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { assertSame, IMAGE_FIELDS } from '../vm/compare.ts';
import { hostManifest, type Manifest } from '../vm/manifest.ts';
import { allCells, type Cell, impossible, KINDS, nameOf, pairwise } from './cells.ts';
import { makeImages, missingTool } from './makers.ts';
import { readImage } from './read-image.ts';
import { makeSourceTree } from './source-tree.ts';

const POSSIBLE = allCells().filter((cell) => impossible(cell) === null);
const isWhole = process.env['FORMAT_MATRIX'] === 'whole';
const CELLS = isWhole ? POSSIBLE : pairwise(POSSIBLE);
/** Trees of 16 MiB chunks are 100 MB: half the time of the pairwise part, so that they are read once there. */
const READ_ONCE_CHUNK_BYTES = 0x100_0000;

const scratch = mkdtempSync(join(tmpdir(), 'format-matrix-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

const sources = new Map<number, Promise<{ dir: string; manifest: Manifest }>>();

function sourceOf(chunkBytes: number): Promise<{ dir: string; manifest: Manifest }> {
  let made = sources.get(chunkBytes);
  if (made === undefined) {
    const dir = join(scratch, `source-${chunkBytes}`);
    makeSourceTree(dir, chunkBytes);
    made = hostManifest(dir).then((manifest) => ({ dir, manifest }));
    sources.set(chunkBytes, made);
  }
  return made;
}

test('every kind of image can be made, and no cell is left out', () => {
  assert.deepEqual(new Set(POSSIBLE.map(({ kind }) => kind)), new Set(KINDS));
  for (const cell of allCells()) assert.ok(POSSIBLE.includes(cell) || impossible(cell) !== '', nameOf(cell));
});

for (const cell of CELLS) {
  test(nameOf(cell), { skip: missingTool(cell) ?? false }, async () => {
    const { dir, manifest } = await sourceOf(cell.chunkBytes);
    const work = mkdtempSync(join(scratch, 'cell-'));
    const isOnce = !isWhole && cell.chunkBytes === READ_ONCE_CHUNK_BYTES;
    for (const image of await makeImages(cell, dir, work)) {
      for (const validate of isOnce ? [true] : [true, false])
        await compare(cell, image.boot, image.blobDir, manifest, validate);
    }
    rmSync(work, { recursive: true });
  });
}

async function compare(cell: Cell, boot: string, blobDir: string, manifest: Manifest, validate: boolean) {
  const cacheDir = mkdtempSync(join(scratch, 'cache-'));
  mkdirSync(cacheDir, { recursive: true });
  const backend = { type: 'localfs', config: { dir: blobDir } };
  const cache = { type: 'blobcache', config: { work_dir: cacheDir } };
  const config = { device: { backend, cache }, mode: 'direct', digest_validate: validate, enable_xattr: true };
  const read = await readImage(boot, config);
  assertSame(manifest, read.manifest, IMAGE_FIELDS, `${nameOf(cell)}, validation ${validate}`);
  assert.equal(read.stats.badChunks, 0);
  // Who vouches for nothing says so, once.
  const unverified = validate && ['tarfs', 'external'].includes(cell.kind) ? 1 : 0;
  assert.equal(read.lines.length, unverified, read.lines.join('\n'));
  rmSync(cacheDir, { recursive: true });
}
