import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import { constants, deflateRawSync, gzipSync } from 'node:zlib';
import { gunzipUpTo, inflateFrom } from './inflate.ts';

const WINDOW_BYTES = 32 << 10;
const FRESH = { dictionary: Buffer.alloc(0), byte: 0, bits: 0 };

/** Text that compresses, and refers back into what stood before it. */
function text(lines: number, seed: number): Buffer {
  return Buffer.from(Array.from({ length: lines }, (_, i) => `${seed} line ${(i * 7919) % 1009}\n`).join(''));
}

/** `bytes` moved up by `bits` bits: the first byte's low bits are noise of the block before. */
function shifted(bytes: Buffer, bits: number): Buffer {
  const out = Buffer.alloc(bytes.length + 1);
  out[0] = 0x55 & (0xff >> bits);
  for (let i = 0; i < bytes.length * 8; i++) {
    const bit = (bytes[i >> 3] >> (i & 7)) & 1;
    const at = i + 8 - bits;
    out[at >> 3] |= bit << (at & 7);
  }
  return out;
}

describe('deflate streams entered in the middle', () => {
  for (let bits = 0; bits < 8; bits++) {
    test(`${bits} bits of the byte before, with a window`, async () => {
      const before = text(4000, bits);
      const after = text(3000, bits);
      const dictionary = before.subarray(-WINDOW_BYTES);
      const stream = deflateRawSync(after, { dictionary });
      const whole = bits === 0 ? Buffer.concat([Buffer.from([0xff]), stream]) : shifted(stream, bits);
      const entry = { dictionary, byte: whole[0], bits };
      const got = await inflateFrom(entry, whole.subarray(1), after.length);
      assert.ok(got.equals(after));
    });
  }
  test('a range that starts at the end of a member, with its trailer', async () => {
    const bytes = text(100, 3);
    const members = Buffer.concat([gzipSync(text(50, 2)), gzipSync(bytes)]);
    const end = gzipSync(text(50, 2)).length;
    const entry = { ...FRESH, dictionary: text(4000, 2).subarray(-WINDOW_BYTES) };
    assert.ok((await inflateFrom(entry, members.subarray(end - 8), bytes.length)).equals(bytes));
    await assert.rejects(inflateFrom(entry, Buffer.alloc(30, 0x48), 10), /stored block/);
  });
  test('ends at the wanted length, whatever follows', async () => {
    const bytes = text(100_000, 1);
    const got = await inflateFrom(FRESH, deflateRawSync(bytes), 1000);
    assert.ok(got.equals(bytes.subarray(0, 1000)));
  });
  test('input that ends between blocks gives what it has', async () => {
    const bytes = text(5000, 1);
    const cut = deflateRawSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH });
    assert.ok((await inflateFrom(FRESH, cut, bytes.length + 1)).equals(bytes));
  });
  test('goes on over the ends of gzip members', async () => {
    const parts = [text(2000, 1), text(10, 2), text(3000, 3)];
    const file = Buffer.concat(parts.map((part) => gzipSync(part)));
    const wanted = Buffer.concat(parts);
    assert.ok((await inflateFrom(FRESH, file.subarray(10), wanted.length)).equals(wanted));
  });
  test('noise is an error, never a crash', async () => {
    let failed = 0;
    for (let i = 0; i < 50; i++) {
      const input = randomBytes(300);
      await inflateFrom({ dictionary: randomBytes(WINDOW_BYTES), byte: i * 5, bits: i % 8 }, input, 5000).catch(() => {
        failed++;
      });
    }
    assert.ok(failed > 25, `${failed} of 50`);
  });
});

describe('gzip members', () => {
  const bytes = text(50_000, 9);
  test('what follows the wanted length is ignored', async () => {
    const input = Buffer.concat([gzipSync(bytes), randomBytes(100)]);
    assert.ok((await gunzipUpTo(input, bytes.length)).equals(bytes));
    assert.ok((await gunzipUpTo(input, 10)).equals(bytes.subarray(0, 10)));
  });
  test('a bomb is stopped at the wanted length', async () => {
    const bomb = gzipSync(Buffer.alloc(64 << 20));
    assert.equal((await gunzipUpTo(bomb, 4096)).length, 4096);
  });
  test('no gzip is an error', () => assert.rejects(gunzipUpTo(randomBytes(100), 10)));
});
