/**
 * Metrics in the shapes of kata-contract 4.5. Counters are written elsewhere (by the device thread into shared memory,
 * by storage into its own); here they only get their names, so that no reader ever waits for a device thread.
 */
import { FileStats } from '../fuse/file-stats.ts';
import { FOPS } from '../fuse/stats-layout.ts';
import { StatsView } from '../fuse/stats-view.ts';
import { ROOT_LOCAL } from '../vfs/node-ids.ts';
import type { Daemon } from './daemon.ts';
import { daemonError } from './errors.ts';
import { isSameName } from './mount-path.ts';
import type { FileAccounting, Mount } from './mounts.ts';

const READ = FOPS.indexOf('READ');
const OPEN = FOPS.indexOf('OPEN');
const RELEASE = FOPS.indexOf('RELEASE');

/**
 * The mount that `id` names (mount point, or the configuration's id, with or without `/`). Without an id the only image,
 * as upstream, which counts nothing for directories; else the only mount.
 */
function pick(daemon: Daemon, id: string | null, wanted: (mount: Mount) => boolean): Mount {
  const mounts = [...daemon.mounts.list()].filter(wanted);
  const images = mounts.filter(isRafs);
  if (id === null && images.length === 1) return images[0]!;
  if (id === null && mounts.length === 1) return mounts[0]!;
  if (id === null) throw daemonError('NO_COUNTER', { id: '' });
  const found =
    mounts.find(({ path }) => isSameName(path, id)) ??
    mounts.find(({ image }) => image !== null && isSameName(image.configId, id));
  if (found === undefined) throw daemonError('NO_COUNTER', { id });
  return found;
}

const isRafs = (mount: Mount): boolean => mount.image !== null;
const any = (): boolean => true;

/** `GET /api/v1/metrics`: what the guest asked of one mount since it was made. */
export function fsMetrics(daemon: Daemon, id: string | null): object {
  const mount = pick(daemon, id, any);
  const counts = new StatsView(daemon.stats).mount(mount.member);
  const accounting = mount.image?.accounting;
  const opened = (counts.hits[OPEN] as number) - (counts.errors[OPEN] as number);
  return {
    files_account_enabled: accounting?.files ?? false,
    access_pattern_enabled: accounting?.pattern ?? false,
    record_latest_read_files_enabled: accounting?.latest ?? false,
    measure_latency: true,
    id: mount.path,
    nr_opens: Math.max(0, opened - (counts.hits[RELEASE] as number)),
    data_read: counts.bytesRead,
    block_count_read: counts.readSizes,
    fop_hits: counts.hits,
    fop_errors: counts.errors,
    fop_cumulative_latency_total: counts.latencyMs.map((ms) => Math.round(ms * 1000)),
    read_latency_dist: counts.readLatencies,
  };
}

/** `GET /api/v1/metrics/files`: by inode number; empty unless the configuration has `iostats_files`. */
export function filesMetrics(daemon: Daemon, id: string | null, query: URLSearchParams): object {
  const accounting = pick(daemon, id, any).image?.accounting ?? null;
  if (query.get('latest') === 'true') return accounting?.latest === true ? latestRead(accounting) : [];
  if (accounting?.files !== true) return {};
  const files = [...new FileStats(accounting.shared).list()].map((file) => [
    inodeOf(accounting, file.node),
    {
      total_fops: file.operations,
      data_read: file.bytesRead,
      block_count_read: file.readSizes,
      fop_hits: file.hits,
      fop_errors: file.errors,
    },
  ]);
  return Object.fromEntries(files);
}

/** Reads of each file at the last `latest=true`, which clears. */
const readBefore = new WeakMap<FileAccounting, Map<number, number>>();

/** Inode numbers of files read since the last call, as ranges: `[first, last]`, or `[inode]`. */
function latestRead(accounting: FileAccounting): number[][] {
  const before = readBefore.get(accounting) ?? new Map<number, number>();
  readBefore.set(accounting, before);
  const inodes: number[] = [];
  for (const { node, reads } of new FileStats(accounting.shared).list()) {
    if (reads > (before.get(node) ?? 0)) inodes.push(inodeOf(accounting, node));
    before.set(node, reads);
  }
  const ranges: number[][] = [];
  for (const inode of inodes.sort((a, b) => a - b)) {
    const range = ranges.at(-1);
    if (range?.at(-1) === inode - 1) range[1] = inode;
    else ranges.push([inode]);
  }
  return ranges;
}

/** `GET /api/v1/metrics/pattern`: which files were read, and when first; empty unless the configuration has `access_pattern`. */
export function pattern(daemon: Daemon, id: string | null): object {
  const accounting = pick(daemon, id, any).image?.accounting ?? null;
  if (accounting?.pattern !== true) return [];
  return [...new FileStats(accounting.shared).list()]
    .filter(({ reads }) => reads > 0)
    .map((file) => ({
      ino: inodeOf(accounting, file.node),
      nr_read: file.reads,
      first_access_time_secs: file.firstSeconds,
      first_access_time_nanos: file.firstNanos,
    }));
}

/** The union calls every root 1: the image's root and its inode 1 change places there (`src/rafs/nodes.ts`). */
function inodeOf({ root }: FileAccounting, node: number): number {
  if (node === ROOT_LOCAL) return root;
  return node === root ? ROOT_LOCAL : node;
}

/** `GET /api/v1/metrics/backend` */
export function backendMetrics(daemon: Daemon, id: string | null): object {
  return daemon.images.backendMetrics(pick(daemon, id, isRafs).image!);
}

/** `GET /api/v1/metrics/blobcache`. Right after a mount it waits for its plan: clients want to see what is fetched ahead. */
export async function blobCacheMetrics(daemon: Daemon, id: string | null): Promise<object> {
  const { image, member } = pick(daemon, id, isRafs);
  await daemon.images.prefetchProgress(image!)?.begun;
  const { hits, misses, partialHits } = new StatsView(daemon.stats).mount(member);
  const total = hits[READ] as number;
  return {
    ...daemon.images.cacheMetrics(image!),
    partial_hits: partialHits,
    whole_hits: Math.max(0, total - misses - partialHits),
    total,
  };
}
