import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { crc32c, DIGESTS, digesterOf } from './digests.ts';

const KNOWN = {
  blake3: {
    empty: 'af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262',
    abc: '6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85',
  },
  sha256: {
    empty: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855',
    abc: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
  },
};

for (const kind of ['blake3', 'sha256'] as const) {
  describe(`digest ${kind}`, () => {
    test('published values', () => {
      assert.equal(DIGESTS[kind].digest(Buffer.alloc(0)).toString('hex'), KNOWN[kind].empty);
      assert.equal(DIGESTS[kind].digest(Buffer.from('abc')).toString('hex'), KNOWN[kind].abc);
    });
    test('piece by piece gives the same', () => {
      const bytes = Buffer.alloc(300_001, 'abcdefg');
      const incremental = DIGESTS[kind].create();
      for (let at = 0; at < bytes.length; at += 4099) incremental.update(bytes.subarray(at, at + 4099));
      assert.deepEqual(incremental.digest(), DIGESTS[kind].digest(bytes));
    });
  });
}

test('CRC-32C', () => {
  assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
  assert.equal(crc32c(Buffer.alloc(0)), 0);
});

test('numbers are those of rafs-format 0.4', () => {
  assert.deepEqual([0, 1, 2].map(digesterOf), ['blake3', 'sha256', null]);
});
