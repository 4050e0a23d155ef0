/**
 * Answers the device thread's `fetch` and `io` requests: chunks come from the blob store, slow syscalls from Node's
 * thread pool. Every ticket is answered exactly once, whatever fails.
 */
import { fdatasync, fsync } from 'node:fs';
import { codeOf, explain } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import { errnoOf } from '../storage/errors.ts';
import type { WantedChunk } from '../storage/types.ts';
import { errno } from '../sys/errno.ts';
import { syncfsInPool } from '../sys/pool.ts';
import type { FromDevice, ToDevice } from '../virtiofs/control.ts';

/** Brings chunks of an open blob into the cache; 0 or -errno, or a rejection that is logged. */
export type FetchChunks = (blob: number, chunks: readonly WantedChunk[]) => Promise<void>;

export class Fetcher {
  constructor(
    private readonly fetchChunks: FetchChunks,
    private readonly post: (message: ToDevice) => void,
    private readonly log: Logger,
  ) {}

  fetch(request: Extract<FromDevice, { type: 'fetch' }>): void {
    const { ticket } = request;
    const answer = (result: number) => this.post({ type: 'fetched', ticket, result });
    // The detour over a promise turns a synchronous throw into a rejection too.
    Promise.resolve()
      .then(() => this.fetchChunks(request.blob, request.chunks))
      .then(
        () => answer(0),
        (error: unknown) => {
          const line = `fetch of ${request.chunks.length} chunks of blob ${request.blob} failed: ${explain(error)}`;
          // Its image was unmounted, which is what somebody wanted.
          if (codeOf(error) === 'CLOSED') this.log.debug(line);
          else this.log.error(line);
          answer(-errnoOf(error));
        },
      );
  }

  io(request: Extract<FromDevice, { type: 'io' }>): void {
    const { ticket, fd } = request;
    const answer = (result: number) => this.post({ type: 'io', ticket, result });
    const done = (error: NodeJS.ErrnoException | null) => answer(error === null ? 0 : (error.errno ?? -errno.EIO));
    if (request.op === 'fsync') fsync(fd, done);
    else if (request.op === 'fdatasync') fdatasync(fd, done);
    else syncfsInPool(fd, answer);
  }
}
