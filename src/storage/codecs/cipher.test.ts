import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { makeBlob } from '../fixtures.testing.ts';
import { FEATURE } from '../tables/blob-layout.ts';
import { CIPHER_AES_128_XTS, cipherOf } from './cipher.ts';

const EXTRA = Buffer.from(Array.from({ length: 48 }, (_, i) => i));
const PLAIN = makeBlob([Buffer.from('x')], { compressor: 'none', crc: false }).info;
const INFO = { ...PLAIN, features: PLAIN.features | FEATURE.ENCRYPTED, cipher: CIPHER_AES_128_XTS, extra: EXTRA };

describe('cipher of a blob', () => {
  test('none where the blob is not encrypted', () => assert.equal(cipherOf(PLAIN), null));
  for (const bytes of [1, 15, 16, 17, 18, 31, 32, 4096, 100_001]) {
    test(`${bytes} bytes come back`, () => {
      const cipher = cipherOf(INFO);
      const plain = Buffer.alloc(bytes, 'nydus');
      const stored = cipher?.encrypt(plain);
      assert.equal(stored?.length, bytes < 16 ? 18 : bytes);
      assert.ok(!stored?.equals(plain));
      assert.ok(cipher?.decrypt(stored ?? plain).equals(plain));
    });
  }
  test('18 bytes that look padded are told apart by their known length', () => {
    const cipher = cipherOf(INFO);
    const plain = Buffer.concat([Buffer.alloc(15), Buffer.from([3, 0x78, 0x90])]);
    const stored = cipher?.encrypt(plain) ?? plain;
    assert.ok(cipher?.decrypt(stored, 18).equals(plain));
    assert.equal(cipher?.decrypt(stored, 13).length, 13);
  });
  test('a unit below 16 bytes is DECODE', () => {
    assert.throws(() => cipherOf(INFO)?.decrypt(Buffer.alloc(15)), { code: 'DECODE' });
  });
  const refused: [string, Partial<typeof INFO>, RegExp][] = [
    ['feature without cipher', { cipher: 0 }, /only one of/],
    ['cipher without feature', { features: PLAIN.features }, /only one of/],
    ['AES-256-GCM', { cipher: 3 }, /cipher 3/],
    ['equal halves', { extra: Buffer.alloc(48, 7) }, /halves/],
    ['no key', { extra: Buffer.alloc(0) }, /missing/],
  ];
  for (const [id, change, message] of refused) {
    test(`${id} is refused`, () =>
      assert.throws(() => cipherOf({ ...INFO, ...change }), { code: 'BLOB_META', message }));
  }
});
