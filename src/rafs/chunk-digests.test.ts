import assert from 'node:assert/strict';
import { closeSync, ftruncateSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { ChunkDigestTable } from './chunk-digests.ts';
import { CHUNK_ENTRY, CHUNK_ENTRY_BYTES, CHUNK_FLAG } from './chunk-entry.ts';
import { bootPath } from './fixture-blobs.testing.ts';
import { openImage } from './open-image.ts';

const dir = mkdtempSync(join(tmpdir(), 'digests-'));
after(() => rmSync(dir, { recursive: true }));

/** A table of `entries` chunks at file offset 4096; `keys` gives blob and index of entry i, the digest i + 1. */
function table(entries: number, keys: (i: number) => [blob: number, index: number]): { fd: number; offset: number } {
  const bytes = Buffer.alloc(entries * CHUNK_ENTRY_BYTES);
  for (let i = 0; i < entries; i++) {
    const [blob, index] = keys(i);
    bytes.writeUInt32LE(i + 1, i * CHUNK_ENTRY_BYTES + CHUNK_ENTRY.DIGEST);
    bytes.writeUInt32LE(blob, i * CHUNK_ENTRY_BYTES + CHUNK_ENTRY.BLOB_INDEX);
    bytes.writeUInt32LE(index, i * CHUNK_ENTRY_BYTES + CHUNK_ENTRY.INDEX);
  }
  const fd = openSync(join(dir, `${entries}`), 'w+');
  writeSync(fd, bytes, 0, bytes.length, 4096);
  return { fd, offset: 4096 };
}

test('finds every chunk of every blob, and nothing else', () => {
  const { fd, offset } = table(50_000, (i) => [i % 5, (i * 7919) % 50_000]);
  const digests = new ChunkDigestTable(fd, 'x', offset, 50_000);
  for (let i = 0; i < 50_000; i += 97) {
    assert.equal(Buffer.from(digests.ofBlob(i % 5)((i * 7919) % 50_000) as Uint8Array).readUInt32LE(), i + 1);
    assert.equal(digests.ofBlob(5)((i * 7919) % 50_000), null);
    assert.equal(digests.ofBlob(i % 5)(50_000 + i), null);
  }
  closeSync(fd);
});

test('prepare leaves the event loop free between slices', async () => {
  const { fd, offset } = table(100_000, (i) => [0, i]);
  const digests = new ChunkDigestTable(fd, 'x', offset, 100_000);
  let turns = 0;
  const timer = setInterval(() => turns++, 0);
  await digests.prepare();
  await new Promise((resume) => setImmediate(resume));
  clearInterval(timer);
  assert.ok(turns > 0);
  assert.ok(digests.ofBlob(0)(99_999));
  closeSync(fd);
});

test('a table of equal keys is refused instead of costing quadratic time', () => {
  const { fd, offset } = table(100_000, () => [0, 1]);
  const start = performance.now();
  assert.throws(() => new ChunkDigestTable(fd, 'x', offset, 100_000).ofBlob(0)(1), { code: 'BROKEN' });
  assert.ok(performance.now() - start < 1000);
  closeSync(fd);
});

test('a table cut off behind our back is an error, not a missing digest', () => {
  const { fd, offset } = table(2000, (i) => [0, i]);
  const digests = new ChunkDigestTable(fd, 'x', offset, 2000);
  assert.ok(digests.ofBlob(0)(1999));
  ftruncateSync(fd, 4096);
  assert.throws(() => digests.ofBlob(0)(1999), { code: 'TRUNCATED' });
  closeSync(fd);
});

test('an image without a table has no digests', () => {
  assert.equal(new ChunkDigestTable(-1, 'x', 0, 0).ofBlob(0)(0), null);
});

test('the bootstrap and blob.digest agree, and digests survive the bootstrap descriptor', () => {
  const image = openImage(bootPath('v6-2.2'));
  closeSync(image.fd);
  const entry = readFileSync(bootPath('v6-2.2')).subarray(0x4000, 0x4000 + 2 * CHUNK_ENTRY_BYTES);
  const found = [0, 1].map((i) => Buffer.from(image.digests(0)(i) as Uint8Array).toString('hex')).sort();
  const stored = [0, 80].map((at) => entry.toString('hex', at, at + 32)).sort();
  assert.deepEqual(found, stored);
  image.close();
});

test('chunks without digest have their CRC, or nothing', () => {
  const bytes = Buffer.alloc(2 * CHUNK_ENTRY_BYTES);
  bytes.writeUInt32LE(CHUNK_FLAG.HAS_CRC32, CHUNK_ENTRY.FLAGS);
  bytes.writeUInt32LE(0xe306_9283, CHUNK_ENTRY.CRC32);
  bytes.writeUInt32LE(1, CHUNK_ENTRY_BYTES + CHUNK_ENTRY.INDEX);
  const fd = openSync(join(dir, 'crc'), 'w+');
  writeSync(fd, bytes);
  const proofs = new ChunkDigestTable(fd, 'x', 0, 2).ofBlob(0);
  assert.deepEqual(proofs(0), Uint8Array.of(0x83, 0x92, 0x06, 0xe3));
  assert.equal(proofs(1), null);
  closeSync(fd);
});
