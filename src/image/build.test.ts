/**
 * Against upstream's own output: from the same tree, the same bytes. Two things may differ and are taken out before
 * comparing: the order of a file's xattrs, which upstream leaves to a hash map, and where a different release of the
 * compression library produced other compressed bytes, everything that counts those.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { bundleWorker } from '../common/bundle.testing.ts';
import { CHUNK_ENTRY, CHUNK_ENTRY_BYTES, CHUNK_FLAG } from '../rafs/chunk-entry.ts';
import { BLOB, DEVICE, decodeBlobEntry } from '../rafs/v6/blob-table-layout.ts';
import { INODE_EXTENDED_BYTES, NID_UNIT_BYTES, XATTR_HEADER_BYTES } from '../rafs/v6/inode-layout.ts';
import { BLOCK_BYTES, DEVICE_SLOT_OFFSET, decodeExtSuperblock, decodeSuperblock } from '../rafs/v6/layout.ts';
import { ImageWalker } from '../rafs/walk.ts';
import { CODECS } from '../storage/codecs/codecs.ts';
import { BLOBS_DIR, FIXTURES } from '../storage/fixtures.testing.ts';
import { decodeToc, encodeTarHeader, PART, walkBackwards } from '../storage/tables/blob-layout.ts';
import type { Compressor, Digester } from '../storage/types.ts';
import { type BuildOptions, buildImage } from './build.ts';
import { checkImage } from './check.ts';
import { defaults, FinishedImage, filledData } from './image-source.testing.ts';

const boot = (name: string) => join(FIXTURES, 'images/boot', `${name}.boot`);
let dir = '';
before(() => {
  dir = mkdtempSync(join(tmpdir(), 'image-build-'));
});
after(() => rmSync(dir, { recursive: true, force: true }));

const trees = new Map<string, FinishedImage>();
const TREE_OF = { small: 'v6-none-blake3-4k', full: 'v6-zstd-blake3' } as const;

function tree(name: keyof typeof TREE_OF): FinishedImage {
  const known = trees.get(name) ?? new FinishedImage(boot(TREE_OF[name]), BLOBS_DIR);
  trees.set(name, known);
  return known;
}

/** A bootstrap with each inode's xattr entries sorted. */
function sortedXattrs(path: string): Buffer {
  const bytes = readFileSync(path);
  const meta = decodeSuperblock(new DataView(bytes.buffer, bytes.byteOffset), 1024).metaBlkaddr * BLOCK_BYTES;
  const image = new ImageWalker(path);
  for (const { inode } of image.walk()) {
    if (inode.xattrBytes === 0) continue;
    const at = meta + inode.node * NID_UNIT_BYTES + INODE_EXTENDED_BYTES + XATTR_HEADER_BYTES;
    const end = at - XATTR_HEADER_BYTES + inode.xattrBytes;
    const entries: Buffer[] = [];
    for (let from = at; from < end; ) {
      const size = Math.ceil((4 + bytes[from] + bytes.readUInt16LE(from + 2)) / 4) * 4;
      entries.push(Buffer.from(bytes.subarray(from, from + size)));
      from += size;
    }
    bytes.set(Buffer.concat(entries.sort(Buffer.compare)), at);
  }
  image.close();
  return bytes;
}

