/**
 * Access traces as clients and builders see them (rafs-format 4.7): the files of an image in the order they were first
 * read, each with the ranges that were.
 *
 *     {"version":"v1","files":[{"path":"/usr/bin/python3","ranges":[[0,1048576]]}, …]}
 */
import { daemonError } from './errors.ts';

export interface TracedFile {
  /** Absolute, in the image. */
  path: string;
  /** Offset and length, in bytes. */
  ranges: [number, number][];
}

export interface AccessTrace {
  version: 'v1';
  files: TracedFile[];
}

/** Ranges of all files together; a trace of ours has fewer. */
const RANGES_MAX = 1 << 18;

/** @throws PREFETCH_TRACE naming the first wrong member */
export function parseTrace(value: unknown): AccessTrace {
  const wrong = (reason: string) => daemonError('PREFETCH_TRACE', { reason });
  if (!isObject(value)) throw wrong('must be an object with "version" and "files"');
  const { version, files } = value;
  if (version !== 'v1') throw wrong(`"version" must be "v1", not ${shown(version)}`);
  if (!Array.isArray(files)) throw wrong('"files" must be a list');
  let count = 0;
  const parsed = files.map((file: unknown, i): TracedFile => {
    if (!isObject(file)) throw wrong(`files[${i}] must be an object`);
    const { path, ranges = [] } = file;
    if (typeof path !== 'string' || !path.startsWith('/')) {
      throw wrong(`files[${i}].path must be an absolute path, not ${shown(path)}`);
    }
    if (!Array.isArray(ranges) || !ranges.every(isRange)) {
      throw wrong(`files[${i}].ranges must be a list of [offset, size]`);
    }
    count += ranges.length;
    if (count > RANGES_MAX) throw wrong(`more than ${RANGES_MAX} ranges`);
    return { path, ranges };
  });
  return { version, files: parsed };
}

/** The text of a trace. @throws as `parseTrace` */
export function parseTraceText(text: string): AccessTrace {
  try {
    return parseTrace(JSON.parse(text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw daemonError('PREFETCH_TRACE', { reason: `no JSON (${error.message.slice(0, 80)})` });
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isRange(range: unknown): range is [number, number] {
  const isCount = (value: unknown) => Number.isSafeInteger(value) && (value as number) >= 0;
  return Array.isArray(range) && range.length === 2 && range.every(isCount);
}

function shown(value: unknown): string {
  return (JSON.stringify(value) ?? 'nothing').slice(0, 60);
}
