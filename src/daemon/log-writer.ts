/**
 * Log lines in nydusd's shape (kata-contract 3.2), written without ever blocking.
 *
 * pino would serve, but costs 20 ms of start-up and writes JSON; console and process.stdout write pipes synchronously,
 * so a runtime that stops reading would stop the daemon (kata-contract 1.3). Here stdout is opened once more, through
 * /proc, as a non-blocking description of our own: the flag must not reach whoever else holds the same pipe end.
 *
 * A line is handed to the kernel at once; only what the reader does not take is queued, up to a limit, then dropped and
 * counted. A retry timer exists only while something is queued, so an idle daemon has no timer.
 */
import { closeSync, constants, fstatSync, openSync, write as writeAsync, writeSync } from 'node:fs';
import { codeOf } from '../common/app-error.ts';
import { type Logger, type LogLevel, showsAt } from '../common/log.ts';
import { LogFile } from './log-file.ts';

/** Kata's reader stops for good at 64 KiB without a newline; a pipe takes 4,096 bytes in one piece. */
export const LINE_BYTES_MAX = 4096;
/** What a slow reader may have us hold. */
export const QUEUE_BYTES_MAX = 256 * 1024;
const RETRY_FIRST_MS = 10;
const RETRY_LAST_MS = 1000;

/** Recent error lines for `GET /api/v1/daemon/events` (kata-contract 4.5). */
const EVENTS_MAX = 500;
const EVENTS_BYTES_MAX = 51_200;

export interface ErrorEvents {
  max_errors: number;
  total_errors: number;
  max_size: number;
  total_size: number;
  errors: string[];
}

export class LogWriter implements Logger {
  /** Lines nobody will see: queue full, or the reader is gone. */
  dropped = 0;
  private droppedReported = 0;
  private readonly queue: Buffer[] = [];
  private queuedBytes = 0;
  private waiting = false;
  private onEmpty: () => void = () => {};
  private retryMs = RETRY_FIRST_MS;
  private file: LogFile | null = null;
  private readonly events: string[] = [];
  private eventBytes = 0;
  private totalErrors = 0;

  /** @param fd non-blocking descriptor, a file, or (`mayBlock`) one that is written from the thread pool; -1 = nowhere */
  constructor(
    private fd: number,
    private readonly mayBlock: boolean,
    private level: LogLevel,
  ) {}

  /** Lines to stdout. */
  static stdout(level: LogLevel): LogWriter {
    try {
      const kind = fstatSync(1);
      // A file never makes us wait, and shares its offset with whoever opened it. Others cannot be opened again (ENXIO).
      if (kind.isFile()) return new LogWriter(1, false, level);
      if (kind.isSocket()) return new LogWriter(1, true, level);
      return new LogWriter(openSync('/proc/self/fd/1', constants.O_WRONLY | constants.O_NONBLOCK), false, level);
    } catch {
      // Closed, or what it led to is gone: a daemon without a log still serves.
      return new LogWriter(-1, false, level);
    }
  }

  /** Lines appended to a file, which is rotated at `rotateBytes` (0: never). @throws what open throws */
  static file(path: string, level: LogLevel, rotateBytes: number): LogWriter {
    const log: LogWriter = new LogWriter(-1, false, level);
    log.file = new LogFile(path, rotateBytes, (text) => log.warn(text));
    log.fd = log.file.fd;
    return log;
  }

  setLevel(level: LogLevel): void {
    this.level = level;
  }

  shows(level: LogLevel): boolean {
    return showsAt(this.level, level);
  }

  error(text: string): void {
    this.line('error', text);
  }
  warn(text: string): void {
    this.line('warn', text);
  }
  info(text: string): void {
    this.line('info', text);
  }
  debug(text: string): void {
    this.line('debug', text);
  }
  trace(text: string): void {
    this.line('trace', text);
  }

  /** One line at `level`. Newlines and control characters in `text` are escaped: one event is one line. */
  line(level: LogLevel, text: string): void {
    if (level === 'error') this.remember(text);
    if (!showsAt(this.level, level)) return;
    this.push(format(level, text));
  }

  errorEvents(): ErrorEvents {
    return {
      max_errors: EVENTS_MAX,
      total_errors: this.totalErrors,
      max_size: EVENTS_BYTES_MAX,
      total_size: this.eventBytes,
      errors: [...this.events],
    };
  }

