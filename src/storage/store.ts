/**
 * All open blobs of a process. The one class of this room its users see: open at mount, fetch what is missing, close
 * at umount. Blobs and backends that several mounts name alike are opened once and counted.
 */
import { explain } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import { checkBackend, checkBlobId } from './backend.ts';
import { Blob } from './blob.ts';
import { CacheFiles } from './cache/cache-files.ts';
import { CacheKeeper } from './cache/cache-keeper.ts';
import type { BlobFiles } from './cache/chunk-cache.ts';
import { NoFiles } from './cache/no-files.ts';
import { PrivateFiles } from './cache/private-files.ts';
import { Spill } from './cache/spill.ts';
import type { BackendConfig, CacheConfig, StorageConfig } from './config/config.ts';
import { keyOf } from './config/config-key.ts';
import { hasNoDigests, isUnnumbered } from './described-chunks.ts';
import { storageError } from './errors.ts';
import type { Gate } from './gate.ts';
import { BlobPrefetch } from './prefetch/blob-prefetch.ts';
import { DEMAND_POLICY, type RetryPolicy } from './retry.ts';
import { type SharedBackend, SharedBackends } from './shared-backends.ts';
import { type BackendReads, newStats, type StoreStats } from './stats.ts';
import { checkBlobInfo } from './tables/blob-info-rules.ts';
import { chunkDataBytes, FEATURE } from './tables/blob-layout.ts';
import type { BlobHandle, BlobInfo, ChunkDigests, WantedChunk } from './types.ts';

interface SharedBlob {
  key: string;
  blob: Blob;
  users: number;
  backend: SharedBackend;
}

interface Opened {
  shared: SharedBlob;
  digests: ChunkDigests;
}

/** An open blob as prefetch sees it. */
export interface PrefetchTarget {
  behind: BlobPrefetch;
  digests: ChunkDigests;
  gate: Gate;
}

export class BlobStore {
  readonly stats: StoreStats = newStats();
  private readonly opened = new Map<number, Opened>();
  private readonly blobs = new Map<string, SharedBlob>();
  private readonly backends: SharedBackends;
  private readonly closing = new Set<Promise<void>>();
  private readonly spill = new Spill();
  private readonly keepers = new Map<string, CacheKeeper>();
  private nextHandle = 1;

  /** @param policy of requests that a reader waits for */
  constructor(
    private readonly log: Logger,
    policy: RetryPolicy = DEMAND_POLICY,
  ) {
    this.backends = new SharedBackends(policy, this.stats, log);
  }

  /**
   * Opens a blob for one mount: no network, no waiting. Without a cache directory, or with one that cannot be written,
   * what is missing is served uncached.
   * @param digests asked for on the main thread until `closeBlob`, when `config.validate` is set
   * @throws UNSUPPORTED for kinds of blobs and backends not built yet, CONFIG, BLOB_META
   */
  openBlob(info: BlobInfo, digests: ChunkDigests, config: StorageConfig): BlobHandle {
    checkBlobId(info.id);
    checkBlobInfo(info);
    checkBackend(config.backend);
    const shared = this.share(info, config);
    shared.users++;
    const handle = this.nextHandle++;
    const whileOpen: ChunkDigests = (chunk) => {
      // Its image's files are closed, and their numbers others'; the blob may still be fetching what this mount asked for.
      if (!this.opened.has(handle)) throw storageError('GIVEN_UP', { blobId: info.id });
      return digests(chunk);
    };
    this.opened.set(handle, { shared, digests: whileOpen });
    const { files, spill, placed } = shared.blob;
    const { chunkCount, uncompressedSize } = info;
    return {
      handle,
      dataFd: files.dataFd,
      ready: files.ready,
      spill: spill.handle,
      places: placed.places.shared,
      chunkCount,
      uncompressedSize,
    };
  }

  /** Begins to bring what the first fetch from an open blob would wait for. No promise, no error. */
  prepare(handle: number): void {
    this.opened.get(handle)?.shared.blob.prepare();
  }

  /** Readers of an open blob wait for `known` before they ask for themselves: see `Prefetch.planned`. Must not reject. */
  awaitPlan(handle: number, known: Promise<void>): void {
    this.opened.get(handle)?.shared.blob.awaitPlan(known);
  }

  /** Brings chunks of an open blob into its cache file. @throws CLOSED, and what `Blob.fetch` throws */
  async fetch(handle: number, wanted: readonly WantedChunk[]): Promise<void> {
    const opened = this.opened.get(handle);
    if (opened === undefined) throw storageError('CLOSED', { blobId: `(handle ${handle})` });
    await opened.shared.blob.fetch(wanted, opened.digests);
  }

