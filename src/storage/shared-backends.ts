/**
 * Backends of a process: mounts of one configuration share one, with its connections and counters, and all backends of one
 * host share the budget of requests to it.
 */
import { explain } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import { type Backend, hostOf, openBackend, type Sink } from './backend.ts';
import type { BlobReads } from './blob.ts';
import type { BackendConfig } from './config/config.ts';
import { keyOf } from './config/config-key.ts';
import { Gate, type Rank } from './gate.ts';
import { PhaseTimer } from './http/http.ts';
import { type RetryPolicy, retryAfterMs, withRetry } from './retry.ts';
import { BackendReads, type StoreStats } from './stats.ts';
import { metaObjectId } from './tables/blob-info-rules.ts';
import type { ReadRange } from './tables/blob-tables.ts';
import type { BlobInfo } from './types.ts';

/**
 * Requests to one host at a time, over all mounts and images: below the connections of `http.ts`, so that none waits
 * for a socket, and what a registry takes from one client without calling it abuse.
 */
export const HOST_REQUESTS_MAX = 12;

export interface SharedBackend {
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

export class SharedBackends {
  private readonly backends = new Map<string, SharedBackend>();
  private readonly gates = new Map<string, Gate>();

  /** @param policy of requests that a reader waits for */
  constructor(
    private readonly policy: RetryPolicy,
    private readonly stats: StoreStats,
    private readonly log: Logger,
  ) {}

  /** Counts one more user of the backend of this configuration. Nothing is opened. */
  share(config: BackendConfig): SharedBackend {
    const key = keyOf(config);
    let shared = this.backends.get(key);
    if (shared === undefined) {
      shared = { key, config, opening: null, gate: this.gateOf(hostOf(config)), reads: new BackendReads(), users: 0 };
      this.backends.set(key, shared);
    }
    shared.users++;
    return shared;
  }

  /** How the objects of one blob are read from it. */
  readersOf(info: BlobInfo, backend: SharedBackend): BlobReads {
    const metaId = metaObjectId(info);
    return {
      demand: this.reader(info.id, backend),
      soon: this.readerOnce(info.id, backend, 'soon'),
      behind: this.readerOnce(info.id, backend, 'behind'),
      meta: this.reader(metaId, backend),
      metaAhead: this.readerOnce(metaId, backend, 'soon'),
      doubt: () => void backend.opening?.then((opened) => opened.doubt?.()),
    };
  }

  private gateOf(host: string): Gate {
    const gate = this.gates.get(host) ?? new Gate(HOST_REQUESTS_MAX);
    this.gates.set(host, gate);
    return gate;
  }

  /** One user less; the last one closes it. */
  release(shared: SharedBackend): void {
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
      // A reader behind many others on a slow line must not fail for that.
      let enteredMs = Number.POSITIVE_INFINITY;
      const isQueued = () =>
        performance.now() - enteredMs < policy.deadlineMs / 2 && shared.gate.hasWorked(policy.deadlineMs / 3);
      const what = `${bytes} bytes at ${offset} of blob ${blobId} from ${hostOf(shared.config)}`;
      const attempt = (attemptSignal: AbortSignal) =>
        shared.gate.run(attemptSignal, () => {
          enteredMs = Math.min(enteredMs, performance.now());
          // A body that went on behind its end.
          if (done >= bytes) done = 0;
          const rest = { offset: offset + done, bytes: bytes - done, sink: sink && restOf(sink, done) };
          return this.readOnce(blobId, shared, rest, attemptSignal);
        });
      return withRetry(policy, what, signal, attempt, isQueued);

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
    const read = (offset: number, bytes: number, signal: AbortSignal, sink?: Sink) =>
      this.readOnce(blobId, shared, { offset, bytes, sink }, signal);
    return (offset, bytes, signal, sink) =>
      shared.gate.run(signal, () => this.whileItComes(read, offset, bytes, signal, sink), rank);
  }

  /** Readers wait for what is fetched ahead, too: ends it when nothing comes for as long as they would, whatever time-outs are set. */
  private async whileItComes(read: ReadRange, ...asked: Parameters<ReadRange>): Promise<Buffer> {
    const [offset, bytes, signal, sink] = asked;
    const { deadlineMs } = this.policy;
    const ending = new AbortController();
    const timer = new PhaseTimer(`${bytes} bytes at ${offset}`, (error) => ending.abort(error));
    const abort = () => ending.abort(signal.reason);
    const arrived = (into: Sink, count: number) => {
      const held = into.arrived(count);
      if (held === undefined) timer.goesOn();
      else timer.stop();
      return held?.then(() => {
        if (!isOver) timer.start('body', deadlineMs);
      });
    };
    let isOver = false;
    timer.start('body', deadlineMs);
    signal.addEventListener('abort', abort, { once: true });
    try {
      const watched = sink && { buffer: sink.buffer, arrived: (count: number) => arrived(sink, count) };
      return await read(offset, bytes, ending.signal, watched);
    } finally {
      isOver = true;
      timer.stop();
      signal.removeEventListener('abort', abort);
    }
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
