/** What the main thread reads of the counters of `stats.ts`: no reader ever waits for a device thread. */
import {
  BLOCK,
  blockAt,
  ERRORS,
  FOPS,
  LATENCY,
  LATENCY_BOUNDS_MS,
  LATENCY_WORDS,
  QUEUE_DEPTHS,
  QUEUES_MAX,
  READ_LATENCY_BOUNDS_MS,
  REQUESTS,
  SIZE_BOUNDS_BYTES,
  STAT,
  type StatName,
} from './stats-layout.ts';

/** Counters of one mount, by the positions of FOPS and of the bounds in `stats-layout.ts`. */
export interface MountCounts {
  bytesRead: number;
  /** Reads that had to wait for all their chunks, and for some. */
  misses: number;
  partialHits: number;
  hits: number[];
  errors: number[];
  latencyMs: number[];
  readSizes: number[];
  readLatencies: number[];
}

export class StatsView {
  private readonly values: Float64Array;

  constructor(shared: SharedArrayBuffer) {
    this.values = new Float64Array(shared);
  }

  get(name: StatName): number {
    return this.values[STAT[name]] as number;
  }

  /** Any other counter of the layout. */
  at(index: number): number {
    return this.values[index] as number;
  }

  requests(op: number): number {
    return this.values[REQUESTS + op] as number;
  }

  errors(op: number): number {
    return this.values[ERRORS + op] as number;
  }

  /** Requests of opcode `op` by bucket (LATENCY_BOUNDS_MS, and one above), and all their milliseconds. */
  latency(op: number): { buckets: number[]; sumMs: number } {
    const at = LATENCY + op * LATENCY_WORDS;
    return {
      buckets: this.numbers(at, LATENCY_BOUNDS_MS.length + 1),
      sumMs: this.values[at + LATENCY_WORDS - 1] as number,
    };
  }

  /** Requests last found in each ring, hiprio first. */
  queueDepths(): number[] {
    return this.numbers(QUEUE_DEPTHS, QUEUES_MAX);
  }

  /** Counters of member `id`; zeros when a later member has taken their place. */
  mount(id: number): MountCounts {
    const at = blockAt(id);
    const isThere = this.values[at + BLOCK.OWNER] === id;
    const numbers = (offset: number, count: number): number[] =>
      isThere ? this.numbers(at + offset, count) : new Array<number>(count).fill(0);
    return {
      bytesRead: numbers(BLOCK.BYTES_READ, 1)[0] as number,
      misses: numbers(BLOCK.MISSES, 1)[0] as number,
      partialHits: numbers(BLOCK.PARTIAL_HITS, 1)[0] as number,
      hits: numbers(BLOCK.HITS, FOPS.length),
      errors: numbers(BLOCK.ERRORS, FOPS.length),
      latencyMs: numbers(BLOCK.LATENCY_MS, FOPS.length),
      readSizes: numbers(BLOCK.SIZES, SIZE_BOUNDS_BYTES.length + 1),
      readLatencies: numbers(BLOCK.READ_LATENCIES, READ_LATENCY_BOUNDS_MS.length + 1),
    };
  }

  private numbers(from: number, count: number): number[] {
    return Array.from(this.values.subarray(from, from + count));
  }
}
