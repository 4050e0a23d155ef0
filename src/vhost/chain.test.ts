import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CHAIN_FAULT, ChainWalker, chainFaultText, INDIRECT_ENTRIES_MAX, WALK } from './chain.ts';
import {
  BORDER,
  data,
  device,
  driver,
  HOLE,
  memory,
  QUEUE_SIZE,
  ram,
  segments,
  table,
  walker,
} from './chain-fixture.ts';
import { MIB } from './echo-fixture.ts';
import { DESC } from './split.ts';

/** Rows: what is put on the ring, and the fault (protocols 2.5; the row number is in the name). */
const BAD: [name: string, put: () => void, answer: number, fault: number][] = [
  [
    '3: direct loop',
    () => {
      driver.setDescriptor(0, data, 8, DESC.NEXT, 1);
      driver.setDescriptor(1, data, 8, DESC.NEXT, 0);
    },
    WALK.BREAK_RING,
    CHAIN_FAULT.LOOP,
  ],
  [
    '3: chain one longer than the table',
    () => {
      for (let i = 0; i < QUEUE_SIZE; i++) driver.setDescriptor(i, data, 8, DESC.NEXT, (i + 1) % QUEUE_SIZE);
    },
    WALK.BREAK_RING,
    CHAIN_FAULT.LOOP,
  ],
  [
    '4: next outside the table',
    () => driver.setDescriptor(0, data, 8, DESC.NEXT, QUEUE_SIZE),
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.NEXT_RANGE,
  ],
  [
    '4: next 65535',
    () => driver.setDescriptor(0, data, 8, DESC.NEXT, 0xffff),
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.NEXT_RANGE,
  ],
  [
    '4: next outside an indirect table',
    () => {
      driver.setIndirect(table, 0, data, 8, DESC.NEXT, 1);
      driver.setDescriptor(0, table, 16, DESC.INDIRECT, 0);
    },
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.INDIRECT_LOOP,
  ],
  [
    '4: next far outside an indirect table',
    () => {
      driver.setIndirect(table, 0, data, 8, DESC.NEXT, 9);
      driver.setIndirect(table, 1, data, 8, 0, 0);
      driver.setDescriptor(0, table, 32, DESC.INDIRECT, 0);
    },
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.NEXT_RANGE,
  ],
  [
    '3: loop in an indirect table',
    () => {
      driver.setIndirect(table, 0, data, 8, DESC.NEXT, 1);
      driver.setIndirect(table, 1, data, 8, DESC.NEXT, 0);
      driver.setDescriptor(0, table, 32, DESC.INDIRECT, 0);
    },
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.INDIRECT_LOOP,
  ],
  [
    '5: nested indirect',
    () => {
      driver.setIndirect(table, 0, table, 16, DESC.INDIRECT, 0);
      driver.setDescriptor(0, table, 16, DESC.INDIRECT, 0);
    },
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.NESTED_INDIRECT,
  ],
  [
    '6: indirect and next',
    () => driver.setDescriptor(0, table, 16, DESC.INDIRECT | DESC.NEXT, 1),
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.INDIRECT_WITH_NEXT,
  ],
  ...[0, 1, 15, 17, 24, INDIRECT_ENTRIES_MAX * 16 + 16, 0xffff_fff0].map(
    (bytes): [string, () => void, number, number] => [
      `7: indirect table of ${bytes} bytes`,
      () => driver.setDescriptor(0, table, bytes, DESC.INDIRECT, 0),
      WALK.FAIL_REQUEST,
      CHAIN_FAULT.INDIRECT_BYTES,
    ],
  ),
  [
    '8: indirect table outside memory',
    () => driver.setDescriptor(0, HOLE, 32, DESC.INDIRECT, 0),
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.INDIRECT_ADDRESS,
  ],
  [
    '8: indirect table that leaves memory',
    () => driver.setDescriptor(0, 16 * MIB - 16, 32, DESC.INDIRECT, 0),
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.INDIRECT_ADDRESS,
  ],
  [
    '9: readable after writable',
    () => {
      driver.setDescriptor(0, data, 8, DESC.NEXT | DESC.WRITE, 1);
      driver.setDescriptor(1, data, 8, 0, 0);
    },
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.READABLE_AFTER_WRITABLE,
  ],
  ['10: buffer in a hole', () => driver.setDescriptor(0, HOLE, 8, 0, 0), WALK.FAIL_REQUEST, CHAIN_FAULT.ADDRESS],
  [
    '10: buffer that ends in a hole',
    () => driver.setDescriptor(0, 16 * MIB - 8, 9, DESC.WRITE, 0),
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.ADDRESS,
  ],
  [
    '10: buffer that wraps around 2^64',
    () => driver.setDescriptor(0, 2 ** 64 - 2048, 4096, 0, 0),
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.ADDRESS,
  ],
  ['10: address above 2^53', () => driver.setDescriptor(0, 2 ** 53, 8, 0, 0), WALK.FAIL_REQUEST, CHAIN_FAULT.ADDRESS],
  [
    '10: length of 4 GiB - 1',
    () => driver.setDescriptor(0, data, 0xffff_ffff, 0, 0),
    WALK.FAIL_REQUEST,
    CHAIN_FAULT.ADDRESS,
  ],
];

