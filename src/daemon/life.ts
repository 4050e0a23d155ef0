/**
 * How the daemon ends, and what does not end it.
 *
 *   SIGTERM, SIGINT, PUT exit, device thread gone ─▶ API closed ─▶ device thread stops (≤ 500 ms) ─▶ sockets unlinked ─▶ _exit
 *
 * With a device thread blocked in a native wait `process.exit()`, worker.terminate() and an uncaught error all hang
 * until somebody kills us, so the last step is libc's `_exit`, always. A VMM that is still connected is not waited for:
 * the Go runtime kills after 5 s (kata-contract 1.9). The kernel closes every descriptor at once, which is what
 * clients that watch for a hang-up need (section 11: never half-close).
 */
import { explain } from '../common/app-error.ts';
import { exitNow } from '../sys/process.ts';
import type { LogWriter } from './log-writer.ts';
import { notifyManager } from './service-manager.ts';
import { removeSocket } from './sockets.ts';

/** The device thread unmounts and closes within milliseconds, unless a syscall of it hangs on a dead disk. */
const STOP_MS_MAX = 500;
/** A reader that lives takes the lines that say why at once; the pool that writes to a socket may need its time. */
const LAST_WORDS_MS_MAX = 100;

export interface Stoppable {
  stop(): Promise<void>;
  /** What is left to do by force when `stop` has not ended in time. Must not wait. */
  abandon?(): void;
}

export class Life {
  private ending = false;
  private readonly sockets: string[] = [];
  private parts: Stoppable[] = [];

  constructor(private readonly log: LogWriter) {}

  /** Installs the handlers. Call first: from then on no signal of the contract ends the process in another way. */
  guard(): void {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => this.end(0, `received ${signal}`));
    }
    // A terminal or a reader that goes away is no reason to take a guest's disks away. SIGUSR1 would have Node open a
    // debugger's port on the host.
    for (const signal of ['SIGHUP', 'SIGPIPE', 'SIGUSR1'] as const) process.on(signal, () => {});
    process.on('uncaughtException', (error) => this.log.error(`uncaught: ${withPlace(error)}`));
    process.on('unhandledRejection', (error) => this.log.error(`unhandled rejection: ${withPlace(error)}`));
    // Whoever calls process.exit would wait for the device thread for ever.
    process.on('exit', (code) => exitNow(code));
  }

  /** A socket file we made: unlinked at the end. */
  ownsSocket(path: string): void {
    this.sockets.push(path);
  }

  /** Something to stop before the end; the last one added stops first. */
  stops(part: Stoppable): void {
    this.parts.unshift(part);
  }

  /** Ends the process with `code`; the first call wins. */
  end(code: number, reason: string): void {
    if (this.ending) return;
    this.ending = true;
    if (code === 0) this.log.info(`${reason}: stopping`);
    else this.log.error(`${reason}: exiting with code ${code}`);
    notifyManager('STOPPING=1', this.log);
    void this.shutDown(code);
  }

  private async shutDown(code: number): Promise<void> {
    const deadline = new Promise<void>((resolve) => setTimeout(resolve, STOP_MS_MAX));
    const running = new Set(this.parts);
    const stopped = this.parts.map((part) =>
      part
        .stop()
        .catch((error) => this.log.warn(`while stopping: ${explain(error)}`))
        .finally(() => running.delete(part)),
    );
    await Promise.race([Promise.all(stopped), deadline]);
    for (const part of running) part.abandon?.();
    for (const path of this.sockets) {
      try {
        removeSocket(path);
      } catch (error) {
        this.log.warn(`cannot remove ${path}: ${explain(error)}`);
      }
    }
    await this.log.flush(LAST_WORDS_MS_MAX);
    this.log.close();
    exitNow(code);
  }
}

/** Message and the innermost frame: enough to find the bug, short enough for one line. */
function withPlace(error: unknown): string {
  const frame =
    error instanceof Error ? error.stack?.split('\n').find((line) => line.startsWith('    at ')) : undefined;
  return frame === undefined ? explain(error) : `${explain(error)} ${frame.trim()}`;
}
