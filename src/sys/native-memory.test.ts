import assert from 'node:assert/strict';
import { test } from 'node:test';
import { NativeMemory } from './native-memory.ts';

test('what is given back is borrowed again, zeroed, and never twice at a time', () => {
  const first = NativeMemory.borrow(12_288);
  first.u8.fill(7);
  first.free();
  first.free();
  const second = NativeMemory.borrow(12_288);
  const third = NativeMemory.borrow(12_288);
  assert.equal(second, first);
  assert.notEqual(third.address, second.address);
  assert.ok(second.u8.every((byte) => byte === 0));
  second.free();
  third.free();
});

test('text is a C string at its address, and must fit', () => {
  const memory = new NativeMemory(4096);
  assert.equal(memory.putText(10, 'caf\u00e9'), memory.address + 10);
  assert.deepEqual([...memory.u8.subarray(10, 16)], [0x63, 0x61, 0x66, 0xc3, 0xa9, 0]);
  assert.throws(() => memory.putText(4092, 'abcd'), RangeError);
});
