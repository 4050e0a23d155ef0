/**
 * What `nydusctl` shows of the daemon's JSON: one pure function a view (kata-contract 6.1). Every division is guarded:
 * a daemon that has done nothing yet shows zeros.
 */
import { FOP_NAMES, SIZE_BUCKETS } from '../daemon/metrics-shape.ts';

export interface Info {
  version: { package_ver: string; git_commit: string; profile: string };
  state: string;
  backend_collection: Record<string, Instance> | null;
}
interface Instance {
  backend_type: string;
  mountpoint: string;
  mounted_time: string;
  config: { rafs?: { mode: string; prefetch: { enable: boolean; batch_size: number } } } | null;
}

export interface BackendMetrics {
  backend_type: string;
  read_count: number;
  read_errors: number;
  read_amount_total: number;
  read_cumulative_latency_millis_total: number;
  read_cumulative_latency_millis_dist: number[];
  read_count_block_size_dist: number[];
}

export interface CacheMetrics {
  underlying_files: string[];
  store_path: string;
  partial_hits: number;
  whole_hits: number;
  total: number;
  prefetch_data_amount: number;
  prefetch_requests_count: number;
  prefetch_workers: number;
  prefetch_unmerged_chunks: number;
  prefetch_cumulative_time_millis: number;
  prefetch_begin_time_secs: number;
  prefetch_begin_time_millis: number;
  prefetch_end_time_secs: number;
  prefetch_end_time_millis: number;
  buffered_backend_size: number;
  data_all_ready: boolean;
  /** Ours, from here on. */
  prefetch_state?: string;
  prefetch_bytes_per_second?: number;
  chunks_total?: number;
  chunks_ready?: number;
}

export interface FsMetrics {
  id: string;
  data_read: number;
  fop_hits: number[];
  fop_errors: number[];
  read_latency_dist: number[];
}

const KIB = 1024;
const MIB = 1024 * 1024;
const LABEL_COLUMNS = 28;
const CELL_COLUMNS = 9;

const line = (label: string, value: unknown): string => `${`${label}:`.padEnd(LABEL_COLUMNS)}${value}\n`;
const per = (amount: number, count: number): number => (count === 0 ? 0 : amount / count);
const rounded = (value: number): string => String(Math.round(value * 100) / 100);
const row = (label: string, cells: readonly unknown[]): string =>
  `${label.padEnd(LABEL_COLUMNS)}${cells.map((cell) => String(cell).padEnd(CELL_COLUMNS)).join('')}`.trimEnd();

export function infoView(info: Info): string {
  const { version } = info;
  const head = [
    line('Version', JSON.stringify(version.package_ver)),
    line('Status', JSON.stringify(info.state)),
    line('Profile', JSON.stringify(version.profile)),
    line('Commit', JSON.stringify(version.git_commit)),
  ];
  const instances = Object.values(info.backend_collection ?? {}).map((instance) =>
    [
      line('\tInstance Mountpoint', instance.mountpoint),
      line('\tType', instance.backend_type),
      line('\tMounted Time', instance.mounted_time),
      ...(instance.config?.rafs === undefined
        ? []
        : [
            line('\tMode', instance.config.rafs.mode),
            line('\tPrefetch', instance.config.rafs.prefetch.enable),
            line('\tPrefetch Merging Size', instance.config.rafs.prefetch.batch_size),
          ]),
    ].join(''),
  );
  return [...head, ...(instances.length === 0 ? [] : ['Instances:\n', instances.join('\n')])].join('');
}

export function backendView(m: BackendMetrics): string {
  const latencies = m.read_cumulative_latency_millis_dist.map((ms, i) =>
    rounded(per(ms, m.read_count_block_size_dist[i] ?? 0)),
  );
  return [
    line('Backend Type', JSON.stringify(m.backend_type)),
    line('Read Amount', `${m.read_amount_total} Bytes (${rounded(m.read_amount_total / MIB)} MB)`),
    line('Read Count', m.read_count),
    line('Read Errors', m.read_errors),
    '\n',
    `${row('Block Sizes:', SIZE_BUCKETS)}\n`,
    `${row('Average Latency(millis):', latencies)}\n`,
    `${row('Request Count:', m.read_count_block_size_dist)}\n`,
  ].join('');
}

