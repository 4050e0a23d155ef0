/** Chunks on their way into the cache: who waits for which, so that each is fetched once however many ask. */
import { codeOf } from '../common/app-error.ts';
import type { ChunkDigests } from './types.ts';

interface Waiter {
  resolve: () => void;
  reject: (error: unknown) => void;
}

interface Pending {
  /** Null while nobody waits, which is how most of what is fetched ahead ends. */
  waiters: Waiter[] | null;
  /** False while only read-ahead wants it: given up without an error when another process is at it. */
  isWanted: boolean;
  /** On its way before anybody asked. */
  readonly isAhead: boolean;
  /** Of the images that asked, the first one first; some may be closed by now. */
  readonly digests: ChunkDigests[];
}

export class PendingChunks {
  private readonly chunks = new Map<number, Pending>();
  /** Chunks that readers wait for. */
  private wanted = 0;

  has(index: number): boolean {
    return this.chunks.has(index);
  }

  /** A reader waits for a chunk that is not here yet; settles with it. */
  add(index: number, digests: ChunkDigests): Promise<void> {
    const pending = { waiters: null, isWanted: true, isAhead: false, digests: [digests] };
    this.wanted++;
    this.chunks.set(index, pending);
    return waitFor(pending);
  }

  /** A chunk that is not here yet is fetched ahead: if that fails there is nobody to tell. */
  addAhead(index: number, digests: ChunkDigests): void {
    this.chunks.set(index, { waiters: null, isWanted: false, isAhead: true, digests: [digests] });
  }

  /** One more reader waits for the chunk; null when it is not on its way. */
  join(index: number, digests: ChunkDigests): Promise<void> | null {
    const pending = this.chunks.get(index);
    if (pending === undefined) return null;
    if (!pending.digests.includes(digests)) pending.digests.push(digests);
    if (!pending.isWanted) this.wanted++;
    pending.isWanted = true;
    return waitFor(pending);
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

  /** Digests of the first image that asked and is still open. They throw GIVEN_UP when none is. */
  digestsOf(index: number): ChunkDigests {
    const asked = this.chunks.get(index)?.digests;
    return asked === undefined ? () => null : (chunk) => firstOpen(asked, chunk);
  }

  /** The chunk is in the cache, or `error` says why not; nothing is remembered. */
  settle(index: number, error?: unknown): void {
    const pending = this.chunks.get(index);
    this.chunks.delete(index);
    if (pending?.isWanted === true) this.wanted--;
    for (const { resolve, reject } of pending?.waiters ?? []) {
      if (error === undefined) resolve();
      else reject(error);
    }
  }
}

function firstOpen(asked: readonly ChunkDigests[], chunk: number): Uint8Array | null {
  let closed: unknown;
  for (const digests of asked) {
    try {
      return digests(chunk);
    } catch (error) {
      if (codeOf(error) !== 'GIVEN_UP') throw error;
      closed = error;
    }
  }
  throw closed;
}

function waitFor(pending: Pending): Promise<void> {
  return new Promise((resolve, reject) => {
    pending.waiters ??= [];
    pending.waiters.push({ resolve, reject });
  });
}
