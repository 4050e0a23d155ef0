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
      const whole = DIGESTS[kind].digest(bytes);
      assert.deepEqual(incremental.digest(), whole);
      for (const content of ['abc', '']) {
        const shared = DIGESTS[kind].shared();
        shared.update(Buffer.from(content));
        assert.equal(shared.digest().toString('hex'), KNOWN[kind][content === '' ? 'empty' : 'abc']);
      }
    });
    test('leaves nothing behind in a thread whose event loop never turns', () => {
      const bytes = Buffer.alloc(64, 'x');
      const digestMany = (count: number) => {
        for (let i = 0; i < count; i++) {
          DIGESTS[kind].digest(bytes);
          const shared = DIGESTS[kind].shared();
          shared.update(bytes);
          shared.digest();
        }
      };
      digestMany(20_000);
      const before = process.memoryUsage.rss();
      digestMany(100_000);
      const grownBytes = process.memoryUsage.rss() - before;
      assert.ok(grownBytes < 16 << 20, `${grownBytes} bytes`);
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
