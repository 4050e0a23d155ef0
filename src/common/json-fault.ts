/** What `JSON.parse` says about a text that is no JSON, fit to be shown. */

export interface JsonFault {
  reason: string;
  /** Counted from 1. Where the engine names no place: the end of the text. */
  line: number;
  column: number;
}

/**
 * Why and where `text` is no JSON. The engine quotes what lies around the fault, which may be half a password: that is
 * left out.
 * @param error what `JSON.parse` threw
 */
export function jsonFault(text: string, error: unknown): JsonFault {
  const message = (error as Error).message;
  const at = Number(/ at position (\d+)/.exec(message)?.[1] ?? text.length);
  const lines = text.slice(0, at).split('\n');
  const reason = message.replace(/, (\.\.\.)?".*$/s, '').replace(/ at position \d+.*$/s, '');
  return { reason, line: lines.length, column: (lines.at(-1) as string).length + 1 };
}
