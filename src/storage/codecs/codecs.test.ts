import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { describe, test } from 'node:test';
import { codeOf } from '../../common/app-error.ts';
import type { Compressor } from '../types.ts';
import { CODECS, compressorOf } from './codecs.ts';

const WORKING = ['none', 'lz4_block', 'zstd'] as const satisfies Compressor[];
const TEXT = Buffer.from('chunk data that repeats itself, '.repeat(40_000));
const BIG = Buffer.concat([TEXT.subarray(0, 1 << 20), randomBytes(4 << 20), Buffer.alloc(11 << 20, 7)]);

const SIZES = [
  { id: 'one byte', bytes: Buffer.from([42]) },
  { id: 'text of 1.2 MB', bytes: TEXT },
  { id: 'random 4 KiB', bytes: randomBytes(4096) },
  { id: 'zeros of 1 MiB', bytes: Buffer.alloc(1 << 20) },
  { id: '16 MiB', bytes: BIG },
];

for (const kind of WORKING) {
  const codec = CODECS[kind];
  describe(`codec ${kind}`, () => {
    for (const { id, bytes } of SIZES) {
      test(`${id} comes back`, async () => {
        const stored = codec.compress(bytes);
        assert.deepEqual(codec.decompress(stored, bytes.length), bytes);
        assert.deepEqual(await codec.decompressAsync(stored, bytes.length), bytes);
      });
      for (const wrong of [bytes.length - 1, bytes.length + 1, bytes.length * 2]) {
        test(`${id} does not decode to ${wrong} bytes`, async () => {
          const stored = codec.compress(bytes);
          assert.throws(() => codec.decompress(stored, wrong), { code: 'DECODE' });
          await assert.rejects(codec.decompressAsync(stored, wrong), { code: 'DECODE' });
        });
      }
    }
    test('a lying size allocates nothing', () => {
      for (const size of [0, -1, Number.NaN, 1.5, 2 ** 31, 2 ** 53]) {
        assert.throws(() => codec.decompress(codec.compress(TEXT), size), { code: 'DECODE' });
      }
    });
  });
}

for (const kind of ['lz4_block', 'zstd'] as const) {
  test(`${kind}: truncated and flipped input is an error or other bytes of the right length, never a crash`, async () => {
    for (const source of [TEXT, BIG]) {
      const stored = CODECS[kind].compress(source);
      for (let cut = 0; cut < 20; cut++) {
        const part = stored.subarray(0, Math.floor((stored.length * cut) / 20));
        await assert.rejects(CODECS[kind].decompressAsync(part, source.length), { code: 'DECODE' });
      }
    }
    const stored = CODECS[kind].compress(TEXT);
    for (let i = 0; i < 300; i++) {
      const flipped = Buffer.from(stored);
      flipped[(i * 7919) % flipped.length] ^= 1 << (i % 8);
      try {
        assert.equal(CODECS[kind].decompress(flipped, TEXT.length).length, TEXT.length);
      } catch (error) {
        assert.equal(codeOf(error), 'DECODE');
      }
    }
  });
}

test('lz4 blocks are raw: no size in front, literals readable', () => {
  // A block of literals only (lz4 block format): token 0x50 = 5 literals.
  assert.deepEqual(CODECS.lz4_block.decompress(Buffer.from('\x50hello', 'latin1'), 5), Buffer.from('hello'));
  assert.deepEqual(CODECS.lz4_block.compress(Buffer.from('hello')), Buffer.from('\x50hello', 'latin1'));
});

test('zstd frames carry their content size and no checksum, as the reference builder writes them', () => {
  const frame = CODECS.zstd.compress(TEXT.subarray(0, 16931));
  assert.equal(frame.subarray(0, 4).toString('hex'), '28b52ffd');
  assert.equal(frame[4] & 0x04, 0, 'no checksum');
  assert.notEqual(frame[4] & 0xe0, 0, 'content size and single segment');
});

test('the event loop turns while 16 MiB of zstd are decoded', async () => {
  const stored = CODECS.zstd.compress(BIG);
  let turns = 0;
  let isDone = false;
  const count = () => {
    turns++;
    if (!isDone) setImmediate(count);
  };
  setImmediate(count);
  await CODECS.zstd.decompressAsync(stored, BIG.length);
  isDone = true;
  assert.ok(turns >= 2, `${turns} turns`);
});

test('gzip: bytes behind the wanted length are ignored, fewer are an error', async () => {
  const stored = Buffer.concat([CODECS.gzip.compress(TEXT), Buffer.alloc(100, 7)]);
  assert.ok((await CODECS.gzip.decompressAsync(stored, TEXT.length)).equals(TEXT));
  assert.ok((await CODECS.gzip.decompressAsync(stored, 1000)).equals(TEXT.subarray(0, 1000)));
  await assert.rejects(CODECS.gzip.decompressAsync(CODECS.gzip.compress(TEXT), TEXT.length + 1), { code: 'DECODE' });
});

test('numbers are those of rafs-format 0.4', () => {
  assert.deepEqual([0, 1, 2, 3, 4].map(compressorOf), ['none', 'lz4_block', 'gzip', 'zstd', null]);
});