  /** Resolves when the reader has taken every line, or after `msMax`. */
  async flush(msMax: number): Promise<void> {
    if (this.queue.length === 0) return;
    await new Promise<void>((resolve) => {
      this.onEmpty = resolve;
      setTimeout(resolve, msMax);
    });
  }

  /** Last words before the process ends: whatever the reader takes now. */
  close(): void {
    if (!this.mayBlock) this.drain();
    if (this.fd > 2) closeSync(this.fd);
    this.fd = -1;
  }

  private remember(text: string): void {
    const event = `${new Date().toUTCString()} - ${oneLine(text, 1024)}`;
    this.events.push(event);
    this.totalErrors++;
    this.eventBytes += event.length;
    while (this.events.length > EVENTS_MAX || this.eventBytes > EVENTS_BYTES_MAX) {
      this.eventBytes -= this.events.shift()!.length;
    }
  }

  private push(line: Buffer): void {
    if (this.fd < 0 || this.queuedBytes + line.length > QUEUE_BYTES_MAX) {
      this.dropped++;
      return;
    }
    this.queue.push(line);
    this.queuedBytes += line.length;
    if (!this.waiting) this.drain();
  }

  private drain(): void {
    if (this.mayBlock) {
      this.drainInPool();
      return;
    }
    while (this.queue.length > 0 && this.fd >= 0) {
      const line = this.queue[0]!;
      let written: number;
      try {
        written = writeSync(this.fd, line);
      } catch (error) {
        this.refused(error);
        return;
      }
      this.took(line, written);
    }
    this.reportDropped();
  }

  private drainInPool(): void {
    const line = this.queue[0];
    if (line === undefined || this.fd < 0) return;
    this.waiting = true;
    writeAsync(this.fd, line, (error, written) => {
      this.waiting = false;
      if (error !== null) {
        this.refused(error);
        return;
      }
      this.took(line, written);
      this.reportDropped();
      if (!this.waiting) this.drainInPool();
    });
  }

  private took(line: Buffer, written: number): void {
    this.queuedBytes -= written;
    this.retryMs = RETRY_FIRST_MS;
    if (written < line.length) {
      this.queue[0] = line.subarray(written);
      return;
    }
    this.queue.shift();
    if (this.file !== null) {
      this.file.wrote(written);
      this.fd = this.file.fd;
    }
    if (this.queue.length === 0) this.onEmpty();
  }

  private refused(error: unknown): void {
    const code = codeOf(error);
    if (code === 'EAGAIN' || code === 'EINTR' || code === 'ENOSPC') {
      this.waiting = true;
      setTimeout(() => {
        this.waiting = false;
        this.drain();
      }, this.retryMs).unref();
      this.retryMs = Math.min(this.retryMs * 2, RETRY_LAST_MS);
      return;
    }
    // EPIPE and friends: the reader is gone for good. The file systems go on without a log.
    this.dropped += this.queue.length;
    this.queue.length = 0;
    this.queuedBytes = 0;
    this.fd = -1;
    this.onEmpty();
  }

  private reportDropped(): void {
    if (this.dropped === this.droppedReported || this.queue.length > 0 || this.fd < 0) return;
    const lost = this.dropped - this.droppedReported;
    this.droppedReported = this.dropped;
    this.push(format('warn', `${lost} log lines were dropped: the reader of this log was too slow`));
  }
}

/** `[2026-08-03 08:00:01.120000 +00:00] INFO text\n`, at most LINE_BYTES_MAX bytes. */
export function format(level: LogLevel, text: string): Buffer {
  const iso = new Date().toISOString();
  const head = `[${iso.slice(0, 10)} ${iso.slice(11, 23)}000 +00:00] ${level.toUpperCase()} `;
  const line = Buffer.from(`${head}${oneLine(text, LINE_BYTES_MAX)}\n`);
  if (line.length <= LINE_BYTES_MAX) return line;
  const cut = line.subarray(0, LINE_BYTES_MAX);
  cut.write('...\n', LINE_BYTES_MAX - 4);
  return cut;
}

/** Control characters as escapes, so that no text from outside can forge a second line or drive a terminal. */
function oneLine(text: string, charsMax: number): string {
  return text.slice(0, charsMax).replace(/\p{Cc}/gu, (c) => {
    if (c === '\n') return '\\n';
    return c === '\t' ? ' ' : `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}
