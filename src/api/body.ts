/** Bodies of requests: read with a limit, parsed with the errors upstream's clients know (kata-contract 4.2, 4.3). */
import type { IncomingMessage } from 'node:http';
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
    const reason = (error as Error).message;
    const at = Number(/position (\d+)/.exec(reason)?.[1] ?? text.length);
    const before = text.slice(0, at).split('\n');
    throw parseError(reason, before.length, before.at(-1)!.length + 1);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw parseError('expected an object', 1, 1);
  return value as Record<string, unknown>;
}

/** The trace itself, or its text. @throws PREFETCH_TRACE */
function traceOf(value: unknown): AccessTrace | null {
  if (value === null) return null;
  return typeof value === 'string' ? parseTraceText(value) : parseTrace(value);
}

/** The mount body. Members we do not know are ignored. @throws HttpError, PREFETCH_TRACE */
export function parseMount(body: Buffer): MountRequest {
  const object = parseObject(body);
  const lines = body.toString('utf8').split('\n');
  const fail = (reason: string) => parseError(reason, lines.length, lines.at(-1)!.length);
  const text = (name: string, fallback: string | null): string => {
    const value = object[name] ?? fallback;
    if (value === null || value === undefined) throw fail(`missing field \`${name}\``);
    if (typeof value !== 'string') throw fail(`invalid type of \`${name}\`, expected a string`);
    return value;
  };
  const files = object['prefetch_files'] ?? null;
  if (files !== null && !(Array.isArray(files) && files.every((file) => typeof file === 'string'))) {
    throw fail('invalid type of `prefetch_files`, expected a list of strings');
  }
  return {
    source: text('source', null),
    fsType: text('fs_type', ''),
    config: text('config', null),
    prefetchFiles: files,
    prefetchTrace: traceOf(object['prefetch_trace'] ?? null),
  };
}
