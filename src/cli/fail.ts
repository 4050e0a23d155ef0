/**
 * How a command ends badly: one message on stderr that says what failed, on what, why, and what to do; never a stack.
 * Exit codes (kata-contract 3.1): 0 done, 1 start-up or run-time error, 2 command-line error.
 */
import { writeSync } from 'node:fs';
import { AppError, codeOf, defineErrors, explain } from '../common/app-error.ts';

export const EXIT_OK = 0;
export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

interface Facts {
  USAGE: { command: string; text: string };
  NOT_SERVED: { mode: string; instead: string };
}

/** USAGE: a mistake on the command line, exit code 2. NOT_SERVED: right, but not to be had here, exit code 1. */
export const usageError = defineErrors<Facts>({
  USAGE: { retryable: false, say: ({ command, text }) => `${text}. Try '${command} --help'` },
  NOT_SERVED: { retryable: false, say: ({ mode, instead }) => `${mode} is not served by this daemon; use ${instead}` },
});

/** What a pipe that is full, and does not block, is given to be read. */
const FULL_PIPE_MS = 5;
const never = new Int32Array(new SharedArrayBuffer(4));

/**
 * Prints all of `text` to stdout, at the pace of whoever reads it. A reader that has gone away (`nydusd --help | head`) is no
 * error.
 * @returns false when nobody reads
 */
export function print(text: string): boolean {
  const bytes = Buffer.from(text);
  for (let done = 0; done < bytes.length; ) {
    try {
      done += writeSync(1, bytes, done);
    } catch (error) {
      // Something in this process has looked at process.stdout: Node makes pipes non-blocking then.
      if (codeOf(error) !== 'EAGAIN') return false;
      Atomics.wait(never, 0, 0, FULL_PIPE_MS);
    }
  }
  return true;
}

/** Prints `command: message` to stderr. */
export function complain(command: string, message: string): void {
  write(2, `${command}: ${message}\n`);
}

/** Prints text as it is to stderr. */
export function complainRaw(text: string): void {
  write(2, text);
}

function write(fd: number, text: string): void {
  try {
    writeSync(fd, text);
  } catch {
    // Nobody reads: nothing more can be said to anybody.
  }
}

/** Reports a thrown value and answers the exit code that belongs to it. */
export function report(command: string, error: unknown): number {
  if (error instanceof AppError && error.code === 'USAGE') {
    complain(command, error.message.slice('USAGE: '.length));
    return EXIT_USAGE;
  }
  complain(command, explain(error));
  return EXIT_FAILED;
}
