/** Requests that change while the device looks at them (protocols 2.5 rows 14 and 15). */
import { Worker } from 'node:worker_threads';
import { bundleWorker } from '../../src/common/bundle.testing.ts';
import { DESC_BYTES } from '../../src/vhost/split.ts';
import { expect } from './finding.ts';
import { CELL, type FlipperData, RANGE_WORDS, RANGES_AT, RANGES_MAX, SHARED_BYTES, STATE } from './flips-shared.ts';
import type { Random } from './random.ts';
import { type Guest, QUEUE_SIZE, RAM_BYTES, RAM_GPA, requestBytes, type Session } from './session.ts';

const EVERY_BYTE = 0xffff;
/** Of a descriptor the low 16 bits of the address, length, flags and next: what it names stays at or behind the arena. */
const NOT_ADDRESS_HIGH = 0xff03;
const BATCH = 24;
const LINK_SIZE = 120;
const STOP_WAIT_MS = 20;

interface Range {
  gpa: number;
  bytes: number;
  mask: number;
  toggle?: number;
}

export class Flipper {
  readonly #shared = new SharedArrayBuffer(SHARED_BYTES);
  readonly #cells = new Int32Array(this.#shared);
  readonly #worker: Worker;

  constructor(guest: Guest) {
    const workerData: FlipperData = { fd: guest.ram.fd, bytes: RAM_BYTES, shared: this.#shared };
    this.#worker = new Worker(bundleWorker(new URL('./flipper.ts', import.meta.url)), { workerData });
  }

  get flips(): number {
    return Atomics.load(this.#cells, CELL.FLIPS);
  }

  start(ranges: readonly Range[], seed: number): void {
    const used = ranges.slice(0, RANGES_MAX);
    for (const [i, { gpa, bytes, mask, toggle }] of used.entries()) {
      this.#cells.set([gpa - RAM_GPA, bytes, mask, toggle ?? 0], RANGES_AT + i * RANGE_WORDS);
    }
    Atomics.store(this.#cells, CELL.RANGES, used.length);
    Atomics.store(this.#cells, CELL.SEED, seed | 0);
    Atomics.store(this.#cells, CELL.STATE, STATE.RUN);
    Atomics.notify(this.#cells, CELL.STATE);
  }

  /** Returns when nothing is flipped any more. */
  stop(): void {
    Atomics.store(this.#cells, CELL.STATE, STATE.IDLE);
    while (Atomics.load(this.#cells, CELL.RUNNING) === 1) Atomics.wait(this.#cells, CELL.RUNNING, 1, STOP_WAIT_MS);
  }

  async end(): Promise<void> {
    this.stop();
    Atomics.store(this.#cells, CELL.STATE, STATE.QUIT);
    Atomics.notify(this.#cells, CELL.STATE);
    await this.#worker.terminate();
  }
}

export const FLIP_TARGETS = ['requests', 'descriptors', 'avail ring'] as const;
export type FlipTarget = (typeof FLIP_TARGETS)[number];

/** Opcodes without effects on the session, so that any of them may come out of any other by a flip. */
const OPS = [1, 3, 17, 23, 22, 5];

/**
 * A batch of requests under flips. True: the session is spent.
 * Flipped descriptors may name each other's memory, so replies are not read; what must hold is the accounting of heads.
 */
export function flipCase(session: Session, flipper: Flipper, random: Random, target: FlipTarget): boolean {
  session.resetArena();
  const ranges: Range[] = [];
  const heads: number[] = [];
  for (let i = 0; i < BATCH; i++) {
    const bytes = requestBytes(
      random.pick(OPS),
      session.unique(),
      1n,
      Buffer.from('a\0link\0'.padEnd(LINK_SIZE, '\0')),
    );
    const request = session.take(bytes.length, 64);
    session.ram.write(request, bytes);
    const buffers = [
      { gpa: request, bytes: bytes.length, writable: false },
      { gpa: session.take(4096, 64), bytes: 4096, writable: true },
    ];
    heads.push(session.chain(buffers, [i], true));
    if (target === 'requests') ranges.push({ gpa: request, bytes: bytes.length, mask: EVERY_BYTE });
    if (target === 'descriptors') ranges.push({ gpa: session.table, bytes: 2 * DESC_BYTES, mask: NOT_ADDRESS_HIGH });
  }
  const { ring } = session;
  if (target === 'descriptors') ranges.push({ gpa: ring.desc, bytes: BATCH * DESC_BYTES, mask: NOT_ADDRESS_HIGH });
  if (target === 'avail ring') ranges.push({ gpa: ring.avail, bytes: 6 + 2 * QUEUE_SIZE, mask: EVERY_BYTE });
  flipper.start(ranges, random.u32());
  session.submit(heads);
  const { used, broken } = session.collect(BATCH, target === 'avail ring' ? 5 : 10 * session.answerMs);
  session.probe(target !== 'avail ring');
  flipper.stop();
  if (target === 'avail ring') return true;
  const counts = new Map<number, number>();
  for (const { head } of used) counts.set(head, (counts.get(head) ?? 0) + 1);
  for (const [head, count] of counts) {
    expect(count === 1 && head < BATCH, () => `flipped ${target}: head ${head} used ${count} times`);
  }
  expect(
    broken || used.length === BATCH,
    () => `flipped ${target}: ${used.length} of ${BATCH} heads used, ring not broken`,
  );
  return true;
}

const LOOKUP = 1;
const ENTRY_BYTES = 144;

/**
 * A name that is harmless when it is checked and ".." when it is used: a device that reads it twice hands out the
 * directory above the share. True: the session is spent.
 */
export function nameFlipCase(session: Session, flipper: Flipper, random: Random, share: bigint): boolean {
  session.resetArena();
  const ranges: Range[] = [];
  const replies: number[] = [];
  const heads: number[] = [];
  for (let i = 0; i < BATCH; i++) {
    const bytes = requestBytes(LOOKUP, session.unique(), share, Buffer.from('.x\0'));
    const request = session.take(bytes.length, 64);
    session.ram.write(request, bytes);
    const reply = session.take(ENTRY_BYTES, 64);
    session.ram.bytes(reply, ENTRY_BYTES).fill(0);
    replies.push(reply);
    const buffers = [
      { gpa: request, bytes: bytes.length, writable: false },
      { gpa: reply, bytes: ENTRY_BYTES, writable: true },
    ];
    heads.push(session.chain(buffers, [i], true));
    ranges.push({ gpa: request + bytes.length - 2, bytes: 1, mask: EVERY_BYTE, toggle: 0x78 ^ 0x2e });
  }
  flipper.start(ranges, random.u32());
  session.submit(heads);
  const { used } = session.collect(BATCH);
  flipper.stop();
  expect(used.length === BATCH, () => `flipped names: ${used.length} of ${BATCH} heads used`);
  for (const reply of replies) {
    const out = Buffer.from(session.ram.read(reply, 24));
    const isFound = out.readInt32LE(4) === 0 && out.readBigUInt64LE(16) !== 0n;
    expect(!isFound, () => 'a name that changed after its check was looked up: the directory above the share is open');
  }
  return false;
}
