import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { freshDir } from './cache.testing.ts';
import { ChunkMap, checkChunkMap, chunkMapBytes, initChunkMap, newReadyBits } from './chunk-map.ts';

const COUNT = 21;
const path = join(freshDir(), 'map');

function openMap(chunkCount = COUNT): ChunkMap {
  const fd = openSync(path, 'a+');
  closeSync(fd);
  const map = openSync(path, 'r+');
  assert.equal(checkChunkMap(map, chunkCount), null);
  initChunkMap(map, chunkCount);
  return new ChunkMap(map, true, newReadyBits(chunkCount), chunkCount);
}

/** The file as rafs-format 6.2 describes it. */
function fileOf(chunkCount: number, ready: number[], allReady = false): Buffer {
  const bytes = Buffer.alloc(4096 + Math.ceil(chunkCount / 8));
  bytes.write('PAMB', 0, 'latin1');
  bytes.writeUInt32LE(1, 4);
  bytes.write('PAMC', 8, 'latin1');
  if (allReady) bytes.write('PAMM', 12, 'latin1');
  for (const chunk of ready) bytes[4096 + (chunk >> 3)] |= 1 << (7 - (chunk % 8));
  return bytes;
}

test('a new file, and one with chunks, byte for byte', async () => {
  writeFileSync(path, '');
  const map = openMap();
  assert.deepEqual(readFileSync(path), fileOf(COUNT, []));
  for (const chunk of [0, 7, 8, 20]) await map.markReady(chunk);
  assert.deepEqual(readFileSync(path), fileOf(COUNT, [0, 7, 8, 20]));
  assert.deepEqual(
    Array.from({ length: COUNT }, (_, i) => i).filter((i) => map.isReady(i)),
    [0, 7, 8, 20],
  );
  assert.equal(map.countReady(), 4);
  map.close();
});

test('an all-zero file is a fresh one and gets its header', () => {
  writeFileSync(path, Buffer.alloc(chunkMapBytes(COUNT)));
  openMap().close();
  assert.deepEqual(readFileSync(path), fileOf(COUNT, []));
});

test('bits that others set are seen after refresh, and only those that belong to chunks', () => {
  writeFileSync(path, fileOf(COUNT, [1]));
  const map = openMap();
  writeFileSync(path, fileOf(COUNT, [1, 9, 20, 23]), { flag: 'r+' });
  assert.equal(map.isReady(9), false);
  map.refresh(9, 9);
  assert.equal(map.isReady(9), true);
  assert.equal(map.isReady(20), false);
  map.refresh(0, COUNT - 1);
  assert.equal(map.countReady(), 3, 'bit 23 is no chunk');
  map.close();
});

test('the all-ready word, read and written', () => {
  writeFileSync(path, fileOf(COUNT, [], true));
  let map = openMap();
  assert.equal(map.countReady(), COUNT);
  map.close();
  const everything = Array.from({ length: COUNT }, (_, i) => i);
  writeFileSync(path, fileOf(COUNT, everything));
  map = openMap();
  assert.deepEqual(readFileSync(path), fileOf(COUNT, everything, true));
  map.close();
});

test('chunks of one byte, marked by many descriptions at once, lose nothing', async () => {
  writeFileSync(path, fileOf(64, []));
  const maps = Array.from({ length: 8 }, () => openMap(64));
  await Promise.all(Array.from({ length: 64 }, (_, chunk) => maps[chunk % 8].markReady(chunk)));
  assert.deepEqual(readFileSync(path).subarray(4096), Buffer.alloc(8, 0xff));
  for (const map of maps) map.close();
});

describe('files that cannot be used', () => {
  const damages: Record<string, Buffer> = {
    'too short': fileOf(COUNT, []).subarray(1),
    'too long': Buffer.concat([fileOf(COUNT, []), Buffer.alloc(1)]),
    'of another blob': fileOf(COUNT + 100, []),
    'wrong magic': Buffer.concat([Buffer.from('X'), fileOf(COUNT, []).subarray(1)]),
    'another version': Buffer.concat([Buffer.from('PAMB\x02', 'latin1'), fileOf(COUNT, []).subarray(5)]),
  };
  for (const [id, bytes] of Object.entries(damages)) {
    test(id, () => {
      writeFileSync(path, bytes);
      const fd = openSync(path, 'r');
      assert.notEqual(checkChunkMap(fd, COUNT), null);
      assert.equal(fstatSync(fd).size, bytes.length, 'left as it was');
      closeSync(fd);
    });
  }
});

test('no chunk at all, and a multiple of eight', () => {
  assert.equal(chunkMapBytes(0), 4096);
  assert.equal(chunkMapBytes(8), 4097);
  assert.equal(chunkMapBytes(9), 4098);
  const none = new ChunkMap(-1, false, newReadyBits(5), 5);
  assert.equal(none.isReady(4), false);
  none.refresh(0, 4);
  none.close();
});