/** A bootstrap without anything that depends on how well chunks were compressed. */
function withoutCompression(bytes: Buffer): Buffer {
  const ext = decodeExtSuperblock(new DataView(bytes.buffer, bytes.byteOffset), 1152);
  bytes.fill(0, DEVICE_SLOT_OFFSET + DEVICE.ID, DEVICE_SLOT_OFFSET + DEVICE.BLOCKS);
  bytes.fill(0, ext.blobTableOffset + BLOB.ID, ext.blobTableOffset + BLOB.INDEX);
  for (const field of [BLOB.COMPRESSED_SIZE, BLOB.CI_OFFSET, BLOB.CI_COMPRESSED_SIZE]) {
    bytes.fill(0, ext.blobTableOffset + field, ext.blobTableOffset + field + 8);
  }
  bytes.fill(0, ext.blobTableOffset + BLOB.TOC_DIGEST, ext.blobTableOffset + BLOB.EXTRA);
  for (let at = ext.chunkTableOffset; at < ext.chunkTableOffset + ext.chunkTableSize; at += CHUNK_ENTRY_BYTES) {
    bytes[at + CHUNK_ENTRY.FLAGS] &= ~CHUNK_FLAG.COMPRESSED;
    bytes.fill(0, at + CHUNK_ENTRY.COMPRESSED_SIZE, at + CHUNK_ENTRY.UNCOMPRESSED_SIZE);
    bytes.fill(0, at + CHUNK_ENTRY.COMPRESSED_OFFSET, at + CHUNK_ENTRY.UNCOMPRESSED_OFFSET);
  }
  return bytes;
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

interface Case {
  name: string;
  tree: keyof typeof TREE_OF;
  compressor: Compressor;
  digester: Digester;
  chunkSize: number;
  toc?: true;
}
const CASES: Case[] = [
  { name: 'v6-zstd-blake3', tree: 'full', compressor: 'zstd', digester: 'blake3', chunkSize: 1 << 20 },
];
for (const compressor of ['none', 'lz4_block', 'zstd'] as const) {
  for (const digester of ['blake3', 'sha256'] as const) {
    CASES.push({ name: `v6-${compressor}-${digester}-4k`, tree: 'small', compressor, digester, chunkSize: 4096 });
  }
}
CASES.push({ name: 'v6-toc', tree: 'small', compressor: 'zstd', digester: 'blake3', chunkSize: 0x10000, toc: true });

function options(one: Case): BuildOptions {
  const { compressor, digester, chunkSize } = one;
  const bootstrap = { path: join(dir, `${one.name}.boot`) };
  return { ...defaults(dir), compressor, digester, chunkSize, toc: one.toc === true, bootstrap };
}

describe('the bytes upstream writes', () => {
  for (const one of CASES) {
    test(one.name, async () => {
      const result = await buildImage(tree(one.tree), options(one));
      const ours = sortedXattrs(result.bootstrapPath);
      const theirs = sortedXattrs(boot(one.name));
      if (one.compressor === 'none') {
        assert.deepEqual(ours, theirs);
        assert.deepEqual(readFileSync(result.blobPath ?? ''), readFileSync(join(BLOBS_DIR, result.blobId ?? '')));
      } else assert.deepEqual(withoutCompression(ours), withoutCompression(theirs));
      checkImage(result.bootstrapPath);
    });
  }
});

describe("what was built decodes to what upstream's blob decodes to", () => {
  for (const one of CASES) {
    test(one.name, async () => {
      const result = await buildImage(tree(one.tree), options(one));
      const data = [
        [result.bootstrapPath, dir],
        [boot(one.name), BLOBS_DIR],
      ].map(([path, blobs]) => {
        const image = new ImageWalker(path);
        image.close();
        return filledData(image.blobs[0], readFileSync(join(blobs, image.blobs[0].id)));
      });
      assert.ok(data[0].equals(data[1]));
    });
  }
});

describe('blobs', () => {
  test('with a table of contents: every part is where it says, with its digest', async () => {
    const result = await buildImage(tree('small'), { ...defaults(dir), toc: true });
    const file = readFileSync(result.blobPath ?? '');
    const image = new ImageWalker(result.bootstrapPath);
    image.close();
    const [blob] = image.blobs;
    assert.equal(blob.compressedSize, file.length);
    const toc = decodeToc(file.subarray(file.length - blob.tocSize), file.length);
    assert.deepEqual(
      toc.map((entry) => entry.name),
      [PART.DATA, PART.META, PART.META_HEADER, PART.DIGEST],
    );
    for (const entry of toc) {
      const stored = file.subarray(entry.offset, entry.offset + entry.storedSize);
      const bytes = entry.flags === 2 ? CODECS.zstd.decompress(stored, entry.uncompressedSize) : stored;
      // The data's digest covers its tar header too (rafs-format 3.8).
      const covered = entry.name === PART.DATA ? [bytes, encodeTarHeader(PART.DATA, bytes.length)] : [bytes];
      assert.equal(sha256(Buffer.concat(covered)), entry.digest.toString('hex'), entry.name);
    }
    assert.equal(sha256(file.subarray(file.length - blob.tocSize)), Buffer.from(blob.tocDigest ?? []).toString('hex'));
    assert.equal(sha256(file), result.blobId);
  });

  test('with the bootstrap inside: found from the end, equal to the one written alone', async () => {
    for (const toc of [false, true]) {
      const result = await buildImage(tree('small'), { ...defaults(dir), toc, inlineMeta: true });
      assert.equal(result.bootstrapPath, '');
      const file = readFileSync(result.blobPath ?? '');
      const parts = walkBackwards(file.length, (at, bytes) => file.subarray(at, at + bytes));
      const names = [PART.DATA, PART.META, PART.DIGEST, PART.BOOTSTRAP, PART.TOC];
      const expected = toc ? names : [PART.DATA, PART.META, PART.BOOTSTRAP];
      assert.deepEqual(parts.map((part) => part.name).reverse(), expected);
      const part = parts.find(({ name }) => name === PART.BOOTSTRAP);
      const stored = file.subarray(part?.offset, (part?.offset ?? 0) + (part?.size ?? 0));
      const tocAt = parts.find(({ name }) => name === PART.TOC)?.offset ?? file.length;
      const entry = toc ? decodeToc(file.subarray(tocAt), file.length).at(-1) : undefined;
      const inner = entry === undefined ? stored : CODECS.zstd.decompress(stored, entry.uncompressedSize);
      assert.equal(inner.toString('latin1', DEVICE_SLOT_OFFSET, DEVICE_SLOT_OFFSET + 64), 'x'.repeat(64));
      const table = decodeExtSuperblock(new DataView(inner.buffer, inner.byteOffset), 1152).blobTableOffset;
      const blob = decodeBlobEntry(inner, table);
      assert.equal(blob.compressedSize, part?.offset);
      assert.deepEqual([blob.tocSize, blob.tocDigest], [0, null]);
    }
  });

  test('the same input gives the same bytes, with and without helper threads', async () => {
    const source = tree('full');
    const ids = new Set<string>();
    const bootstraps = new Set<string>();
    const helper = bundleWorker(new URL('./compress-worker.ts', import.meta.url));
    for (const helperEntry of [null, null, helper]) {
      const result = await buildImage(source, { ...defaults(dir), chunkSize: 0x1000, helperEntry });
      ids.add(result.blobId ?? '');
      bootstraps.add(sha256(readFileSync(result.bootstrapPath)));
    }
    assert.equal(ids.size, 1);
    assert.equal(bootstraps.size, 1);
    rmSync(helper);
  });

  test('a given id and given paths are used; nothing unfinished stays in the directory', async () => {
    const place = mkdtempSync(join(dir, 'given-'));
    const result = await buildImage(tree('small'), {
      ...defaults(place),
      blobId: 'my-blob',
      blob: { dir: place },
      bootstrap: { dir: place },
    });
    const name = sha256(readFileSync(result.bootstrapPath));
    assert.deepEqual(readdirSync(place).sort(), ['my-blob', name].sort());
    assert.equal(new ImageWalker(result.bootstrapPath).blobs[0].id, 'my-blob');
  });
});
