/**
 * The budget of requests to one host, and who goes first. Demand (a reader waits) takes any free place, in the order it
 * came. Work in the background takes one of its own few, only while no demand queues, and can see when to hold still.
 */
/** Background requests at a time: one is under way while the next one's round trip passes. */
export const BEHIND_MAX = 2;
/** No demand for this long counts as quiet: programs that start read, compute for some ms, and read on. */
const QUIET_MS = 50;

interface Side {
  holders: number;
  readonly waiting: Set<() => void>;
  hasRoom: () => boolean;
}

export class Gate {
  private readonly demand: Side = { holders: 0, waiting: new Set(), hasRoom: () => this.hasRoom() };
  private readonly behind: Side = {
    holders: 0,
    waiting: new Set(),
    hasRoom: () => this.hasRoom() && this.demand.waiting.size === 0 && this.behind.holders < BEHIND_MAX,
  };
  private quietSinceMs = -QUIET_MS;
  private restEndsMs = 0;
  private resting: NodeJS.Timeout | null = null;

  /** @param limit places for demand and background together */
  constructor(private readonly limit: number) {}

  /** Runs `work`, which a reader waits for, when there is room. @throws the signal's reason when it fires while waiting */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.enter(this.demand, signal);
    try {
      return await work();
    } finally {
      this.demand.holders--;
      this.quietSinceMs = performance.now();
      this.wakeNext();
    }
  }

  /** Runs `work`, which nobody waits for. @throws as `run` */
  async runBehind<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.enter(this.behind, signal);
    try {
      return await work();
    } finally {
      this.behind.holders--;
      this.wakeNext();
    }
  }

  /** The host wants to be left alone (Retry-After): nobody enters for `ms`; those inside finish. */
  rest(ms: number): void {
    const endsMs = performance.now() + ms;
    if (endsMs <= this.restEndsMs) return;
    this.restEndsMs = endsMs;
    if (this.resting !== null) clearTimeout(this.resting);
    this.resting = setTimeout(() => {
      this.resting = null;
      this.wakeNext();
    }, ms);
    this.resting.unref();
  }

  /** True while readers wait, or did a moment ago. */
  get isBusy(): boolean {
    const { holders, waiting } = this.demand;
    return holders > 0 || waiting.size > 0 || performance.now() - this.quietSinceMs < QUIET_MS;
  }

  private hasRoom(): boolean {
    return this.resting === null && this.demand.holders + this.behind.holders < this.limit;
  }

  /** Places became free, or who queued for one gave up. */
  private wakeNext(): void {
    for (const side of [this.demand, this.behind]) {
      for (const wake of side.waiting) {
        if (!side.hasRoom()) break;
        wake();
      }
    }
  }

  private enter(side: Side, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (side.hasRoom()) {
      side.holders++;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const wake = () => {
        leave();
        side.holders++;
        resolve();
      };
      const abort = () => {
        leave();
        this.wakeNext();
        reject(signal.reason);
      };
      const leave = () => {
        side.waiting.delete(wake);
        signal.removeEventListener('abort', abort);
      };
      side.waiting.add(wake);
      signal.addEventListener('abort', abort, { once: true });
    });
  }
}
