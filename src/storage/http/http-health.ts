/**
 * Whether a proxy or a mirror is worth asking. Both are probed by timers that live only while they are needed: a
 * proxy's while it is in use, a mirror's while it is out of use, so that an idle daemon stays idle.
 */
import type { Logger } from '../../common/log.ts';
import type { MirrorConfig, ProxyConfig } from '../config/config.ts';
import { type HttpClient, targetOf } from './http.ts';
import { discard } from './http-body.ts';

/** Limit of one probe where the configuration sets none. */
const PROBE_TIMEOUT_MS = 5_000;

/** Repeats `work` every `intervalMs` until it says false, it is stopped, or the process ends. */
class Repeater {
  private timer: NodeJS.Timeout | null = null;
  private isStopped = false;

  constructor(
    private readonly intervalMs: number,
    private readonly work: () => Promise<boolean>,
  ) {}

  /** Starts, first with `delayMs`; nothing when it runs already. */
  start(delayMs: number): void {
    if (this.timer !== null || this.isStopped) return;
    this.timer = setTimeout(() => {
      void this.work().then((goesOn) => {
        this.timer = null;
        if (goesOn) this.start(this.intervalMs);
      });
    }, delayMs);
    this.timer.unref();
  }

  stop(): void {
    this.isStopped = true;
    if (this.timer !== null) clearTimeout(this.timer);
  }
}

/** GETs `url`; the status, or 599 without an answer. */
async function probe(client: HttpClient, url: string, ended: AbortSignal): Promise<number> {
  const deadline = new AbortController();
  const abort = () => deadline.abort(ended.reason);
  const timer = setTimeout(() => deadline.abort(new Error('no answer')), PROBE_TIMEOUT_MS);
  ended.addEventListener('abort', abort, { once: true });
  try {
    const answer = await client.send(
      { purpose: 'ping', method: 'GET', url: new URL(url), headers: {} },
      deadline.signal,
    );
    discard(answer);
    return answer.status;
  } catch {
    return 599;
  } finally {
    clearTimeout(timer);
    ended.removeEventListener('abort', abort);
  }
}

/** Health of a forward proxy. */
export class ProxyHealth {
  private answersPing = true;
  /** Not asked before this time: it let a request time out. */
  private restsUntilMs = 0;
  private usedAtMs = 0;
  private isFailing = false;
  private readonly ended = new AbortController();
  private readonly probing: Repeater;

  constructor(
    private readonly config: ProxyConfig,
    client: HttpClient,
    private readonly log: Logger,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.probing = new Repeater(config.checkIntervalMs, async () => {
      const status = await probe(client, config.pingUrl, this.ended.signal);
      const isWell = status < 400;
      if (isWell !== this.answersPing) {
        log.warn(`proxy ${config.url} ${isWell ? 'is well again' : `is not well: its ping answers ${status}`}`);
      }
      this.answersPing = isWell;
      return this.now() - this.usedAtMs < config.checkPauseMs;
    });
  }

  /** To be asked before each use. */
  get isWell(): boolean {
    this.usedAtMs = this.now();
    if (this.config.pingUrl !== '') this.probing.start(0);
    return this.answersPing && this.usedAtMs >= this.restsUntilMs;
  }

  worked(): void {
    if (this.isFailing) this.log.info(`proxy ${this.config.url} works again`);
    this.isFailing = false;
  }

  /** @param isSlow it cost a time-out: the next readers shall not wait for it too */
  failed(why: string, isSlow: boolean): void {
    if (isSlow) this.restsUntilMs = this.now() + this.config.checkIntervalMs;
    if (!this.isFailing) this.log.warn(`proxy ${this.config.url} failed, going direct: ${why}`);
    this.isFailing = true;
  }

  close(): void {
    this.probing.stop();
    this.ended.abort(new Error('closed'));
  }
}

/** Health of a mirror: failures in a row put it out of use, its ping brings it back. */
export class MirrorHealth {
  private failures = 0;
  private readonly ended = new AbortController();
  private readonly probing: Repeater;

  constructor(
    private readonly config: MirrorConfig,
    client: HttpClient,
    private readonly log: Logger,
  ) {
    const url = config.pingUrl || `${config.host}/v2`;
    this.probing = new Repeater(config.checkIntervalMs, async () => {
      const status = await probe(client, url, this.ended.signal);
      if (status >= 500) return true;
      this.failures = 0;
      log.info(`mirror ${config.host} is back: ${targetOf(new URL(url))} answered status ${status}`);
      return false;
    });
  }

  get isWell(): boolean {
    return this.failures < this.config.failureLimit;
  }

  worked(): void {
    if (this.isWell) this.failures = 0;
  }

  failed(why: string): void {
    const { host, failureLimit, checkIntervalMs } = this.config;
    if (!this.isWell) return;
    this.failures++;
    if (this.isWell) return;
    this.log.warn(`mirror ${host} failed ${failureLimit} times in a row, left out until its ping succeeds: ${why}`);
    this.probing.start(checkIntervalMs);
  }

  close(): void {
    this.probing.stop();
    this.ended.abort(new Error('closed'));
  }
}
