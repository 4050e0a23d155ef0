/**
 * Where each counter lies in the memory that a device thread writes and the main thread reads. Without imports, because
 * the main thread allocates it at start.
 *
 *     requests[64] errors[64] | named counters | queue depths[16] | latency: [64] x (buckets, sum) | mounts: [1024] x block
 *     parked requests: bytes[4096 x 128], since[4096], next free[4096]
 *
 * Float64 slots: 2^53 events, no BigInt, and an aligned 8-byte store is not torn on the machines we run on. Pages of
 * mounts that never were are never touched and cost no memory.
 */

/** Opcodes counted; the largest known is 53. */
export const OPCODES_MAX = 64;

export const REQUESTS = 0;
export const ERRORS = REQUESTS + OPCODES_MAX;
const NAMED = ERRORS + OPCODES_MAX;

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

/** Index of each named counter. */
export const STAT = Object.fromEntries(NAMES.map((name, i) => [name, NAMED + i])) as {
  readonly [N in StatName]: number;
};

/** `performance.timeOrigin` of the device thread: its times plus this are milliseconds since 1970. */
export const CLOCK_ORIGIN_MS = NAMED + NAMES.length;
/** Raw address of the header of the request being served; the opcode there is 0 when none is. */
export const SERVING_ADDRESS = CLOCK_ORIGIN_MS + 1;
/** When the thread looked at the clock last, in its own milliseconds: a request being served is younger than that. */
export const LOOKED_MS = SERVING_ADDRESS + 1;

/** Rings whose depth is told: hiprio and 15 request queues. */
export const QUEUES_MAX = 16;
export const QUEUE_DEPTHS = LOOKED_MS + 1;

/** Upper bounds of the latency buckets in ms; all bounds of upstream's `read_latency_dist` are among them. */
export const LATENCY_BOUNDS_MS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5, 20, 50, 100, 500, 1000, 2000, 10_000];
/** Buckets of one opcode: one for each bound, one above; then the sum in ms. */
export const LATENCY_WORDS = LATENCY_BOUNDS_MS.length + 2;
export const LATENCY = QUEUE_DEPTHS + QUEUES_MAX;

/** File operations in the order of kata-contract 4.5. */
export const FOPS = [
  'GETATTR',
  'READLINK',
  'OPEN',
  'RELEASE',
  'READ',
  'STATFS',
  'GETXATTR',
  'LISTXATTR',
  'OPENDIR',
  'LOOKUP',
  'READDIR',
  'READDIRPLUS',
  'ACCESS',
  'FORGET',
  'BATCH_FORGET',
] as const;

/** Sizes of reads: below 1 KiB, from 1 KiB on, 4, 16, 64, 128, 512, and from 1 MiB on. */
export const SIZE_BOUNDS_BYTES = [1024, 4096, 16_384, 65_536, 131_072, 524_288, 1_048_576];
/** Closed below: 1 MiB is "from 1 MiB on". */
export function sizeBucketOf(bytes: number): number {
  let i = 0;
  while (i < SIZE_BOUNDS_BYTES.length && bytes >= (SIZE_BOUNDS_BYTES[i] as number)) i++;
  return i;
}

/** Latencies of reads, upper bounds in ms. */
export const READ_LATENCY_BOUNDS_MS = [0.2, 1, 20, 50, 500, 1000, 2000];

/** Members counted at a time; one more than that apart, the later one takes the place. */
export const MOUNTS_MAX = 1024;
/** Words of a mount's block. */
export const BLOCK = {
  /** Member id, so that a block is not taken for another member's. */
  OWNER: 0,
  BYTES_READ: 1,
  HITS: 2,
  ERRORS: 2 + FOPS.length,
  LATENCY_MS: 2 + 2 * FOPS.length,
  SIZES: 2 + 3 * FOPS.length,
  READ_LATENCIES: 2 + 3 * FOPS.length + SIZE_BOUNDS_BYTES.length + 1,
  /** Reads of which nothing was in the cache, and reads of which a part was. */
  MISSES: 3 + 3 * FOPS.length + SIZE_BOUNDS_BYTES.length + READ_LATENCY_BOUNDS_MS.length + 1,
  PARTIAL_HITS: 4 + 3 * FOPS.length + SIZE_BOUNDS_BYTES.length + READ_LATENCY_BOUNDS_MS.length + 1,
  WORDS: 72,
} as const;
const MOUNTS = LATENCY + OPCODES_MAX * LATENCY_WORDS;

/** Start of the block of member `id`. */
export function blockAt(id: number): number {
  return MOUNTS + (id & (MOUNTS_MAX - 1)) * BLOCK.WORDS;
}

/** As many as the descriptors of four full queues of 1024: beyond that a guest has nothing left to ask with. */
export const PARKED_MAX = 4096;

/** Largest request that parks: COPY_FILE_RANGE with 40 + 56 bytes; READ has 80. */
export const PARKED_REQUEST_BYTES_MAX = 128;

/** In the list of free slots of `park-table.ts`: this one is in use. */
export const PARKED_IN_USE = -2;

const PARKED_BYTES = (MOUNTS + MOUNTS_MAX * BLOCK.WORDS) * 8;
const PARKED_SINCE = PARKED_BYTES + PARKED_MAX * PARKED_REQUEST_BYTES_MAX;
const PARKED_NEXT = PARKED_SINCE + PARKED_MAX * 8;

export const STATS_BYTES = PARKED_NEXT + PARKED_MAX * 2;

/** The requests that are parked, slot by slot. */
export function parkedIn(shared: SharedArrayBuffer): { saved: Uint32Array; sincesMs: Float64Array; next: Int16Array } {
  return {
    saved: new Uint32Array(shared, PARKED_BYTES, (PARKED_MAX * PARKED_REQUEST_BYTES_MAX) / 4),
    sincesMs: new Float64Array(shared, PARKED_SINCE, PARKED_MAX),
    next: new Int16Array(shared, PARKED_NEXT, PARKED_MAX),
  };
}
