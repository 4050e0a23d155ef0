import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { blobBytes, blobTable, FIXTURES } from '../fixtures.testing.ts';
import { decodeTarHeader, decodeToc, encodeTarHeader, encodeToc, PART, walkBackwards } from './blob-toc.ts';

const inline = readFileSync(join(FIXTURES, 'images/boot/inline-v6.blob'));
const reader = (file: Buffer) => (offset: number, bytes: number) => file.subarray(offset, offset + bytes);

test('an inline blob comes apart from its end, and its headers are rebuilt byte for byte', () => {
  const parts = walkBackwards(inline.length, reader(inline));
  assert.deepEqual(
    parts.map((part) => part.name),
    [PART.TOC, PART.BOOTSTRAP, PART.DIGEST, PART.META, PART.DATA],
  );
  for (const part of parts) {
    const end = part.offset + part.size;
    assert.deepEqual(encodeTarHeader(part.name, part.size), inline.subarray(end, end + 512));
  }
  assert.equal(parts.at(-1)?.offset, 0);
});

test('a v5 inline blob has its bootstrap last', () => {
  const file = readFileSync(join(FIXTURES, 'images/boot/inline-v5.blob'));
  const parts = walkBackwards(file.length, reader(file));
  assert.equal(parts[0].name, PART.BOOTSTRAP);
  assert.equal(file.toString('latin1', parts[0].offset, parts[0].offset + 4), 'SFAR');
});

for (const name of ['v6-toc', 'v6-2.2']) {
  test(`${name}: the TOC matches its digest and lists what is there`, () => {
    const [info] = blobTable(name);
    const file = blobBytes(info.id);
    const bytes = file.subarray(file.length - info.tocSize);
    assert.deepEqual(createHash('sha256').update(bytes).digest(), info.tocDigest);
    const entries = decodeToc(bytes, file.length);
    const meta = entries.find((entry) => entry.name === PART.META);
    assert.equal(meta?.offset, info.ciOffset);
    assert.equal(meta?.storedSize, info.ciCompressedSize);
    assert.deepEqual(decodeToc(encodeToc(entries), file.length), entries);
  });
}

test('a TOC that lies is refused', () => {
  const [info] = blobTable('v6-toc');
  const file = blobBytes(info.id);
  const good = file.subarray(file.length - info.tocSize);
  const broken = (at: number, value: number) => {
    const bytes = Buffer.from(good);
    bytes[at] = value;
    return bytes;
  };
  const cases = {
    'flags 0': broken(0, 0),
    'two flags': broken(0, 3),
    'no name': broken(8, 0),
    'name not text': broken(8, 1),
    'outside the blob': broken(128 + 68, 1),
    'size above 2^53': broken(79, 0xff),
    'wrong header name': broken(good.length - 512, 0x41),
    'odd size': good.subarray(1),
    'header only': good.subarray(good.length - 512),
  };
  for (const [id, bytes] of Object.entries(cases)) {
    assert.throws(() => decodeToc(bytes, file.length), { code: 'TOC' }, id);
  }
});

test('sizes of 8 GiB and more, which octal digits do not hold', () => {
  for (const size of [8 ** 11 - 1, 8 ** 11, 2 ** 40 + 3]) {
    assert.deepEqual(decodeTarHeader(encodeTarHeader('image.blob', size)), { name: 'image.blob', size });
  }
  const large = encodeTarHeader('image.blob', 8 ** 11);
  assert.equal(large.toString('hex', 124, 136), '800000000000000200000000');
});

test('tar headers with a wrong checksum, and sizes before the file, are refused', () => {
  const header = encodeTarHeader('image.boot', 4096);
  assert.deepEqual(decodeTarHeader(header), { name: 'image.boot', size: 4096 });
  for (const at of [0, 130, 150, 260, 400]) {
    const bad = Buffer.from(header);
    bad[at] ^= 1;
    assert.equal(decodeTarHeader(bad), null, `byte ${at}`);
  }
  assert.throws(() => walkBackwards(512, reader(header)), { code: 'TOC' });
  assert.throws(() => encodeTarHeader('x', -1), RangeError);
  const many = Buffer.concat(Array.from({ length: 100 }, () => encodeTarHeader('x', 0)));
  assert.equal(walkBackwards(many.length, reader(many)).length, 8);
});
