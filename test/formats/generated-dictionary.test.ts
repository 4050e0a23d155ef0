/**
 * An image whose chunks came through a generated dictionary (rafs-format 4.1, 7.5 `chunkdict generate`): its blob entry
 * counts the chunks that the dictionary lists, in the dictionary's order. No builder here makes one, so a fixture is
 * renumbered.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { CHUNK_ENTRY } from '../../src/rafs/chunk-entry.ts';
import { BLOB } from '../../src/rafs/v6/blob-table-layout.ts';
import { CHUNK_INDEX, CHUNK_INDEX_BYTES, chunkIndexOffset, S_IFMT, S_IFREG } from '../../src/rafs/v6/inode-layout.ts';
import { FIXTURES } from '../../src/storage/fixtures.testing.ts';
import { FEATURE } from '../../src/storage/tables/blob-layout.ts';
import { assertSame, expectedTree, IMAGE_FIELDS } from '../vm/compare.ts';
import { Damaged, walked } from './damage.ts';
import { readImage } from './read-image.ts';
import { chunkEntries } from './repack-v6.ts';

/** With contexts behind its table, or encrypted, the length of a table does not tell how many chunks it has. */
const IMAGES = [
  ['v6-zstd-blake3-4k', 'small'],
  ['v6-batch', 'small'],
  ['v6-encrypt', 'small'],
  ['zran-v6', 'tar'],
] as const;
const scratch = mkdtempSync(join(tmpdir(), 'generated-dictionary-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** Chunks counted backwards, sizes that mean nothing, and the mark. */
function renumbered(name: string): Damaged {
  const image = new Damaged(name);
  const { boot, entryAt, info } = image;
  const renumber = (index: number) => info.chunkCount - 1 - index;
  for (const { at, entry } of chunkEntries(boot).values()) {
    boot.writeUInt32LE(renumber(entry.index), at + CHUNK_ENTRY.INDEX);
  }
  const done = new Set<number>();
  for (const { node, mode, size, offset, bytes, xattrBytes } of walked(name).values()) {
    if ((mode & S_IFMT) !== S_IFREG || done.has(node)) continue;
    done.add(node);
    const start = chunkIndexOffset(offset, bytes, xattrBytes);
    for (let k = 0; k * info.chunkSize < size; k++) {
      const at = start + k * CHUNK_INDEX_BYTES + CHUNK_INDEX.CI_LOW;
      boot.writeUInt16LE(renumber(boot.readUInt16LE(at)), at);
    }
  }
  boot.writeUInt32LE((info.features | FEATURE.IS_CHUNKDICT_GENERATED) >>> 0, entryAt + BLOB.FEATURES);
  boot.writeBigUInt64LE(0n, entryAt + BLOB.COMPRESSED_SIZE);
  return image;
}

for (const [name, tree] of IMAGES) {
  for (const validate of [true, false]) {
    test(`${name}, its chunks counted another way, shows its tree, validation ${validate}`, async () => {
      const dir = mkdtempSync(join(scratch, 'image-'));
      const { boot, blobDir } = renumbered(name).save(dir);
      const workDir = join(dir, 'cache');
      mkdirSync(workDir);
      const cache = { type: 'blobcache', config: { work_dir: workDir } };
      const device = { backend: { type: 'localfs', config: { dir: blobDir } }, cache };
      const expected = expectedTree(join(FIXTURES, `images/expect/${tree}.json`));
      // The second mount shares the cache directory with one that counts as the blob does.
      for (const path of [boot, join(FIXTURES, 'images/boot', `${name}.boot`), boot]) {
        const { manifest, lines } = await readImage(path, { device, mode: 'direct', digest_validate: validate });
        assertSame(expected, manifest, IMAGE_FIELDS, path);
        assert.deepEqual(lines, []);
      }
    });
  }
}
