/**
 * What real frontends say, in the order and with the flags they were recorded (protocols 1.8), replayed against the
 * backend. Words of a script: message name, `:n` for the queue, `!` for NEED_REPLY, `=v` for a value.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { close } from '../sys/io.ts';
import { pipe } from '../sys/wait.ts';
import { DriverRing } from './driver-ring.ts';
import { closeAll, echo, type Joined, join, MIB } from './echo-fixture.ts';
import { type FeatureSet, featureSet, hasFeature, intersect, NO_FEATURES, PROTOCOL, VIRTIO } from './features.ts';
import {
  configRange,
  features,
  inflightRange,
  memTable,
  readFeatureSet,
  singleRegion,
  u64Payload,
  vringAddr,
  vringFd,
  vringState,
} from './frontend.ts';
import { GuestRam } from './guest-ram.ts';
import { FLAG, MESSAGES, type MessageName } from './messages.ts';

/** SET_FEATURES as observed: INDIRECT, EVENT_IDX, PROTOCOL_FEATURES, VERSION_1 (0x1_7000_0000). */
const OBSERVED = featureSet(VIRTIO.INDIRECT_DESC, VIRTIO.EVENT_IDX, VIRTIO.PROTOCOL_FEATURES, VIRTIO.VERSION_1);

interface Options {
  protocol: FeatureSet;
  /** User-Mode Linux: pipes for CALL, room for a second region, log address of all ones. */
  uml?: boolean;
  config?: Uint8Array | null;
  offerInflight?: boolean;
}

/** Speaks a script and keeps what it needs: memory, rings, descriptors. */
class Speaker {
  readonly joined: Joined;
  readonly ram: GuestRam;
  rings: DriverRing[] = [];
  protocol: FeatureSet = NO_FEATURES;
  readonly #call = new Int32Array(2);
  readonly #channel = new Int32Array(2);
  #inflight: { payload: Uint8Array; fd: number } | null = null;

  constructor(readonly options: Options) {
    this.joined = join({ config: options.config ?? null, offerInflight: options.offerInflight ?? false });
    const layout = [
      { gpa: 0, bytes: 0xa0000 },
      { gpa: 0xc0000, bytes: 32 * MIB - 0xc0000 },
    ];
    this.ram = new GuestRam(layout);
    // Rings and buffers lie in the big region, as they do.
    this.freshRings();
    pipe(this.#call, true);
    pipe(this.#channel, true);
  }

  /** A driver that starts anew makes new rings. */
  freshRings(): void {
    for (const ring of this.rings) ring.close();
    this.rings = [0, 1].map(() => new DriverRing(this.ram, 128, { region: 1 }));
  }

  say(script: string): void {
    for (const word of script.trim().split(/\s+/)) {
      const match = /^([A-Z_]+)(?::(\d+))?(?:=(\d+))?(!)?$/.exec(word);
      assert.ok(match !== null, `script word ${word}`);
      this.#speak(match[1] as MessageName, Number(match[2] ?? 0), Number(match[3] ?? 0), match[4] === '!');
    }
  }

  #speak(name: MessageName, queue: number, value: number, needReply: boolean): void {
    const { frontend, device, pump } = this.joined;
    const [payload, fds] = this.#content(name, queue, value);
    const spec = MESSAGES[name];
    frontend.send(spec.id, payload, fds, FLAG.VERSION | (needReply ? FLAG.NEED_REPLY : 0));
    const answered = spec.reply === 'regular' || (needReply && hasFeature(this.protocol, PROTOCOL.REPLY_ACK));
    if (name === 'SET_PROTOCOL_FEATURES') this.protocol = this.#wantedProtocol();
    if (!answered) pump();
    else this.#check(name, frontend.receive());
    assert.ok(device.backend.open, `${name}: ${device.disconnectReason}`);
    assert.deepEqual(device.warnings, []);
  }

  #wantedProtocol(): FeatureSet {
    return intersect(this.options.protocol, this.joined.device.backend.offeredProtocol);
  }

