/**
 * Keeps one cache directory within its limits while a daemon writes to it: looks now and then, removes blobs that nobody
 * has open, the longest unused first, and says when nothing more is to be kept. Several daemons may do so at once: what
 * one has removed is gone for the others, too.
 */
import { statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { explain } from '../../common/app-error.ts';
import type { Logger } from '../../common/log.ts';
import { readCacheDir } from './cache-dir.ts';
import { evictBlob, isBlobInUse } from './cache-evict.ts';
import { bytesUntilStop, type CacheLimits, type Pressure, pressureOf, type Usage } from './cache-limits.ts';
import { discard } from './cache-names.ts';

/** After this much was written a look is due, or this part of the quota if that is less. */
const LOOK_BYTES = 64 << 20;
const LOOK_QUOTA_SHARE = 0.01;
/** Looks are this far apart at least: each reads the directory. */
const LOOK_PAUSE_MS = 500;
/** And this far while nothing may be written: room may come from elsewhere. */
const STOPPED_PAUSE_MS = 2_000;

export class CacheKeeper {
  private usedBytes = 0;
  private writtenBytes = 0;
  private isStopped = false;
  private looking: Promise<void> | null = null;
  private timer: NodeJS.Timeout | null = null;
  private lookedAtMs = Number.NEGATIVE_INFINITY;
  private isClosed = false;

  constructor(
    readonly dir: string,
    private readonly limits: CacheLimits,
    private readonly log: Logger,
  ) {
    this.lookSoon();
  }

  /** True when this much may be written. */
  takes(bytes: number): boolean {
    const isTaken = !this.isStopped && this.writtenBytes + bytes <= bytesUntilStop(this.limits, this.usedBytes);
    if (!isTaken) this.lookSoon();
    return isTaken;
  }

  wrote(bytes: number): void {
    this.writtenBytes += bytes;
    const { quotaBytes } = this.limits;
    const due = quotaBytes === 0 ? LOOK_BYTES : Math.min(LOOK_BYTES, quotaBytes * LOOK_QUOTA_SHARE);
    if (this.writtenBytes >= due) this.lookSoon();
  }

  /** Measures, and makes room if need be. Resolves when that is done. */
  look(): Promise<void> {
    this.looking ??= this.lookNow().finally(() => {
      this.looking = null;
    });
    return this.looking;
  }

  async close(): Promise<void> {
    this.isClosed = true;
    if (this.timer !== null) clearTimeout(this.timer);
    await this.looking;
  }

  private lookSoon(): void {
    if (this.timer !== null || this.isClosed) return;
    const pauseMs = this.isStopped ? STOPPED_PAUSE_MS : LOOK_PAUSE_MS;
    const inMs = Math.max(0, this.lookedAtMs + pauseMs - performance.now());
    this.timer = setTimeout(() => {
      this.timer = null;
      void this.look();
    }, inMs);
    this.timer.unref();
  }

  private async lookNow(): Promise<void> {
    const written = this.writtenBytes;
    try {
      const contents = await readCacheDir(this.dir);
      const freed = await makeRoom(this.dir, this.limits, contents);
      this.usedBytes = freed.usedBytes;
      // What was written meanwhile may or may not be among what was counted.
      this.writtenBytes -= written;
      if (freed.blobs > 0)
        this.log.info(`cache ${this.dir}: removed ${freed.blobs} unused blobs, ${freed.bytes} bytes`);
      this.setStopped(freed.pressure === 'stop');
    } catch (error) {
      // The directory may be gone, or not made yet: whoever writes to it finds out.
      this.log.debug(`cache ${this.dir}: ${explain(error)}`);
    }
    this.lookedAtMs = performance.now();
  }

  private setStopped(isStopped: boolean): void {
    if (isStopped === this.isStopped) return;
    this.isStopped = isStopped;
    if (isStopped) this.log.warn(`cache ${this.dir}: past its stop mark; what is missing is served uncached`);
    else this.log.info(`cache ${this.dir}: has room again`);
  }
}

export interface Freed {
  blobs: number;
  bytes: number;
  /** Of the directory, afterwards. */
  usedBytes: number;
  pressure: Pressure;
  /** Blobs that went, or would have. */
  blobIds: string[];
}

/**
 * Removes leftovers and, below the cull mark, unused blobs until the run mark is reached.
 * @param isDry only says what it would do
 * @throws system errors of a directory that cannot be changed
 */
export async function makeRoom(
  dir: string,
  limits: CacheLimits,
  contents: Awaited<ReturnType<typeof readCacheDir>>,
  isDry = false,
): Promise<Freed> {
  const freed: Freed = { blobs: 0, bytes: 0, usedBytes: contents.bytes, pressure: 'ok', blobIds: [] };
  for (const { name, bytes } of contents.leftovers) {
    if (!isDry) discard(join(dir, name));
    freed.bytes += bytes;
    freed.usedBytes -= bytes;
  }
  freed.pressure = pressureOf(limits, await usageOf(dir, freed.usedBytes));
  if (freed.pressure !== 'cull' && freed.pressure !== 'stop') return freed;
  for (const blob of contents.blobs) {
    if (isDry ? isBlobInUse(dir, blob.blobId) : !evictBlob(dir, blob.blobId)) continue;
    freed.blobs++;
    freed.blobIds.push(blob.blobId);
    freed.bytes += blob.bytes;
    freed.usedBytes -= blob.bytes;
    const usage = await usageOf(dir, freed.usedBytes);
    if (isDry) usage.blocks.free += freed.bytes;
    freed.pressure = pressureOf(limits, usage);
    if (freed.pressure === 'ok') break;
  }
  return freed;
}

async function usageOf(dir: string, usedBytes: number): Promise<Usage> {
  const { bsize, blocks, bavail, files, ffree } = await statfs(dir);
  return {
    usedBytes,
    blocks: { free: bavail * bsize, all: blocks * bsize },
    inodes: { free: ffree, all: files },
  };
}
