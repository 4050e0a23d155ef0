/**
 * Counters of a device thread in shared memory, so that `GET /daemon` and metrics never wait for that thread.
 *
 * One writer (the device thread), any readers. Float64 slots: 2^53 events, no BigInt, and an aligned 8-byte store is
 * not torn on the machines we run on.
 */
import { OPCODE_COUNT } from './opcodes.ts';

const OPS = 0;
const ERRORS = OPS + OPCODE_COUNT;
const NAMED = ERRORS + OPCODE_COUNT;

const NAMES = [
  'bytesRead',
  'bytesWritten',
  'parkedNow',
  'parkedTotal',
  'wakeups',
  'pollHits',
  'badRequests',
  'brokenRings',
  'exceptions',
  'unknownOpcodes',
  'sessions',
  'initDone',
  'droppedReplies',
  'inodes',
  'handles',
] as const;
export type StatName = (typeof NAMES)[number];

/** Index of each named counter in `Stats.values`. */
export const STAT = Object.fromEntries(NAMES.map((name, i) => [name, NAMED + i])) as {
  readonly [N in StatName]: number;
};

export const STATS_BYTES = (NAMED + NAMES.length) * 8;

export class Stats {
  readonly values: Float64Array;

  constructor(readonly shared: SharedArrayBuffer = new SharedArrayBuffer(STATS_BYTES)) {
    this.values = new Float64Array(shared);
  }

  /** Counts one request of opcode `op` with its result. */
  count(op: number, result: number): void {
    this.values[OPS + op]!++;
    if (result < 0) this.values[ERRORS + op]!++;
  }

  add(index: number, amount: number): void {
    this.values[index]! += amount;
  }

  get(name: StatName): number {
    return this.values[STAT[name]] as number;
  }

  requests(op: number): number {
    return this.values[OPS + op] as number;
  }

  errors(op: number): number {
    return this.values[ERRORS + op] as number;
  }
}