describe('bad chains (protocols 2.5)', () => {
  for (const [name, put, answer, fault] of BAD) {
    test(name, () => {
      put();
      assert.equal(walker.walk(device(), 0), answer);
      assert.equal(walker.fault, fault, chainFaultText(walker.fault));
      assert.deepEqual(segments(), [], 'nothing of a bad chain is left to be used');
      assert.equal(walker.readTotal + walker.writeTotal, 0);
    });
  }

  test('12: more bytes than the limit, in either part', () => {
    const small = new ChainWalker(memory, 100);
    for (const flag of [0, DESC.WRITE]) {
      driver.setDescriptor(0, data, 60, DESC.NEXT | flag, 1);
      driver.setDescriptor(1, data, 40, flag, 0);
      assert.equal(small.walk(device(), 0), WALK.OK);
      driver.setDescriptor(1, data, 41, flag, 0);
      assert.equal(small.walk(device(), 0), WALK.FAIL_REQUEST);
      assert.equal(small.fault, CHAIN_FAULT.TOO_MANY_BYTES);
    }
  });

  test('14: every descriptor word is read once, so that a driver rewriting it meanwhile changes nothing', () => {
    const ring = device();
    const reads = new Map<string | symbol, number>();
    for (let i = 0; i < 4; i++) driver.setDescriptor(i, data + i * 64, 8, i < 3 ? DESC.NEXT : 0, i + 1);
    ring.descriptors = new Proxy(ring.descriptors, {
      get: (words, key) => {
        reads.set(key, (reads.get(key) ?? 0) + 1);
        return Reflect.get(words, key);
      },
    });
    assert.equal(walker.walk(ring, 0), WALK.OK);
    assert.equal(reads.size, 16);
    assert.ok([...reads.values()].every((count) => count === 1));
  });

  test('every fault has its own text', () => {
    const texts = Object.values(CHAIN_FAULT).map(chainFaultText);
    assert.equal(new Set(texts).size, texts.length);
  });
});

describe('good chains', () => {
  test('11: descriptors of length 0 are skipped, wherever they point', () => {
    driver.setDescriptor(0, data, 8, DESC.NEXT, 1);
    driver.setDescriptor(1, 2 ** 60, 0, DESC.NEXT, 2);
    driver.setDescriptor(2, data + 100, 8, DESC.WRITE, 0);
    assert.equal(walker.walk(device(), 0), WALK.OK);
    assert.deepEqual(segments(), [
      { gpa: data, bytes: 8, writable: false },
      { gpa: data + 100, bytes: 8, writable: true },
    ]);
  });

  test('10: a buffer across adjacent regions is split there, and never joined over the border again', () => {
    driver.setDescriptor(0, BORDER - 100, 300, DESC.WRITE, 0);
    assert.equal(walker.walk(device(), 0), WALK.OK);
    assert.deepEqual(segments(), [
      { gpa: BORDER - 100, bytes: 100, writable: true },
      { gpa: BORDER, bytes: 200, writable: true },
    ]);
    assert.equal(walker.writeTotal, 300);
  });

  test('10: buffers that meet at a region border stay apart, also when the table between them lies in the second', () => {
    const high = BORDER + 4096;
    driver.setIndirect(high, 0, BORDER, 50, 0, 0);
    driver.setDescriptor(0, BORDER - 50, 50, DESC.NEXT, 1);
    driver.setDescriptor(1, high, 16, DESC.INDIRECT, 0);
    assert.equal(walker.walk(device(), 0), WALK.OK);
    assert.deepEqual(segments(), [
      { gpa: BORDER - 50, bytes: 50, writable: false },
      { gpa: BORDER, bytes: 50, writable: false },
    ]);
  });

  test('8: an indirect table across adjacent regions, and one at an odd address, are read piecewise', () => {
    for (const at of [BORDER - 24, table + 2]) {
      for (let i = 0; i < 3; i++) driver.setIndirect(at, i, data + i * 64, 8, i < 2 ? DESC.NEXT : 0, i + 1);
      driver.setDescriptor(0, at, 48, DESC.INDIRECT, 0);
      assert.equal(walker.walk(device(), 0), WALK.OK);
      assert.deepEqual(
        segments().map(({ gpa }) => gpa),
        [data, data + 64, data + 128],
      );
    }
  });

  test('an indirect table of 32,768 entries, longer than the queue, after direct descriptors', () => {
    const words = new Uint32Array(INDIRECT_ENTRIES_MAX * 4);
    for (let i = 0; i < INDIRECT_ENTRIES_MAX; i++) {
      words[i * 4] = data + (i % 1000) * 8;
      words[i * 4 + 2] = 4;
      words[i * 4 + 3] = (i < INDIRECT_ENTRIES_MAX - 1 ? DESC.NEXT : 0) | DESC.WRITE | ((i + 1) << 16);
    }
    ram.write(table, new Uint8Array(words.buffer));
    driver.setDescriptor(0, data, 40, DESC.NEXT, 1);
    driver.setDescriptor(1, table, INDIRECT_ENTRIES_MAX * 16, DESC.INDIRECT, 0);
    assert.equal(walker.walk(device(), 0), WALK.OK);
    assert.equal(walker.readCount, 1);
    assert.equal(walker.writeCount, INDIRECT_ENTRIES_MAX);
    assert.equal(walker.writeTotal, INDIRECT_ENTRIES_MAX * 4);
  });

  test('a chain of as many direct descriptors as the table has', () => {
    for (let i = 0; i < QUEUE_SIZE; i++) {
      driver.setDescriptor(i, data + i * 16, 8, i < QUEUE_SIZE - 1 ? DESC.NEXT : 0, i + 1);
    }
    assert.equal(walker.walk(device(), 0), WALK.OK);
    assert.equal(walker.readCount, QUEUE_SIZE);
  });
});
