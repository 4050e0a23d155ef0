/**
 * All open blobs of a process. The one class of this room its users see: open at mount, fetch what is missing, close
 * at umount. Blobs and backends that several mounts name alike are opened once and counted.
 */
import { createHash } from 'node:crypto';
import { explain } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import { type Backend, checkBackend, checkBlobId, hostOf, openBackend, type Sink } from './backend.ts';
import { Blob, type BlobReads } from './blob.ts';
import { CacheFiles } from './cache/cache-files.ts';
import { CacheKeeper } from './cache/cache-keeper.ts';
import type { BlobFiles } from './cache/chunk-cache.ts';
import { NoFiles } from './cache/no-files.ts';
import { PrivateFiles } from './cache/private-files.ts';
import { Spill } from './cache/spill.ts';
import { cipherOf } from './codecs/cipher.ts';
import type { BackendConfig, CacheConfig, StorageConfig } from './config/config.ts';
import { Secret } from './config/secret.ts';
import { hasNoDigests, isUnnumbered } from './described-chunks.ts';
import { storageError } from './errors.ts';
import { Gate, type Rank } from './gate.ts';
import { BlobPrefetch } from './prefetch/blob-prefetch.ts';
import { DEMAND_POLICY, type RetryPolicy, retryAfterMs, withRetry } from './retry.ts';
import { BackendReads, newStats, type StoreStats } from './stats.ts';
import { ciBytesMax } from './tables/blob-contexts.ts';
import {
  CHUNKS_PER_BLOB_MAX,
  checkFeatures,
  chunkDataBytes,
  chunkInfoBytes,
  DIGEST_BYTES,
  FEATURE,
  hasChunkTable,
  UNCOMPRESSED_BLOB_BYTES_MAX,
} from './tables/blob-layout.ts';
import { TABLE_BYTES_MAX } from './tables/blob-meta-rules.ts';
import type { ReadRange } from './tables/blob-tables.ts';
import type { BlobHandle, BlobInfo, ChunkDigests, WantedChunk } from './types.ts';

/**
 * Requests to one host at a time, over all mounts and images: below the connections of `http.ts`, so that none waits
 * for a socket, and what a registry takes from one client without calling it abuse.
 */
export const HOST_REQUESTS_MAX = 12;

interface SharedBlob {
  key: string;
  blob: Blob;
  users: number;
  backend: SharedBackend;
}

interface SharedBackend {
  key: string;
  config: BackendConfig;
  opening: Promise<Backend> | null;
  /** Shared by all backends of one host. */
  gate: Gate;
  reads: BackendReads;
  users: number;
}

/** One request. */
interface Asked {
  offset: number;
  bytes: number;
  sink: Sink | undefined;
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
  private readonly backends = new Map<string, SharedBackend>();
  private readonly gates = new Map<string, Gate>();
  private readonly closing = new Set<Promise<void>>();
  private readonly spill = new Spill();
  private readonly keepers = new Map<string, CacheKeeper>();
  private nextHandle = 1;

  /** @param policy of requests that a reader waits for */
  constructor(
    private readonly log: Logger,
    private readonly policy: RetryPolicy = DEMAND_POLICY,
  ) {}

  /**
   * Opens a blob for one mount: no network, no waiting. Without a cache directory, or with one that cannot be written,
   * what is missing is served uncached.
   * @param digests asked for on the main thread while the blob is open, when `config.validate` is set
   * @throws UNSUPPORTED for kinds of blobs and backends not built yet, CONFIG, BLOB_META
   */
  openBlob(info: BlobInfo, digests: ChunkDigests, config: StorageConfig): BlobHandle {
    checkBlobId(info.id);
    checkBlob(info);
    checkBackend(config.backend);
    const shared = this.share(info, config);
    shared.users++;
    const handle = this.nextHandle++;
    this.opened.set(handle, { shared, digests });
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
      .then(() => this.releaseBackend(shared.backend));
    this.closing.add(closing);
    void closing.finally(() => this.closing.delete(closing));
  }

