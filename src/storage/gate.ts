/** At most `limit` holders at a time; others wait in the order they came, until their signal says otherwise. */
export class Gate {
  private holders = 0;
  private readonly waiting = new Set<() => void>();

  constructor(private readonly limit: number) {}

  /** Runs `work` when there is room. @throws the signal's reason when it fires while waiting */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    await this.enter(signal);
    try {
      return await work();
    } finally {
      this.holders--;
      for (const wake of this.waiting) {
        wake();
        break;
      }
    }
  }

  private enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.holders < this.limit) {
      this.holders++;
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const wake = () => {
        leave();
        this.holders++;
        resolve();
      };
      const abort = () => {
        leave();
        reject(signal.reason);
      };
      const leave = () => {
        this.waiting.delete(wake);
        signal.removeEventListener('abort', abort);
      };
      this.waiting.add(wake);
      signal.addEventListener('abort', abort, { once: true });
    });
  }
}
