import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { fdCount } from '../common/descriptors.testing.ts';
import { close } from '../sys/io.ts';
import { SOCK, socketpair } from '../sys/socket.ts';
import { eventfd, notify, POLL, pollOne } from '../sys/wait.ts';
import { FRAME, FrameReader } from './framing.ts';
import { Frontend, messageBytes } from './frontend.ts';
import { FLAG, PAYLOAD_BYTES_MAX } from './messages.ts';

interface Wire {
  send: (bytes: Uint8Array, fds?: number[]) => void;
  hangUp: () => void;
  reader: FrameReader;
  socket: number;
  end: () => void;
}

function wire(expectReply = false): Wire {
  const ends = new Int32Array(2);
  socketpair(SOCK.STREAM, ends);
  const peer = new Frontend(ends[0]);
  const reader = new FrameReader(expectReply);
  let open = true;
  const hangUp = (): void => {
    if (open) peer.close();
    open = false;
  };
  return {
    send: (bytes, fds = []) => assert.equal(peer.sendRaw(bytes, fds), bytes.length),
    hangUp,
    reader,
    socket: ends[1],
    end: () => {
      hangUp();
      reader.free();
      close(ends[1]);
    },
  };
}

const payload = (bytes: number, seed = 1): Uint8Array => Uint8Array.from({ length: bytes }, (_, i) => i * 7 + seed);
const received = (reader: FrameReader): Uint8Array =>
  Uint8Array.from({ length: reader.bytes }, (_, i) => reader.payload.getUint8(i));

describe('framing', () => {
  test('a message split at every byte is one message, its descriptors included', () => {
    const message = messageBytes(37, FLAG.VERSION | FLAG.NEED_REPLY, payload(40));
    const event = eventfd();
    for (let at = 1; at < message.length; at++) {
      for (const fdsWith of ['first', 'second', 'both']) {
        const { send, reader, socket, end } = wire();
        send(message.subarray(0, at), fdsWith === 'second' ? [] : [event]);
        assert.equal(reader.read(socket), FRAME.AGAIN);
        send(message.subarray(at), fdsWith === 'first' ? [] : [event]);
        assert.equal(reader.read(socket), FRAME.COMPLETE);
        assert.deepEqual([reader.id, reader.flags], [37, FLAG.VERSION | FLAG.NEED_REPLY]);
        assert.deepEqual(received(reader), payload(40));
        assert.equal(reader.fdCount, fdsWith === 'both' ? 2 : 1);
        end();
      }
    }
    close(event);
  });

  test('byte by byte', () => {
    const { send, reader, socket, end } = wire();
    const message = messageBytes(5, FLAG.VERSION, payload(72));
    for (let at = 0; at < message.length; at++) {
      assert.equal(reader.read(socket), FRAME.AGAIN);
      send(message.subarray(at, at + 1));
    }
    assert.equal(reader.read(socket), FRAME.COMPLETE);
    assert.deepEqual(received(reader), payload(72));
    assert.equal(reader.read(socket), FRAME.AGAIN);
    end();
  });

  test('messages glued together, of all sizes, come out one by one', () => {
    const { send, reader, socket, end } = wire();
    const sizes = [0, 8, 40, 0, PAYLOAD_BYTES_MAX, 1, 256];
    const glued = sizes.map((bytes, i) => messageBytes(i + 1, FLAG.VERSION, payload(bytes, i)));
    send(Buffer.concat(glued));
    for (const [i, bytes] of sizes.entries()) {
      assert.equal(reader.read(socket), FRAME.COMPLETE);
      assert.equal(reader.id, i + 1);
      assert.deepEqual(received(reader), payload(bytes, i));
    }
    assert.equal(reader.read(socket), FRAME.AGAIN);
    end();
  });

  test('descriptors go to the message whose bytes carried them, glued or not', () => {
    const { send, reader, socket, end } = wire();
    const events = [eventfd(), eventfd(), eventfd()];
    send(messageBytes(1, FLAG.VERSION, payload(8)));
    send(messageBytes(2, FLAG.VERSION, payload(8)), [events[0]]);
    send(messageBytes(3, FLAG.VERSION, payload(0)), [events[1], events[2]]);
    send(messageBytes(4, FLAG.VERSION, payload(8)));
    const counts: number[] = [];
    for (let i = 0; i < 4; i++) {
      assert.equal(reader.read(socket), FRAME.COMPLETE);
      counts.push(reader.fdCount);
      if (i !== 2) continue;
      const taken = reader.takeFd(1);
      assert.equal(reader.takeFd(1), -1, 'taken once');
      notify(taken);
      assert.equal(pollOne(events[2], POLL.IN, 0), POLL.IN);
      close(taken);
    }
    assert.deepEqual(counts, [0, 1, 2, 0]);
    end();
    for (const event of events) close(event);
  });

  test('descriptors nobody takes are closed with the next read, and at the end', () => {
    const before = fdCount();
    const { send, reader, socket, end } = wire();
    const event = eventfd();
    send(messageBytes(1, FLAG.VERSION, payload(8)), new Array<number>(32).fill(event));
    send(messageBytes(2, FLAG.VERSION, payload(8)), [event]);
    reader.read(socket);
    assert.equal(reader.fdCount, 32);
    const full = fdCount();
    reader.read(socket);
    assert.equal(fdCount(), full - 31);
    end();
    close(event);
    assert.equal(fdCount(), before);
  });

  const broken: [string, Uint8Array, RegExp][] = [
    ['version 0', messageBytes(1, 0, payload(0)), /version 0/],
    ['version 2', messageBytes(1, 2, payload(0)), /version 2/],
    ['a reply where a request belongs', messageBytes(1, 5, payload(0)), /REPLY set/],
    ['a payload above the limit', messageBytes(1, 1, payload(0), PAYLOAD_BYTES_MAX + 1), /4097/],
    ['a payload of 4 GiB', messageBytes(1, 1, payload(0), 0xffff_ffff), /4294967295/],
  ];
  for (const [name, bytes, expected] of broken) {
    test(`${name} breaks the stream and closes what came along`, () => {
      const before = fdCount();
      const { send, reader, socket, end } = wire();
      const event = eventfd();
      send(bytes, [event, event]);
      assert.equal(reader.read(socket), FRAME.BROKEN);
      assert.match(reader.broken, expected);
      end();
      close(event);
      assert.equal(fdCount(), before);
    });
  }

  test('hang-up between messages is an end, inside one it is an error', () => {
    const message = messageBytes(1, FLAG.VERSION, payload(8));
    for (let at = 0; at <= message.length; at++) {
      const { send, hangUp, reader, socket, end } = wire();
      if (at > 0) send(message.subarray(0, at));
      hangUp();
      if (at === message.length) assert.equal(reader.read(socket), FRAME.COMPLETE);
      assert.equal(reader.read(socket), at % message.length === 0 ? FRAME.CLOSED : FRAME.BROKEN);
      end();
    }
  });

  test('a reader of replies refuses requests', () => {
    const { send, reader, socket, end } = wire(true);
    send(messageBytes(1, FLAG.VERSION, payload(0)));
    assert.equal(reader.read(socket), FRAME.BROKEN);
    end();
  });

  test('a descriptor that is no socket is an error, not a crash', () => {
    const reader = new FrameReader(false);
    const event = eventfd();
    assert.equal(reader.read(event), FRAME.BROKEN);
    assert.equal(reader.read(-1), FRAME.BROKEN);
    close(event);
    reader.free();
  });
});