  #check(name: MessageName, reply: { payload: Uint8Array; fds: number[] }): void {
    if (MESSAGES[name].reply === 'ack') assert.deepEqual(reply.payload, new Uint8Array(8), name);
    if (name === 'GET_FEATURES') assert.ok(hasFeature(readFeatureSet(reply.payload), VIRTIO.VERSION_1));
    if (name === 'GET_QUEUE_NUM') assert.equal(reply.payload[0], 2);
    if (name === 'GET_INFLIGHT_FD') this.#inflight = { payload: reply.payload, fd: reply.fds[0] };
  }

  #content(name: MessageName, queue: number, value: number): [Uint8Array, number[]] {
    const ring = this.rings[queue];
    const used = this.options.uml === true ? this.ram.regions.slice(1) : this.ram.regions;
    switch (name) {
      case 'SET_FEATURES':
        return [features(OBSERVED), []];
      case 'SET_PROTOCOL_FEATURES':
        return [features(this.#wantedProtocol()), []];
      case 'SET_BACKEND_REQ_FD':
        return [new Uint8Array(0), [this.#channel[1]]];
      case 'SET_MEM_TABLE':
        return [memTable(used, this.options.uml === true ? 2 : used.length), used.map((region) => region.fd)];
      case 'ADD_MEM_REG':
        return [singleRegion(this.ram.regions[queue]), [this.ram.fd]];
      case 'SET_VRING_NUM':
        return [vringState(queue, ring.size), []];
      case 'SET_VRING_BASE':
      case 'SET_VRING_ENABLE':
      case 'GET_VRING_BASE':
        return [vringState(queue, value), []];
      case 'SET_VRING_ADDR': {
        const payload = vringAddr(queue, ring, ring.used);
        if (this.options.uml === true) payload.fill(0xff, 32);
        return [payload, []];
      }
      case 'SET_VRING_KICK':
        return [vringFd(queue), [ring.kickFd]];
      case 'SET_VRING_CALL':
        return [vringFd(queue), [this.options.uml === true ? this.#call[1] : ring.callFd]];
      case 'SET_VRING_ERR':
        return [vringFd(queue), [ring.errFd]];
      case 'SET_STATUS':
        return [u64Payload(value), []];
      case 'GET_CONFIG':
        return [configRange(0, value), []];
      case 'GET_INFLIGHT_FD':
        return [inflightRange(0, 0, 2, 128), []];
      case 'SET_INFLIGHT_FD':
        return [this.#inflight?.payload ?? new Uint8Array(24), [this.#inflight?.fd ?? -1]];
      default:
        return [new Uint8Array(0), []];
    }
  }

  /** Requests pass on both queues. */
  work(): void {
    const run = { ...this.joined, ram: this.ram, rings: this.rings };
    for (const ring of this.rings) {
      for (let i = 0; i < 5; i++) {
        const data = Uint8Array.of(1, 2, 3, i);
        const from = this.ram.alloc(16, 16, 1);
        this.ram.write(from, data);
        const chain = [
          { gpa: from, bytes: 4, writable: false },
          { gpa: from + 8, bytes: 4, writable: true },
        ];
        // The table lies in the big region too: the small one is not shared by User-Mode Linux.
        const head = ring.addIndirect(chain, this.ram.alloc(32, 16, 1));
        ring.submit();
        assert.equal(ring.waitUsed(1000, run.pump), head);
        assert.deepEqual(this.ram.read(from + 8, 4), data);
      }
    }
  }

  end(): void {
    this.joined.end();
    closeAll([...this.#call, ...this.#channel]);
    if (this.#inflight !== null) close(this.#inflight.fd);
    for (const ring of this.rings) ring.close();
    this.ram.free();
  }
}

const QEMU = {
  protocol: featureSet(
    PROTOCOL.MQ,
    PROTOCOL.LOG_SHMFD,
    PROTOCOL.REPLY_ACK,
    PROTOCOL.BACKEND_REQ,
    PROTOCOL.CONFIGURE_MEM_SLOTS,
    PROTOCOL.DEVICE_STATE,
  ),
};

const QEMU_REALIZE = `GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM GET_MAX_MEM_SLOTS
  SET_BACKEND_REQ_FD! SET_OWNER GET_FEATURES SET_VRING_CALL:0 SET_VRING_ERR:0 SET_VRING_CALL:1 SET_VRING_ERR:1`;
const QEMU_RINGS = `SET_VRING_NUM:0 SET_VRING_BASE:0 SET_VRING_ADDR:0 SET_VRING_KICK:0
  SET_VRING_NUM:1 SET_VRING_BASE:1 SET_VRING_ADDR:1 SET_VRING_KICK:1`;
const CALLS = 'SET_VRING_CALL:0 SET_VRING_CALL:1';
const QEMU_STOP = `SET_VRING_ENABLE:0=0 SET_VRING_ENABLE:1=0 GET_VRING_BASE:0 GET_VRING_BASE:1 ${CALLS}`;

describe('recorded dialogs', () => {
  for (const [version, enable] of [
    ['7.2', 'SET_VRING_ENABLE:0=1 SET_VRING_ENABLE:1=1'],
    ['10.0', 'SET_VRING_ENABLE:0=1! SET_VRING_ENABLE:1=1!'],
  ]) {
    test(`QEMU ${version}: start, reboot without resending memory, power off`, () => {
      const speaker = new Speaker(QEMU);
      speaker.say(QEMU_REALIZE);
      speaker.say(`${CALLS} SET_FEATURES ADD_MEM_REG:0! ADD_MEM_REG:1!`);
      speaker.say(QEMU_RINGS);
      // The guest may have kicked before the rings are enabled.
      for (const ring of speaker.rings) ring.kick();
      speaker.say(`${enable} ${CALLS}`);
      speaker.work();
      speaker.say(QEMU_STOP);
      speaker.freshRings();
      speaker.say(`${CALLS} SET_FEATURES ${QEMU_RINGS} ${enable} ${CALLS}`);
      speaker.work();
      speaker.say(QEMU_STOP);
      speaker.end();
    });

    test(`QEMU ${version} without memory slots: one table`, () => {
      const protocol = featureSet(PROTOCOL.MQ, PROTOCOL.REPLY_ACK);
      const speaker = new Speaker({ protocol });
      speaker.say(`GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM SET_OWNER GET_FEATURES ${CALLS}
        ${CALLS} SET_FEATURES SET_MEM_TABLE! ${QEMU_RINGS} ${enable} ${CALLS}`);
      speaker.work();
      speaker.end();
    });
  }

  test('QEMU master with STATUS: NEED_REPLY on KICK, CALL and ERR; status 0 at a pause, then resume', () => {
    const speaker = new Speaker({ protocol: featureSet(PROTOCOL.MQ, PROTOCOL.REPLY_ACK, PROTOCOL.STATUS) });
    const rings = QEMU_RINGS.replaceAll(/(KICK:\d)/g, '$1!');
    const enable = 'SET_VRING_ENABLE:0=1! SET_VRING_ENABLE:1=1!';
    speaker.say(`GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM SET_OWNER SET_VRING_CALL:0!
      SET_VRING_ERR:0! SET_STATUS=3! GET_STATUS SET_FEATURES SET_STATUS=11! SET_MEM_TABLE! ${rings} ${enable}
      SET_STATUS=15! GET_STATUS`);
    speaker.work();
    speaker.say('SET_VRING_ENABLE:0=0! SET_VRING_ENABLE:1=0! GET_VRING_BASE:0! GET_VRING_BASE:1! SET_STATUS=0!');
    speaker.say(rings.replaceAll(/BASE:(\d)/g, 'BASE:$1=5'));
    speaker.say(`${enable} SET_STATUS=15!`);
    assert.ok(speaker.joined.device.events.includes('start 1 resumed'));
    speaker.work();
    speaker.end();
  });

  for (const offerInflight of [false, true]) {
    test(`Cloud Hypervisor: activate, pause, resume, reset (in-flight region ${offerInflight})`, () => {
      const protocol = featureSet(
        PROTOCOL.MQ,
        PROTOCOL.CONFIGURE_MEM_SLOTS,
        PROTOCOL.REPLY_ACK,
        PROTOCOL.INFLIGHT_SHMFD,
        PROTOCOL.LOG_SHMFD,
        PROTOCOL.DEVICE_STATE,
      );
      const speaker = new Speaker({ protocol, offerInflight });
      speaker.say('SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES GET_QUEUE_NUM!');
      const inflight = offerInflight ? 'GET_INFLIGHT_FD! SET_INFLIGHT_FD!' : '';
      const ring = (q: number): string =>
        `SET_VRING_ADDR:${q}! SET_VRING_BASE:${q}! SET_VRING_CALL:${q}! SET_VRING_KICK:${q}!`;
      speaker.say(`SET_FEATURES! SET_MEM_TABLE! SET_VRING_NUM:0! SET_VRING_NUM:1! ${inflight} ${ring(0)} ${ring(1)}
        SET_VRING_ENABLE:0=1! SET_VRING_ENABLE:1=1!`);
      speaker.work();
      speaker.say('SET_VRING_ENABLE:0=0! SET_VRING_ENABLE:1=0! SET_VRING_ENABLE:0=1! SET_VRING_ENABLE:1=1!');
      speaker.work();
      speaker.say('SET_VRING_ENABLE:0=0! GET_VRING_BASE:0! SET_VRING_ENABLE:1=0! GET_VRING_BASE:1!');
      speaker.end();
    });
  }

  test('Cloud Hypervisor, restored: SET_PROTOCOL_FEATURES without GET', () => {
    const speaker = new Speaker({ protocol: featureSet(PROTOCOL.MQ, PROTOCOL.REPLY_ACK) });
    speaker.say(`SET_OWNER GET_FEATURES SET_PROTOCOL_FEATURES SET_FEATURES! SET_MEM_TABLE! SET_VRING_NUM:0!
      SET_VRING_NUM:1! SET_VRING_ADDR:0! SET_VRING_BASE:0! SET_VRING_CALL:0! SET_VRING_KICK:0! SET_VRING_ADDR:1!
      SET_VRING_BASE:1! SET_VRING_CALL:1! SET_VRING_KICK:1! SET_VRING_ENABLE:0=1! SET_VRING_ENABLE:1=1!`);
    speaker.work();
    speaker.end();
  });

  test('User-Mode Linux: pipes, a table with room for two, config reads of every size', () => {
    const protocol = featureSet(
      PROTOCOL.REPLY_ACK,
      PROTOCOL.BACKEND_REQ,
      PROTOCOL.CONFIG,
      PROTOCOL.INBAND_NOTIFICATIONS,
    );
    const speaker = new Speaker({ protocol, uml: true, config: new Uint8Array(40).fill(65) });
    speaker.say('SET_OWNER GET_FEATURES GET_PROTOCOL_FEATURES SET_PROTOCOL_FEATURES SET_BACKEND_REQ_FD SET_FEATURES');
    for (let size = 1; size <= 36; size++) speaker.say(`GET_CONFIG=${size}`);
    speaker.say('GET_CONFIG=40 SET_MEM_TABLE');
    assert.equal(speaker.joined.device.memory.regionCount, 1);
    for (const q of [0, 1]) {
      speaker.say(`SET_VRING_CALL:${q} SET_VRING_NUM:${q} SET_VRING_BASE:${q} SET_VRING_ADDR:${q} SET_VRING_KICK:${q}
        SET_VRING_ENABLE:${q}=1`);
    }
    speaker.work();
    speaker.say('SET_VRING_ENABLE:0=0 SET_VRING_ENABLE:1=0 GET_FEATURES');
    speaker.end();
  });

  test('queues beyond the number reported are configured and served (protocols rule 11)', () => {
    const { frontend, device, pump, end } = join({ queues: 2 });
    frontend.negotiate(OBSERVED, QEMU.protocol);
    const ram = new GuestRam([{ gpa: 0, bytes: 8 * MIB }]);
    frontend.shareMemory(ram);
    const rings = [0, 1, 2, 3, 4].map(() => new DriverRing(ram, 16));
    for (const [i, ring] of rings.entries()) frontend.startRing(i, ring);
    const run = { frontend, device, pump, end, ram, rings };
    for (const ring of rings) assert.deepEqual(echo(run, ring, Uint8Array.of(5)), Uint8Array.of(5));
    end();
    for (const ring of rings) ring.close();
    ram.free();
  });
});
