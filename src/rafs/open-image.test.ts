import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { codeOf, explain } from '../common/app-error.ts';
import { fdCount } from '../common/descriptors.testing.ts';
import { bootPath } from './fixture-blobs.testing.ts';
import { openImage } from './open-image.ts';

const dir = mkdtempSync(join(tmpdir(), 'open-image-'));
after(() => rmSync(dir, { recursive: true }));

function refusal(path: string): string {
  try {
    const image = openImage(path);
    image.close();
    closeSync(image.fd);
  } catch (error) {
    return `${codeOf(error)} ${explain(error)}`;
  }
  return 'opened';
}

function file(name: string, bytes: Buffer): string {
  const path = join(dir, name);
  writeFileSync(path, bytes);
  return path;
}

/** A fixture with some bytes replaced. */
function patched(name: string, patch: (bytes: Buffer) => void): string {
  const bytes = readFileSync(bootPath('v6-zstd-blake3'));
  patch(bytes);
  return file(name, bytes);
}

const KINDS: readonly (readonly [fixture: string, version: number, blobs: number])[] = [
  ['v5-lz4-blake3', 5, 1],
  ['merged-v5', 5, 2],
  ['inline-v5', 5, 1],
  ['inline-v6', 6, 1],
  ['tarfs-v6', 6, 1],
  ['zran-v6', 6, 1],
  ['v6-batch', 6, 1],
  ['v6-encrypt', 6, 1],
  ['v6-dict', 6, 2],
];

for (const [fixture, version, blobs] of KINDS) {
  test(`${fixture} opens`, () => {
    const image = openImage(bootPath(fixture));
    assert.equal(image.geometry.version, version);
    assert.equal(image.blobs.length, blobs);
    assert.equal(image.blobs[0].described ?? false, version === 5 || fixture === 'tarfs-v6');
    if (fixture.startsWith('inline')) assert.equal(image.blobs[0].id, fixture);
    assert.equal(image.verifiable, fixture !== 'tarfs-v6');
    image.close();
    closeSync(image.fd);
  });
}

test('files that are no images say what they are', () => {
  const rafs = (version: number, bytes: number) => {
    const head = Buffer.alloc(8192);
    head.writeUInt32LE(0x52414653, 0);
    head.writeUInt32LE(version, 4);
    head.writeUInt32LE(bytes, 8);
    return head;
  };
  assert.match(refusal(file('empty', Buffer.alloc(0))), /^NOT_AN_IMAGE .*an empty file/);
  assert.match(refusal(file('text', Buffer.from('hello'))), /^NOT_AN_IMAGE .*another format/);
  assert.match(refusal(file('v4', rafs(0x400, 8192))), /^NOT_BUILT .*RAFS v4/);
  assert.match(refusal(file('v9', rafs(0x900, 8192))), /^NOT_AN_IMAGE .*unknown version 0x900/);
  assert.match(refusal(file('old', rafs(0x500, 64))), /^NOT_AN_IMAGE .*before 0.1/);
  const early = readFileSync(bootPath('v5-lz4-blake3'));
  early.writeUInt16LE(0x3000, early.readUInt32LE(early.readUInt32LE(32)) * 8 + 100);
  assert.match(refusal(file('early', early)), /^NOT_AN_IMAGE .*before 0.1/);
  assert.match(refusal(patched('erofs', (b) => b.writeUInt32LE(0, 1024 + 8))), /^NOT_AN_IMAGE .*plain EROFS/);
  assert.match(refusal(join(dir, 'missing')), /^OPEN .*ENOENT/);
  assert.match(refusal(dir), /^OPEN .*not a regular file/);
  execFileSync('mkfifo', [join(dir, 'fifo')]);
  assert.match(refusal(join(dir, 'fifo')), /^OPEN .*not a regular file/);
});

const RULES: readonly (readonly [rule: RegExp, patch: (bytes: Buffer) => void])[] = [
  [/block bits/, (b) => b.writeUInt8(11, 1024 + 12)],
  [/root inode outside/, (b) => b.writeUInt32LE(0xffff, 1024 + 40)],
  [/devices/, (b) => b.writeUInt16LE(255, 1024 + 86)],
  [/blob table size/, (b) => b.writeUInt16LE(2, 1024 + 86)],
  [/unknown flags/, (b) => b.writeUInt32LE(0x1000, 1152 + 4)],
  [/exactly one compressor/, (b) => b.writeUInt32LE(b.readUInt32LE(1152) | 3, 1152)],
  [/chunk size/, (b) => b.writeUInt32LE(12345, 1152 + 20)],
  [/outside the file/, (b) => b.writeUInt32LE(0x7000_0000, 1152 + 8)],
  [/overlap/, (b) => b.writeUInt32LE(4096, 1152 + 24)],
  [/id differs/, (b) => b.writeUInt8(0x7a, 1408)],
  [/index 7/, (b) => b.writeUInt32LE(7, 4096 + 64)],
  [/unknown algorithm/, (b) => b.writeUInt32LE(9, 4096 + 76)],
  [/CI size against count/, (b) => b.writeUInt32LE(b.readUInt32LE(4096 + 72) + 1, 4096 + 72)],
  [/: id/, (b) => b.write('../x', 4096)],
];

for (const [rule, patch] of RULES) {
  test(`a broken rule is named: ${rule.source}`, () => {
    const text = refusal(patched('broken', patch));
    assert.match(text, /^BROKEN /);
    assert.match(text, rule);
  });
}

test('a truncated bootstrap is refused at every block', () => {
  const path = patched('short', () => {});
  for (let blocks = readFileSync(path).length / 4096 - 1; blocks >= 0; blocks--) {
    truncateSync(path, blocks * 4096);
    assert.match(refusal(path), /^(BROKEN|NOT_AN_IMAGE|TRUNCATED) /);
  }
});

test('refusing an image leaves no descriptor open', () => {
  const before = fdCount();
  for (let i = 0; i < 20; i++) {
    refusal(bootPath('tarfs-v6'));
    refusal(patched('broken', RULES[0][1]));
    refusal(bootPath('v6-2.2'));
  }
  assert.equal(fdCount(), before);
});

test('blobs of the old image come out as the worked example of the format says', () => {
  const image = openImage(bootPath('v6-2.2'));
  const [blob] = image.blobs;
  assert.equal(blob.id, 'be7d77eeb719f70884758d1aa800ed0fb09d701aaec469964e9d54325f0d5fef');
  assert.deepEqual(
    [blob.chunkCount, blob.compressor, blob.digester, blob.features >>> 0, blob.compressedSize, blob.uncompressedSize],
    [2, 'zstd', 'blake3', 0x70000021, 14554, 36864],
  );
  assert.deepEqual([blob.tocSize, blob.ciOffset, blob.ciCompressedSize, blob.ciUncompressedSize], [1024, 8314, 32, 32]);
  assert.equal(image.inodes, 3);
  assert.deepEqual(image.prefetchNodes(), []);
  image.close();
  closeSync(image.fd);
});
