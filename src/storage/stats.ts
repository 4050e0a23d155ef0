/** Counters of a blob store since it was made; plain numbers, read at any time. */
export interface StoreStats {
  /** Ranged requests made to backends, retries included, and the bytes they brought. */
  requests: number;
  fetchedBytes: number;
  /** Requests that failed (each attempt). */
  failedRequests: number;
  /** Chunks this process has fetched. */
  chunksFetched: number;
  /** Of these, chunks that no cache file took. */
  chunksUncached: number;
  /** Chunks that another process had ready when this one looked again. */
  chunksFromOthers: number;
  /** Chunks whose bytes did not decode or verify. */
  badChunks: number;
}

export function newStats(): StoreStats {
  return {
    requests: 0,
    fetchedBytes: 0,
    failedRequests: 0,
    chunksFetched: 0,
    chunksUncached: 0,
    chunksFromOthers: 0,
    badChunks: 0,
  };
}

/** Upper ends (exclusive) of the size buckets of backend metrics in bytes; the last bucket has none (kata-contract 4.5). */
const SIZE_BUCKET_ENDS = [1, 4, 16, 64, 128, 512, 1024].map((kib) => kib * 1024);
/** Upper ends (inclusive) of the latency buckets in ms; the last bucket has none. */
const LATENCY_BUCKET_ENDS_MS = [1, 20, 50, 100, 500, 1000, 2000];
const BUCKETS = 8;

/** Reads from one backend: every attempt counts, bytes and latency only of those that succeeded. */
export class BackendReads {
  count = 0;
  errors = 0;
  bytes = 0;
  latencyMs = 0;
  readonly latencyMsBySize = new Float64Array(BUCKETS);
  readonly countBySize = new Float64Array(BUCKETS);
  /** By size, then by latency. */
  readonly countBySizeAndLatency = Array.from({ length: BUCKETS }, () => new Float64Array(BUCKETS));

  succeeded(bytes: number, ms: number): void {
    const whole = SIZE_BUCKET_ENDS.findIndex((end) => bytes < end);
    const size = whole < 0 ? BUCKETS - 1 : whole;
    const quick = LATENCY_BUCKET_ENDS_MS.findIndex((end) => ms <= end);
    this.count++;
    this.bytes += bytes;
    this.latencyMs += ms;
    this.latencyMsBySize[size]! += ms;
    this.countBySize[size]!++;
    this.countBySizeAndLatency[size]![quick < 0 ? BUCKETS - 1 : quick]!++;
  }

  failed(): void {
    this.count++;
    this.errors++;
  }
}
