/**
 * The loop of a device thread. It fits one screen on purpose:
 *
 *     ┌─► wait (epoll, or not at all while busy) ─► control messages, io_uring completions, vhost messages, kicks
 *     │        serve: hiprio first, then at most 64 requests per queue; publish, signal once per batch
 *     └──────── nothing left: poll a little, ask for kicks, sleep
 *
 * Nothing in it awaits, and nothing throws past its event: a failure is logged and the loop is entered again.
 */
import type { Stats } from '../fuse/stats.ts';
import { STAT } from '../fuse/stats-layout.ts';
import { EPOLL, type Epoll } from '../sys/wait.ts';
import type { Polling } from './polling.ts';

/** Tokens of the descriptors in the loop's epoll; kicks are KICK + ring index. */
export const TOKEN = { WAKE: 1, URING: 2, LISTENER: 3, SOCKET: 4, FUSE: 5, KICK: 16 } as const;

export const READABLE: number = EPOLL.IN;

/** Looks at the rings between two looks at the clock, which costs as much as four of them. */
const LOOKS_PER_CLOCK = 8;

/** Busy turns between two looks at epoll: 4 x 64 requests are about 1 ms. */
const BUSY_TURNS_MAX = 4;

/** What the loop drives. */
export interface LoopBody {
  /** A descriptor of `token` is ready. */
  event(token: number): void;
  /** Serves what queues hold, a bounded amount; returns requests served. */
  serve(): number;
  /** Nothing was left: ask for kicks. True when something came meanwhile. */
  beforeSleep(): boolean;
  /** True: leave the loop. */
  stopped(): boolean;
  failed(error: unknown): void;
}

/** Runs until `body.stopped()`. Never returns otherwise, never lets the thread's event loop run. */
export function runLoop(epoll: Epoll, body: LoopBody, polling: Polling, stats: Stats): void {
  let busyTurns = 0;
  let timeoutMs = 0;
  while (!body.stopped()) {
    try {
      const sleeping = timeoutMs !== 0;
      if (sleeping) stats.tick();
      const fromMs = stats.nowMs;
      const events = epoll.wait(timeoutMs);
      if (sleeping) {
        stats.tick();
        stats.values[STAT.wakeups]!++;
        polling.slept((stats.nowMs - fromMs) * 1000);
      }
      for (let i = 0; i < events; i++) body.event(epoll.tokenAt(i));
      busyTurns = 0;
      timeoutMs = 0;
      while (busyTurns < BUSY_TURNS_MAX) {
        if (body.serve() > 0 || pollFor(body, polling, stats)) busyTurns++;
        else if (body.beforeSleep()) busyTurns++;
        else {
          timeoutMs = -1;
          break;
        }
      }
    } catch (error) {
      timeoutMs = 0;
      body.failed(error);
    }
  }
}

/** Looks at the rings for the window's length; true when requests came (and were served). */
function pollFor(body: LoopBody, polling: Polling, stats: Stats): boolean {
  if (polling.windowUs === 0) return false;
  stats.tick();
  const until = stats.nowMs + polling.windowUs / 1000;
  do {
    for (let i = 0; i < LOOKS_PER_CLOCK; i++) {
      if (body.serve() === 0) continue;
      polling.hit();
      stats.values[STAT.pollHits]!++;
      return true;
    }
    stats.tick();
  } while (stats.nowMs < until);
  return false;
}
