/**
 * `GET /metrics`: the daemon's counters as Prometheus text. Only what is counted anyway: the device thread's shared
 * memory and the blob store's numbers; reading them stops nobody.
 */
import { OPS } from '../fuse/opcodes.ts';
import { LATENCY_BOUNDS_MS, type StatName } from '../fuse/stats-layout.ts';
import { StatsView } from '../fuse/stats-view.ts';
import type { StoreStats } from '../storage/stats.ts';
import { BUILD_INFO } from './build-info.ts';
import type { Daemon } from './daemon.ts';
import { inflightRequests } from './inflight.ts';
import type { Mount } from './mounts.ts';

export const PROMETHEUS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

type Kind = 'counter' | 'gauge';
type Sample = readonly [labels: Readonly<Record<string, string>>, value: number];

/** Counter of the device thread → its metric. */
const DEVICE: Readonly<Record<StatName, readonly [name: string, kind: Kind, help: string]>> = {
  bytesRead: ['read_bytes_total', 'counter', 'Bytes that READ requests returned'],
  bytesWritten: ['written_bytes_total', 'counter', 'Bytes that WRITE requests took'],
  parkedNow: ['parked_requests', 'gauge', 'Requests that wait for data or a slow system call'],
  parkedTotal: ['parked_requests_total', 'counter', 'Requests that ever waited'],
  wakeups: ['wakeups_total', 'counter', 'Times the device thread woke up'],
  pollHits: ['poll_hits_total', 'counter', 'Requests found by polling, without a wake-up'],
  badRequests: ['bad_requests_total', 'counter', 'Requests that were malformed'],
  brokenRings: ['broken_rings_total', 'counter', 'Virtqueues stopped because of what the guest put in them'],
  exceptions: ['exceptions_total', 'counter', 'Requests answered EIO because of a defect of the daemon'],
  unknownOpcodes: ['unknown_opcodes_total', 'counter', 'Requests with an opcode nobody knows'],
  sessions: ['sessions_total', 'counter', 'Connections of a VMM'],
  initDone: ['initialised', 'gauge', '1 while a guest has the file system mounted'],
  droppedReplies: ['dropped_replies_total', 'counter', 'Replies nobody waits for any more'],
  inodes: ['inodes', 'gauge', 'Inodes the guest knows'],
  handles: ['handles', 'gauge', 'Open files and directories'],
};

/** Counter of the blob store → its metric. */
const STORE: Readonly<Record<keyof StoreStats, readonly [name: string, kind: Kind, help: string]>> = {
  requests: ['backend_requests_total', 'counter', 'Ranged requests to backends, retries included'],
  failedRequests: ['backend_failed_requests_total', 'counter', 'Requests to backends that failed'],
  fetchedBytes: ['backend_read_bytes_total', 'counter', 'Bytes that backends sent'],
  chunksFetched: ['cache_fetched_chunks_total', 'counter', 'Chunks this daemon has fetched'],
  chunksUncached: ['cache_uncached_chunks_total', 'counter', 'Chunks fetched that no cache file took'],
  chunksFromOthers: ['cache_shared_chunks_total', 'counter', 'Chunks another daemon had fetched meanwhile'],
  badChunks: ['cache_bad_chunks_total', 'counter', 'Chunks that did not decode or verify'],
};

