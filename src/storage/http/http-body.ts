/** Bodies of answers: exactly what was asked for, or an error. */
import type { Sink } from '../backend.ts';
import { storageError } from '../errors.ts';
import { type HttpAnswer, type HttpClient, PhaseTimer, targetOf } from './http.ts';

/** Bodies that are not blob data (tokens, error texts) end here. */
const TEXT_BODY_BYTES_MAX = 1 << 20;
/** A new connection costs about what reading this much does. */
const DISCARDED_BYTES_MAX = 64 << 10;

/**
 * Reads `wantedBytes` of a body after dropping its first `skipBytes`. `isWhole` says that the body must end there; else
 * the rest is cut off with its connection.
 * @throws HTTP_BODY when it is shorter (or longer, with `isWhole`), HTTP_TIMEOUT when it stalls
 */
export async function readBody(
  client: HttpClient,
  answer: HttpAnswer,
  span: { skipBytes: number; wantedBytes: number; isWhole: boolean; sink?: Sink | undefined },
  signal: AbortSignal,
): Promise<Buffer> {
  const target = targetOf(answer.url);
  const out = span.sink?.buffer ?? Buffer.allocUnsafeSlow(span.wantedBytes);
  const end = span.skipBytes + span.wantedBytes;
  let seen = 0;
  for await (const piece of piecesOf(client, answer, signal)) {
    const from = Math.max(0, span.skipBytes - seen);
    if (from < piece.length) piece.copy(out, Math.max(0, seen - span.skipBytes), from);
    seen += piece.length;
    await span.sink?.arrived(Math.min(span.wantedBytes, Math.max(0, seen - span.skipBytes)));
    if (span.isWhole ? seen > end : seen >= end) break; // leaving the loop cuts the rest off
  }
  if (seen < end) throw storageError('HTTP_BODY', { target, rule: `${seen} of ${end} bytes` });
  if (span.isWhole && seen > end) throw storageError('HTTP_BODY', { target, rule: `more than ${end} bytes` });
  return out;
}

/** Reads a small text body. @throws HTTP_BODY when it is no small one or breaks off, HTTP_TIMEOUT when it stalls */
export async function readText(client: HttpClient, answer: HttpAnswer, signal: AbortSignal): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of piecesOf(client, answer, signal)) {
    pieces.push(piece);
    if ((bytes += piece.length) > TEXT_BODY_BYTES_MAX) {
      throw storageError('HTTP_BODY', {
        target: targetOf(answer.url),
        rule: `text longer than ${TEXT_BODY_BYTES_MAX} bytes`,
      });
    }
  }
  return Buffer.concat(pieces).toString('utf8');
}

/** The body as it arrives. What its reader does with a piece does not count against the time-out for the next one. */
async function* piecesOf(client: HttpClient, answer: HttpAnswer, signal: AbortSignal): AsyncGenerator<Buffer> {
  const { body } = answer;
  const target = targetOf(answer.url);
  const timer = new PhaseTimer(target, (error) => body.destroy(error));
  const abort = () => body.destroy(signal.reason);
  signal.addEventListener('abort', abort, { once: true });
  let seen = 0;
  try {
    timer.start('body', client.bodyTimeoutMs);
    for await (const piece of body as AsyncIterable<Buffer>) {
      timer.stop();
      seen += piece.length;
      yield piece;
      timer.start('body', client.bodyTimeoutMs);
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    if (error instanceof Error && 'facts' in error) throw error;
    throw storageError('HTTP_BODY', { target, rule: `connection lost after ${seen} bytes` }, error);
  } finally {
    timer.stop();
    signal.removeEventListener('abort', abort);
  }
}

/** Done with an answer: a small body is read to its end, which keeps the connection; anything else is cut off. */
export function discard(answer: HttpAnswer): void {
  const length = Number(answer.headers['content-length'] ?? Number.NaN);
  if (length <= DISCARDED_BYTES_MAX || answer.body.complete) answer.body.resume();
  else answer.body.destroy();
}
