/** The /dev/fuse transport over a socket pair that plays the kernel: whose buffer a parked READ has. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { errno } from '../sys/errno.ts';
import { close, read, setNonBlocking, write } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { SOCK, socketpair } from '../sys/socket.ts';
import { DevFuse } from './dev-fuse.ts';
import type { FileSystem } from './file-system.ts';
import { OPS } from './opcodes.ts';
import { type AsyncIo, PARKED, RESUME, type Request } from './request.ts';
import { Stats } from './stats.ts';
import { IN_HEADER_BYTES, OUT_HEADER_BYTES } from './wire/layout.ts';

/** Runs of a READ that wait for the kernel. */
const WAITS = 3;

interface Wait {
  ticket: number;
  /** Where the kernel puts what it reads. */
  address: number;
}

/** `starts` tells whether the kernel takes a read. */
function rig(starts: () => boolean): {
  send(op: number, body: Buffer): void;
  waits: Wait[];
  fuse: DevFuse;
  assertOthersElsewhere(reading: Wait): void;
  end(): void;
} {
  const waits: Wait[] = [];
  const io: AsyncIo = {
    fsync: () => -errno.EOPNOTSUPP,
    syncfs: () => -errno.EOPNOTSUPP,
    read: (_fd, data, _bytes, _offset, ticket) => {
      if (!starts()) return -errno.EOPNOTSUPP;
      waits.push({ ticket, address: data.address[0] as number });
      return 0;
    },
  };
  const fs = {
    reset: () => {},
    read: (request: Request, args: { offset: number; size: number }) => {
      while (request.attempt < WAITS) {
        const ticket = request.parking.park(RESUME.RERUN, true);
        if (request.io.read(3, request.data, args.size, args.offset, ticket) === 0) return PARKED;
        request.parking.unpark(ticket);
      }
      return args.size;
    },
  } as unknown as FileSystem;
  const ends = new Int32Array(2);
  assert.equal(socketpair(SOCK.SEQPACKET, ends), 0);
  const [ours, kernels] = ends as unknown as [number, number];
  setNonBlocking(ours, true);
  const fuse = new DevFuse(fs, io, new Stats(), () => {}, { mountpoint: '', readOnly: false, failover: null });
  fuse.adopt(ours);
  const memory = new NativeMemory(4096);
  const send = (op: number, body: Buffer): void => {
    memory.u8.fill(0);
    memory.view.setUint32(0, IN_HEADER_BYTES + body.length, true);
    memory.view.setUint32(4, op, true);
    memory.view.setUint32(8, 2, true);
    memory.u8.set(body, IN_HEADER_BYTES);
    assert.equal(write(kernels, memory.address, IN_HEADER_BYTES + body.length), IN_HEADER_BYTES + body.length);
    fuse.onReadable();
  };
  const init = Buffer.alloc(64);
  init.writeUInt32LE(7, 0);
  init.writeUInt32LE(38, 4);
  send(OPS.INIT.op, init);
  assert.equal(read(kernels, memory.address, 4096), OUT_HEADER_BYTES + 64);
  const end = (): void => {
    fuse.stop();
    close(kernels);
  };
  /** More READs that park get other buffers than `reading` and than each other. */
  const assertOthersElsewhere = (reading: Wait): void => {
    const busy = new Set([reading.address]);
    for (let i = 0; i < 4; i++) {
      send(OPS.READ.op, readAt(8192));
      const { address } = waits.shift() as Wait;
      assert.ok(!busy.has(address), `READ ${i} was lent a buffer that is being read into`);
      busy.add(address);
    }
  };
  return { send, waits, fuse, assertOthersElsewhere, end };
}

function readAt(offset: number): Buffer {
  const args = Buffer.alloc(40);
  args.writeUInt32LE(offset, 8);
  args.writeUInt32LE(1024, 16);
  return args;
}

test("what the kernel reads into for a READ that parks again is no other READ's until it is done", () => {
  const { send, waits, fuse, assertOthersElsewhere, end } = rig(() => true);
  send(OPS.READ.op, readAt(4096));
  const first = waits.shift() as Wait;
  fuse.session.complete(first.ticket, 1024); // run again, it waits again
  const again = waits.shift() as Wait;
  assertOthersElsewhere(again);
  end();
});

test('a READ that could not be parked goes on with its buffer alone', () => {
  let starting = false;
  const { send, waits, fuse, assertOthersElsewhere, end } = rig(() => {
    starting = !starting;
    return !starting; // every other one is refused
  });
  send(OPS.READ.op, readAt(4096));
  const first = waits.shift() as Wait;
  assertOthersElsewhere(first);
  assert.equal(fuse.session.parked.count, 5);
  end();
});
