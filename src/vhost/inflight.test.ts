import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { fdCount } from '../common/descriptors.testing.ts';
import { close, ftruncate } from '../sys/io.ts';
import { getSeals, memfdCreate, SEAL } from '../sys/memory.ts';
import { DriverRing } from './driver-ring.ts';
import { ALL_PROTOCOL, ALL_VIRTIO, type Joined, join, MIB } from './echo-fixture.ts';
import { inflightRange } from './frontend.ts';
import { GuestRam } from './guest-ram.ts';
import { type InflightJournal, InflightRegion, inflightQueueBytes } from './inflight.ts';
import { GuestMemory } from './memory.ts';
import { SplitRing } from './split.ts';
import { BROKEN, EMPTY, RING_FAULT } from './vring.ts';

const SIZE = 16;

interface Guest {
  ram: GuestRam;
  driver: DriverRing;
  fd: number;
  end: () => void;
}

function guest(base = 0): Guest {
  const ram = new GuestRam([{ gpa: 0, bytes: MIB }]);
  const driver = new DriverRing(ram, SIZE, { base });
  const made = InflightRegion.create(1, SIZE);
  assert.ok(typeof made !== 'number');
  const end = (): void => {
    driver.close();
    ram.free();
    close(made.fd);
  };
  return { ram, driver, fd: made.fd, end };
}

interface Process {
  ring: SplitRing;
  journal: InflightJournal;
  /** Everything this process had is gone; the guest and the region stay. */
  crash: () => void;
}

/** A backend process that attaches to the ring and the region. */
function boot({ ram, driver, fd }: Guest, base = 0, journalSize = SIZE): Process {
  const memory = new GuestMemory();
  memory.replace(ram.regions);
  const region = InflightRegion.map(fd, 0, inflightQueueBytes(SIZE), 1, journalSize);
  assert.ok(typeof region !== 'string', String(region));
  const journal = region.journal(0);
  assert.ok(journal !== null);
  const ring = new SplitRing();
  const at = {
    desc: memory.address(driver.desc, 1),
    avail: memory.address(driver.avail, 1),
    used: memory.address(driver.used, 1),
  };
  ring.start({ memory, size: SIZE, at, base, eventIdx: true, journal, resume: false });
  const crash = (): void => {
    memory.clear();
    region.release();
  };
  return { ring, journal, crash };
}

function take(ring: SplitRing): number[] {
  const heads: number[] = [];
  for (let head = ring.next(); head >= 0; head = ring.next()) heads.push(head);
  return heads;
}

function offer(driver: DriverRing, ...heads: number[]): void {
  for (const head of heads) driver.setAvailable(head);
  driver.publish();
}

function returned(driver: DriverRing): number[] {
  const heads: number[] = [];
  for (let head = driver.takeUsed(); head >= 0; head = driver.takeUsed()) heads.push(head);
  return heads;
}

