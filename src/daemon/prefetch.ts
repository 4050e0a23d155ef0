/**
 * What is fetched for an image before anybody reads it, and in which order. Loaded with the first image whose
 * configuration or mount request asks for it; a mount is answered before.
 */
import type { Logger } from '../common/log.ts';
import type { OpenedImage as Bootstrap } from '../rafs/open-image.ts';
import type { StorageConfig } from '../storage/config.ts';
import { Prefetch, type PrefetchItem } from '../storage/prefetch.ts';
import type { BlobStore } from '../storage/store.ts';

/** An open image as prefetch uses it. */
export interface PrefetchedImage {
  bootstrap: Bootstrap;
  config: StorageConfig;
  /** In the order of the image's blob table. */
  handles: readonly number[];
}

/** Starts what the configuration asks for. */
export function prefetchImage(image: PrefetchedImage, store: BlobStore, log: Logger): Prefetch {
  const { threads, mergingBytes, bandwidthBytesPerSecond } = image.config.prefetch;
  return new Prefetch(
    () => itemsOf(image),
    (handle) => store.prefetchTarget(handle),
    { threads, mergingBytes, bytesPerSecond: bandwidthBytesPerSecond, workDir: image.config.cache?.workDir ?? null },
    log,
  );
}

function* itemsOf({ config, handles }: PrefetchedImage): Generator<PrefetchItem> {
  if (!config.prefetch.prefetchAll) return;
  for (const handle of handles) yield { handle, chunks: 'all' };
}