  /** Chunks of an open blob that are in the cache; 0 when it is closed. */
  chunksReady(handle: number): number {
    return this.opened.get(handle)?.shared.blob.files.map.countReady() ?? 0;
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

  /** Files of open blobs in the cache, for the `underlying_files` metric. */
  underlyingFiles(): string[] {
    return [...this.blobs.values()].map(({ blob }) => blob.files.dataPath).filter((path) => path !== '');
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
    const backend = this.shareBackend(config.backend);
    const reads: BlobReads = {
      demand: this.reader(info.id, backend),
      soon: this.readerOnce(info.id, backend, 'soon'),
      behind: this.readerOnce(info.id, backend, 'behind'),
      meta: this.reader(metaObjectId(info), backend),
      metaAhead: this.readerOnce(metaObjectId(info), backend, 'soon'),
      doubt: () => void backend.opening?.then((opened) => opened.doubt?.()),
    };
    const keeper = this.keeperOf(config.cache);
    const options = { validate, amplifyIoBytes: config.amplifyIoBytes, keeper };
    const spill = this.spill.open(info.chunkCount);
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

  private shareBackend(config: BackendConfig): SharedBackend {
    const key = keyOf(config);
    let shared = this.backends.get(key);
    if (shared === undefined) {
      shared = { key, config, opening: null, gate: this.gateOf(hostOf(config)), reads: new BackendReads(), users: 0 };
      this.backends.set(key, shared);
    }
    shared.users++;
    return shared;
  }

  private gateOf(host: string): Gate {
    const gate = this.gates.get(host) ?? new Gate(HOST_REQUESTS_MAX);
    this.gates.set(host, gate);
    return gate;
  }

  private releaseBackend(shared: SharedBackend): void {
    if (--shared.users > 0) return;
    this.backends.delete(shared.key);
    const isLast = [...this.backends.values()].every(({ gate }) => gate !== shared.gate);
    if (isLast) this.gates.delete(hostOf(shared.config));
    shared.opening?.then((backend) => backend.close()).catch(() => {});
  }

  /** Opened by the first read: its modules are not loaded for a cache that is complete. */
  private backendOf(shared: SharedBackend): Promise<Backend> {
    if (shared.opening === null) {
      shared.opening = openBackend(shared.config, this.log);
      shared.opening.catch(() => {
        shared.opening = null;
      });
    }
    return shared.opening;
  }

  private reader(blobId: string, shared: SharedBackend): ReadRange {
    const policy = policyOf(this.policy, shared.config);
    return (offset, bytes, signal, sink) => {
      // What a failed attempt has brought is not asked for again.
      let done = 0;
      const what = `${bytes} bytes at ${offset} of blob ${blobId} from ${hostOf(shared.config)}`;
      return withRetry(policy, what, signal, (attemptSignal) =>
        shared.gate.run(attemptSignal, () => {
          // A body that went on behind its end.
          if (done >= bytes) done = 0;
          const rest = { offset: offset + done, bytes: bytes - done, sink: sink && restOf(sink, done) };
          return this.readOnce(blobId, shared, rest, attemptSignal);
        }),
      );

      function restOf(whole: Sink, from: number): Sink {
        return {
          buffer: whole.buffer.subarray(from),
          arrived: (count) => {
            done = from + count;
            return whole.arrived(done);
          },
        };
      }
    };
  }

  /** For prefetch, whose ranges come again in another pass. */
  private readerOnce(blobId: string, shared: SharedBackend, rank: Rank): ReadRange {
    return (offset, bytes, signal, sink) =>
      shared.gate.run(signal, () => this.readOnce(blobId, shared, { offset, bytes, sink }, signal), rank);
  }

  /** One request, counted. */
  private async readOnce(blobId: string, shared: SharedBackend, asked: Asked, signal: AbortSignal): Promise<Buffer> {
    const backend = await this.backendOf(shared);
    this.stats.requests++;
    const startedAt = performance.now();
    try {
      const got = await backend.read(blobId, asked.offset, asked.bytes, signal, asked.sink);
      this.stats.fetchedBytes += asked.bytes;
      shared.reads.succeeded(asked.bytes, performance.now() - startedAt);
      return got;
    } catch (error) {
      this.stats.failedRequests++;
      shared.reads.failed();
      const restMs = retryAfterMs(error);
      if (restMs > 0) shared.gate.rest(restMs);
      if (!signal.aborted) this.log.debug(`blob ${blobId} at ${backend.where}: ${explain(error)}`);
      throw error;
    }
  }
}

/**
 * `retry_limit` can only ask for more tries: snapshotters write 0 or 1 there, and the reference makes its own four all
 * the same. The deadline bounds them.
 */
function policyOf(policy: RetryPolicy, config: BackendConfig): RetryPolicy {
  const wanted = 'retryLimit' in config ? config.retryLimit + 1 : 0;
  return wanted > policy.attempts ? { ...policy, attempts: wanted } : policy;
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

function checkBlob(info: BlobInfo): void {
  checkFeatures(info.id, info.features);
  cipherOf(info);
  checkBlobId(metaObjectId(info));
  const refuse = (rule: string) => storageError('BLOB_META', { blobId: info.id, rule });
  if (!isCount(info.chunkCount, CHUNKS_PER_BLOB_MAX)) throw refuse(`${info.chunkCount} chunks`);
  if (!isCount(info.uncompressedSize, UNCOMPRESSED_BLOB_BYTES_MAX)) throw refuse(`${info.uncompressedSize} bytes`);
  if (info.described === true) return;
  if (info.features & FEATURE.IS_CHUNKDICT_GENERATED) {
    // What its own header says of the table is looked at when it comes.
    if (!isCount(info.ciUncompressedSize, TABLE_BYTES_MAX)) throw refuse(`a table of ${info.ciUncompressedSize} bytes`);
    return;
  }
  if (info.chunkCount > 0 && !hasChunkTable(info)) throw refuse('chunks without a chunk table');
  const entryBytes = chunkInfoBytes(info.features);
  const isSizeLegal =
    info.ciUncompressedSize >= info.chunkCount * entryBytes && info.ciUncompressedSize <= ciBytesMax(info, entryBytes);
  if (hasChunkTable(info) && !isSizeLegal) throw refuse('chunk table size does not fit the chunk count');
}

/** Object that holds the chunk table: the blob, or the meta blob of an image whose data is somebody else's (3.11). */
function metaObjectId(info: BlobInfo): string {
  if (!(info.features & FEATURE.SEPARATE)) return info.id;
  if (info.metaId !== undefined) return info.metaId;
  const digest = info.extra.subarray(0, DIGEST_BYTES);
  if (digest.every((byte) => byte === 0)) {
    throw storageError('BLOB_META', { blobId: info.id, rule: 'its meta blob has no name' });
  }
  return Buffer.from(digest).toString('hex');
}

function isCount(value: number, max: number): boolean {
  return Number.isSafeInteger(value) && value >= 0 && value <= max;
}

/** Same content, same key; credentials count but are not kept. */
function keyOf(value: unknown): string {
  const text = JSON.stringify(value, function reveal(this: Record<string, unknown>, name: string, shown: unknown) {
    const raw = this[name];
    if (raw instanceof Secret) return raw.reveal();
    return raw instanceof Uint8Array ? Buffer.from(raw).toString('hex') : shown;
  });
  return createHash('sha256').update(text).digest('base64');
}