describe('in-flight replay', () => {
  test('what was fetched and not answered comes again, oldest first, before anything new', () => {
    const g = guest();
    const first = boot(g);
    offer(g.driver, 5, 3, 9, 1);
    assert.deepEqual(take(first.ring), [5, 3, 9, 1]);
    first.ring.complete(3, 0);
    first.ring.publish();
    offer(g.driver, 7);
    first.crash();
    // The base is wrong on purpose: Cloud Hypervisor sends avail.idx (protocols rule 8).
    const second = boot(g, 5);
    assert.equal(second.ring.inFlight, 3);
    assert.ok(second.ring.enableKicks(), 'there is work without any kick');
    assert.deepEqual(take(second.ring), [5, 9, 1, 7]);
    assert.deepEqual(returned(g.driver), [3]);
    for (const head of [1, 7, 9, 5]) assert.ok(second.ring.complete(head, 0));
    second.ring.publish();
    assert.deepEqual(returned(g.driver), [1, 7, 9, 5]);
    second.crash();
    const third = boot(g);
    assert.equal(third.ring.next(), EMPTY);
    assert.equal(third.ring.nextAvail, 5);
    third.crash();
    g.end();
  });

  test('a crash after used.idx was stored, before the journal knew: published heads do not run again', () => {
    const g = guest();
    const first = boot(g);
    offer(g.driver, 0, 1, 2, 3);
    take(first.ring);
    first.journal.published = () => undefined;
    for (const head of [2, 0]) first.ring.complete(head, 0);
    first.ring.publish();
    first.crash();
    const second = boot(g);
    assert.deepEqual(take(second.ring), [1, 3]);
    assert.deepEqual(returned(g.driver), [2, 0]);
    second.crash();
    g.end();
  });

  test('a crash before used.idx was stored: completed heads run again', () => {
    const g = guest();
    const first = boot(g);
    offer(g.driver, 0, 1, 2, 3);
    take(first.ring);
    for (const head of [2, 0]) first.ring.complete(head, 0);
    first.crash();
    const second = boot(g);
    assert.deepEqual(take(second.ring), [0, 1, 2, 3]);
    assert.deepEqual(returned(g.driver), []);
    second.crash();
    g.end();
  });

  test('random lives of many processes: each request is answered exactly once', () => {
    const step = fc.oneof(
      fc.record({ do: fc.constant('offer' as const), count: fc.integer({ min: 1, max: 6 }) }),
      fc.record({ do: fc.constant('fetch' as const), count: fc.integer({ min: 1, max: 6 }) }),
      fc.record({ do: fc.constant('complete' as const), count: fc.integer({ min: 1, max: 6 }) }),
      fc.record({
        do: fc.constantFrom('publish' as const, 'half-publish' as const, 'crash' as const),
        count: fc.constant(0),
      }),
    );
    fc.assert(
      fc.property(fc.nat({ max: 0xffff }), fc.array(step, { maxLength: 60 }), (base, steps) => {
        const g = guest(base);
        let process = boot(g, base);
        let held: number[] = [];
        const free = new Set(Array.from({ length: SIZE }, (_, i) => i));
        const asked = new Map<number, number>();
        let answered = 0;
        const drain = (): void => {
          for (const head of returned(g.driver)) {
            assert.ok(asked.delete(head), `head ${head} was answered twice`);
            free.add(head);
            answered++;
          }
        };
        let offered = 0;
        for (const { do: what, count } of steps) {
          if (what === 'offer') {
            const heads = [...free].slice(0, count);
            for (const head of heads) {
              free.delete(head);
              asked.set(head, offered++);
            }
            offer(g.driver, ...heads);
          } else if (what === 'fetch') {
            for (let i = 0, head = 0; i < count && (head = process.ring.next()) >= 0; i++) held.push(head);
          } else if (what === 'complete') {
            for (const head of held.splice(0, count)) assert.ok(process.ring.complete(head, 0));
          } else if (what === 'publish') {
            process.ring.publish();
            drain();
          } else {
            if (what === 'half-publish') process.journal.published = () => undefined;
            if (what === 'half-publish') process.ring.publish();
            process.crash();
            process = boot(g, g.driver.availIdx);
            held = [];
            drain();
          }
        }
        held.push(...take(process.ring));
        assert.equal(process.ring.fault, RING_FAULT.NONE);
        for (const head of held) assert.ok(process.ring.complete(head, 0));
        process.ring.publish();
        drain();
        assert.equal(asked.size, 0);
        assert.equal(answered, offered);
        process.crash();
        g.end();
      }),
      { numRuns: 150 },
    );
  });
});

