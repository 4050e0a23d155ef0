/**
 * The error family for everything that is not an errno: configuration, images, storage, API, command line.
 *
 * Each room has one catalogue made with `defineErrors`: a stable code, whether trying again can help, and the sentence
 * a person reads (what failed, on what, why, what to do), built from typed facts. Codes never change once released.
 */

interface Entry<F> {
  /** True when the same call may succeed later without anybody changing anything. */
  retryable: boolean;
  say: (facts: F) => string;
}

/** An error with a stable `code`, typed `facts` and a `message` of the form `CODE: sentence`. */
export class AppError<C extends string = string, F = unknown> extends Error {
  constructor(
    readonly code: C,
    readonly facts: F,
    readonly retryable: boolean,
    text: string,
    cause?: unknown,
  ) {
    super(`${code}: ${text}`, cause === undefined ? undefined : { cause });
    this.name = 'AppError';
  }
}

/** Makes the error constructor of a room: `const storageError = defineErrors<Facts>({...}); throw storageError('DIGEST', {...})`. */
export function defineErrors<Facts extends object>(
  catalogue: { [C in keyof Facts]: Entry<Facts[C]> },
): <C extends keyof Facts & string>(code: C, facts: Facts[C], cause?: unknown) => AppError<C, Facts[C]> {
  return (code, facts, cause) => {
    const entry = catalogue[code];
    return new AppError(code, facts, entry.retryable, entry.say(facts), cause);
  };
}

/** `code` of any thrown value: an AppError's, a Node system error's (`ENOENT`), or `UNKNOWN`. */
export function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code;
  return typeof code === 'string' ? code : 'UNKNOWN';
}

/** One line that explains a thrown value, causes included: `A: b (because C: d)`. Never a stack. */
export function explain(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const text = error.message.replaceAll('\n', ' ');
  return error.cause === undefined ? text : `${text} (because ${explain(error.cause)})`;
}
