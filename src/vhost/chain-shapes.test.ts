import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { cut, fragmented, merged } from './chain-shapes.ts';
import type { ChainBuffer } from './driver-ring.ts';
import { MIB, type Running, running } from './echo-fixture.ts';

/** 24 readable bytes in two neighbouring buffers, 24 writable ones behind them. */
function request(run: Running): { buffers: ChainBuffer[]; data: Uint8Array; to: number } {
  const from = run.ram.alloc(48);
  const data = Uint8Array.from({ length: 24 }, (_, i) => i * 9 + 1);
  run.ram.write(from, data);
  const buffers = [
    { gpa: from, bytes: 8, writable: false },
    { gpa: from + 8, bytes: 16, writable: false },
    { gpa: from + 24, bytes: 24, writable: true },
  ];
  return { buffers, data, to: from + 24 };
}

function check(run: Running, shape: (buffers: ChainBuffer[]) => ChainBuffer[], indirect: boolean): void {
  const { buffers, data, to } = request(run);
  const ring = run.rings[1];
  const head = indirect ? ring.addIndirect(shape(buffers)) : ring.addDirect(shape(buffers));
  ring.submit();
  assert.equal(ring.waitUsed(1000, run.pump), head);
  assert.equal(ring.usedBytes, 24);
  assert.deepEqual(run.ram.read(to, 24), data);
}

test('one request in every shape gets the same answer', () => {
  const run = running({ layout: [{ gpa: 0, bytes: 16 * MIB }] });
  for (const indirect of [true, false]) {
    check(run, (b) => b, indirect);
    check(run, merged, indirect);
    for (const bytes of [1, 2, 3, 5, 7, 23]) check(run, (b) => fragmented(b, bytes), indirect);
    for (let at = 1; at < 48; at++) check(run, (b) => cut(merged(b), [at]), indirect);
  }
  assert.deepEqual(run.device.warnings, []);
  run.end();
});

test('cuts at random places', () => {
  const run = running({ layout: [{ gpa: 0, bytes: 64 * MIB }] });
  const places = fc.uniqueArray(fc.integer({ min: 1, max: 47 }), { maxLength: 12 });
  fc.assert(
    fc.property(places, fc.boolean(), (at, indirect) => {
      const sorted = [...at].sort((a, b) => a - b);
      check(run, (b) => cut(b, sorted), indirect);
    }),
    { numRuns: 300 },
  );
  run.end();
});

test('shapes keep every byte', () => {
  const buffers = [
    { gpa: 100, bytes: 10, writable: false },
    { gpa: 110, bytes: 6, writable: false },
    { gpa: 116, bytes: 4, writable: true },
  ];
  assert.deepEqual(merged(buffers), [
    { gpa: 100, bytes: 16, writable: false },
    { gpa: 116, bytes: 4, writable: true },
  ]);
  assert.deepEqual(cut(buffers, [3, 10, 18]), [
    { gpa: 100, bytes: 3, writable: false },
    { gpa: 103, bytes: 7, writable: false },
    { gpa: 110, bytes: 6, writable: false },
    { gpa: 116, bytes: 2, writable: true },
    { gpa: 118, bytes: 2, writable: true },
  ]);
  assert.equal(fragmented(buffers, 1).length, 20);
});
