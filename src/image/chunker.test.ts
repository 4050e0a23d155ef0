import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { after, describe, test } from 'node:test';
import { bundleWorker } from '../common/bundle.testing.ts';
import { CODECS } from '../storage/codecs/codecs.ts';
import type { Compressor } from '../storage/types.ts';
import { Chunker } from './chunker.ts';
import { CompressPipe } from './compress-pipe.ts';
import type { FileContent } from './source.ts';
import { TreeNode } from './tree.ts';

const HELPER = bundleWorker(new URL('./compress-worker.ts', import.meta.url));
after(() => rmSync(HELPER));
const CHUNK = 0x1000;

function fileNode(sizeBytes: number): TreeNode {
  const node = new TreeNode('f', null, 0o100644, 0, 0, sizeBytes, 0, 0, 0, null, []);
  node.chunkCount = Math.ceil(sizeBytes / CHUNK);
  return node;
}

function content(bytes: Buffer, hole = (_at: number) => false): FileContent & { reads: number } {
  return {
    reads: 0,
    read(into, at) {
      this.reads++;
      return bytes.copy(into, 0, at, at + into.length);
    },
    isHole: (at) => hole(at),
    close: () => {},
  };
}

interface Emitted {
  chunk: number;
  bytes: Buffer;
}

function setUp(compressor: Compressor, helper: string | null = null, chunkSize = CHUNK) {
  const emitted: Emitted[] = [];
  const pipe = new CompressPipe(
    compressor,
    chunkSize,
    (chunks, sizes, bytes) => {
      let at = 0;
      for (const [i, chunk] of chunks.entries()) {
        emitted.push({ chunk, bytes: Buffer.from(bytes.subarray(at, at + sizes[i])) });
        at += sizes[i];
      }
      assert.equal(at, bytes.length);
    },
    helper,
  );
  return { emitted, pipe, chunker: new Chunker(chunkSize, 'sha256', pipe) };
}

/** Reproducible bytes that do not compress. */
function noise(seed: string, bytes: number): Buffer {
  const parts: Buffer[] = [];
  for (let i = 0; i * 32 < bytes; i++) parts.push(createHash('sha256').update(`${seed} ${i}`).digest());
  return Buffer.concat(parts).subarray(0, bytes);
}

describe('chunks', () => {
  test('equal ones are stored once, across files; sizes make a difference', async () => {
    const { emitted, pipe, chunker } = setUp('none');
    const a = noise('a', CHUNK);
    const b = noise('b', CHUNK);
    const first = fileNode(2.5 * CHUNK);
    const second = fileNode(2 * CHUNK);
    await chunker.addFile(first, content(Buffer.concat([a, b, a.subarray(0, CHUNK / 2)])));
    await chunker.addFile(second, content(Buffer.concat([b, a])));
    pipe.finish();
    await pipe.close();
    assert.deepEqual([...chunker.refs.list.subarray(0, chunker.refs.count)], [0, 1, 2, 1, 0]);
    assert.deepEqual([first.firstRef, second.firstRef], [0, 3]);
    assert.deepEqual(
      emitted.map(({ chunk, bytes }) => [chunk, bytes.length]),
      [
        [0, CHUNK],
        [1, CHUNK],
        [2, CHUNK / 2],
      ],
    );
    assert.equal(chunker.uncompressedBytes, 3 * CHUNK);
  });

  test('holes give the bytes that reading zeros gives, without reading', async () => {
    const zeros = Buffer.alloc(3 * CHUNK + 5);
    const runs: { refs: number[]; emitted: Emitted[]; reads: number }[] = [];
    for (const hole of [() => false, () => true]) {
      const { emitted, pipe, chunker } = setUp('zstd');
      const source = content(zeros, hole);
      await chunker.addFile(fileNode(zeros.length), source);
      pipe.finish();
      await pipe.close();
      runs.push({ refs: [...chunker.refs.list.subarray(0, 4)], emitted, reads: source.reads });
    }
    assert.deepEqual(runs[0].refs, [0, 0, 0, 1]);
    assert.deepEqual(runs[1].refs, runs[0].refs);
    assert.deepEqual(runs[1].emitted, runs[0].emitted);
    assert.deepEqual([runs[0].reads, runs[1].reads], [4, 0]);
  });

  test('a file that shrinks while it is read ends the build', async () => {
    const { chunker } = setUp('none');
    await assert.rejects(chunker.addFile(fileNode(2 * CHUNK), content(Buffer.alloc(CHUNK + 1))), {
      code: 'SOURCE_CHANGED',
      facts: { path: '/', wantedBytes: 2 * CHUNK, gotBytes: CHUNK + 1 },
    });
  });

  test('one that did not shrink by compression is stored raw', async () => {
    for (const compressor of ['lz4_block', 'zstd'] as const) {
      const { emitted, pipe, chunker } = setUp(compressor);
      const text = Buffer.alloc(CHUNK, 'abc');
      await chunker.addFile(fileNode(2 * CHUNK), content(Buffer.concat([noise('raw', CHUNK), text])));
      pipe.finish();
      await pipe.close();
      assert.deepEqual(emitted[0].bytes, noise('raw', CHUNK));
      assert.ok(emitted[1].bytes.length < CHUNK);
      assert.deepEqual(Buffer.from(CODECS[compressor].decompress(emitted[1].bytes, CHUNK)), text);
    }
  });
});

describe('the ring', () => {
  for (const helper of [null, HELPER]) {
    const who = helper === null ? 'alone' : 'with helpers';
    test(`passes on every chunk in order, ${who}`, async () => {
      const { emitted, pipe, chunker } = setUp('zstd', helper);
      // More than the ring holds, with chunks of many sizes.
      const files = Array.from({ length: 3000 }, (_, i) =>
        Buffer.concat([Buffer.alloc((i * 37) % 9000, 0x61), noise(`f${i}`, 1 + ((i * 97) % 7000))]),
      );
      for (const bytes of files) await chunker.addFile(fileNode(bytes.length), content(bytes));
      pipe.finish();
      await pipe.close();
      assert.deepEqual(
        emitted.map(({ chunk }) => chunk),
        emitted.map((_, i) => i),
      );
      let ref = 0;
      for (const bytes of files) {
        for (let at = 0; at < bytes.length; at += CHUNK, ref++) {
          const part = bytes.subarray(at, at + CHUNK);
          const { chunk, bytes: stored } = emitted[chunker.refs.list[ref]];
          assert.equal(chunker.store.uncompressedSize[chunk], part.length);
          const raw = stored.length < part.length ? CODECS.zstd.decompress(stored, part.length) : stored;
          assert.ok(part.equals(raw));
        }
      }
    });
  }

  test('works with the largest chunks', async () => {
    const size = 1 << 24;
    const { emitted, pipe, chunker } = setUp('zstd', HELPER, size);
    const bytes = Buffer.alloc(5 * size + 1);
    for (let i = 0; i < 5; i++) noise(`big${i}`, 64).copy(bytes, i * size);
    await chunker.addFile(fileNode(bytes.length), content(bytes));
    pipe.finish();
    await pipe.close();
    assert.equal(emitted.length, 6);
    assert.equal(
      emitted.reduce((sum, one) => sum + chunker.store.uncompressedSize[one.chunk], 0),
      bytes.length,
    );
  });
});
