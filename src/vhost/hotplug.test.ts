import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DriverRing } from './driver-ring.ts';
import { echo, MIB, type Running, running } from './echo-fixture.ts';
import { featureSet, PROTOCOL } from './features.ts';
import { memTable, singleRegion } from './frontend.ts';
import { GuestRam } from './guest-ram.ts';

const GIB = 2 ** 30;
/** A 3 GiB guest of two adjacent regions: windows end at 1 GiB and at 2.5 GiB, regions at 1.5 GiB. */
const GUEST = [
  { gpa: 0, bytes: 1.5 * GIB },
  { gpa: 1.5 * GIB, bytes: 1.5 * GIB },
];
const BORDERS = [GIB, 1.5 * GIB, 2.5 * GIB];
const PLUGGED = { gpa: 16 * GIB, bytes: 64 * MIB };

/** Requests under way: head → check of what came back. */
type Sent = Map<number, () => void>;

const pattern = (seed: number): Uint8Array =>
  Uint8Array.from({ length: 5000 + (seed % 3000) }, (_, i) => (i * 31 + seed * 17) & 0xff);

/** Sends a pattern from `from` to `to`, each in its own memory. */
function send(ring: DriverRing, source: GuestRam, from: number, target: GuestRam, to: number, seed: number): Sent {
  const data = pattern(seed);
  source.write(from, data);
  const head = ring.addIndirect([
    { gpa: from, bytes: data.length, writable: false },
    { gpa: to, bytes: data.length, writable: true },
  ]);
  const check = (): void => {
    assert.equal(ring.usedBytes, data.length);
    assert.deepEqual(target.read(to, data.length), data);
    target.write(to, new Uint8Array(data.length));
  };
  return new Map([[head, check]]);
}

/** Takes every answer there is: each was awaited, and carries what was sent. */
function collect(ring: DriverRing, sent: Sent): number {
  let count = 0;
  for (let head = ring.takeUsed(); head >= 0; head = ring.takeUsed(), count++) {
    const check = sent.get(head);
    assert.ok(check !== undefined, `head ${head} was not awaited`);
    sent.delete(head);
    check();
  }
  return count;
}

function merge(into: Sent, from: Sent): void {
  for (const [head, check] of from) {
    assert.ok(!into.has(head));
    into.set(head, check);
  }
}

function withGuest(body: (run: Running, plugged: GuestRam) => void): void {
  const run = running({ layout: GUEST, sizes: [16, 128] });
  const plugged = new GuestRam([PLUGGED]);
  body(run, plugged);
  run.end();
  plugged.free();
}

/** Three requests across window and region borders (as source or as target) and three that cross nothing. */
function load(ring: DriverRing, ram: GuestRam, round: number): Sent {
  const sent: Sent = new Map();
  for (let i = 0; i < 6; i++) {
    const plain = 64 * MIB + i * 32_768;
    const other = i < 3 ? BORDERS[i] - 2500 - round : 96 * MIB + i * 32_768;
    const [from, to] = round % 2 === 0 ? [other, plain] : [plain, other];
    merge(sent, send(ring, ram, from, ram, to, round * 10 + i));
  }
  return sent;
}

test('100 adds and removes of a region under load, buffers across windows and regions: nothing is lost', () => {
  withGuest((run, plugged) => {
    const { frontend, device, ram, rings, pump } = run;
    const ring = rings[1];
    const sent: Sent = new Map();
    let answered = 0;
    for (let round = 0; round < 100; round++) {
      // Six requests are in flight while the table changes twice.
      device.hold = true;
      merge(sent, load(ring, ram, round));
      ring.submit();
      pump();
      device.hold = false;
      frontend.must('ADD_MEM_REG', singleRegion(plugged.regions[0]), [plugged.fd]);
      // New memory is source and target at once.
      merge(sent, send(ring, plugged, PLUGGED.gpa + round, ram, 128 * MIB, round));
      merge(sent, send(ring, ram, 129 * MIB, plugged, PLUGGED.gpa + 32 * MIB - round, round + 1));
      ring.submit();
      pump();
      assert.equal(collect(ring, sent), 2);
      frontend.must('REM_MEM_REG', singleRegion(plugged.regions[0]));
      assert.equal(device.finishHeld(), 6);
      answered += 2 + collect(ring, sent);
      assert.equal(sent.size, 0, `round ${round}`);
    }
    assert.equal(answered, 800);
    assert.deepEqual(device.warnings, []);
  });
});

test('SET_MEM_TABLE under load keeps rings and held requests', () => {
  const run = running({ layout: GUEST, sizes: [16, 128], protocol: featureSet(PROTOCOL.REPLY_ACK) });
  const { frontend, device, ram, rings, pump } = run;
  const plugged = new GuestRam([PLUGGED]);
  for (let round = 0; round < 20; round++) {
    device.hold = true;
    const sent = load(rings[1], ram, round);
    rings[1].submit();
    pump();
    device.hold = false;
    const regions = round % 2 === 0 ? [...ram.regions, ...plugged.regions] : ram.regions;
    const fds = regions.map((region) => region.fd);
    frontend.must('SET_MEM_TABLE', memTable(regions), fds);
    assert.equal(device.finishHeld(), 6);
    assert.equal(collect(rings[1], sent), 6);
  }
  assert.deepEqual(device.warnings, []);
  run.end();
  plugged.free();
});

test('requests into memory that was removed meanwhile are returned with nothing written', () => {
  withGuest((run, plugged) => {
    const { frontend, device, rings, pump } = run;
    frontend.must('ADD_MEM_REG', singleRegion(plugged.regions[0]), [plugged.fd]);
    device.hold = true;
    const head = rings[1].addDirect([
      { gpa: PLUGGED.gpa, bytes: 100, writable: false },
      { gpa: PLUGGED.gpa + 4096, bytes: 100, writable: true },
    ]);
    rings[1].submit();
    pump();
    frontend.must('REM_MEM_REG', singleRegion(plugged.regions[0]));
    device.hold = false;
    assert.equal(device.finishHeld(), 1);
    assert.equal(rings[1].takeUsed(), head);
    assert.equal(rings[1].usedBytes, 0);
    assert.match(device.warnings[0], /buffer outside guest memory/);
  });
});

test('a ring whose memory is removed breaks alone, and its error descriptor tells', () => {
  const run = running({
    layout: [
      { gpa: 0, bytes: 16 * MIB },
      { gpa: GIB, bytes: 16 * MIB },
    ],
  });
  const { frontend, device, ram, rings, pump } = run;
  const [, high] = ram.regions;
  // The request ring moves to the second region, the other one stays in the first.
  frontend.stopRing(1);
  const moved = new DriverRing(ram, 64, { region: 1 });
  frontend.startRing(1, moved);
  frontend.must('REM_MEM_REG', singleRegion(high));
  assert.match(device.warnings.join(), /ring 1 no longer lies in guest memory/);
  moved.addDirect([{ gpa: 0, bytes: 8, writable: false }]);
  moved.publish();
  moved.kick();
  pump();
  assert.equal(moved.takeUsed(), -1);
  assert.deepEqual(echo(run, rings[0], Uint8Array.of(1, 2, 3)), Uint8Array.of(1, 2, 3));
  run.end();
  moved.close();
});
