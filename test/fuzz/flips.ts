/** Requests that change while the device looks at them (protocols 2.5 rows 14 and 15). */
import { Worker } from 'node:worker_threads';
import { bundleWorker } from '../../src/common/bundle.testing.ts';
import { IN_HEADER_BYTES, OUT_HEADER_BYTES } from '../../src/fuse/wire/layout.ts';
import { DESC_BYTES } from '../../src/vhost/split.ts';
import { expect } from './finding.ts';
import { readArgs } from './flight-cases.ts';
import { CELL, type FlipperData, RANGE_WORDS, RANGES_AT, RANGES_MAX, SHARED_BYTES, STATE } from './flips-shared.ts';
import type { Random } from './random.ts';
import { NESTED_DIR, NESTED_FILE } from './rig.ts';
import { type Guest, QUEUE_SIZE, QUEUES, RAM_BYTES, RAM_GPA, requestBytes, type Session } from './session.ts';

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

  /** Bytes flipped in all, up to the last `stop`. */
  flips = 0;

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
    // An hour has more than the cell can count.
    this.flips += Atomics.exchange(this.#cells, CELL.FLIPS, 0);
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
  const { used, broken } = session.collect(BATCH, target === 'avail ring' ? { timeoutMs: 5 } : {});
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

/** Names that are harmless when they are checked; `at` of them becomes, by `toggle`, what must never be looked up. */
const TWO_FACED = [
  { name: '.x', at: 1, toggle: 0x78 ^ 0x2e },
  { name: `${NESTED_DIR}x${NESTED_FILE}`, at: NESTED_DIR.length, toggle: 0x78 ^ 0x2f },
];

/** Requests of the batch, each with room for its reply; their bytes `[at, at + 1)` are toggled while they are served. */
function toggled(
  session: Session,
  flipper: Flipper,
  random: Random,
  requests: readonly Buffer[],
  replyBytes: number,
  { at, toggle, filler }: { at: number; toggle: number; filler: number },
): { request: number; reply: number }[] {
  const places = requests.map((bytes) => {
    const place = { request: session.take(bytes.length, 64), reply: session.take(replyBytes, 64) };
    session.ram.write(place.request, bytes);
    session.ram.bytes(place.reply, replyBytes).fill(filler);
    return place;
  });
  const heads = places.map(({ request, reply }, i) => {
    const buffers = [
      { gpa: request, bytes: requests[i]!.length, writable: false },
      { gpa: reply, bytes: replyBytes, writable: true },
    ];
    return session.chain(buffers, [i], true);
  });
  flipper.start(
    places.map(({ request }) => ({ gpa: request + at, bytes: 1, mask: EVERY_BYTE, toggle })),
    random.u32(),
  );
  session.submit(heads);
  const { used } = session.collect(requests.length);
  flipper.stop();
  expect(used.length === requests.length, () => `toggled bytes: ${used.length} of ${requests.length} heads used`);
  return places;
}

/** A device that reads a name twice hands out the directory above the share, or walks a path. */
export function nameFlipCase(session: Session, flipper: Flipper, random: Random, share: bigint): void {
  session.resetArena();
  const { name, at, toggle } = random.pick(TWO_FACED);
  const requests = Array.from({ length: BATCH }, () =>
    requestBytes(LOOKUP, session.unique(), share, Buffer.from(`${name}\0`)),
  );
  const flips = { at: IN_HEADER_BYTES + at, toggle, filler: 0 };
  for (const { reply } of toggled(session, flipper, random, requests, ENTRY_BYTES, flips)) {
    const out = Buffer.from(session.ram.read(reply, 24));
    const isFound = out.readInt32LE(4) === 0 && out.readBigUInt64LE(16) !== 0n;
    expect(!isFound, () => `${name} was looked up as something else after it was checked`);
  }
}

const READ = 15;
const WRITE = 16;
const OPCODE_AT = 4;
/** All of them fit a probe's buffer. */
const DATA_BYTES = 128;
const [OLD, DATA, REPLY] = [0x6f, 0x64, 0x72];

/**
 * READ or WRITE, whichever the device reads, with arguments that suit both. One that takes the opcode twice writes what
 * lies where a reply belongs, or reads into the request.
 */
export function opcodeFlipCase(session: Session, flipper: Flipper, random: Random, node: bigint, fh: bigint): void {
  session.resetArena();
  const args = (i: number): Buffer => readArgs(fh, i * DATA_BYTES, DATA_BYTES);
  const whole = readArgs(fh, 0, BATCH * DATA_BYTES);
  const rewritten = session.call(
    QUEUES.PROBE,
    WRITE,
    node,
    Buffer.concat([whole, Buffer.alloc(BATCH * DATA_BYTES, OLD)]),
    8,
  );
  expect(rewritten.error === 0, () => `WRITE: ${rewritten.error}`);
  const data = Buffer.alloc(DATA_BYTES, DATA);
  const requests = Array.from({ length: BATCH }, (_, i) =>
    requestBytes(random.chance(50) ? READ : WRITE, session.unique(), node, Buffer.concat([args(i), data])),
  );
  const flips = { at: OPCODE_AT, toggle: READ ^ WRITE, filler: REPLY };
  const places = toggled(session, flipper, random, requests, OUT_HEADER_BYTES + DATA_BYTES, flips);
  for (const { request } of places) {
    const left = Buffer.from(session.ram.read(request + IN_HEADER_BYTES + whole.length, DATA_BYTES));
    expect(left.equals(data), () => 'a request was written to: its opcode was taken twice');
  }
  const { body } = session.call(QUEUES.PROBE, READ, node, whole, BATCH * DATA_BYTES);
  expect(
    body.length === BATCH * DATA_BYTES && body.every((byte) => byte === OLD || byte === DATA),
    () => 'a file got bytes of a reply buffer: the opcode of its WRITE was taken twice',
  );
}
