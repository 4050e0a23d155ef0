/**
 * Metrics in the shapes of kata-contract 4.5. Counters are written elsewhere (by the device thread into shared memory,
 * by storage into its own); here they only get their names, so that no reader ever waits for a device thread.
 */
import { OPS } from '../fuse/opcodes.ts';
import { Stats } from '../fuse/stats.ts';
import type { Daemon } from './daemon.ts';
import { daemonError } from './errors.ts';
import type { Mount } from './mounts.ts';

/** Opcodes behind the positions of the file operation arrays: getattr, readlink … forget, batch_forget. */
const FOPS = [
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
/** Buckets of sizes and of latencies. */
const BUCKETS = 8;

const zeros = (count: number): number[] => new Array<number>(count).fill(0);

/**
 * The mount that `id` names (mount point, or the configuration's id, with or without `/`). Without an id the only image,
 * as upstream, which counts nothing for directories; else the only mount.
 */
function pick(daemon: Daemon, id: string | null, wanted: (mount: Mount) => boolean): Mount {
  const mounts = [...daemon.mounts.list()].filter(wanted);
  const images = mounts.filter(isRafs);
  if (id === null && images.length === 1) return images[0]!;
  if (id === null && mounts.length === 1) return mounts[0]!;
  const same = (name: string | undefined): boolean => name !== undefined && bare(name) === bare(id ?? '');
  const found =
    id === null ? undefined : (mounts.find((m) => same(m.path)) ?? mounts.find((m) => same(m.image?.configId)));
  if (found === undefined) throw daemonError('NO_COUNTER', { id: id ?? '' });
  return found;
}

const bare = (name: string): string => (name.startsWith('/') ? name.slice(1) : name);
const isRafs = (mount: Mount): boolean => mount.image !== null;
const any = (): boolean => true;

/** `GET /api/v1/metrics`. The device thread counts for all mounts together: a request costs less than telling them apart. */
export function fsMetrics(daemon: Daemon, id: string | null): object {
  const mount = pick(daemon, id, any);
  const stats = new Stats(daemon.stats);
  const numbers = FOPS.map((name) => OPS[name].op);
  return {
    files_account_enabled: false,
    access_pattern_enabled: false,
    record_latest_read_files_enabled: false,
    measure_latency: false,
    id: mount.path,
    nr_opens: Math.max(0, stats.requests(OPS.OPEN.op) - stats.requests(OPS.RELEASE.op)),
    data_read: stats.get('bytesRead'),
    block_count_read: zeros(BUCKETS),
    fop_hits: numbers.map((op) => stats.requests(op)),
    fop_errors: numbers.map((op) => stats.errors(op)),
    fop_cumulative_latency_total: zeros(FOPS.length),
    read_latency_dist: zeros(BUCKETS),
  };
}

/** `GET /api/v1/metrics/files`: per-file counters are off, as `files_account_enabled` says. */
export function filesMetrics(daemon: Daemon, id: string | null, query: URLSearchParams): object {
  pick(daemon, id, any);
  return query.get('latest') === 'true' ? [] : {};
}

/** `GET /api/v1/metrics/pattern`: access patterns are off, as `access_pattern_enabled` says. */
export function pattern(daemon: Daemon, id: string | null): object {
  pick(daemon, id, any);
  return [];
}

/** `GET /api/v1/metrics/backend` */
export function backendMetrics(daemon: Daemon, id: string | null): object {
  return daemon.images.backendMetrics(pick(daemon, id, isRafs).image!);
}

/** `GET /api/v1/metrics/blobcache` */
export function blobCacheMetrics(daemon: Daemon, id: string | null): object {
  return daemon.images.cacheMetrics(pick(daemon, id, isRafs).image!);
}
