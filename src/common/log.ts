/**
 * What every room may say to a person: one line per event, five levels. Who writes the lines where is not known here
 * (`src/daemon/log-writer.ts` in the daemon, a collecting double in tests).
 */

/** Levels in falling importance; `--log-level L` shows L and everything before it. */
export const LOG_LEVELS = ['error', 'warn', 'info', 'debug', 'trace'] as const;

export type LogLevel = (typeof LOG_LEVELS)[number];

/** A sink for lines. Never throws, never blocks, returns nothing; a line may be dropped (and is counted then). */
export interface Logger {
  error(text: string): void;
  warn(text: string): void;
  info(text: string): void;
  debug(text: string): void;
  trace(text: string): void;
  /** True when lines of `level` are written: guards texts that are dear to build. */
  shows(level: LogLevel): boolean;
}

/** True when a logger set to `threshold` shows lines of `level`. */
export function showsAt(threshold: LogLevel, level: LogLevel): boolean {
  return LOG_LEVELS.indexOf(level) <= LOG_LEVELS.indexOf(threshold);
}

const nothing = (): void => {};

/** Drops everything: for library use and for tests that do not look at lines. */
export const SILENT: Logger = {
  error: nothing,
  warn: nothing,
  info: nothing,
  debug: nothing,
  trace: nothing,
  shows: () => false,
};