  /**
   * Ends one mount's use. The device thread must not touch `dataFd` any more. Fetches of the last user are aborted;
   * descriptors close when they have ended.
   */
  closeBlob(handle: number): void {
    const opened = this.opened.get(handle);
    if (opened === undefined) return;
    this.opened.delete(handle);
    const { shared } = opened;
    if (--shared.users > 0) return;
    this.blobs.delete(shared.key);
    const closing = shared.blob
      .close()
      .catch((error: unknown) => this.log.warn(`closing blob ${shared.blob.info.id}: ${explain(error)}`))
      .then(() => this.backends.release(shared.backend));
    this.closing.add(closing);
    void closing.finally(() => this.closing.delete(closing));
  }

  /** Chunks of an open blob that are in the cache; 0 when it is closed. */
  chunksReady(handle: number): number {
    return this.opened.get(handle)?.shared.blob.files.map.countCached() ?? 0;
  }

  /** What prefetch, on behalf of `owner`, needs to know of an open blob; undefined when it is closed. */
  prefetchTarget(handle: number, owner: object): PrefetchTarget | undefined {
    const opened = this.opened.get(handle);
    if (opened === undefined) return undefined;
    const { blob, backend } = opened.shared;
    return { behind: new BlobPrefetch(blob, owner), digests: opened.digests, gate: backend.gate };
  }

  /** What the backend of an open blob was asked so far; undefined when it is closed. Blobs of one backend share it. */
  backendReads(handle: number): Readonly<BackendReads> | undefined {
    return this.opened.get(handle)?.shared.backend.reads;
  }

  /** Configuration of the backend of an open blob, which mounts of the same configuration share; undefined when closed. */
  backendConfig(handle: number): BackendConfig | undefined {
    return this.opened.get(handle)?.shared.backend.config;
  }

  /** Closes everything and waits for it. */
  async close(): Promise<void> {
    for (const handle of [...this.opened.keys()]) this.closeBlob(handle);
    await Promise.all(this.closing);
    await Promise.all([...this.keepers.values()].map((keeper) => keeper.close()));
  }

  private share(info: BlobInfo, config: StorageConfig): SharedBlob {
    const { index: _, ...rest } = info;
    // What one image says of the chunks of a blob must not bind another: each mount has the blob for itself.
    const mount = info.described === true || isUnnumbered(info) ? this.nextHandle : 0;
    const key = keyOf([rest, config.cache, config.backend, config.validate, config.amplifyIoBytes, mount]);
    const known = this.blobs.get(key);
    if (known !== undefined) return known;
    const validate = config.validate && !hasNoDigests(info);
    const files = filesOf(info, config.cache, validate);
    if (validate !== config.validate) this.log.warn(`blob ${info.id} has no digests: served unverified`);
    else if (validate && info.features & FEATURE.EXTERNAL) {
      this.log.warn(`blob ${info.id} is external: chunks without CRC are served unverified`);
    }
    const backend = this.backends.share(config.backend);
    const keeper = this.keeperOf(config.cache);
    const options = { validate, amplifyIoBytes: config.amplifyIoBytes, keeper };
    const spill = this.spill.open(info.chunkCount);
    const reads = this.backends.readersOf(info, backend);
    const blob = new Blob(info, files, spill, options, reads, this.stats, this.log);
    const shared = { key, blob, users: 0, backend };
    this.blobs.set(key, shared);
    return shared;
  }

  private keeperOf(cache: CacheConfig | null): CacheKeeper | null {
    if (cache === null || cache.limits === null) return null;
    const key = keyOf([cache.workDir, cache.limits]);
    let keeper = this.keepers.get(key);
    if (keeper === undefined) {
      keeper = new CacheKeeper(cache.workDir, cache.limits, this.log);
      this.keepers.set(key, keeper);
    }
    return keeper;
  }
}

function filesOf(info: BlobInfo, cache: CacheConfig | null, validate: boolean): BlobFiles {
  if (cache === null) return new NoFiles(info.chunkCount);
  const { workDir } = cache;
  if (isUnnumbered(info) || cache.isUnindexed) return new PrivateFiles(workDir, info.id, info.chunkCount);
  // Old images do not know how long their blobs are.
  const isRaw = cache.isCompressed && info.compressedSize !== 0;
  const fileBytes = isRaw ? chunkDataBytes(info) : info.uncompressedSize;
  return new CacheFiles(workDir, info.id, { chunkCount: info.chunkCount, isRaw, fileBytes, validate });
}
