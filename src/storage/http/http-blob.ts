/** Answers to requests for blobs: which statuses mean what, and that a range is exactly the one asked for. */
import type { Sink } from '../backend.ts';
import { storageError } from '../errors.ts';
import { parseRetryAfter, wasTooSlow } from '../retry.ts';
import { type HttpAnswer, type HttpClient, targetOf } from './http.ts';
import { discard, readBody } from './http-body.ts';

/** Error statuses as errors; 2xx and 3xx return. The body is discarded when it throws. */
export function checkStatus(blobId: string, answer: HttpAnswer): void {
  const { status } = answer;
  if (status >= 200 && status < 400) return;
  discard(answer);
  const target = targetOf(answer.url);
  if (status === 404) throw storageError('HTTP_NOT_FOUND', { blobId, where: target });
  if (status === 410) throw storageError('BLOB_NOT_FOUND', { blobId, where: target });
  if (status === 401 || status === 403) {
    throw storageError('HTTP_AUTH', { target, status, why: 'check the credentials in the configuration' });
  }
  if (status === 408 || status === 429 || status >= 500) {
    const retryAfterMs = parseRetryAfter(answer.headers['retry-after'], Date.now());
    throw storageError('HTTP_BUSY', { target, status, retryAfterMs });
  }
  throw storageError('HTTP_STATUS', { target, status });
}

/** What is wanted of a blob, and where it goes while it arrives. */
interface Asked {
  offset: number;
  bytes: number;
  sink: Sink | undefined;
}

/** Header of a ranged request. */
export function rangeHeader(offset: number, bytes: number): string {
  return `bytes=${offset}-${offset + bytes - 1}`;
}

/**
 * Takes [offset, offset+bytes) out of the answer to a ranged GET: a 206 must carry exactly that range; a 200 is the
 * whole object and is sliced, unless it says by Content-Range that it is the slice (nydus-backend-proxy does).
 * @throws what `checkStatus` and `readBody` throw, and HTTP_BODY for a range that was not asked for
 */
export async function readRange(
  client: HttpClient,
  blobId: string,
  answer: HttpAnswer,
  asked: Asked,
  signal: AbortSignal,
): Promise<Buffer> {
  checkStatus(blobId, answer);
  const startedMs = performance.now();
  try {
    const got = await takeRange(client, answer, asked, signal);
    answer.ended?.(true);
    return got;
  } catch (error) {
    if (!signal.aborted || wasTooSlow(signal, startedMs)) answer.ended?.(false);
    throw error;
  }
}

async function takeRange(
  client: HttpClient,
  answer: HttpAnswer,
  { offset, bytes, sink }: Asked,
  signal: AbortSignal,
): Promise<Buffer> {
  const refuse = (rule: string) => {
    answer.body.destroy();
    return storageError('HTTP_BODY', { target: targetOf(answer.url), rule });
  };
  if (answer.status !== 206 && answer.status !== 200) throw refuse(`status ${answer.status} for a range`);
  if (answer.headers['content-encoding'] !== undefined) throw refuse('content encoding on blob data');
  const range = answer.headers['content-range'];
  if (range === undefined) {
    if (answer.status === 206) throw refuse('206 without Content-Range');
    return readBody(client, answer, { skipBytes: offset, wantedBytes: bytes, isWhole: false, sink }, signal);
  }
  const match = /^bytes (\d{1,16})-(\d{1,16})\/(\d{1,16}|\*)$/.exec(range);
  if (match === null || Number(match[1]) !== offset || Number(match[2]) !== offset + bytes - 1) {
    throw refuse(`Content-Range ${range.slice(0, 60)} where ${rangeHeader(offset, bytes)} was asked for`);
  }
  return readBody(client, answer, { skipBytes: 0, wantedBytes: bytes, isWhole: true, sink }, signal);
}

/** Content-Length of a HEAD answer. @throws HTTP_BODY when it is missing or senseless */
export function contentLength(answer: HttpAnswer): number {
  const length = answer.headers['content-length'];
  if (length === undefined || !/^\d{1,15}$/.test(length)) {
    throw storageError('HTTP_BODY', { target: targetOf(answer.url), rule: 'no Content-Length' });
  }
  return Number(length);
}