/** What happened between two answers that lie `intervalMs` apart. */
export function backendRates(before: BackendMetrics, now: BackendMetrics, intervalMs: number): string {
  const bytes = now.read_amount_total - before.read_amount_total;
  const count = now.read_count - before.read_count;
  const ms = now.read_cumulative_latency_millis_total - before.read_cumulative_latency_millis_total;
  const latencies = now.read_cumulative_latency_millis_dist.map((total, i) => {
    const requests = (now.read_count_block_size_dist[i] ?? 0) - (before.read_count_block_size_dist[i] ?? 0);
    return rounded(per(total - (before.read_cumulative_latency_millis_dist[i] ?? 0), requests));
  });
  return [
    line('Backend Read Bandwidth', `${rounded(bytes / KIB / (intervalMs / 1000))} KB/S`),
    line('Backend Average IO Size', `${Math.round(per(bytes, count))} Bytes`),
    line('Backend Average Latency', `${rounded(per(ms, count))} millis`),
    `${row('Block Sizes:', SIZE_BUCKETS)}\n`,
    `${row('Average Latency(millis):', latencies)}\n\n`,
  ].join('');
}

export function cacheView(m: CacheMetrics): string {
  const seconds =
    m.prefetch_end_time_secs -
    m.prefetch_begin_time_secs +
    (m.prefetch_end_time_millis - m.prefetch_begin_time_millis) / 1000;
  // Begun and not ended yet: the end still is 0.
  const durationS = Math.max(0, seconds);
  return [
    line('Partial Hits', m.partial_hits),
    line('Whole Hits', m.whole_hits),
    line('Total Read', m.total),
    line('Directory', JSON.stringify(m.store_path)),
    line('Files', JSON.stringify(m.underlying_files)),
    line('Persister Buffer', m.buffered_backend_size),
    '\n',
    line('Prefetch Workers', m.prefetch_workers),
    line('Prefetch Amount', `${m.prefetch_data_amount} = ${rounded(m.prefetch_data_amount / KIB)} KB`),
    line('Prefetch Requests', m.prefetch_requests_count),
    line('Prefetch Average Size', `${Math.round(per(m.prefetch_data_amount, m.prefetch_requests_count))} Bytes`),
    line('Prefetch Duration', `${rounded(durationS)} Seconds`),
    line('Prefetch Bandwidth', `${rounded(per(m.prefetch_data_amount / MIB, durationS))} MB/S`),
    line(
      'Prefetch Request Latency',
      `${rounded(per(m.prefetch_cumulative_time_millis / 1000, m.prefetch_requests_count))} Seconds`,
    ),
    line('Prefetch Unmerged', m.prefetch_unmerged_chunks),
    ...(m.prefetch_state === undefined ? [] : [line('Prefetch State', m.prefetch_state)]),
    ...(m.chunks_total === undefined ? [] : [line('Cached Chunks', `${m.chunks_ready ?? 0} of ${m.chunks_total}`)]),
  ].join('');
}

/** Upper ends of the buckets of `read_latency_dist`. */
const LATENCIES = ['<=200us', '<=1ms', '<=20ms', '<=50ms', '<=500ms', '<=1s', '<=2s', '>2s'];
const READ = FOP_NAMES.indexOf('read');

export function fsView(m: FsMetrics): string {
  return [
    `${row('Read Latency:', LATENCIES)}\n`,
    `${row('Reads Count:', m.read_latency_dist)}\n`,
    '\n',
    line('Read Errors', m.fop_errors[READ]),
    line('Read Data', `${m.data_read} Bytes (${rounded(m.data_read / MIB)} MB)`),
    '\n',
    'FOP Counters:\n',
    ...FOP_NAMES.map((name, i) => line(`  ${name}`, m.fop_hits[i] ?? 0)),
  ].join('');
}
