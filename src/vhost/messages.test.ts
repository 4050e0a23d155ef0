import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { close } from '../sys/io.ts';
import { memfdCreate } from '../sys/memory.ts';
import { ALL_PROTOCOL, ALL_VIRTIO, join } from './echo-fixture.ts';
import { featureSet, PROTOCOL } from './features.ts';
import {
  configRange,
  type Frontend,
  FrontendError,
  inflightRange,
  memTable,
  singleRegion,
  vringFd,
} from './frontend.ts';
import {
  BACKEND_MESSAGES,
  checkMessage,
  FLAG,
  MESSAGES,
  type MessageName,
  type MessageSpec,
  messageName,
  PAYLOAD_BYTES_MAX,
  QUEUE_SIZE_MAX,
  u64,
} from './messages.ts';

const SPECS = Object.entries(MESSAGES) as [MessageName, MessageSpec][];
const region = { gpa: 0, bytes: 4096, user: 0x1000, offset: 0, fd: -1 };

function words(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}

/** A payload that follows the rules, where zeroes of the smallest size do not. */
const SAMPLES: Partial<Record<MessageName, Uint8Array>> = {
  SET_VRING_NUM: words(0, 128),
  SET_MEM_TABLE: memTable([]),
  ADD_MEM_REG: singleRegion(region),
  REM_MEM_REG: singleRegion(region),
  SET_VRING_KICK: vringFd(0, true),
  SET_VRING_CALL: vringFd(0, true),
  SET_VRING_ERR: vringFd(0, true),
  GET_INFLIGHT_FD: inflightRange(0, 0, 1, 128),
  SET_INFLIGHT_FD: inflightRange(4096, 0, 1, 128),
  IOTLB_MSG: words(0, 0, 0, 0, 0, 0, 1 << 8, 0),
};

const sample = (name: MessageName): Uint8Array => SAMPLES[name] ?? new Uint8Array(MESSAGES[name].bytes[0]);
const check = (name: MessageName, payload: Uint8Array, fds = MESSAGES[name].fds[0] as number): string | null =>
  checkMessage(MESSAGES[name], new DataView(payload.buffer, payload.byteOffset, payload.length), payload.length, fds);

describe('the message table', () => {
  test('ids are those of the protocol: 1 to 45 without a gap, 1 to 10 on the backend channel', () => {
    assert.deepEqual(
      SPECS.map(([, spec]) => spec.id),
      Array.from({ length: 45 }, (_, i) => i + 1),
    );
    assert.deepEqual(
      Object.values(BACKEND_MESSAGES).map(({ id }) => id),
      Array.from({ length: 10 }, (_, i) => i + 1),
    );
    for (const [name, spec] of SPECS) assert.equal(messageName(spec.id), name);
    for (const id of [0, 46, 2 ** 32 - 1]) assert.equal(messageName(id), undefined);
  });

  test('a payload that follows the rules passes', () => {
    for (const [name] of SPECS) assert.equal(check(name, sample(name)), null, name);
  });

  const rules: [MessageName, Uint8Array, number, RegExp | null][] = [
    ['SET_VRING_NUM', words(0, 0), 0, /queue size 0/],
    ['SET_VRING_NUM', words(0, QUEUE_SIZE_MAX + 1), 0, /queue size 32769/],
    ['SET_VRING_NUM', words(0, QUEUE_SIZE_MAX), 0, null],
    ['SET_VRING_ENABLE', words(0, 2), 0, /enable 2/],
    ['SET_VRING_KICK', words(0, 0), 0, /announces 1/],
    ['SET_VRING_KICK', words(0x100, 0), 1, /announces 0/],
    ['SET_VRING_CALL', words(0x200, 0), 1, /unknown bits/],
    ['SET_VRING_ERR', words(0, 1), 1, /unknown bits/],
    ['SET_MEM_TABLE', memTable([region, { ...region, gpa: 8192, user: 8192 }]), 1, /1 descriptors for 2/],
    ['SET_MEM_TABLE', memTable([region]).subarray(0, 39), 1, /too few/],
    ['SET_MEM_TABLE', memTable([region], 2), 1, null],
    ['SET_MEM_TABLE', words(33, 0), 0, /33 regions/],
    ['SET_MEM_TABLE', memTable([{ ...region, bytes: 0 }]), 1, /size 0/],
    ['ADD_MEM_REG', singleRegion({ ...region, gpa: 2 ** 53 - 1 }), 1, /wraps around/],
    ['ADD_MEM_REG', singleRegion({ ...region, user: 2 ** 63 }), 1, /wraps around/],
    ['ADD_MEM_REG', singleRegion({ ...region, offset: 2 ** 60 }), 1, /wraps around/],
    ['REM_MEM_REG', singleRegion({ ...region, bytes: 2 ** 56 }), 0, /above 2\^53/],
    ['GET_CONFIG', configRange(0, 36).subarray(0, 47), 0, /config size 36/],
    ['GET_CONFIG', configRange(250, 7), 0, /250\+7/],
    ['GET_CONFIG', configRange(0xffff_ffff, 1), 0, /above 256/],
    ['GET_INFLIGHT_FD', inflightRange(0, 0, 0, 128), 0, /0 queues/],
    ['GET_INFLIGHT_FD', inflightRange(0, 0, 257, 128), 0, /257 queues/],
    ['GET_INFLIGHT_FD', inflightRange(0, 0, 1, 0), 0, /queue size 0/],
    ['GET_INFLIGHT_FD', inflightRange(0, 0, 1, 128).subarray(0, 20), 0, null],
    ['GET_INFLIGHT_FD', inflightRange(0, 0, 1, 128).subarray(0, 22), 0, /22 bytes/],
    ['SET_INFLIGHT_FD', inflightRange(2 ** 60, 0, 1, 128), 1, /2\^53/],
    ['SET_STATUS', words(0, 1), 0, /more than one byte/],
    ['SET_DEVICE_STATE_FD', words(2, 0), 1, /direction 2/],
    ['SET_DEVICE_STATE_FD', words(0, 1), 1, /phase/],
    ['SET_LOG_BASE', new Uint8Array(12), 1, /12 bytes/],
    ['IOTLB_MSG', new Uint8Array(32), 0, /type 0/],
  ];
  for (const [name, payload, fds, expected] of rules) {
    test(`${name}: ${expected === null ? 'accepted' : expected.source}`, () => {
      const broken = check(name, payload, fds);
      if (expected === null) assert.equal(broken, null);
      else assert.match(broken ?? 'accepted', expected);
    });
  }

  test('numbers above 2^53-1 are refused, not rounded', () => {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigUint64(0, 2n ** 53n - 1n, true);
    assert.equal(u64(view, 0), 2 ** 53 - 1);
    view.setBigUint64(0, 2n ** 53n, true);
    assert.equal(u64(view, 0), -1);
  });
});

