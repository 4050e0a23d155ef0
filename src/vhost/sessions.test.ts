import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { close } from '../sys/io.ts';
import { memfdCreate } from '../sys/memory.ts';
import { eventfd } from '../sys/wait.ts';
import { ALL_PROTOCOL, ALL_VIRTIO, echo, join, MIB, mapCount, running } from './echo-fixture.ts';
import { messageBytes, singleRegion, vringFd, vringState } from './frontend.ts';
import { FLAG, MESSAGES } from './messages.ts';

/** Repeatable random numbers, so that a failure can be run again. */
function random(seed: number): (below: number) => number {
  let state = seed * 2_654_435_761 + 1;
  return (below) => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return Math.floor((state / 2 ** 31) * below);
  };
}

type Session = (roll: (below: number) => number) => void;

/** Frontends that do everything wrong they can. */
const BAD: Record<string, Session> = {
  'garbage bytes': (roll) => {
    const { frontend, pump, end } = join();
    frontend.sendRaw(Uint8Array.from({ length: 1 + roll(600) }, () => roll(256)));
    pump();
    end();
  },
  'good headers, garbage payloads and descriptors': (roll) => {
    const { frontend, device, pump, end } = join({ config: new Uint8Array(40), offerInflight: true });
    frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    const fds = [memfdCreate('wild'), eventfd()];
    for (let i = 0; i < 40 && device.backend.open; i++) {
      const payload = Uint8Array.from({ length: [0, 8, 8, 8, 20, 24, 40, 72][roll(8)] }, () =>
        roll(2) ? 0 : roll(256),
      );
      const attached = Array.from({ length: roll(4) }, () => fds[roll(2)]);
      frontend.sendRaw(messageBytes(1 + roll(47), FLAG.VERSION | (roll(2) * 8), payload), attached);
      pump();
    }
    end();
    for (const fd of fds) close(fd);
  },
  'hang-up in the middle of a message with descriptors': (roll) => {
    const { frontend, pump, end } = join();
    const event = eventfd();
    const message = messageBytes(MESSAGES.SET_VRING_KICK.id, FLAG.VERSION, vringFd(0));
    frontend.sendRaw(message.subarray(0, 1 + roll(message.length - 1)), [event, event]);
    pump();
    end();
    close(event);
  },
  'hang-up with running rings and requests in flight': (roll) => {
    const run = running({ layout: [{ gpa: 0, bytes: (1 + roll(8)) * MIB }] });
    run.device.hold = true;
    for (let i = 0; i < 8; i++) run.rings[1].addIndirect([{ gpa: run.ram.alloc(64), bytes: 64, writable: true }]);
    run.rings[1].submit();
    run.pump();
    run.end();
  },
  'a broken ring': (roll) => {
    const run = running({ layout: [{ gpa: 0, bytes: MIB }] });
    run.rings[0].forceAvailIdx(1000 + roll(60_000));
    run.rings[0].kick();
    run.pump();
    assert.match(run.device.warnings.join(), /avail.idx jumped/);
    assert.deepEqual(echo(run, run.rings[1], Uint8Array.of(7)), Uint8Array.of(7), 'the other ring serves on');
    run.end();
  },
  'kicks on a ring nobody described': () => {
    const { frontend, device, pump, end } = join();
    frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    const kick = eventfd();
    frontend.must('SET_VRING_KICK', vringFd(9), [kick]);
    frontend.must('SET_VRING_ENABLE', vringState(9, 1));
    frontend.must('SET_VRING_KICK', vringFd(9), [kick]);
    pump();
    assert.deepEqual(device.warnings, []);
    end();
    close(kick);
  },
  'regions that cannot be': (roll) => {
    const { frontend, end } = join();
    frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    const fd = memfdCreate('empty');
    const region = { gpa: roll(2 ** 30), bytes: 1 + roll(2 ** 30), user: roll(2 ** 30), offset: roll(2 ** 20), fd };
    assert.equal(frontend.command('ADD_MEM_REG', singleRegion(region), [fd]), 1);
    close(fd);
    end();
  },
  'all descriptors of all rings, twice': () => {
    const { frontend, end } = join();
    frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    const event = eventfd();
    for (let i = 0; i < 32; i++) {
      for (const name of ['SET_VRING_CALL', 'SET_VRING_ERR', 'SET_VRING_KICK', 'SET_VRING_KICK'] as const) {
        frontend.must(name, vringFd(i % 16), [event]);
      }
    }
    end();
    close(event);
  },
};

function usage(): { fds: number; maps: number; sizeKib: number } {
  const sizeKib = Number(/VmSize:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1]);
  return { fds: fdCount(), maps: mapCount(), sizeKib };
}

/** Lists kept for reuse fill up, and the JS heap and its compiled code grow, during the first sessions. */
const WARM_UP = 400;
const MEASURED = 200;

test('200 bad sessions leak neither descriptors nor mappings, and the next good one works', () => {
  const kinds = Object.values(BAD);
  for (let i = 0; i < WARM_UP; i++) kinds[i % kinds.length](random(i));
  const before = usage();
  for (let i = 0; i < MEASURED; i++) kinds[i % kinds.length](random(WARM_UP + i));
  const after = usage();
  assert.equal(after.fds, before.fds);
  // The smallest leak, one page a session, would be lost in the heap and in what allocators reserve (39 MiB once); one
  // buffer of a session's 16 MiB would not.
  assert.ok(after.maps <= before.maps + MEASURED / 8, `${before.maps} mappings before, ${after.maps} after`);
  assert.ok(after.sizeKib <= before.sizeKib + MEASURED * 512, `${before.sizeKib} KiB before, ${after.sizeKib} after`);
  const run = running();
  assert.deepEqual(echo(run, run.rings[1], Uint8Array.of(1, 2)), Uint8Array.of(1, 2));
  run.end();
});
