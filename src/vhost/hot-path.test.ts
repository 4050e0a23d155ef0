import assert from 'node:assert/strict';
import { PerformanceObserver } from 'node:perf_hooks';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { ChainWalker, WALK } from './chain.ts';
import { DriverRing } from './driver-ring.ts';
import { MIB } from './echo-fixture.ts';
import { GuestRam } from './guest-ram.ts';
import { GuestMemory } from './memory.ts';
import { DESC, SplitRing } from './split.ts';

const WARM_UP = 100_000;
const REQUESTS = 1_000_000;
const BATCH = 32;

test('a million requests are fetched, walked, looked at and completed without one garbage collection', async () => {
  const ram = new GuestRam([
    { gpa: 0, bytes: 0xa0000 },
    { gpa: MIB, bytes: 32 * MIB },
    { gpa: 4096 * MIB, bytes: 32 * MIB },
  ]);
  const memory = new GuestMemory();
  memory.replace(ram.regions);
  const driver = new DriverRing(ram, 128, { region: 1 });
  const walker = new ChainWalker(memory);
  const ring = new SplitRing();
  const at = {
    desc: memory.address(driver.desc, 1),
    avail: memory.address(driver.avail, 1),
    used: memory.address(driver.used, 1),
  };
  ring.start({ memory, size: 128, at, base: 0, eventIdx: true, journal: null, resume: false });
  // The chain of a Linux GETATTR: one indirect table of R40, R16, W16, W104; buffers alternate between three regions,
  // one above 4 GiB, where numbers are no small integers.
  for (let head = 0; head < 128; head++) {
    const table = ram.alloc(64, 16, 1);
    const data = ram.alloc(256, 64, head % 3);
    driver.setIndirect(table, 0, data, 40, DESC.NEXT, 1);
    driver.setIndirect(table, 1, data + 64, 16, DESC.NEXT, 2);
    driver.setIndirect(table, 2, data + 128, 16, DESC.NEXT | DESC.WRITE, 3);
    driver.setIndirect(table, 3, data + 152, 104, DESC.WRITE, 0);
    driver.setDescriptor(head, table, 64, DESC.INDIRECT, 0);
    ram.bytes(data, 1)[0] = head;
  }

  let sum = 0;
  function serve(requests: number): void {
    for (let sent = 0; sent < requests; sent += BATCH) {
      for (let i = 0; i < BATCH; i++) driver.setAvailable((sent + i) & 127);
      driver.publish();
      ring.disableKicks();
      for (let head = ring.next(); head >= 0; head = ring.next()) {
        if (walker.walk(ring, head) !== WALK.OK) throw new Error(`walk ${walker.fault}`);
        const window = memory.windowAt(walker.readAddress, 0);
        sum += window.u8[walker.readAddress[0] - window.base];
        const out = memory.windowAt(walker.writeAddress, 0);
        out.u32[(walker.writeAddress[0] - out.base) >>> 2] = walker.writeTotal;
        memory.unpin(memory.pin());
        ring.complete(head, walker.writeTotal);
      }
      ring.publish();
      ring.enableKicks();
      for (let i = 0; i < BATCH; i++) if (driver.takeUsed() < 0) throw new Error('a request is missing');
    }
  }

  serve(WARM_UP);
  await nextTurn();
  let collections = 0;
  const observer = new PerformanceObserver((list) => {
    collections += list.getEntries().length;
  });
  observer.observe({ entryTypes: ['gc'] });
  const start = process.cpuUsage();
  serve(REQUESTS);
  const { user, system } = process.cpuUsage(start);
  const cpuMs = (user + system) / 1000;
  await nextTurn();
  await nextTurn();
  observer.disconnect();
  assert.ok(sum > 0);
  // One may come from the runtime itself; an object a request would cost dozens.
  assert.ok(collections <= 1, `${collections} collections`);
  // Both sides together; measured 0.3 µs on an idle machine. The bound catches a slow path taken by mistake.
  assert.ok(cpuMs < 5 * (REQUESTS / 1000), `${cpuMs} ms for ${REQUESTS} requests`);
  driver.close();
  memory.clear();
  ram.free();
});