/** Sends a broken message to a live backend and says what came of it. */
function outcome(
  name: MessageName,
  payload: Uint8Array,
  fdsCount: number,
  negotiated: boolean,
): { answer: 'refused' | 'closed' | 'accepted'; leaked: number } {
  const before = fdCount();
  const { frontend, device, end } = join({ config: new Uint8Array(40), offerInflight: true });
  frontend.negotiate(ALL_VIRTIO, negotiated ? ALL_PROTOCOL : featureSet(PROTOCOL.REPLY_ACK));
  const fd = memfdCreate('table-test');
  const fds = new Array<number>(fdsCount).fill(fd);
  frontend.send(MESSAGES[name].id, payload, fds, FLAG.VERSION | FLAG.NEED_REPLY);
  const answer = answerOf(frontend);
  if (answer !== 'closed') frontend.request('GET_FEATURES');
  assert.equal(device.backend.open, answer !== 'closed');
  end();
  close(fd);
  return { answer, leaked: fdCount() - before };
}

function answerOf(frontend: Frontend): 'refused' | 'closed' | 'accepted' {
  try {
    const { payload, fds } = frontend.receive();
    for (const fd of fds) close(fd);
    return payload.length === 8 && payload[0] === 1 ? 'refused' : 'accepted';
  } catch (error) {
    assert.ok(error instanceof FrontendError);
    return 'closed';
  }
}

describe('each message, broken in each way, on the socket', () => {
  for (const [name, spec] of SPECS) {
    // A message with a regular reply cannot be refused: the refusal would be taken for the reply.
    const expected = spec.reply === 'ack' ? 'refused' : 'closed';
    const good = sample(name);

    if (spec.bytes[0] > 0) {
      test(`${name} short`, () => {
        const short = good.subarray(0, spec.bytes[0] - 1);
        assert.deepEqual(outcome(name, short, spec.fds[0], true), { answer: expected, leaked: 0 });
      });
    }

    test(`${name} long`, () => {
      const long = new Uint8Array(spec.bytes[1] + 1);
      if (long.length > PAYLOAD_BYTES_MAX) {
        const view = new DataView(new ArrayBuffer(long.length));
        assert.match(checkMessage(spec, view, long.length, 0) ?? '', /4097 bytes/);
        return;
      }
      long.set(good.subarray(0, long.length));
      assert.deepEqual(outcome(name, long, spec.fds[0], true), { answer: expected, leaked: 0 });
    });

    test(`${name} with a descriptor too many`, () => {
      const surplus = spec.fds[1] + 1;
      // The 33rd descriptor cannot even be received.
      const answer = surplus > 32 ? 'closed' : expected;
      if (surplus > 32) return assert.deepEqual(outcomeOfManyFds(name, good), { answer, leaked: 0 });
      assert.deepEqual(outcome(name, good, surplus, true), { answer, leaked: 0 });
    });

    if (needsFd(name)) {
      test(`${name} with a descriptor missing`, () => {
        const payload = spec.fds[0] === 0 ? announcing(name) : good;
        assert.deepEqual(outcome(name, payload, 0, true), { answer: expected, leaked: 0 });
      });
    }

    if (spec.needs !== null) {
      test(`${name} not negotiated`, () => {
        const result = outcome(name, good, spec.fds[0], false);
        // ADD_MEM_REG is taken once its feature was offered; this region is refused because its file is empty.
        assert.deepEqual(result, { answer: expected, leaked: 0 });
      });
    }
  }
});

function needsFd(name: MessageName): boolean {
  return MESSAGES[name].fds[0] > 0 || announcing(name).length > 0;
}

/** A payload that says a descriptor comes along, for messages where that is optional. */
function announcing(name: MessageName): Uint8Array {
  if (name === 'SET_MEM_TABLE') return memTable([region]);
  if (name === 'SET_VRING_KICK' || name === 'SET_VRING_CALL' || name === 'SET_VRING_ERR') return vringFd(0);
  return new Uint8Array(0);
}

function outcomeOfManyFds(name: MessageName, payload: Uint8Array): { answer: string; leaked: number } {
  const before = fdCount();
  const { frontend, end } = join();
  const fd = memfdCreate('table-test');
  const bytes = new Uint8Array(12 + payload.length);
  bytes.set(words(MESSAGES[name].id, FLAG.VERSION, payload.length));
  bytes.set(payload, 12);
  frontend.sendRaw(bytes, new Array<number>(33).fill(fd));
  const answer = answerOf(frontend);
  end();
  close(fd);
  return { answer, leaked: fdCount() - before };
}
