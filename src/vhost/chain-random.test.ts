import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { CHAIN_FAULT, WALK } from './chain.ts';
import { BORDER, device, driver, QUEUE_SIZE, ram, type Segment, segments, table, walker } from './chain-fixture.ts';
import { MIB } from './echo-fixture.ts';
import { DESC } from './split.ts';

/** The bytes a list of buffers names, in order, as runs: what splitting and joining must not change. */
function runs(list: readonly Segment[]): Segment[] {
  const joined: Segment[] = [];
  for (const { gpa, bytes, writable } of list) {
    const last = joined.at(-1);
    if (bytes === 0) continue;
    if (last !== undefined && last.writable === writable && last.gpa + last.bytes === gpa) last.bytes += bytes;
    else joined.push({ gpa, bytes, writable });
  }
  return joined;
}

describe('random chains against a model', () => {
  const place = fc.oneof(
    fc.nat({ max: 8 * MIB - 1 }).map((at) => at),
    fc.nat({ max: 4096 }).map((at) => BORDER - 2048 + at),
    fc.nat({ max: 2 * MIB }).map((at) => 2 ** 40 - MIB + at),
    fc.nat({ max: MIB }).map((at) => 16 * MIB - MIB / 2 + at),
  );
  const buffer = fc.record({ gpa: place, bytes: fc.oneof(fc.nat({ max: 8 }), fc.nat({ max: 70_000 })) });
  const chain = fc.record({
    readable: fc.array(buffer, { maxLength: 6 }),
    writable: fc.array(buffer, { maxLength: 6 }),
    /** The next buffer starts where the last one ends. */
    merged: fc.boolean(),
    indirect: fc.boolean(),
    tableAt: fc.constantFrom(0, 4, 2, 8),
  });

  /** Whether every byte lies in guest memory; adjacent regions count as one. */
  const inMemory = ({ gpa, bytes }: { gpa: number; bytes: number }): boolean =>
    bytes === 0 || gpa + bytes <= 16 * MIB || (gpa >= 2 ** 40 && gpa + bytes <= 2 ** 40 + MIB);

  test('the walk names exactly the bytes of the chain, or fails the request', () => {
    let walked = 0;
    let failed = 0;
    fc.assert(
      fc.property(chain, ({ readable, writable, merged, indirect, tableAt }) => {
        const list: Segment[] = [
          ...readable.map((b) => ({ ...b, writable: false })),
          ...writable.map((b) => ({ ...b, writable: true })),
        ];
        if (list.length === 0) return;
        if (merged) for (let i = 1; i < list.length; i++) list[i].gpa = list[i - 1].gpa + list[i - 1].bytes;
        for (const [i, { gpa, bytes, writable: w }] of list.entries()) {
          const flags = (w ? DESC.WRITE : 0) | (i < list.length - 1 ? DESC.NEXT : 0);
          if (indirect) driver.setIndirect(table + tableAt, i, gpa, bytes, flags, i + 1);
          else driver.setDescriptor(i, gpa, bytes, flags, i + 1);
        }
        if (indirect) driver.setDescriptor(0, table + tableAt, list.length * 16, DESC.INDIRECT, 0);
        const answer = walker.walk(device(), 0);
        if (!list.every(inMemory)) {
          failed++;
          assert.equal(answer, WALK.FAIL_REQUEST);
          assert.equal(walker.fault, CHAIN_FAULT.ADDRESS);
          return;
        }
        walked++;
        assert.equal(answer, WALK.OK);
        assert.deepEqual(runs(segments()), runs(list));
        const total = (w: boolean): number =>
          list.filter((b) => b.writable === w).reduce((sum, { bytes }) => sum + bytes, 0);
        assert.deepEqual([walker.readTotal, walker.writeTotal], [total(false), total(true)]);
      }),
      { numRuns: 2000 },
    );
    assert.ok(walked > 200 && failed > 200, `${walked} good and ${failed} bad chains: both kinds were met`);
  });

  test('random garbage in descriptors and tables never throws and never leaves guest memory', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 512, maxLength: 512 }), fc.nat({ max: QUEUE_SIZE - 1 }), (bytes, head) => {
        ram.write(table, bytes.subarray(256));
        ram.write(driver.desc, bytes.subarray(0, 256));
        driver.setDescriptor(head, table, 256, bytes[0] % 8, bytes[1] % 20);
        walker.walk(device(), head);
        segments();
      }),
      { numRuns: 2000 },
    );
  });
});
