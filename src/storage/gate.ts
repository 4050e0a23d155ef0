/**
 * The budget of requests to one host, and who goes first. Demand (a reader waits) takes any free place, in the order it
 * came. What readers will want within the second (traces, lists) takes up to half of them. Work in the background takes
 * one of its own few, only while nothing else queues, and can see when to hold still.
 */
/** Background requests at a time: one is under way while the next one's round trip passes. */
export const BEHIND_MAX = 2;
/** Requests at a time for what is wanted soon: half of the places stay for readers. */
export const SOON_MAX = 6;
/** No demand for this long counts as quiet: programs that start read, compute for some ms, and read on. */
const QUIET_MS = 50;

/** Who asks; the first of them goes first. */
export type Rank = 'demand' | 'soon' | 'behind';

interface Side {
  holders: number;
  readonly waiting: Set<() => void>;
}

const newSide = (): Side => ({ holders: 0, waiting: new Set() });

export class Gate {
  private readonly sides: Record<Rank, Side> = { demand: newSide(), soon: newSide(), behind: newSide() };
  private quietSinceMs = -QUIET_MS;
  private workedAtMs = Number.NEGATIVE_INFINITY;
  private restEndsMs = 0;
  private resting: NodeJS.Timeout | null = null;

  /** @param limit places for all together */
  constructor(private readonly limit: number) {}

  /**
   * Runs `work` when there is room; without a rank a reader waits for it.
   * @throws the signal's reason when it fires while waiting
   */
  async run<T>(signal: AbortSignal, work: () => Promise<T>, rank: Rank = 'demand'): Promise<T> {
    await this.enter(rank, signal);
    try {
      const got = await work();
      this.workedAtMs = performance.now();
      return got;
    } finally {
      this.sides[rank].holders--;
      if (rank === 'demand') this.quietSinceMs = performance.now();
      this.wakeNext();
    }
  }

  /** True when work of anybody ended well within the last `ms`: who queues waits for others, not for a dead host. */
  hasWorked(ms: number): boolean {
    return performance.now() - this.workedAtMs < ms;
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
    const { holders, waiting } = this.sides.demand;
    return holders > 0 || waiting.size > 0 || performance.now() - this.quietSinceMs < QUIET_MS;
  }

  private hasRoom(rank: Rank): boolean {
    const { demand, soon, behind } = this.sides;
    if (this.resting !== null || demand.holders + soon.holders + behind.holders >= this.limit) return false;
    if (rank === 'demand') return true;
    if (demand.waiting.size > 0) return false;
    return rank === 'soon' ? soon.holders < SOON_MAX : soon.waiting.size === 0 && behind.holders < BEHIND_MAX;
  }

  /** Places became free, or who queued for one gave up. */
  private wakeNext(): void {
    for (const [rank, { waiting }] of Object.entries(this.sides)) {
      for (const wake of waiting) {
        if (!this.hasRoom(rank as Rank)) break;
        wake();
      }
    }
  }

  private enter(rank: Rank, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const side = this.sides[rank];
    if (this.hasRoom(rank)) {
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
