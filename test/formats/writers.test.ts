/** The writers of the tests, proved on the images of upstream's builder: given the same chunks they write the same tables. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { cipherOf } from '../../src/storage/codecs/cipher.ts';
import { CODECS, compressorOf } from '../../src/storage/codecs/codecs.ts';
import { DIGESTS } from '../../src/storage/codecs/digests.ts';
import { BLOBS_DIR, blobBytes, blobTable, FIXTURES } from '../../src/storage/fixtures.testing.ts';
import { CONTEXT_BYTES } from '../../src/storage/tables/blob-contexts.ts';
import { CHUNK_FLAG, chunkInfoBytes, decodeChunkInfo } from '../../src/storage/tables/blob-layout.ts';
import { assertSame, expectedTree, IMAGE_FIELDS } from '../vm/compare.ts';
import { hostManifest } from '../vm/manifest.ts';
import { readImage } from './read-image.ts';
import { chunkEntries, ciTable, type PlainChunk, packChunks } from './repack-v6.ts';
import { writeTarfs } from './tarfs-writer.ts';

const scratch = mkdtempSync(join(tmpdir(), 'format-writers-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** What the two fixtures were built with. */
const BATCH_BYTES: Record<string, number> = { 'v6-batch': 0x1_0000, 'v6-encrypt': 0 };

for (const [name, batchBytes] of Object.entries(BATCH_BYTES)) {
  test(`${name}: chunk table and stored bytes as upstream's builder wrote them`, () => {
    const [info] = blobTable(name);
    const file = blobBytes(info.id);
    const cipher = cipherOf(info);
    const plain = (bytes: Buffer, size?: number) => (cipher === null ? bytes : cipher.decrypt(bytes, size));
    const packed = plain(file.subarray(info.ciOffset, info.ciOffset + info.ciCompressedSize));
    const table = CODECS[compressorOf(info.ciCompressor) ?? 'none'].decompress(packed, info.ciUncompressedSize);
    const entryBytes = chunkInfoBytes(info.features);
    const contextAt = (index: number) => info.chunkCount * entryBytes + index * CONTEXT_BYTES;
    const entries = chunkEntries(readFileSync(join(FIXTURES, 'images/boot', `${name}.boot`)));
    /** What that builder's version of zstd made of the bytes. */
    const compressed = new Map<string, Buffer>();
    const keyOf = (bytes: Buffer) => DIGESTS.sha256.digest(bytes).toString('hex');
    const chunks = Array.from({ length: info.chunkCount }, (_, index): PlainChunk => {
      const chunk = decodeChunkInfo(table, index * entryBytes, info.features);
      const isBatch = (chunk.flags & CHUNK_FLAG.BATCH) !== 0;
      const storedBytes = isBatch ? table.readUInt32LE(contextAt(chunk.high)) : chunk.compressedSize;
      const unitBytes = isBatch ? table.readUInt32LE(contextAt(chunk.high) + 4) : chunk.uncompressedSize;
      const stored = file.subarray(chunk.compressedOffset, chunk.compressedOffset + storedBytes);
      const isRaw = isBatch ? storedBytes === unitBytes : (chunk.flags & CHUNK_FLAG.COMPRESSED) === 0;
      const packedUnit = plain(stored, isRaw ? unitBytes : undefined);
      const unit = CODECS[isRaw ? 'none' : info.compressor].decompress(packedUnit, unitBytes);
      compressed.set(keyOf(unit), packedUnit);
      const bytes = isBatch ? unit.subarray(chunk.low, chunk.low + chunk.uncompressedSize) : unit;
      const alone = entries.get(index)?.entry.fileOffset === 0 && bytes.length < info.chunkSize;
      return { ...chunk, index, bytes, alone };
    });
    const again = packChunks(chunks, { compressor: info.compressor, batchBytes }, cipher, (bytes) => {
      return compressed.get(keyOf(bytes)) ?? assert.fail('a unit upstream has not');
    });
    assert.ok(ciTable(again, info.features).equals(table), 'chunk table');
    assert.ok(again.data.equals(file.subarray(0, again.data.length)), 'chunk data');
  });
}

test('tarfs: both images of one tar show the same tree', async () => {
  const source = join(scratch, 'tree');
  mkdirSync(source);
  const layer = join(FIXTURES, 'images/src/tree.tar.gz');
  execFileSync('tar', ['--xattrs', '--xattrs-include=*', '-C', source, '-xpf', layer], { stdio: 'pipe' });
  const { boot, blobs } = writeTarfs(source, scratch, 0x10_0000);
  for (const [id, bytes] of blobs) writeFileSync(join(scratch, id), bytes);
  writeFileSync(join(scratch, 'image.boot'), boot);
  const read = async (path: string, dir: string) => {
    const cache = { type: 'blobcache', config: { work_dir: mkdtempSync(join(scratch, 'cache-')) } };
    const device = { backend: { type: 'localfs', config: { dir } }, cache };
    return (await readImage(path, { device, mode: 'direct' })).manifest;
  };
  const own = await read(join(scratch, 'image.boot'), scratch);
  assertSame(await hostManifest(source), own, IMAGE_FIELDS, 'ours against its source');
  const theirs = await read(join(FIXTURES, 'images/boot/tarfs-v6.boot'), BLOBS_DIR);
  const fields = IMAGE_FIELDS.filter((field) => field !== 'xattrs');
  assertSame(theirs, own, fields, 'ours against upstream');
  assertSame(expectedTree(join(FIXTURES, 'images/expect/tar.json')), theirs, IMAGE_FIELDS, 'upstream');
});
