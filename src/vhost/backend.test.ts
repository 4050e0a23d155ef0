import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { close } from '../sys/io.ts';
import { drain, eventfd, notify, POLL, pipe, pollOne } from '../sys/wait.ts';
import { DriverRing } from './driver-ring.ts';
import { ALL_PROTOCOL, ALL_VIRTIO, closeAll, echo, join, MIB, running } from './echo-fixture.ts';
import { featureSet, NO_FEATURES, PROTOCOL, VIRTIO, without } from './features.ts';
import {
  configRange,
  FrontendError,
  features,
  readFeatureSet,
  singleRegion,
  u64Payload,
  vringAddr,
  vringFd,
  vringState,
} from './frontend.ts';
import { GuestRam } from './guest-ram.ts';
import { FLAG, MESSAGES, REPLY_FLAGS } from './messages.ts';

const text = (s: string): Uint8Array => new TextEncoder().encode(s);

describe('a session', () => {
  test('requests come back on every queue, direct and indirect', () => {
    const run = running();
    for (const ring of run.rings) {
      for (const indirect of [true, false]) {
        assert.deepEqual(echo(run, ring, text('hello guest'), indirect), text('hello guest'));
      }
    }
    assert.deepEqual(run.device.warnings, []);
    run.end();
    assert.equal(run.device.disconnectReason, 'frontend hung up');
  });

  test('replies have exactly the flags 0x5, and NEED_REPLY asks for one only once REPLY_ACK is acked', () => {
    const { frontend, end } = join();
    frontend.send(MESSAGES.SET_OWNER.id, new Uint8Array(0), [], FLAG.VERSION | FLAG.NEED_REPLY);
    const reply = frontend.request('GET_FEATURES');
    assert.equal(reply.flags, REPLY_FLAGS);
    assert.deepEqual(readFeatureSet(reply.payload), ALL_VIRTIO);
    frontend.must('SET_PROTOCOL_FEATURES', features(featureSet(PROTOCOL.REPLY_ACK)));
    frontend.protocol = featureSet(PROTOCOL.REPLY_ACK);
    assert.equal(frontend.command('SET_OWNER'), 0);
    assert.equal(frontend.command('SET_FEATURES', features(featureSet(35))), 1, 'IN_ORDER was never offered');
    end();
  });

  test('an unknown request is refused when an answer is awaited, and ends the connection otherwise', () => {
    const first = join();
    first.frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    first.frontend.send(77, new Uint8Array(5), [], FLAG.VERSION | FLAG.NEED_REPLY);
    assert.equal(first.frontend.receive().payload[0], 1);
    first.frontend.send(77, new Uint8Array(5));
    assert.throws(() => first.frontend.receive(), FrontendError);
    assert.match(first.device.disconnectReason, /message 77: unknown/);
    first.end();
  });

  test('without acked protocol features rings serve at once', () => {
    const virtio = without(ALL_VIRTIO, featureSet(VIRTIO.PROTOCOL_FEATURES));
    const run = running({ virtio, protocol: NO_FEATURES });
    assert.deepEqual(echo(run, run.rings[1], text('no enable')), text('no enable'));
    run.end();
  });

  test('with them nothing is fetched before ENABLE 1 or after ENABLE 0, though kicks arrive', () => {
    const { frontend, device, pump, end } = join();
    frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    const ram = new GuestRam([{ gpa: 0, bytes: MIB }]);
    frontend.shareMemory(ram);
    const ring = new DriverRing(ram, 8);
    frontend.startRing(0, ring, 0, false);
    const send = (): void => {
      ring.addDirect([{ gpa: ram.alloc(16), bytes: 16, writable: false }]);
      ring.publish();
      ring.kick();
      pump();
    };
    send();
    assert.equal(ring.takeUsed(), -1);
    frontend.must('SET_VRING_ENABLE', vringState(0, 1));
    pump();
    assert.equal(ring.takeUsed(), 0, 'the early kick is not lost');
    frontend.must('SET_VRING_ENABLE', vringState(0, 0));
    send();
    send();
    assert.equal(ring.takeUsed(), -1);
    frontend.must('SET_VRING_ENABLE', vringState(0, 1));
    pump();
    assert.ok(ring.takeUsed() >= 0 && ring.takeUsed() >= 0 && ring.takeUsed() === -1);
    assert.equal(device.served, 3);
    end();
    ring.close();
    ram.free();
  });

  test('a kick that comes before the ring is described is not lost', () => {
    const { frontend, device, pump, end } = join();
    frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    const ram = new GuestRam([{ gpa: 0, bytes: MIB }]);
    frontend.shareMemory(ram);
    const ring = new DriverRing(ram, 8);
    frontend.must('SET_VRING_CALL', vringFd(0), [ring.callFd]);
    frontend.must('SET_VRING_KICK', vringFd(0), [ring.kickFd]);
    ring.addDirect([{ gpa: ram.alloc(16), bytes: 16, writable: false }]);
    ring.publish();
    ring.kick();
    pump();
    frontend.must('SET_VRING_NUM', vringState(0, ring.size));
    frontend.must('SET_VRING_BASE', vringState(0, 0));
    frontend.must('SET_VRING_ADDR', vringAddr(0, ring));
    frontend.must('SET_VRING_ENABLE', vringState(0, 1));
    pump();
    assert.equal(ring.takeUsed(), 0);
    assert.equal(device.served, 1);
    end();
    ring.close();
    ram.free();
  });

  test('requests held over GET_VRING_BASE and a resume are answered once; after a new start never', () => {
    const run = running();
    const { frontend, device, pump, ram } = run;
    const ring = run.rings[1];
    const submit = (count: number): void => {
      for (let i = 0; i < count; i++) ring.addIndirect([{ gpa: ram.alloc(64), bytes: 64, writable: false }]);
      ring.submit();
      pump();
    };
    device.hold = true;
    submit(32);
    assert.equal(frontend.stopRing(1), 32);
    assert.equal(device.finishHeld(), 0, 'a stopped ring moves no more');
    assert.equal(ring.takeUsed(), -1);
    frontend.startRing(1, ring, 32);
    assert.ok(device.events.includes('start 1 resumed'));
    assert.equal(device.finishHeld(), 32);
    const heads = new Set<number>();
    for (let head = ring.takeUsed(); head >= 0; head = ring.takeUsed()) heads.add(head);
    assert.equal(heads.size, 32);
    submit(5);
    frontend.stopRing(1);
    const fresh = new DriverRing(ram, 64);
    frontend.startRing(1, fresh, 0);
    assert.equal(device.events.at(-1), 'enable 1');
    assert.equal(device.finishHeld(), 0, 'a ring that starts elsewhere is another guest');
    assert.equal(fresh.takeUsed(), -1);
    assert.equal(ring.takeUsed(), -1);
    run.end();
    fresh.close();
  });

  test('a changed call descriptor is signalled at once', () => {
    const run = running();
    const fresh = eventfd();
    run.frontend.must('SET_VRING_CALL', vringFd(0), [fresh]);
    assert.equal(pollOne(fresh, POLL.IN, 0), POLL.IN);
    drain(fresh);
    run.rings[0].disableInterrupts();
    run.rings[0].addDirect([{ gpa: run.ram.alloc(8), bytes: 8, writable: false }]);
    run.rings[0].submit();
    run.pump();
    assert.equal(pollOne(fresh, POLL.IN, 0), POLL.IN, 'the first publish after the change signals in any case');
    run.end();
    close(fresh);
  });

  test('kick and call may be pipes, and a kick pipe that ends does not spin', () => {
    const { frontend, device, pump, end } = join();
    frontend.negotiate(ALL_VIRTIO, ALL_PROTOCOL);
    const ram = new GuestRam([{ gpa: 0, bytes: MIB }]);
    frontend.shareMemory(ram);
    const ring = new DriverRing(ram, 8);
    const kick = new Int32Array(2);
    const call = new Int32Array(2);
    pipe(kick);
    pipe(call);
    frontend.must('SET_VRING_CALL', vringFd(0), [call[1]]);
    frontend.must('SET_VRING_NUM', vringState(0, 8));
    frontend.must('SET_VRING_ADDR', vringAddr(0, ring, 2 ** 53 - 1));
    frontend.must('SET_VRING_KICK', vringFd(0), [kick[0]]);
    frontend.must('SET_VRING_ENABLE', vringState(0, 1));
    ring.addDirect([{ gpa: ram.alloc(8), bytes: 8, writable: false }]);
    ring.publish();
    notify(kick[1]);
    pump();
    assert.equal(ring.takeUsed(), 0);
    assert.equal(pollOne(call[0], POLL.IN, 0), POLL.IN);
    closeAll(kick);
    pump();
    const before = performance.now();
    device.turn(30);
    assert.ok(performance.now() - before >= 25, 'nothing is ready any more');
    end();
    closeAll(call);
    ring.close();
    ram.free();
  });
});

