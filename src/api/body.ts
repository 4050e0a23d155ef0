/** Bodies of requests: read with a limit, parsed with the errors upstream's clients know (kata-contract 4.2, 4.3). */
import type { IncomingMessage } from 'node:http';
import { jsonFault } from '../common/json-fault.ts';
import { type AccessTrace, parseTrace, parseTraceText } from '../daemon/access-trace.ts';
import type { MountRequest } from '../daemon/mounts.ts';
import { HttpError } from './errors.ts';

/** Configurations with CA lists and tokens reach a few hundred KiB; nothing legitimate comes near this. */
export const BODY_BYTES_MAX = 8 * 1024 * 1024;

/** Whole body; empty when there is none. @throws HttpError 413 beyond BODY_BYTES_MAX; the rest is left unread */
export async function readBody(request: IncomingMessage): Promise<Buffer> {
  const tooLarge = () => new HttpError(413, `BodyTooLarge(${BODY_BYTES_MAX})`);
  if (Number(request.headers['content-length'] ?? 0) > BODY_BYTES_MAX) throw tooLarge();
  const parts: Buffer[] = [];
  let bytes = 0;
  for await (const part of request as AsyncIterable<Buffer>) {
    bytes += part.length;
    if (bytes > BODY_BYTES_MAX) throw tooLarge();
    parts.push(part);
  }
  return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
}

const parseError = (reason: string, line: number, column: number) =>
  new HttpError(400, `ParseBody(Error(${JSON.stringify(reason)}, line: ${line}, column: ${column}))`);

/** A JSON object. @throws HttpError 400 with the place of the first mistake */
export function parseObject(body: Buffer): Record<string, unknown> {
  const text = body.toString('utf8');
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    const { reason, line, column } = jsonFault(text, error);
    throw parseError(reason, line, column);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw parseError('expected an object', 1, 1);
  return value as Record<string, unknown>;
}

/** The trace itself, or its text. @throws PREFETCH_TRACE */
function traceOf(value: unknown): AccessTrace | null {
  if (value === null) return null;
  return typeof value === 'string' ? parseTraceText(value) : parseTrace(value);
}

/**
 * Text member `name` of the object that `body` holds; null: it has to be there.
 * @throws HttpError 400
 */
function textOf(body: Buffer, object: Record<string, unknown>, name: string, fallback: string | null): string {
  const value = object[name] ?? fallback;
  if (value === null || value === undefined) throw memberError(body, `missing field \`${name}\``);
  if (typeof value !== 'string') throw memberError(body, `invalid type of \`${name}\`, expected a string`);
  return value;
}

/** Members are looked at when the whole object is known: the place is its end. */
function memberError(body: Buffer, reason: string): HttpError {
  const lines = body.toString('utf8').split('\n');
  return parseError(reason, lines.length, lines.at(-1)!.length);
}

/** The mount body. Members we do not know are ignored. @throws HttpError, PREFETCH_TRACE */
export function parseMount(body: Buffer): MountRequest {
  const object = parseObject(body);
  const files = object['prefetch_files'] ?? null;
  if (files !== null && !(Array.isArray(files) && files.every((file) => typeof file === 'string'))) {
    throw memberError(body, 'invalid type of `prefetch_files`, expected a list of strings');
  }
  return {
    source: textOf(body, object, 'source', null),
    fsType: textOf(body, object, 'fs_type', ''),
    config: textOf(body, object, 'config', null),
    prefetchFiles: files,
    prefetchTrace: traceOf(object['prefetch_trace'] ?? null),
  };
}

/** The body of `PUT daemon`. @throws HttpError 400 */
export function parseLogLevel(body: Buffer): string {
  return textOf(body, parseObject(body), 'log_level', null);
}