describe('the region', () => {
  test('made sealed and zeroed, of the size the layout needs', () => {
    assert.equal(inflightQueueBytes(128), 16 + 128 * 16 + 48);
    const made = InflightRegion.create(3, 128);
    assert.ok(typeof made !== 'number');
    assert.equal(made.bytes, 3 * inflightQueueBytes(128));
    assert.equal(getSeals(made.fd), SEAL.SHRINK | SEAL.GROW | SEAL.SEAL);
    close(made.fd);
  });

  test('what cannot be a region is refused', () => {
    const fd = memfdCreate('inflight');
    ftruncate(fd, 4096);
    const bytes = inflightQueueBytes(16);
    assert.match(String(InflightRegion.map(fd, 4, bytes, 1, 16)), /multiple of 8/);
    assert.match(String(InflightRegion.map(fd, 0, bytes - 1, 1, 16)), /needed/);
    assert.match(String(InflightRegion.map(fd, 4096 - bytes + 64, bytes, 1, 16)), /ends before/);
    assert.match(String(InflightRegion.map(-1, 0, bytes, 1, 16)), /EBADF/);
    close(fd);
  });

  test('a ring longer than its journal does not start: heads would lie behind it', () => {
    const g = guest();
    const { ring, crash } = boot(g, 0, SIZE / 2);
    assert.equal(ring.fault, RING_FAULT.BAD_JOURNAL);
    offer(g.driver, SIZE - 1);
    assert.equal(ring.next(), BROKEN);
    crash();
    g.end();
  });

  test('contents a hostile frontend wrote break the ring, nothing else', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 272, maxLength: 272 }), fc.boolean(), (garbage, plausible) => {
        const g = guest();
        if (plausible) garbage.set([1, 0, SIZE, 0], 8);
        const made = InflightRegion.map(g.fd, 0, inflightQueueBytes(SIZE), 1, SIZE);
        assert.ok(typeof made !== 'string');
        const window = made.range.window(made.at);
        window.u8.set(garbage, made.at - window.base);
        made.release();
        const process = boot(g);
        if (process.ring.fault !== RING_FAULT.NONE) assert.equal(process.ring.fault, RING_FAULT.BAD_JOURNAL);
        for (const head of take(process.ring)) {
          assert.ok(head < SIZE);
          process.ring.complete(head, 0);
        }
        process.ring.publish();
        process.crash();
        g.end();
      }),
      { numRuns: 200 },
    );
  });
});

describe('INFLIGHT_SHMFD: the region travels over the socket and survives the backend', () => {
  function start(joined: Joined, ram: GuestRam, ring: DriverRing, region: { payload: Uint8Array; fd: number } | null) {
    const { frontend } = joined;
    frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    frontend.shareMemory(ram);
    const reply = region ?? frontend.request('GET_INFLIGHT_FD', inflightRange(0, 0, 1, SIZE));
    const kept = 'fds' in reply ? { payload: reply.payload, fd: reply.fds[0] } : reply;
    frontend.must('SET_INFLIGHT_FD', kept.payload, [kept.fd]);
    frontend.startRing(0, ring, ring.availIdx);
    return kept;
  }

  test('requests a dead backend held are finished by the next one', () => {
    const before = fdCount();
    const ram = new GuestRam([{ gpa: 0, bytes: MIB }]);
    const ring = new DriverRing(ram, SIZE);
    const first = join({ offerInflight: true });
    const region = start(first, ram, ring, null);
    first.device.hold = true;
    const data = ram.alloc(64);
    const heads = [0, 1, 2].map((i) => {
      ram.write(data + i, Uint8Array.of(100 + i));
      return ring.addDirect([
        { gpa: data + i, bytes: 1, writable: false },
        { gpa: data + 16 + i, bytes: 1, writable: true },
      ]);
    });
    ring.submit();
    first.pump();
    assert.equal(ring.takeUsed(), -1);
    first.end();
    const second = join({ offerInflight: true });
    start(second, ram, ring, region);
    second.pump();
    assert.deepEqual(returned(ring), heads);
    assert.deepEqual([...ram.read(data + 16, 3)], [100, 101, 102]);
    assert.equal(second.frontend.command('SET_INFLIGHT_FD', region.payload, [region.fd]), 1, 'not while rings run');
    second.end();
    close(region.fd);
    ring.close();
    ram.free();
    assert.equal(fdCount(), before);
  });
});
