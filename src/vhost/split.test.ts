import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { DriverRing } from './driver-ring.ts';
import { MIB } from './echo-fixture.ts';
import { GuestRam } from './guest-ram.ts';
import { GuestMemory } from './memory.ts';
import { checkRingAlignment, SplitRing } from './split.ts';
import { BROKEN, EMPTY, RING_FAULT, ringFaultText } from './vring.ts';

interface Pair {
  driver: DriverRing;
  device: SplitRing;
  memory: GuestMemory;
  end: () => void;
}

function pair(size: number, eventIdx: boolean, base = 0): Pair {
  const ram = new GuestRam([{ gpa: 0, bytes: 4 * MIB }]);
  const memory = new GuestMemory();
  memory.replace(ram.regions);
  const driver = new DriverRing(ram, size, { base });
  driver.eventIdx = eventIdx;
  const device = new SplitRing();
  const at = {
    desc: memory.address(driver.desc, 1),
    avail: memory.address(driver.avail, 1),
    used: memory.address(driver.used, 1),
  };
  assert.ok(device.start({ memory, size, at, base, eventIdx, journal: null, resume: false }));
  const end = (): void => {
    driver.close();
    device.stop();
    memory.clear();
    ram.free();
  };
  return { driver, device, memory, end };
}

function put(driver: DriverRing, ...heads: number[]): void {
  for (const head of heads) driver.setAvailable(head);
  driver.publish();
}