export function prometheusText(daemon: Daemon): string {
  const stats = new StatsView(daemon.stats);
  const store = daemon.images.storeStats;
  const mounts = [...daemon.mounts.list()];
  const inflight = inflightRequests(daemon.stats);
  const ops = Object.entries(OPS);
  const perOpcode = (count: (op: number) => number): Sample[] =>
    ops.map(([opcode, { op }]): Sample => [{ opcode }, count(op)]);
  const kinds = (['Rafs', 'PassthroughFs'] as const).map(
    (type): Sample => [{ type }, mounts.filter(({ kind }) => kind === type).length],
  );
  return [
    metric('info', 'gauge', 'Build of this daemon', [
      [{ version: BUILD_INFO.package_ver, commit: BUILD_INFO.git_commit, node: process.version }, 1],
    ]),
    metric('running', 'gauge', '1 in state RUNNING', [[{}, daemon.state === 'RUNNING' ? 1 : 0]]),
    metric('mounts', 'gauge', 'File systems mounted inside the daemon', kinds),
    metric(
      'requests_total',
      'counter',
      'FUSE requests',
      perOpcode((op) => stats.requests(op)),
    ),
    metric(
      'request_errors_total',
      'counter',
      'FUSE requests answered with an error',
      perOpcode((op) => stats.errors(op)),
    ),
    ...latencies(stats),
    metric(
      'queue_depth',
      'gauge',
      'Requests found in a virtqueue when it was last looked at; queue 0 is hiprio',
      stats.queueDepths().map((depth, queue): Sample => [{ queue: String(queue) }, depth]),
    ),
    metric('inflight_requests', 'gauge', 'Requests not answered yet', [[{}, inflight.length]]),
    metric('inflight_oldest_seconds', 'gauge', 'Age of the oldest request not answered yet', [
      [{}, (inflight[0]?.age_ms ?? 0) / 1000],
    ]),
    ...Object.entries(DEVICE).map(([key, [name, kind, help]]) =>
      metric(name, kind, help, [[{}, stats.get(key as StatName)]]),
    ),
    ...Object.entries(STORE).map(([key, [name, kind, help]]) =>
      metric(name, kind, help, [[{}, store?.[key as keyof StoreStats] ?? 0]]),
    ),
    ...imageMetrics(daemon, mounts),
    metric('log_dropped_lines_total', 'counter', 'Log lines nobody read', [[{}, daemon.log.dropped]]),
  ].join('');
}

/** How far the cache of each image is, and what prefetch did for it. */
function imageMetrics({ images }: Daemon, mounts: readonly Mount[]): string[] {
  const rows = mounts.flatMap(({ path, image }) =>
    image === null
      ? []
      : [{ label: { mountpoint: path }, cached: images.cached(image), progress: images.prefetchProgress(image) }],
  );
  const each = (value: (row: (typeof rows)[number]) => number): Sample[] =>
    rows.map((row): Sample => [row.label, value(row)]);
  return [
    metric(
      'image_chunks',
      'gauge',
      'Chunks of the blobs of an image',
      each(({ cached }) => cached.chunks),
    ),
    metric(
      'image_cached_chunks',
      'gauge',
      'Those in the cache',
      each(({ cached }) => cached.ready),
    ),
    metric(
      'prefetch_running',
      'gauge',
      '1 while an image is fetched ahead',
      each(({ progress }) => (progress?.state === 'running' ? 1 : 0)),
    ),
    metric(
      'prefetch_bytes_total',
      'counter',
      'Stored bytes fetched ahead',
      each(({ progress }) => progress?.bytes ?? 0),
    ),
    metric(
      'prefetch_requests_total',
      'counter',
      'Requests for them',
      each(({ progress }) => progress?.requests ?? 0),
    ),
  ];
}

/** A histogram of each opcode that ever came. */
function latencies(stats: StatsView): string[] {
  const name = 'nydusd_request_duration_seconds';
  const lines = Object.entries(OPS).flatMap(([opcode, { op }]) => {
    const { buckets, sumMs } = stats.latency(op);
    let count = 0;
    const samples = buckets.map((requests, i) => {
      count += requests;
      const bound = LATENCY_BOUNDS_MS[i];
      const le = bound === undefined ? '+Inf' : String(bound / 1000);
      return `${name}_bucket${labelText({ opcode, le })} ${count}\n`;
    });
    if (count === 0) return [];
    const label = labelText({ opcode });
    return [...samples, `${name}_sum${label} ${sumMs / 1000}\n`, `${name}_count${label} ${count}\n`];
  });
  return [
    `# HELP ${name} From taking a request up to its reply, waiting included\n# TYPE ${name} histogram\n`,
    ...lines,
  ];
}

function metric(name: string, kind: Kind, help: string, samples: readonly Sample[]): string {
  const full = `nydusd_${name}`;
  const lines = samples.map(([labels, value]) => `${full}${labelText(labels)} ${value}\n`);
  return `# HELP ${full} ${help}\n# TYPE ${full} ${kind}\n${lines.join('')}`;
}

/** The only escapes the format knows; others cost the scrape. */
const ESCAPES: Readonly<Record<string, string>> = { '\\': '\\\\', '"': '\\"', '\n': '\\n' };

function labelText(labels: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(labels).map(
    ([name, value]) => `${name}="${value.replace(/[\\"\n]/g, (c) => ESCAPES[c] as string)}"`,
  );
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}
