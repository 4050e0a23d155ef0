/**
 * Orders that only somebody who looks at the right moment can see: an index before the event it answers, data before the
 * bit that promises them.
 */
import fs from 'node:fs';
import { blobTable, expectedChunks } from '../../src/storage/fixtures.testing.ts';
import { drain, POLL, pollOne } from '../../src/sys/wait.ts';
import { availBytes } from '../../src/vhost/split.ts';
import { expect } from './finding.ts';
import { cold, coldReads } from './flight-cases.ts';
import type { Random } from './random.ts';
import { IMAGE, type Rig } from './rig.ts';
import { requestBytes, type Session } from './session.ts';

const GETATTR = 3;
const GETATTR_BYTES = 56;
const REPLY_BYTES = 120;
const ROUNDS = 800;
/** A step of the driver's pause, in loads; the steps are smaller than the moment that is looked for. */
const PAUSE_STEP = 3;
const PAUSE_START = 300;
const SPINS_MAX = 4000;
const CACHE_LINE_BYTES = 64;

const MAP_HEADER_BYTES = 4096;

type Order = (session: Session, rig: Rig, random: Random) => Promise<void>;

const clock = new Int32Array(new SharedArrayBuffer(4));

/** Lets about `loads` nanoseconds pass without a system call. */
function pause(loads: number): number {
  let sum = 0;
  for (let i = 0; i < loads; i++) sum += Atomics.load(clock, 0);
  return sum;
}

/**
 * Protocols 2.4: a driver that stores used_event and then finds used.idx unchanged gets an interrupt. Its store is timed
 * to meet the device's: the pause before it is steered to the point where the answer is there half of the times. A device
 * that delays its store of used.idx past its load of used_event misses the event then, and nobody wakes the driver.
 */
function interruptAskedFor(session: Session, random: Random): void {
  session.resetArena();
  const { ring, answerMs } = session;
  const request = session.take(GETATTR_BYTES, 8);
  session.ram.write(request, requestBytes(GETATTR, session.unique(), 1n, Buffer.alloc(16)));
  const reply = session.take(REPLY_BYTES, CACHE_LINE_BYTES);
  const buffers = [
    { gpa: request, bytes: GETATTR_BYTES, writable: false },
    { gpa: reply, bytes: REPLY_BYTES, writable: true },
  ];
  const head = session.chain(buffers, [0, 1], false);
  const answer = session.ram.bytes(reply, REPLY_BYTES);
  // Nothing but this store and the load behind it: every other one takes from the moment that is looked for.
  const event = session.ram.bytes(ring.avail + availBytes(ring.size) - 2, 2);
  const usedEvent = new Uint16Array(event.buffer, event.byteOffset, 1);
  ring.enableInterrupts();
  let loads = PAUSE_START;
  for (let round = 0; round < ROUNDS; round++) {
    drain(ring.callFd);
    // Lines that the device must take over to write its answer: its store of used.idx waits behind them.
    for (let i = 0; i < REPLY_BYTES; i += CACHE_LINE_BYTES) answer[i] = round;
    ring.setAvailable(head);
    if (ring.publish()) ring.kick();
    pause(loads + random.below(2 * PAUSE_STEP));
    Atomics.store(usedEvent, 0, ring.usedIdx);
    if (ring.takeUsed() >= 0) {
      loads = Math.max(0, loads - PAUSE_STEP);
      continue;
    }
    let isTaken = false;
    for (let i = 0; i < SPINS_MAX && !isTaken; i++) isTaken = ring.takeUsed() >= 0;
    // A device that is not running at the moment says nothing about the pause.
    if (isTaken) loads = Math.min(SPINS_MAX, loads + PAUSE_STEP);
    // A signal of the round before may come late: it is taken for this one's, which hides at most one miss.
    for (;;) {
      const isSignalled = pollOne(ring.callFd, POLL.IN, answerMs) > 0;
      expect(isSignalled, () => `the interrupt asked for did not come within ${answerMs} ms (round ${round})`);
      drain(ring.callFd);
      if (isTaken || ring.takeUsed() >= 0) break;
    }
  }
}

const CHUNKS = expectedChunks(blobTable(IMAGE)[0]!);
const BLOB_ID = blobTable(IMAGE)[0]!.id;

/** Looks at a cache as another daemon on it does: a chunk whose bit is set has its data. */
class CacheWatcher {
  private readonly seen = new Set<number>();
  private readonly fds: number[] = [];
  private readonly bits = Buffer.alloc(Math.ceil(CHUNKS.length / 8));

  constructor(private readonly cache: string) {}

  /** @throws Finding when a bit is set before its data are there */
  look(): void {
    if (this.fds.length === 0 && !this.open()) return;
    const [map, data] = this.fds as [number, number];
    fs.readSync(map, this.bits, 0, this.bits.length, MAP_HEADER_BYTES);
    for (const { index, uncompressedOffset, bytes } of CHUNKS) {
      if (this.seen.has(index) || ((this.bits[index >> 3] as number) & (0x80 >> (index & 7))) === 0) continue;
      this.seen.add(index);
      const there = Buffer.alloc(bytes.length);
      fs.readSync(data, there, 0, there.length, uncompressedOffset);
      expect(there.equals(bytes), () => `chunk ${index} is marked ready in the cache before its data are there`);
    }
  }

  private open(): boolean {
    const data = `${this.cache}/${BLOB_ID}.blob.data`;
    if (!fs.existsSync(`${data}.chunk_map`)) return false;
    this.fds.push(fs.openSync(`${data}.chunk_map`, 'r'), fs.openSync(data, 'r'));
    return true;
  }

  close(): void {
    for (const fd of this.fds) fs.closeSync(fd);
  }
}

export const ORDERS: Record<string, Order> = {
  'interrupt asked for': async (session, _rig, random) => interruptAskedFor(session, random),

  /** Data, then the bit (rafs-format 6.2): another daemon, or the next one after a kill, believes the bit. */
  'data before their bit': (session, rig, random) =>
    cold(session, rig, (node, fh, cache) => {
      const watcher = new CacheWatcher(cache);
      try {
        coldReads(session, rig, random, node, fh, () => watcher.look());
        watcher.look();
      } finally {
        watcher.close();
      }
    }),
};

export const ORDER_NAMES = Object.keys(ORDERS);
