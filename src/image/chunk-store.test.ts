import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { ChunkRefs, ChunkStore } from './chunk-store.ts';

const digest = (i: number) => createHash('sha256').update(String(i)).digest();

test('finds what was added, through growth, and nothing else', () => {
  const store = new ChunkStore();
  const COUNT = 20_000;
  for (let i = 0; i < COUNT; i++) {
    assert.equal(store.find(digest(i), 100), -1);
    assert.equal(store.add(digest(i), 100, i * 4096, i), i);
  }
  for (let i = 0; i < COUNT; i++) {
    assert.equal(store.find(digest(i), 100), i);
    assert.equal(store.uncompressedOffset[i], i * 4096);
    assert.equal(store.crc32[i], i);
    assert.deepEqual(Buffer.from(store.digest(i)), digest(i));
  }
  assert.equal(store.find(digest(3), 101), -1);
  assert.equal(store.find(digest(COUNT), 100), -1);
});

test('digests that collide in their first words are told apart', () => {
  const store = new ChunkStore();
  const twins = [0, 1, 2].map((i) => {
    const bytes = Buffer.alloc(32, 7);
    bytes[31] = i;
    return bytes;
  });
  for (const [i, bytes] of twins.entries()) assert.equal(store.add(bytes, 1, 0, 0), i);
  for (const [i, bytes] of twins.entries()) assert.equal(store.find(bytes, 1), i);
});

test('references keep their order through growth', () => {
  const refs = new ChunkRefs();
  for (let i = 0; i < 5000; i++) refs.push(5000 - i);
  assert.equal(refs.count, 5000);
  assert.deepEqual([refs.list[0], refs.list[4999]], [5000, 1]);
});
