/**
 * Images as the daemon handles them: bootstrap (src/rafs), configuration and blobs (src/storage) together. Everything
 * below is imported at the first RAFS mount: a daemon that serves only host directories, or has just been started,
 * never loads storage, codecs or HTTP clients.
 */
import { closeSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { codeOf, explain } from '../common/app-error.ts';
import { demandAnswer } from '../common/file-systems.ts';
import { Garbage } from '../common/garbage.ts';
import type { Logger } from '../common/log.ts';
import type { OpenedImage as Bootstrap } from '../rafs/open-image.ts';
import type { StorageConfig } from '../storage/config/config.ts';
import type { Prefetch, PrefetchProgress } from '../storage/prefetch/prefetch.ts';
import type { StoreStats } from '../storage/stats.ts';
import type { BlobStore } from '../storage/store.ts';
import type { BlobHandle, WantedChunk } from '../storage/types.ts';
import type { AccessTrace } from './access-trace.ts';
import { daemonError } from './errors.ts';
import { identityOf, superblockOf } from './image-identity.ts';
import { backendMetrics, type Cached, cacheMetrics } from './image-metrics.ts';
import type { Configured, Settings } from './image-settings.ts';
import type { Images, MountRequest, OpenedImage } from './mounts.ts';
import { trimLater } from './trim.ts';

/** What belongs to one open image beside what its mount shows. */
interface Parts {
  path: string;
  bootstrap: Bootstrap;
  config: StorageConfig;
  /** Blob handles not closed yet; with the last one the digest table goes. */
  handles: Set<number>;
  prefetch: Prefetch | null;
  /** Nothing starts for it any more. */
  isEnding: boolean;
  /** As the API changed it since: `change`. */
  changed: Settings;
}

/** The first mount has been answered, and what is started from it has loaded. */
const TRIM_AFTER_MS = 800;
/** Prefetch of a whole image has hardly begun: its memory shall not come on top. */
const TRIM_SOON_AFTER_MS = 100;

/** A burst of umounts is one. */
const COLLECT_AFTER_MS = 300;

/** Of a path in an error. */
const SHOWN_CHARS_MAX = 200;

export class LazyImages implements Images {
  private store: BlobStore | null = null;
  private readonly parts = new Map<OpenedImage, Parts>();
  private readonly ownerOf = new Map<number, OpenedImage>();
  private readonly garbage = new Garbage(process.memoryUsage.rss);
  private collecting: NodeJS.Timeout | null = null;

  /** @param servesOverlay the image at `/` may have a writable overlay */
  constructor(
    private readonly log: Logger,
    private readonly servesOverlay: boolean,
  ) {}

  async demandAnswers(bootstrap: string, configText: string): Promise<void> {
    const { parseConfig } = await import('../storage/config/config.ts');
    let cache: StorageConfig['cache'] = null;
    try {
      ({ cache } = parseConfig(configText));
    } catch {
      // `open` says what is wrong with it.
    }
    const paths = cache === null ? [bootstrap] : [bootstrap, cache.workDir];
    await Promise.all(paths.map((path) => demandAnswer(path)));
  }

  async open(path: string, bootstrapPath: string, configText: string): Promise<OpenedImage> {
    try {
      return await this.openAll(path, bootstrapPath, configText);
    } catch (error) {
      this.collectLater();
      throw error;
    }
  }

  private async openAll(path: string, bootstrapPath: string, configText: string): Promise<OpenedImage> {
    const [{ BlobStore }, { parseConfig }, { openImage }, { shownConfig }, { FileStats }, { newAccessLog }] =
      await Promise.all([
        import('../storage/store.ts'),
        import('../storage/config/config.ts'),
        import('../rafs/open-image.ts'),
        import('./shown-config.ts'),
        import('../fuse/file-stats.ts'),
        import('../rafs/access-log.ts'),
      ]);
    const config = parseConfig(configText);
    if (this.store === null) {
      this.store = new BlobStore(this.log);
      // Loading all this has touched pages of Node that serving does not.
      trimLater(config.prefetch.enable && config.prefetch.prefetchAll ? TRIM_SOON_AFTER_MS : TRIM_AFTER_MS);
    }
    const { store } = this;
    await this.check(path, config);
    const bootstrap = openImage(bootstrapPath);
    const blobs = openBlobs(store, bootstrap, config);
    const image: OpenedImage = {
      member: {
        kind: 'rafs',
        bootstrapFd: bootstrap.fd,
        bootstrapPath,
        blobs,
        validate: config.validate,
        trace: newAccessLog(bootstrap.blobs),
      },
      identity: identityOf(bootstrap.fd),
      shownConfig: shownConfig(config),
      configId: config.id,
      accounting: wantsFiles(config)
        ? {
            files: config.iostatsFiles,
            pattern: config.accessPattern,
            latest: config.latestReadFiles,
            shared: FileStats.create(bootstrap.inodes).shared,
            root: bootstrap.geometry.root,
          }
        : null,
      superblock: superblockOf(bootstrap),
    };
    this.keep(image, { path, bootstrap, config }, store);
    return image;
  }

  /** @throws AppError OVERLAY_HERE, WORK_DIR */
  private async check(path: string, config: StorageConfig): Promise<void> {
    const isCovered = this.servesOverlay && path === '/';
    if (config.overlay !== null && !isCovered) throw daemonError('OVERLAY_HERE', { path });
    if (config.cache !== null) await demandDirectory(config.cache.workDir);
    else if (config.lacksWorkDir) this.log.warn(`${path}: its cache has no work_dir; what is read is not kept`);
  }

  /** Enters an image that is open, until its last blob is released. */
  private keep(image: OpenedImage, opened: Pick<Parts, 'path' | 'bootstrap' | 'config'>, store: BlobStore): void {
    const { blobs } = image.member;
    const handles = new Set(blobs.map(({ handle }) => handle));
    if (handles.size === 0) opened.bootstrap.close();
    else this.parts.set(image, { ...opened, handles, prefetch: null, isEnding: false, changed: {} });
    for (const handle of handles) this.ownerOf.set(handle, image);
    // While the device thread mounts it.
    setImmediate(() => {
      for (const handle of handles) store.prepare(handle);
    });
  }

  mounted(image: OpenedImage, { prefetchFiles, prefetchTrace }: MountRequest): void {
    const { store } = this;
    const parts = this.parts.get(image);
    if (parts === undefined || store === null) return;
    const isAsked = parts.config.prefetch.enable || prefetchFiles !== null || prefetchTrace !== null;
    if (!isAsked || parts.config.cache === null) return;
    const { bootstrapFd } = image.member;
    const planned = import('./prefetch.ts')
      .then(async ({ prefetchImage }) => {
        if (parts.isEnding) return;
        const opened = { ...parts, bootstrapFd, handles: [...parts.handles] };
        parts.prefetch = prefetchImage(opened, { prefetchFiles, prefetchTrace }, store, this.log);
        await parts.prefetch.planned;
      })
      .catch((error: unknown) => this.log.warn(`prefetch of ${parts.path}: ${explain(error)}`));
    for (const handle of parts.handles) store.awaitPlan(handle, planned);
  }

  ending(image: OpenedImage): void {
    const parts = this.parts.get(image);
    if (parts === undefined) return;
    parts.isEnding = true;
    void parts.prefetch?.stop();
  }

  abandon(image: OpenedImage): void {
    closeSync(image.member.bootstrapFd);
    this.release(image.member.blobs.map(({ handle }) => handle));
  }

  release(blobs: readonly number[]): void {
    for (const handle of blobs) {
      const image = this.ownerOf.get(handle);
      if (image !== undefined) this.ending(image);
      this.store?.closeBlob(handle);
      const parts = image === undefined ? undefined : this.parts.get(image);
      this.ownerOf.delete(handle);
      parts?.handles.delete(handle);
      if (parts?.handles.size === 0) {
        parts.bootstrap.close();
        this.parts.delete(image!);
      }
    }
    this.collectLater();
  }

  /** Images went, or did not come to be: their tables and chunks are buffers, which V8 takes for small objects. */
  private collectLater(): void {
    this.collecting ??= setTimeout(() => {
      this.collecting = null;
      this.garbage.collectIfGrown();
    }, COLLECT_AFTER_MS).unref();
  }

  async fetch(blob: number, chunks: readonly WantedChunk[]): Promise<void> {
    if (this.store === null) throw new Error(`blob ${blob} is of no image: none was ever opened`);
    await this.store.fetch(blob, chunks);
  }

  /** `GET /api/v1/config`, see `settingsOf`. */
  async settings(id: string | null): Promise<Record<string, string>> {
    const { settingsOf } = await import('./image-settings.ts');
    return settingsOf(id, this.configured());
  }

  /** `PUT /api/v1/config`, see `changeSettings`. */
  async change(id: string | null, settings: Settings): Promise<void> {
    const { changeSettings } = await import('./image-settings.ts');
    changeSettings(id, settings, this.configured());
  }

  private configured(): Configured[] {
    return [...this.parts.values()].map((parts) => {
      const [handle] = parts.handles;
      const backend = handle === undefined ? null : (this.store?.backendConfig(handle) ?? null);
      return { ...parts, backend };
    });
  }

  /** What the API changed of the image's configuration, credentials in the clear: for a successor only. */
  changedOf(image: OpenedImage): Settings {
    return this.parts.get(image)?.changed ?? {};
  }

  /** Counters of everything fetched; null before the first image. */
  get storeStats(): Readonly<StoreStats> | null {
    return this.store?.stats ?? null;
  }

  /** `GET /api/v1/metrics/backend`: of the image's backend, which images of the same configuration share. */
  backendMetrics(image: OpenedImage): object {
    const parts = this.parts.get(image);
    const [handle] = parts?.handles ?? [];
    const reads = handle === undefined ? undefined : this.store?.backendReads(handle);
    return backendMetrics(parts?.config.backend.kind ?? '', reads);
  }

  /** `GET /api/v1/trace`: what was read of a mounted image. */
  async trace(image: OpenedImage): Promise<AccessTrace> {
    const { traceOf } = await import('./trace-report.ts');
    const parts = this.parts.get(image);
    const { bootstrapFd, trace } = image.member;
    // The device thread closes the bootstrap of an image that is ending.
    if (parts === undefined || parts.isEnding || trace === undefined) return { version: 'v1', files: [] };
    return traceOf({ path: parts.path, bootstrap: parts.bootstrap, bootstrapFd, log: trace });
  }

  /** `GET /api/v1/metrics/blobcache` */
  cacheMetrics(image: OpenedImage): object {
    const { config, bootstrap } = this.parts.get(image) ?? {};
    const shown = bootstrap ?? { blobs: [], verifiable: true };
    return cacheMetrics(config?.cache ?? null, shown, this.prefetchProgress(image), this.cached(image));
  }

  /** Null when nothing was to be fetched ahead. */
  prefetchProgress(image: OpenedImage): PrefetchProgress | null {
    return this.parts.get(image)?.prefetch?.progress ?? null;
  }

  /** How much of an image is in the cache. */
  cached(image: OpenedImage): Cached {
    const sum = { chunks: 0, ready: 0 };
    for (const { handle, chunkCount } of image.member.blobs) {
      sum.chunks += chunkCount;
      sum.ready += this.store?.chunksReady(handle) ?? 0;
    }
    return sum;
  }
}

/** Opens every blob of an image, or none. @throws what `BlobStore.openBlob` throws; the bootstrap is closed then */
function openBlobs(store: BlobStore, bootstrap: Bootstrap, config: StorageConfig): BlobHandle[] {
  const blobs: BlobHandle[] = [];
  try {
    for (const info of bootstrap.blobs) blobs.push(store.openBlob(info, bootstrap.digests(info.index), config));
    return blobs;
  } catch (error) {
    for (const blob of blobs) store.closeBlob(blob.handle);
    bootstrap.close();
    closeSync(bootstrap.fd);
    throw error;
  }
}

const wantsFiles = (config: StorageConfig): boolean =>
  config.iostatsFiles || config.accessPattern || config.latestReadFiles;

/** What no later change of a disk or of rights makes a directory of. */
const NEVER_A_DIRECTORY = ['ENOTDIR', 'ENAMETOOLONG', 'ELOOP'];

/** One that is missing is made with the first blob; below a file no cache can be, which every read would meet. @throws WORK_DIR */
async function demandDirectory(path: string): Promise<void> {
  const fault = await stat(path).then((found) => (found.isDirectory() ? '' : 'ENOTDIR'), codeOf);
  if (NEVER_A_DIRECTORY.includes(fault)) throw daemonError('WORK_DIR', { path: path.slice(0, SHOWN_CHARS_MAX) });
}
