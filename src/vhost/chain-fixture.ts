/** Guest memory with a border and a hole, a ring in it and a walker: shared by the tests of `chain.ts`. */
import assert from 'node:assert/strict';
import { after } from 'node:test';
import { ChainWalker, INDIRECT_ENTRIES_MAX } from './chain.ts';
import { DriverRing } from './driver-ring.ts';
import { MIB } from './echo-fixture.ts';
import { GuestRam } from './guest-ram.ts';
import { GuestMemory } from './memory.ts';
import { SplitRing } from './split.ts';

/** Two adjacent regions (border at 8 MiB), a hole, and one high region. */
const LAYOUT = [
  { gpa: 0, bytes: 8 * MIB },
  { gpa: 8 * MIB, bytes: 8 * MIB },
  { gpa: 2 ** 40, bytes: MIB },
];
export const BORDER = 8 * MIB;
export const HOLE = 32 * MIB;
export const QUEUE_SIZE = 16;

export const ram = new GuestRam(LAYOUT);
export const memory = new GuestMemory();
assert.equal(memory.replace(ram.regions), null);
after(() => {
  memory.clear();
  ram.free();
});

export const walker = new ChainWalker(memory);
export const driver = new DriverRing(ram, QUEUE_SIZE);
after(() => driver.close());
export const table = ram.alloc(INDIRECT_ENTRIES_MAX * 16 + 16);
export const data = ram.alloc(MIB);

export function device(): SplitRing {
  const ring = new SplitRing();
  const at = {
    desc: memory.address(driver.desc, 1),
    avail: memory.address(driver.avail, 1),
    used: memory.address(driver.used, 1),
  };
  ring.start({ memory, size: QUEUE_SIZE, at, base: 0, eventIdx: true, journal: null, resume: false });
  return ring;
}

export interface Segment {
  gpa: number;
  bytes: number;
  writable: boolean;
}

export function segments(): Segment[] {
  const list: Segment[] = [];
  for (let i = 0; i < walker.readCount; i++) {
    assert.equal(memory.address(walker.readGpa[i], walker.readBytes[i]), walker.readAddress[i]);
    list.push({ gpa: walker.readGpa[i], bytes: walker.readBytes[i], writable: false });
  }
  for (let i = 0; i < walker.writeCount; i++) {
    assert.equal(memory.address(walker.writeGpa[i], walker.writeBytes[i]), walker.writeAddress[i]);
    list.push({ gpa: walker.writeGpa[i], bytes: walker.writeBytes[i], writable: true });
  }
  return list;
}
