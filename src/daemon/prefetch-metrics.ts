/** What `GET /api/v1/metrics/blobcache` says of prefetch: the contract's members (kata-contract 4.5), then our own. */
import type { PrefetchProgress } from '../storage/prefetch/prefetch.ts';

/** Chunks of an image's blobs. */
export interface Cached {
  chunks: number;
  ready: number;
}

/** @param progress null when nothing was to be fetched ahead */
export function prefetchMetrics(progress: PrefetchProgress | null, { chunks, ready }: Cached): object {
  const beganAtMs = progress?.beganAtMs ?? 0;
  const endedAtMs = progress?.endedAtMs ?? 0;
  const lastedMs = (endedAtMs || Date.now()) - beganAtMs;
  const bytes = progress?.bytes ?? 0;
  return {
    prefetch_data_amount: bytes,
    prefetch_requests_count: progress?.requests ?? 0,
    prefetch_workers: progress?.state === 'running' ? progress.workers : 0,
    prefetch_unmerged_chunks: 0,
    prefetch_cumulative_time_millis: Math.round(progress?.requestMs ?? 0),
    prefetch_begin_time_secs: Math.floor(beganAtMs / 1000),
    prefetch_begin_time_millis: beganAtMs % 1000,
    prefetch_end_time_secs: Math.floor(endedAtMs / 1000),
    prefetch_end_time_millis: endedAtMs % 1000,
    data_all_ready: ready === chunks,
    prefetch_state: progress?.state ?? 'off',
    prefetch_bytes_per_second: lastedMs > 0 ? Math.round((bytes / lastedMs) * 1000) : 0,
    chunks_total: chunks,
    chunks_ready: ready,
  };
}
