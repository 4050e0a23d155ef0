/**
 * What a blob says about itself, brought in when a chunk is first missing: its chunk table, and digests if need be. Fetched under a lock of its
 * own, so that one process does it for all; a failure is not remembered.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf } from '../../common/app-error.ts';
import type { Sink } from '../backend.ts';
import type { ChunkLocks } from '../cache/chunk-locks.ts';
import type { EntryPoint } from '../codecs/inflate.ts';
import { storageError } from '../errors.ts';
import { DEMAND_POLICY } from '../retry.ts';
import type { BlobInfo, ChunkDigests } from '../types.ts';
import type { Unit } from './blob-contexts.ts';
import { fetchBlobDigests, hasBlobDigests } from './blob-digests.ts';
import { BlobMeta } from './blob-meta.ts';

/** Reads from the backend within the request limit of its host. A sink has the bytes while they arrive. */
export type ReadRange = (offset: number, bytes: number, signal: AbortSignal, sink?: Sink) => Promise<Buffer>;

const LOCK_POLL_MS = 20;
/**
 * After this long, what is locked elsewhere is fetched all the same: the holder is stopped or stuck, and two writers of
 * the same bytes do no harm. Longer than a live holder's deadline, unless he queues behind many others.
 */
export const LOCK_WAIT_MS = DEMAND_POLICY.deadlineMs + 5_000;

export class BlobTables {
  private meta: Promise<BlobMeta> | null = null;
  /** Fetched before anybody needs it, in one attempt. */
  private ahead: Promise<BlobMeta> | null = null;
  private opened: BlobMeta | null = null;
  private digests: Promise<ChunkDigests> | null = null;

  /** @param read of the object that holds the tables: the blob itself, or its meta blob */
  constructor(
    private readonly info: BlobInfo,
    private readonly metaPath: string,
    private readonly locks: ChunkLocks,
    private readonly read: ReadRange,
    /** See `BlobReads`. */
    private readonly doubt: () => void,
    private readonly signal: AbortSignal,
  ) {}

  /**
   * Brings the chunk table before the first miss needs it. Whoever comes meanwhile waits for it, and tries for himself when
   * it fails; settles when that is known.
   * @param read as that of the constructor, with one attempt
   */
  async prepare(read: ReadRange): Promise<void> {
    if (this.meta !== null || this.ahead !== null) return;
    this.ahead = this.fetch(read);
    try {
      this.meta = Promise.resolve(await this.ahead);
    } catch {
      // The first reader is told.
    }
    this.ahead = null;
  }

  /** The chunk table, opened once. @throws CLOSED, and what opening throws */
  open(): Promise<BlobMeta> {
    // What is opened behind `close`, nobody would close.
    if (this.signal.aborted) return Promise.reject(this.signal.reason);
    if (this.ahead !== null) return this.ahead.catch(() => this.open());
    if (this.meta === null) {
      this.meta = this.fetch(this.read);
      this.meta.catch(() => {
        this.meta = null;
      });
    }
    return this.meta;
  }

  /** Where a zran unit enters its deflate stream. Units come out of the table, which is open then. */
  entryOf(unit: Unit): EntryPoint {
    const contexts = this.opened?.contexts ?? null;
    if (contexts === null) throw storageError('BLOB_META', { blobId: this.info.id, rule: 'no contexts' });
    return contexts.entryPoint(unit);
  }

  /**
   * The blob's own digest of a chunk, for images that leave them to it; null when it has none. Fetched once; bytes
   * damaged on their way are fetched again.
   */
  async digestOf(chunk: number): Promise<Uint8Array | null> {
    if (!hasBlobDigests(this.info)) return null;
    if (this.digests === null) {
      // The table is one read: a second one says that the first brought something else.
      let reads = 0;
      const read = (offset: number, bytes: number) => {
        if (reads++ > 0) this.doubt();
        return this.read(offset, bytes, this.signal);
      };
      const fetch = () => fetchBlobDigests(this.info, read);
      this.digests = fetch().catch((error: unknown) => {
        if (!['TOC', 'DECODE'].includes(codeOf(error))) throw error;
        return fetch();
      });
      this.digests.catch(() => {
        this.digests = null;
      });
    }
    return (await this.digests)(chunk);
  }

  async close(): Promise<void> {
    const meta = await this.meta?.catch(() => null);
    meta?.close();
  }

  private async fetch(readRange: ReadRange): Promise<BlobMeta> {
    const waitUntilMs = performance.now() + LOCK_WAIT_MS;
    while (!this.locks.takeMeta() && performance.now() < waitUntilMs) {
      this.signal.throwIfAborted();
      await sleep(LOCK_POLL_MS);
    }
    try {
      // The table is one read: a second one says that the first brought something else.
      let reads = 0;
      const read = (offset: number, bytes: number) => {
        if (reads++ > 0) this.doubt();
        return readRange(offset, bytes, this.signal);
      };
      this.opened = await BlobMeta.open(this.info, this.metaPath, read);
      return this.opened;
    } finally {
      this.locks.giveMeta();
    }
  }
}
