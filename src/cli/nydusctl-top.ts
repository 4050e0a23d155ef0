/**
 * `nydusctl top`: what every mount does right now. On a terminal a screen that is drawn again each interval, elsewhere
 * one plain line a mount and interval, for logs and pipes.
 *
 *   MOUNT                 OPS/S   READ MB/S   FETCH KB/S   HIT   PREFETCH
 *   /rafs/9c1e/lowerdir     412        18.2        940.0   97%   12.0MB@40%
 */
import type { ApiClient } from './nydusctl-client.ts';
import type { BackendMetrics, CacheMetrics, FsMetrics, Info } from './nydusctl-views.ts';

export interface TopOptions {
  intervalMs: number;
  /** Intervals to show; Infinity for no end. */
  count: number;
  /** A JSON object a line. */
  raw: boolean;
  isTerminal: boolean;
  /** False when nobody reads any more. */
  print: (text: string) => boolean;
}

/** Counters of one mount at one moment. */
interface Sample {
  ops: number;
  readBytes: number;
  backend: BackendMetrics | null;
  cache: CacheMetrics | null;
}

/** What one mount did in one interval. */
interface Rates {
  mountpoint: string;
  ops_per_second: number;
  read_bytes_per_second: number;
  fetched_bytes_per_second: number | null;
  /** Share of reads that the cache answered alone; null before the first. */
  hit_ratio: number | null;
  prefetched_bytes: number | null;
  prefetch_done: boolean | null;
  /** `running`, `done` …; null of a daemon that does not say. */
  prefetch_state: string | null;
  prefetch_bytes_per_second: number | null;
  /** Part of the image that is in the cache. */
  cached_ratio: number | null;
}

/** Runs until `count` intervals were shown, or nobody looks any more. @throws RequestFailed when the daemon is gone */
export async function top(client: ApiClient, options: TopOptions): Promise<void> {
  let before = await sampleAll(client);
  let beforeAt = performance.now();
  for (let i = 0; i < options.count; i++) {
    await new Promise((resolve) => setTimeout(resolve, options.intervalMs));
    const now = await sampleAll(client);
    const nowAt = performance.now();
    const seconds = (nowAt - beforeAt) / 1000;
    const rates = [...now].map(([path, sample]) => ratesOf(path, before.get(path) ?? sample, sample, seconds));
    if (!options.print(render(rates, options))) return;
    before = now;
    beforeAt = nowAt;
  }
}

async function sampleAll(client: ApiClient): Promise<Map<string, Sample>> {
  const { backend_collection } = (await client.get('/api/v1/daemon')) as Info;
  const samples = new Map<string, Sample>();
  for (const [path, { backend_type }] of Object.entries(backend_collection ?? {})) {
    const id = `?id=${encodeURIComponent(path)}`;
    // A mount may vanish between the two questions: null then.
    const fs = (await client.find(`/api/v1/metrics${id}`)) as FsMetrics | null;
    const isRafs = backend_type === 'Rafs';
    samples.set(path, {
      ops: (fs?.fop_hits ?? []).reduce((sum, hits) => sum + hits, 0),
      readBytes: fs?.data_read ?? 0,
      backend: isRafs ? ((await client.find(`/api/v1/metrics/backend${id}`)) as BackendMetrics | null) : null,
      cache: isRafs ? ((await client.find(`/api/v1/metrics/blobcache${id}`)) as CacheMetrics | null) : null,
    });
  }
  return samples;
}

function ratesOf(mountpoint: string, before: Sample, now: Sample, seconds: number): Rates {
  const perSecond = (amount: number): number => Math.max(0, amount / seconds);
  const { cache, backend } = now;
  return {
    mountpoint,
    ops_per_second: perSecond(now.ops - before.ops),
    read_bytes_per_second: perSecond(now.readBytes - before.readBytes),
    fetched_bytes_per_second:
      backend === null ? null : perSecond(backend.read_amount_total - (before.backend?.read_amount_total ?? 0)),
    hit_ratio: cache === null || cache.total === 0 ? null : cache.whole_hits / cache.total,
    prefetched_bytes: cache?.prefetch_data_amount ?? null,
    prefetch_done: cache?.data_all_ready ?? null,
    prefetch_state: cache?.prefetch_state ?? null,
    prefetch_bytes_per_second: cache?.prefetch_bytes_per_second ?? null,
    cached_ratio: cachedRatio(cache),
  };
}

function cachedRatio(cache: CacheMetrics | null): number | null {
  if (cache?.chunks_total === undefined || cache.chunks_ready === undefined) return null;
  return cache.chunks_total === 0 ? 1 : cache.chunks_ready / cache.chunks_total;
}

const CLEAR = '\x1b[H\x1b[2J';
const KIB = 1024;
const MIB = KIB * 1024;
const HEAD = ['OPS/S', 'READ MB/S', 'FETCH KB/S', 'HIT', 'PREFETCH'];
const CELL_COLUMNS = 12;

function render(rates: readonly Rates[], { raw, isTerminal }: TopOptions): string {
  const time = new Date().toISOString();
  if (raw) return `${JSON.stringify({ time, mounts: rates })}\n`;
  if (isTerminal) {
    const width = Math.max(5, ...rates.map(({ mountpoint }) => mountpoint.length));
    const rows = [['MOUNT', ...HEAD], ...rates.map((rate) => [rate.mountpoint, ...cells(rate)])];
    const lines = rows.map(
      ([name, ...rest]) => name!.padEnd(width) + rest.map((c) => c.padStart(CELL_COLUMNS)).join(''),
    );
    return `${CLEAR}nydusd  ${time}\n\n${lines.join('\n')}\n`;
  }
  if (rates.length === 0) return `${time} no mounts\n`;
  return rates
    .map((rate) => {
      const [ops, read, fetched, hit, prefetch] = cells(rate);
      return `${time} ${rate.mountpoint} ops/s=${ops} read=${read}MB/s fetch=${fetched}KB/s hit=${hit} prefetch=${prefetch}\n`;
    })
    .join('');
}

function cells(rate: Rates): string[] {
  const fetched = rate.fetched_bytes_per_second;
  return [
    rate.ops_per_second.toFixed(0),
    (rate.read_bytes_per_second / MIB).toFixed(1),
    fetched === null ? '-' : (fetched / KIB).toFixed(1),
    rate.hit_ratio === null ? '-' : `${Math.floor(rate.hit_ratio * 100)}%`,
    prefetchCell(rate),
  ];
}

/** All, or how much prefetch brought; while it runs, how much of the image is there. */
function prefetchCell({ prefetched_bytes: bytes, prefetch_done, prefetch_state, cached_ratio }: Rates): string {
  if (bytes === null) return '-';
  if (prefetch_done) return 'all';
  const amount = `${(bytes / MIB).toFixed(1)}MB`;
  return prefetch_state === 'running' && cached_ratio !== null
    ? `${amount}@${Math.floor(cached_ratio * 100)}%`
    : amount;
}