describe('split ring', () => {
  for (const eventIdx of [true, false]) {
    test(`indexes wrap at 65536, three times over, each head returned once (EVENT_IDX ${eventIdx})`, () => {
      const { driver, device, end } = pair(8, eventIdx, 65_530);
      let sent = 0;
      let returned = 0;
      while (returned < 3 * 65_536) {
        for (let i = 0; i < 5; i++) driver.setAvailable((sent + i) % 8);
        sent += 5;
        driver.publish();
        for (let head = device.next(); head >= 0; head = device.next()) assert.ok(device.complete(head, head + 1));
        device.publish();
        for (let head = driver.takeUsed(); head >= 0; head = driver.takeUsed()) {
          assert.equal(head, returned % 8);
          assert.equal(driver.usedBytes, head + 1);
          returned++;
        }
        assert.equal(returned, sent);
      }
      assert.equal(device.nextAvail, (65_530 + sent) & 0xffff);
      assert.equal(device.usedIdx, device.nextAvail);
      end();
    });

    test(`the driver kicks when and only when kicks are asked for (EVENT_IDX ${eventIdx})`, () => {
      const { driver, device, end } = pair(16, eventIdx);
      driver.setAvailable(0);
      assert.ok(driver.publish(), 'a fresh ring asks for kicks');
      device.disableKicks();
      assert.equal(device.next(), 0);
      driver.setAvailable(1);
      assert.ok(!driver.publish(), 'not while the device polls');
      assert.ok(device.enableKicks(), 'what came meanwhile is seen when kicks are asked for');
      assert.equal(device.next(), 1);
      assert.equal(device.next(), EMPTY);
      assert.ok(!device.enableKicks());
      driver.setAvailable(2);
      assert.ok(driver.publish());
      end();
    });
  }

  test('interrupts with EVENT_IDX: exactly when used.idx passes used_event, over the wrap as well', () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 0xffff }),
        fc.array(fc.record({ batch: fc.integer({ min: 1, max: 16 }), ahead: fc.integer({ min: 0, max: 20 }) }), {
          minLength: 1,
          maxLength: 20,
        }),
        (base, steps) => {
          const { driver, device, end } = pair(16, true, base);
          driver.setAvailable(0);
          driver.publish();
          device.complete(device.next(), 0);
          assert.ok(device.publish(), 'the first publish signals in any case');
          driver.takeUsed();
          let used = base + 1;
          for (const { batch, ahead } of steps) {
            // The driver wants to hear of the entry `ahead` places from here.
            driver.ram.write(
              driver.avail + 4 + 2 * 16,
              Uint8Array.of((used + ahead) & 0xff, ((used + ahead) >> 8) & 0xff),
            );
            for (let i = 0; i < batch; i++) driver.setAvailable(i);
            driver.publish();
            for (let head = device.next(); head >= 0; head = device.next()) device.complete(head, 0);
            assert.equal(device.publish(), ahead < batch);
            while (driver.takeUsed() >= 0);
            used += batch;
          }
          end();
        },
      ),
      { numRuns: 60 },
    );
  });

  test('interrupts without EVENT_IDX follow the flag; nothing published, nothing signalled', () => {
    const { driver, device, end } = pair(16, false);
    const one = (head: number): boolean => {
      driver.setAvailable(head);
      driver.publish();
      device.complete(device.next(), 0);
      return device.publish();
    };
    assert.ok(one(0));
    assert.ok(one(1));
    driver.disableInterrupts();
    assert.ok(!one(2));
    device.signalNext();
    assert.ok(one(3));
    driver.enableInterrupts();
    assert.ok(one(4));
    assert.ok(!device.publish());
    end();
  });

  test('completions stay invisible until published, and come in any order', () => {
    const { driver, device, end } = pair(8, true);
    for (let i = 0; i < 4; i++) driver.setAvailable(i);
    driver.publish();
    const heads = [device.next(), device.next(), device.next(), device.next()];
    assert.equal(device.inFlight, 4);
    for (const head of [heads[2], heads[0], heads[3]]) device.complete(head, 9);
    assert.equal(driver.takeUsed(), -1);
    device.publish();
    assert.deepEqual([driver.takeUsed(), driver.takeUsed(), driver.takeUsed(), driver.takeUsed()], [2, 0, 3, -1]);
    assert.equal(device.inFlight, 1);
    end();
  });

  test('a head is completed once: not twice, not when it was never taken', () => {
    const { driver, device, end } = pair(8, true);
    driver.setAvailable(5);
    driver.publish();
    assert.equal(device.next(), 5);
    for (const head of [4, 8, 65_535, -1, Number.NaN]) assert.ok(!device.complete(head, 0), `${head}`);
    assert.ok(device.complete(5, 0));
    assert.ok(!device.complete(5, 0));
    device.publish();
    assert.equal(driver.takeUsed(), 5);
    assert.equal(driver.takeUsed(), -1);
    end();
  });

  const breaks: [string, number, (driver: DriverRing) => void][] = [
    ['1: avail.idx jumps by more than the queue size', RING_FAULT.AVAIL_JUMP, (d) => d.forceAvailIdx(9)],
    ['1: avail.idx goes back', RING_FAULT.AVAIL_JUMP, (d) => d.forceAvailIdx(-1)],
    ['2: head outside the table', RING_FAULT.HEAD_RANGE, (d) => put(d, 8)],
    ['2: head 65535', RING_FAULT.HEAD_RANGE, (d) => put(d, 0xffff)],
    ['13: duplicate head', RING_FAULT.DUPLICATE_HEAD, (d) => put(d, 3, 3)],
  ];
  for (const [name, fault, spoil] of breaks) {
    test(`row ${name}: the ring is broken for good`, () => {
      const { driver, device, end } = pair(8, true);
      spoil(driver);
      while (device.next() >= 0);
      assert.equal(device.fault, fault, ringFaultText(device.fault));
      assert.equal(device.next(), BROKEN);
      assert.ok(!device.complete(3, 0));
      assert.ok(!device.publish() && !device.enableKicks());
      device.disableKicks();
      assert.equal(driver.takeUsed(), -1);
      end();
    });
  }

  test('18: queue size heads in flight are the most there can be', () => {
    const { driver, device, end } = pair(8, true);
    for (let i = 0; i < 8; i++) driver.setAvailable(i);
    driver.publish();
    for (let i = 0; i < 8; i++) assert.equal(device.next(), i);
    assert.equal(device.next(), EMPTY);
    driver.setAvailable(0);
    driver.publish();
    assert.equal(device.next(), BROKEN);
    end();
  });

  test('a stopped ring touches nothing', () => {
    const { driver, device, end } = pair(8, true);
    driver.setAvailable(0);
    driver.setAvailable(1);
    driver.publish();
    device.next();
    device.complete(0, 1);
    device.stop();
    assert.ok(!device.publish());
    assert.equal(device.next(), BROKEN);
    assert.equal(driver.takeUsed(), -1);
    assert.equal(device.descriptors.length, 0);
    end();
  });

  test('rings of every size up to 32768 work', () => {
    for (let size = 1; size <= 32_768; size *= 2) {
      const { driver, device, end } = pair(size, true);
      for (let i = 0; i < size; i++) driver.setAvailable(i);
      driver.publish();
      for (let i = 0; i < size; i++) assert.ok(device.complete(device.next(), i));
      device.publish();
      for (let i = 0; i < size; i++) assert.equal(driver.takeUsed(), i);
      end();
    }
  });

  test('alignment of the three parts', () => {
    assert.equal(checkRingAlignment(16, 2, 4), null);
    assert.match(checkRingAlignment(8, 2, 4) ?? '', /aligned to 16/);
    assert.match(checkRingAlignment(16, 1, 4) ?? '', /aligned to 2/);
    assert.match(checkRingAlignment(16, 2, 6) ?? '', /aligned to 4/);
  });
});
