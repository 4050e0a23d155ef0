/**
 * Counters of a device thread in shared memory, so that `GET /daemon` and metrics never wait for that thread. One writer
 * (the device thread, this file), any readers (`stats-view.ts`).
 *
 * Latency costs no clock of its own: requests are collected in runs of the same opcode and mount, and charged when the
 * loop looks at the clock anyway, or after TICK_REQUESTS, which is when their replies are published.
 *
 *     tick ── request, request, … (at most 16) ── tick: each took from the first tick to the second
 */
import type { FileStats } from './file-stats.ts';
import { OPS } from './opcodes.ts';
import type { Request } from './request.ts';
import {
  BLOCK,
  blockAt,
  CLOCK_ORIGIN_MS,
  ERRORS,
  FOPS,
  LATENCY,
  LATENCY_BOUNDS_MS,
  LATENCY_WORDS,
  LOOKED_MS,
  OPCODES_MAX,
  QUEUE_DEPTHS,
  QUEUES_MAX,
  READ_LATENCY_BOUNDS_MS,
  REQUESTS,
  SERVING_ADDRESS,
  STATS_BYTES,
  sizeBucketOf,
} from './stats-layout.ts';

/** Taken once: the global is a getter, which costs more than the clock itself. */
const clock = performance;

/** Requests between two looks at the clock: as many as the device publishes at a time. */
const TICK_REQUESTS = 16;

const READ = OPS.READ.op;

/** Position of an opcode in the arrays of file operations, -1 for others. */
const FOP_OF = new Int8Array(OPCODES_MAX).fill(-1);
FOPS.forEach((name, position) => {
  FOP_OF[OPS[name].op] = position;
});

export class Stats {
  readonly values: Float64Array;
  /** The last look at the clock, ms: whatever is being served was taken up then or later. */
  nowMs = clock.now();
  #fromMs = this.nowMs;
  #served = 0;
  // The run that grows, and those before it since the last tick.
  #op = 0;
  #member = 0;
  #sinceMs = 0;
  #length = 0;
  #runs = 0;
  readonly #ops = new Uint8Array(TICK_REQUESTS);
  readonly #members = new Uint32Array(TICK_REQUESTS);
  readonly #sincesMs = new Float64Array(TICK_REQUESTS);
  readonly #lengths = new Uint8Array(TICK_REQUESTS);
  /** Tables of images whose configuration asks for counters of each file, by member id. */
  readonly #files = new Map<number, FileStats>();

  constructor(readonly shared: SharedArrayBuffer = new SharedArrayBuffer(STATS_BYTES)) {
    this.values = new Float64Array(shared);
    this.values[CLOCK_ORIGIN_MS] = clock.timeOrigin;
  }

  /** Raw address of the header of the request being served. */
  servesAt(address: number): void {
    this.values[SERVING_ADDRESS] = address;
  }

  /** Counters of member `id` begin at 0. @param files where its files are counted, if its configuration says so */
  mounted(id: number, files: FileStats | null): void {
    const at = blockAt(id);
    this.values.fill(0, at, at + BLOCK.WORDS);
    this.values[at + BLOCK.OWNER] = id;
    if (files !== null) this.#files.set(id, files);
  }

  unmounted(id: number): void {
    this.#files.delete(id);
  }

  /** Counts the request just served, of opcode `op`, whose handler returned `result`. */
  count(op: number, request: Request, result: number): void {
    const member = request.nodeHigh;
    if (op === this.#op && member === this.#member && request.sinceMs === this.#sinceMs) this.#length++;
    else this.#nextRun(op, request);
    if (result < 0) this.#failed(op, member);
    else if (op === READ) this.#wasRead(member, result);
    if (this.#files.size > 0)
      this.#files.get(member)?.count(request.nodeLow, FOP_OF[op] as number, op === READ, result);
    if (++this.#served === TICK_REQUESTS) this.tick();
  }

  /** A read of member `id` waits for chunks; `isPartial`: some it had. */
  missed(id: number, isPartial: boolean): void {
    const block = blockAt(id);
    if (this.values[block + BLOCK.OWNER] !== id) return;
    this.values[block + (isPartial ? BLOCK.PARTIAL_HITS : BLOCK.MISSES)]!++;
  }

  /** Looks at the clock, and charges what was served since the last look. */
  tick(): void {
    this.#fromMs = this.nowMs;
    this.nowMs = clock.now();
    this.values[LOOKED_MS] = this.nowMs;
    if (this.#served > 0) this.#charge();
  }

  /** `depth` requests were found in ring `queue`. */
  depth(queue: number, depth: number): void {
    if (queue < QUEUES_MAX) this.values[QUEUE_DEPTHS + queue] = depth;
  }

  add(index: number, amount: number): void {
    this.values[index]! += amount;
  }

  #nextRun(op: number, request: Request): void {
    if (this.#length > 0) this.#keepRun();
    this.#op = op;
    this.#member = request.nodeHigh;
    this.#sinceMs = request.sinceMs;
    this.#length = 1;
  }

  #keepRun(): void {
    const i = this.#runs++;
    this.#ops[i] = this.#op;
    this.#members[i] = this.#member;
    this.#sincesMs[i] = this.#sinceMs;
    this.#lengths[i] = this.#length;
    this.#length = 0;
  }

  #charge(): void {
    if (this.#length > 0) this.#keepRun();
    const values = this.values;
    for (let i = 0; i < this.#runs; i++) {
      const op = this.#ops[i] as number;
      const length = this.#lengths[i] as number;
      const sinceMs = this.#sincesMs[i] as number;
      const tookMs = this.nowMs - (sinceMs > 0 ? sinceMs : this.#fromMs);
      values[REQUESTS + op]! += length;
      const at = LATENCY + op * LATENCY_WORDS;
      values[at + bucketOf(LATENCY_BOUNDS_MS, tookMs)]! += length;
      values[at + LATENCY_WORDS - 1]! += tookMs * length;
      const member = this.#members[i] as number;
      const block = blockAt(member);
      const fop = FOP_OF[op] as number;
      if (fop < 0 || values[block + BLOCK.OWNER] !== member) continue;
      values[block + BLOCK.HITS + fop]! += length;
      values[block + BLOCK.LATENCY_MS + fop]! += tookMs * length;
      if (op === READ) values[block + BLOCK.READ_LATENCIES + bucketOf(READ_LATENCY_BOUNDS_MS, tookMs)]! += length;
    }
    this.#runs = 0;
    this.#served = 0;
  }

  #failed(op: number, member: number): void {
    this.values[ERRORS + op]!++;
    const block = blockAt(member);
    const fop = FOP_OF[op] as number;
    if (fop >= 0 && this.values[block + BLOCK.OWNER] === member) this.values[block + BLOCK.ERRORS + fop]!++;
  }

  #wasRead(member: number, bytes: number): void {
    const block = blockAt(member);
    if (this.values[block + BLOCK.OWNER] !== member) return;
    this.values[block + BLOCK.BYTES_READ]! += bytes;
    this.values[block + BLOCK.SIZES + sizeBucketOf(bytes)]!++;
  }
}

/** Buckets are closed above: a value equal to a bound belongs below it. */
function bucketOf(boundsMs: readonly number[], ms: number): number {
  let i = 0;
  while (i < boundsMs.length && ms > (boundsMs[i] as number)) i++;
  return i;
}
