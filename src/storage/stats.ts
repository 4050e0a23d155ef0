/** Counters of a blob store since it was made; plain numbers, read at any time. */
export interface StoreStats {
  /** Ranged requests made to backends, retries included, and the bytes they brought. */
  requests: number;
  fetchedBytes: number;
  /** Requests that failed (each attempt). */
  failedRequests: number;
  /** Chunks this process has put into the cache. */
  chunksFetched: number;
  /** Chunks that another process had ready when this one looked again. */
  chunksFromOthers: number;
  /** Chunks whose bytes did not decode or verify. */
  badChunks: number;
}

export function newStats(): StoreStats {
  return { requests: 0, fetchedBytes: 0, failedRequests: 0, chunksFetched: 0, chunksFromOthers: 0, badChunks: 0 };
}