describe('each offered protocol feature has its effect', () => {
  const nothingElse = (...bits: number[]) => featureSet(PROTOCOL.REPLY_ACK, ...bits);

  test('exactly these are offered', () => {
    const offered = (options: Parameters<typeof join>[0]): string => {
      const { frontend, end } = join(options);
      const set = readFeatureSet(frontend.request('GET_PROTOCOL_FEATURES').payload);
      end();
      return Object.entries(PROTOCOL)
        .filter(([, bit]) => ((set.low >>> bit) & 1) === 1)
        .map(([name]) => name)
        .join(' ');
    };
    const always = 'MQ REPLY_ACK BACKEND_REQ RESET_DEVICE CONFIGURE_MEM_SLOTS STATUS';
    assert.equal(offered({}), always);
    assert.equal(
      offered({ config: new Uint8Array(40), offerInflight: true }),
      'MQ REPLY_ACK BACKEND_REQ CONFIG INFLIGHT_SHMFD RESET_DEVICE CONFIGURE_MEM_SLOTS STATUS',
    );
  });

  test('MQ: the number of queues is told, and more rings than that are accepted', () => {
    const { frontend, end } = join({ queues: 3 });
    frontend.negotiate(ALL_VIRTIO, nothingElse(PROTOCOL.MQ));
    assert.equal(frontend.requestU64('GET_QUEUE_NUM'), 3);
    for (const index of [3, 4, 255]) frontend.must('SET_VRING_NUM', vringState(index, 128));
    assert.equal(frontend.command('SET_VRING_NUM', vringState(256, 128)), 1);
    assert.equal(frontend.vringBase(1000), 0);
    end();
  });

  test('CONFIG: reads of any size; what lies behind the space is zero; writes are refused', () => {
    const config = Uint8Array.from({ length: 40 }, (_, i) => i + 1);
    const { frontend, end } = join({ config });
    frontend.negotiate(ALL_VIRTIO, nothingElse(PROTOCOL.CONFIG));
    for (let size = 0; size <= 40; size++) assert.deepEqual(frontend.config(0, size), config.subarray(0, size));
    assert.deepEqual(frontend.config(38, 6), Uint8Array.of(39, 40, 0, 0, 0, 0));
    assert.deepEqual(frontend.config(36, 4), config.subarray(36));
    assert.equal(frontend.command('SET_CONFIG', configRange(0, 4)), 1);
    end();
  });

  test('BACKEND_REQ: a config change reaches the channel, be it a pipe, but not while all rings are stopped', () => {
    const run = running({ config: new Uint8Array(40) });
    const channel = new Int32Array(2);
    pipe(channel, true);
    run.frontend.must('SET_BACKEND_REQ_FD', new Uint8Array(0), [channel[1]]);
    assert.equal(run.device.backend.notifyConfigChanged(), 0);
    assert.equal(drain(channel[0]), 12);
    for (const i of [0, 1]) run.frontend.stopRing(i);
    assert.equal(run.device.backend.notifyConfigChanged(), 0);
    assert.equal(pollOne(channel[0], POLL.IN, 0), 0);
    run.frontend.startRing(0, run.rings[0]);
    assert.equal(drain(channel[0]), 12, 'told when a ring starts again');
    run.end();
    closeAll(channel);
  });

  test('RESET_DEVICE: rings stop and lose their stop points', () => {
    const run = running();
    run.device.hold = true;
    run.rings[0].addDirect([{ gpa: run.ram.alloc(8), bytes: 8, writable: false }]);
    run.rings[0].submit();
    run.pump();
    run.frontend.must('RESET_DEVICE');
    assert.deepEqual(run.device.events.slice(-3), ['stop 0', 'stop 1', 'reset device']);
    run.frontend.startRing(0, run.rings[0], 1);
    assert.ok(!run.device.events.includes('start 0 resumed'));
    assert.equal(run.device.finishHeld(), 0);
    run.end();
  });

  test('STATUS: is kept, and 0 stops the rings', () => {
    const run = running();
    run.frontend.must('SET_STATUS', u64Payload(0xf));
    assert.equal(run.frontend.requestU64('GET_STATUS'), 0xf);
    run.frontend.must('SET_STATUS', u64Payload(0));
    assert.equal(run.frontend.requestU64('GET_STATUS'), 0);
    assert.deepEqual(run.device.events.slice(-3), ['stop 0', 'stop 1', 'reset status']);
    assert.equal(run.frontend.command('SET_STATUS', u64Payload(0x100)), 1);
    run.end();
  });

  test('CONFIGURE_MEM_SLOTS: regions come and go one by one; also before the bit is acked again', () => {
    const { frontend, device, end } = join();
    frontend.negotiate(ALL_VIRTIO, nothingElse());
    const ram = new GuestRam([
      { gpa: 0, bytes: MIB },
      { gpa: 8 * MIB, bytes: MIB },
    ]);
    frontend.must('ADD_MEM_REG', singleRegion(ram.regions[0]), [ram.fd]);
    frontend.must('SET_PROTOCOL_FEATURES', features(nothingElse(PROTOCOL.CONFIGURE_MEM_SLOTS)));
    assert.equal(frontend.requestU64('GET_MAX_MEM_SLOTS'), 512);
    frontend.must('ADD_MEM_REG', singleRegion(ram.regions[1]), [ram.fd]);
    assert.equal(device.memory.regionCount, 2);
    frontend.must('REM_MEM_REG', singleRegion(ram.regions[0]), [ram.fd]);
    assert.equal(frontend.command('REM_MEM_REG', singleRegion(ram.regions[0])), 1, 'it is gone');
    assert.equal(device.memory.address(8 * MIB, 1) > 0, true);
    assert.equal(device.memory.address(0, 1), 0);
    end();
    ram.free();
  });
});
