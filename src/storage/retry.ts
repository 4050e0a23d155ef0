/**
 * When and how often a failed backend request is made again. The policy is data; whether an error may go away by
 * itself is decided by its code (`retryable` of the AppError), never here.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { AppError } from '../common/app-error.ts';
import { storageError } from './errors.ts';

export interface RetryPolicy {
  /** Tries altogether, the first one included. */
  attempts: number;
  /** Pause before the second try; each further one is `factor` times longer, up to `delayMaxMs`. */
  delayMs: number;
  factor: number;
  delayMaxMs: number;
  /** Part of a pause that is random (0..1), so that many daemons do not come back at the same moment. */
  jitter: number;
  /** All tries and pauses together; the request under way is aborted then. */
  deadlineMs: number;
}

/**
 * Reads a guest waits for. Four tries as the reference daemon makes; the deadline bounds what a reader of a dead
 * registry waits (EIO then), well below the 120 s after which a guest kernel reports hung tasks.
 */
export const DEMAND_POLICY: RetryPolicy = {
  attempts: 4,
  delayMs: 100,
  factor: 3,
  delayMaxMs: 2_000,
  jitter: 0.5,
  deadlineMs: 15_000,
};

/** Longest pause a server's Retry-After is obeyed for; the deadline ends longer ones anyway. */
const RETRY_AFTER_MAX_MS = 10_000;

/** Why a try was aborted whose reader waits no longer. */
class OutOfTime extends Error {
  constructor(readonly deadlineMs: number) {
    super('deadline');
  }
}

/** Part of a reader's time that is much for one request. */
const SLOW_SHARE = 0.25;

/** Deadlines that follow the first one at most: a minute altogether, half of what guest kernels report as a hang. */
const EXTENSIONS_MAX = 3;

/** True when a reader's time ran out, and that over a request begun at `startedMs` (performance.now()), not just before it. */
export function wasTooSlow(signal: AbortSignal, startedMs: number): boolean {
  const reason: unknown = signal.reason;
  return reason instanceof OutOfTime && performance.now() - startedMs >= reason.deadlineMs * SLOW_SHARE;
}

/**
 * Runs `attempt` until it succeeds, fails for good, or the policy ends.
 * @param what names the work in the DEADLINE error
 * @param signal ends everything at once (blob closed); its reason is thrown
 * @param isQueued asked when time has run out: true = it went by in a queue that moves, and as much is given once more
 * @throws the last error when it is not retryable or was the last one, DEADLINE when time ran out
 */
export async function withRetry<T>(
  policy: RetryPolicy,
  what: string,
  signal: AbortSignal,
  attempt: (signal: AbortSignal) => Promise<T>,
  isQueued: () => boolean = () => false,
): Promise<T> {
  // Not AbortSignal.any: on Node 20 a signal as long-lived as `signal` collects an entry for every combination made.
  const deadline = new AbortController();
  const abort = () => deadline.abort(signal.reason);
  let extensions = 0;
  const expire = () => {
    if (extensions++ < EXTENSIONS_MAX && isQueued()) timer = setTimeout(expire, policy.deadlineMs);
    else deadline.abort(new OutOfTime(policy.deadlineMs));
  };
  let timer = setTimeout(expire, policy.deadlineMs);
  signal.addEventListener('abort', abort, { once: true });
  try {
    signal.throwIfAborted();
    return await tryOften(policy, what, signal, deadline.signal, attempt);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', abort);
  }
}

async function tryOften<T>(
  policy: RetryPolicy,
  what: string,
  signal: AbortSignal,
  deadline: AbortSignal,
  attempt: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  let last: unknown;
  for (let tries = 1; ; tries++) {
    try {
      return await attempt(deadline);
    } catch (error) {
      signal.throwIfAborted();
      // What an aborted request throws says nothing; the error before it does.
      if (!deadline.aborted) last = error;
      if (!deadline.aborted && (!isRetryable(error) || tries >= policy.attempts)) throw error;
    }
    try {
      await sleep(deadline.aborted ? 0 : pauseBefore(policy, tries, last), undefined, { signal: deadline });
    } catch {
      signal.throwIfAborted();
      throw storageError('DEADLINE', { what, deadlineMs: policy.deadlineMs, attempts: tries }, last);
    }
  }
}

/** Pause after try number `tries` failed with `error`, in ms: the server's wish, or the back-off with its jitter. */
export function pauseBefore(policy: RetryPolicy, tries: number, error: unknown, random = Math.random): number {
  const asked = retryAfterMs(error);
  const backOff = Math.min(policy.delayMaxMs, policy.delayMs * policy.factor ** (tries - 1));
  const jittered = backOff * (1 - policy.jitter * random());
  return Math.round(Math.max(asked, jittered));
}

function isRetryable(error: unknown): boolean {
  return error instanceof AppError && error.retryable;
}

/** How long the server that answered with `error` wants to be left alone; 0 when it did not say. */
export function retryAfterMs(error: unknown): number {
  const facts = error instanceof AppError ? (error.facts as { retryAfterMs?: unknown }) : {};
  return typeof facts.retryAfterMs === 'number' ? Math.min(facts.retryAfterMs, RETRY_AFTER_MAX_MS) : 0;
}

/** Value of a Retry-After header (seconds or a date) in ms from `nowMs`; 0 when absent or senseless. */
export function parseRetryAfter(value: string | undefined, nowMs: number): number {
  if (value === undefined) return 0;
  if (/^\d{1,9}$/.test(value)) return Number(value) * 1000;
  const at = Date.parse(value);
  return Number.isNaN(at) ? 0 : Math.max(0, at - nowMs);
}
