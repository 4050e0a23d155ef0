/**
 * Log lines of commands that run to their end: to stderr, so that stdout holds results only, or appended to a file.
 * Written at once; there is nobody whose work a slow reader could hold up.
 */
import { openSync, writeSync } from 'node:fs';
import { type Logger, type LogLevel, showsAt } from '../common/log.ts';

const STDERR = 2;

export class CommandLog implements Logger {
  readonly #level: LogLevel;
  readonly #fd: number;

  /** @throws the error of open(2) when the file cannot be written */
  constructor(level: LogLevel, file: string | null) {
    this.#level = level;
    this.#fd = file === null ? STDERR : openSync(file, 'a', 0o644);
  }

  error(text: string): void {
    this.#line('error', text);
  }

  warn(text: string): void {
    this.#line('warn', text);
  }

  info(text: string): void {
    this.#line('info', text);
  }

  debug(text: string): void {
    this.#line('debug', text);
  }

  trace(text: string): void {
    this.#line('trace', text);
  }

  shows(level: LogLevel): boolean {
    return showsAt(this.#level, level);
  }

  #line(level: LogLevel, text: string): void {
    if (!this.shows(level)) return;
    const time = new Date().toISOString().replace('T', ' ').replace('Z', ' +00:00');
    try {
      writeSync(this.#fd, `[${time}] ${level.toUpperCase()} ${text}\n`);
    } catch {
      // Nobody reads: nothing more can be said to anybody.
    }
  }
}
