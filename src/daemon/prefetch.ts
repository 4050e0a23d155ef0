/**
 * What is fetched for an image before anybody reads it, and in which order: an access trace, files of the mount request,
 * the bootstrap's own table, then everything. Loaded with the first image that asks for any of it; the mount is
 * answered before.
 */
import { explain } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import { type FileChunk, FileChunks } from '../rafs/file-chunks.ts';
import type { OpenedImage as Bootstrap } from '../rafs/open-image.ts';
import type { StorageConfig } from '../storage/config/config.ts';
import { isUnnumbered } from '../storage/described-chunks.ts';
import { Prefetch, type PrefetchItem, type Stage } from '../storage/prefetch/prefetch.ts';
import type { BlobStore } from '../storage/store.ts';
import type { BlobInfo, WantedChunk } from '../storage/types.ts';
import type { MountRequest } from './mounts.ts';
import { collectSooner } from './trim.ts';

/** No longer than a slow round trip takes. */
const PLAN_MS = 100;

/** An open image as prefetch uses it. */
export interface PrefetchedImage {
  path: string;
  bootstrap: Bootstrap;
  /** The bootstrap, open on behalf of the device thread. */
  bootstrapFd: number;
  config: StorageConfig;
  /** In the order of the image's blob table. */
  handles: readonly number[];
}

type Lists = Pick<MountRequest, 'prefetchFiles' | 'prefetchTrace'>;

/** Starts it. @throws OPEN when the bootstrap cannot be read any more */
export function prefetchImage(image: PrefetchedImage, lists: Lists, store: BlobStore, log: Logger): Prefetch {
  const { threads, mergingBytes, bandwidthBytesPerSecond, enable, prefetchAll } = image.config.prefetch;
  const files = FileChunks.open(image.bootstrapFd, image.path, image.bootstrap.geometry, image.bootstrap.blobs);
  const list = new PrefetchList(image, files, lists, log);
  const prefetch = new Prefetch(
    (stage) => list.items(stage),
    (handle, owner) => store.prefetchTarget(handle, owner),
    {
      threads,
      mergingBytes,
      bytesPerSecond: bandwidthBytesPerSecond,
      workDir: image.config.cache?.workDir ?? null,
      planMs: PLAN_MS,
      isWhole: enable && prefetchAll,
    },
    log,
  );
  void prefetch.ended.then(() => files.close());
  return prefetch;
}

/** Chunks handed on at once, as many as make a batch of many small files, and nodes looked at between two pauses: some milliseconds. */
const GROUP_CHUNKS = 2048;
const STEPS_PER_PAUSE = 512;

/** The blob itself says what chunks it has, under numbers that the image uses too. */
const isWithTable = (blob: BlobInfo): boolean => blob.described !== true && !isUnnumbered(blob);

/** Decoded bytes that a program that starts may read: at 100 MB/s and usual compression a quarter of a second. */
const SOON_BYTES_MAX = 64 << 20;

class PrefetchList {
  private isTold = false;

  constructor(
    private readonly image: PrefetchedImage,
    private readonly files: FileChunks,
    private readonly lists: Lists,
    private readonly log: Logger,
  ) {}

  /** What is to be fetched in a stage, in its order. An item without chunks is a pause. */
  *items(stage: Stage): Generator<PrefetchItem> {
    if (stage === 'soon') yield* this.grouped(this.firstOf(this.listed()));
    else yield* this.grouped(this.listed());
    this.isTold = true;
    if (stage === 'behind') yield* this.everything();
  }

  /** What readers want at once fits in here; of longer lists the rest comes behind them. */
  private *firstOf(chunks: Iterable<FileChunk | null>): Generator<FileChunk | null> {
    let bytes = 0;
    for (const chunk of chunks) {
      bytes += chunk?.wanted.bytes ?? 0;
      if (bytes > SOON_BYTES_MAX) return;
      yield chunk;
    }
  }

  private *everything(): Generator<PrefetchItem> {
    const { config, bootstrap, handles } = this.image;
    const { enable, prefetchAll } = config.prefetch;
    if (!enable || !prefetchAll) return;
    collectSooner();
    const isAllKnown = bootstrap.blobs.every(isWithTable);
    for (const [i, handle] of handles.entries()) {
      if (isWithTable(bootstrap.blobs[i]!)) yield { handle, chunks: 'all' };
    }
    if (!isAllKnown) yield* this.grouped(this.files.below(this.files.root));
  }

  private *listed(): Generator<FileChunk | null> {
    const { files, lists, image } = this;
    let missing = 0;
    for (const { path, ranges } of lists.prefetchTrace?.files ?? []) {
      const node = files.nodeAt(path);
      if (node === null) missing++;
      yield null;
      const spans = ranges.map(([offset, bytes]) => ({ offset, bytes }));
      if (node !== null) yield* files.below(node, spans.length > 0 ? spans : undefined);
    }
    for (const path of lists.prefetchFiles ?? []) {
      const node = files.nodeAt(path);
      if (node === null) missing++;
      yield null;
      if (node !== null) yield* files.below(node);
    }
    if (missing > 0 && !this.isTold)
      this.log.warn(`prefetch of ${image.path}: ${missing} listed paths are not in the image`);
    if (!image.config.prefetch.enable) return;
    // Converters name the root by default: everything, which is no hint of what comes first.
    const isAll = image.config.prefetch.prefetchAll;
    for (const node of this.tableNodes()) if (!isAll || node !== files.root) yield* files.below(node);
  }

  private tableNodes(): number[] {
    try {
      return this.image.bootstrap.prefetchNodes();
    } catch (error) {
      if (!this.isTold) this.log.warn(`prefetch table of ${this.image.path}: ${explain(error)}`);
      return [];
    }
  }

  private *grouped(chunks: Iterable<FileChunk | null>): Generator<PrefetchItem> {
    const { handles } = this.image;
    let group: WantedChunk[] = [];
    let blob = -1;
    let steps = 0;
    for (const chunk of chunks) {
      if (++steps % STEPS_PER_PAUSE === 0) yield { handle: handles[0]!, chunks: [] };
      if (chunk === null) continue;
      if (group.length > 0 && (chunk.blob !== blob || group.length === GROUP_CHUNKS)) {
        yield { handle: handles[blob]!, chunks: group };
        group = [];
      }
      blob = chunk.blob;
      group.push(chunk.wanted);
    }
    if (group.length > 0) yield { handle: handles[blob]!, chunks: group };
  }
}
