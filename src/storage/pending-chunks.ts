/** Chunks on their way into the cache: who waits for which, so that each is fetched once however many ask. */
import type { ChunkDigests } from './types.ts';

interface Pending {
  promise: Promise<void>;
  resolve: () => void;
  reject: (error: unknown) => void;
  /** False while only read-ahead wants it: given up without an error when another process is at it. */
  isWanted: boolean;
  /** On its way before anybody asked. */
  readonly isAhead: boolean;
  digests: ChunkDigests;
}

export class PendingChunks {
  private readonly chunks = new Map<number, Pending>();
  /** Chunks that readers wait for. */
  private wanted = 0;

  has(index: number): boolean {
    return this.chunks.has(index);
  }

  /** Settles with the chunk; the chunk must not be here yet. */
  add(index: number, isWanted: boolean, digests: ChunkDigests): Promise<void> {
    let resolve!: () => void;
    let reject!: (error: unknown) => void;
    const promise = new Promise<void>((yes, no) => {
      resolve = yes;
      reject = no;
    });
    // Read-ahead that fails has nobody to tell.
    promise.catch(() => {});
    if (isWanted) this.wanted++;
    this.chunks.set(index, { promise, resolve, reject, isWanted, isAhead: !isWanted, digests });
    return promise;
  }

  /** One more reader waits for the chunk; null when it is not on its way. */
  join(index: number): Promise<void> | null {
    const pending = this.chunks.get(index);
    if (pending === undefined) return null;
    if (!pending.isWanted) this.wanted++;
    pending.isWanted = true;
    return pending.promise;
  }

  isWanted(index: number): boolean {
    return this.wanted > 0 && this.chunks.get(index)?.isWanted === true;
  }

  /** True while readers wait for any chunk. */
  get isAnyWanted(): boolean {
    return this.wanted > 0;
  }

  /** True when it was on its way before a reader asked: what becomes of it says nothing about a fetch made now. */
  isAhead(index: number): boolean {
    return this.chunks.get(index)?.isAhead === true;
  }

  /** Digests of the image that asked first. */
  digestsOf(index: number): ChunkDigests {
    return this.chunks.get(index)?.digests ?? (() => null);
  }

  /** The chunk is in the cache, or `error` says why not; nothing is remembered. */
  settle(index: number, error?: unknown): void {
    const pending = this.chunks.get(index);
    this.chunks.delete(index);
    if (pending?.isWanted === true) this.wanted--;
    if (error === undefined) pending?.resolve();
    else pending?.reject(error);
  }
}
