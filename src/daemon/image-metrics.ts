/** Backend and cache of one image in the shapes of kata-contract 4.5. */
import { basename } from 'node:path';
import type { OpenedImage as Bootstrap } from '../rafs/open-image.ts';
import type { BackendKind, CacheConfig } from '../storage/config/config.ts';
import type { PrefetchProgress } from '../storage/prefetch/prefetch.ts';
import type { BackendReads } from '../storage/stats.ts';
import { SIZE_BUCKETS } from './metrics-shape.ts';

/** Chunks of an image's blobs. */
export interface Cached {
  chunks: number;
  ready: number;
}

/** @param reads undefined when nothing was ever read */
export function backendMetrics(kind: BackendKind | '', reads: Readonly<BackendReads> | undefined): object {
  const buckets = (values: Float64Array | undefined) =>
    Array.from(values ?? new Float64Array(SIZE_BUCKETS.length), Math.round);
  return {
    backend_type: kind,
    read_count: reads?.count ?? 0,
    read_errors: reads?.errors ?? 0,
    read_amount_total: reads?.bytes ?? 0,
    read_cumulative_latency_millis_total: Math.round(reads?.latencyMs ?? 0),
    read_cumulative_latency_millis_dist: buckets(reads?.latencyMsBySize),
    read_count_block_size_dist: buckets(reads?.countBySize),
    read_latency_sizes_dist: SIZE_BUCKETS.map((_, size) => buckets(reads?.countBySizeAndLatency[size])),
  };
}

/**
 * The snapshotter's garbage collection reads `underlying_files`.
 * @param progress null when nothing was to be fetched ahead
 */
export function cacheMetrics(
  cache: CacheConfig | null,
  { blobs, verifiable }: Pick<Bootstrap, 'blobs' | 'verifiable'>,
  progress: PrefetchProgress | null,
  cached: Cached,
): object {
  const ending = cache?.isCompressed === true ? 'raw' : 'data';
  return {
    underlying_files: blobs.map(({ id }) => basename(`${id}.blob.${ending}`)),
    store_path: cache?.workDir ?? '',
    entries_count: cached.ready,
    buffered_backend_size: 0,
    ...prefetchMetrics(progress, cached),
    // Ours: the image has no digests, so that nothing could be validated.
    unverified: !verifiable,
  };
}

/** The contract's members, then our own. */
function prefetchMetrics(progress: PrefetchProgress | null, { chunks, ready }: Cached): object {
  const beganAtMs = progress?.beganAtMs ?? 0;
  const endedAtMs = progress?.endedAtMs ?? 0;
  const lastedMs = (endedAtMs || Date.now()) - beganAtMs;
  const bytes = progress?.bytes ?? 0;
  // Of a dictionary's chunks some are in no file of the image, and are never fetched.
  const hasAllOfFiles = progress?.isWhole === true && progress.state === 'done';
  return {
    // As upstream, which counts what it asks for: clients look soon after the mount.
    prefetch_data_amount: bytes + (progress?.underWayBytes ?? 0),
    prefetch_requests_count: progress?.requests ?? 0,
    prefetch_workers: progress?.state === 'running' ? progress.workers : 0,
    prefetch_unmerged_chunks: 0,
    prefetch_cumulative_time_millis: Math.round(progress?.requestMs ?? 0),
    prefetch_begin_time_secs: Math.floor(beganAtMs / 1000),
    prefetch_begin_time_millis: beganAtMs % 1000,
    prefetch_end_time_secs: Math.floor(endedAtMs / 1000),
    prefetch_end_time_millis: endedAtMs % 1000,
    data_all_ready: hasAllOfFiles || ready === chunks,
    prefetch_state: progress?.state ?? 'off',
    prefetch_bytes_per_second: lastedMs > 0 ? Math.round((bytes / lastedMs) * 1000) : 0,
    chunks_total: chunks,
    chunks_ready: ready,
  };
}
