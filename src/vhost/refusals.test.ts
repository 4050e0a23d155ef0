import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { close, ftruncate } from '../sys/io.ts';
import { memfdCreate } from '../sys/memory.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { SocketMessage } from '../sys/socket.ts';
import { DriverRing } from './driver-ring.ts';
import { echo, join, MIB, running } from './echo-fixture.ts';
import { featureSet, PROTOCOL, VIRTIO } from './features.ts';
import { features, memTable, messageBytes, singleRegion, vringAddr, vringFd, vringState } from './frontend.ts';
import { FLAG, MESSAGES } from './messages.ts';

const text = (s: string): Uint8Array => new TextEncoder().encode(s);

describe('what depends on state is refused', () => {
  const refusals: [string, (run: ReturnType<typeof running>) => number][] = [
    ['NUM while started', ({ frontend }) => frontend.command('SET_VRING_NUM', vringState(0, 8))],
    ['BASE while started', ({ frontend }) => frontend.command('SET_VRING_BASE', vringState(0, 8))],
    [
      'ADDR elsewhere while started',
      ({ frontend, ram }) => {
        const other = new DriverRing(ram, 16);
        other.close();
        return frontend.command('SET_VRING_ADDR', vringAddr(0, other));
      },
    ],
    ['NUM that is no power of two', ({ frontend }) => frontend.command('SET_VRING_NUM', vringState(5, 48))],
    ['BASE of 17 bits', ({ frontend }) => frontend.command('SET_VRING_BASE', vringState(5, 0x10000))],
    ['ADDR before NUM', ({ frontend, rings }) => frontend.command('SET_VRING_ADDR', vringAddr(5, rings[0]))],
    [
      'ADDR with the log flag',
      ({ frontend, rings }) => frontend.command('SET_VRING_ADDR', vringAddr(0, rings[0], 0, 1)),
    ],
    [
      'ADDR unaligned',
      ({ frontend, rings }) => {
        frontend.must('SET_VRING_NUM', vringState(5, 16));
        const payload = vringAddr(5, rings[0]);
        payload[8] += 8;
        return frontend.command('SET_VRING_ADDR', payload);
      },
    ],
    [
      'ADDR outside memory',
      ({ frontend, rings }) => {
        frontend.must('SET_VRING_NUM', vringState(5, 16));
        const payload = vringAddr(5, rings[0]);
        payload.fill(0, 8, 16);
        return frontend.command('SET_VRING_ADDR', payload);
      },
    ],
    ['KICK without a descriptor to wait for', ({ frontend }) => frontend.command('SET_VRING_KICK', vringFd(5, true))],
    ['KICK with a file', ({ frontend, ram }) => frontend.command('SET_VRING_KICK', vringFd(5), [ram.fd])],
    ['features never offered', ({ frontend }) => frontend.command('SET_FEATURES', features(featureSet(34)))],
    [
      'features that change under running rings',
      ({ frontend }) =>
        frontend.command('SET_FEATURES', features(featureSet(VIRTIO.VERSION_1, VIRTIO.PROTOCOL_FEATURES))),
    ],
    [
      'protocol features never offered',
      ({ frontend }) => frontend.command('SET_PROTOCOL_FEATURES', features(featureSet(PROTOCOL.PAGEFAULT))),
    ],
    ['a region twice', ({ frontend, ram }) => frontend.command('ADD_MEM_REG', singleRegion(ram.regions[0]), [ram.fd])],
    [
      'a region with a file too short',
      ({ frontend }) => {
        const fd = memfdCreate('short');
        ftruncate(fd, MIB - 1);
        const word = frontend.command(
          'ADD_MEM_REG',
          singleRegion({ gpa: 2 ** 40, bytes: MIB, user: 2 ** 46, offset: 0, fd }),
          [fd],
        );
        close(fd);
        return word;
      },
    ],
    [
      'a table whose second region overlaps the first',
      ({ frontend, ram }) => {
        const [region] = ram.regions;
        return frontend.command('SET_MEM_TABLE', memTable([region, { ...region, user: 2 ** 46 }]), [ram.fd, ram.fd]);
      },
    ],
    ['dirty log', ({ frontend }) => frontend.command('SET_LOG_FD', new Uint8Array(0), [0])],
  ];
  for (const [name, attempt] of refusals) {
    test(`${name}, and the session goes on`, () => {
      const run = running();
      assert.equal(attempt(run), 1);
      assert.equal(run.device.warnings.length, 1);
      assert.deepEqual(echo(run, run.rings[1], text('still here')), text('still here'));
      run.end();
    });
  }

  test('the same refusal without NEED_REPLY ends the connection', () => {
    const run = running();
    run.frontend.send(MESSAGES.SET_VRING_NUM.id, vringState(0, 7));
    run.pump();
    assert.match(run.device.disconnectReason, /SET_VRING_NUM: ring is started/);
    run.end();
  });

  test('a frontend that reads no replies is hung up on', () => {
    const { frontend, device, end } = join();
    const ask = messageBytes(MESSAGES.GET_FEATURES.id, FLAG.VERSION, new Uint8Array(0));
    frontend.pump = null;
    const memory = new NativeMemory(4096);
    const message = new SocketMessage(1);
    memory.u8.set(ask);
    for (let i = 0; i < 200_000 && device.backend.open; i++) {
      message.send(frontend.socket, memory.address, ask.length, null, 0, 0x40);
      if (i % 32 === 0) device.turn(0);
    }
    assert.match(device.disconnectReason, /reply: EAGAIN/);
    end();
    memory.free();
    message.free();
  });
});
