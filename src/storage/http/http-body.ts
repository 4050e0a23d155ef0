/** Bodies of answers: exactly what was asked for, or an error. */
import type { MessagePort } from 'node:worker_threads';
import type { Sink } from '../backend.ts';
import { storageError } from '../errors.ts';
import { type HttpAnswer, type HttpClient, PhaseTimer, targetOf } from './http.ts';

/** Bodies that are not blob data (tokens, error texts) end here. */
const TEXT_BODY_BYTES_MAX = 1 << 20;
/** A new connection costs about what reading this much does, or waiting this long for it. */
const DISCARDED_BYTES_MAX = 64 << 10;
const DISCARDED_MS_MAX = 1_000;

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
  await eachPiece(client, answer, signal, (piece) => {
    const bytes = piece.length;
    const from = Math.max(0, span.skipBytes - seen);
    if (from < bytes) piece.copy(out, Math.max(0, seen - span.skipBytes), from);
    seen += bytes;
    release(piece);
    const held = span.sink?.arrived(Math.min(span.wantedBytes, Math.max(0, seen - span.skipBytes)));
    return { held, isEnough: span.isWhole ? seen > end : seen >= end };
  });
  if (seen < end) throw storageError('HTTP_BODY', { target, rule: `${seen} of ${end} bytes` });
  if (span.isWhole && seen > end) throw storageError('HTTP_BODY', { target, rule: `more than ${end} bytes` });
  return out;
}

/** Reads a small text body. @throws HTTP_BODY when it is no small one or breaks off, HTTP_TIMEOUT when it stalls */
export async function readText(client: HttpClient, answer: HttpAnswer, signal: AbortSignal): Promise<string> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  await eachPiece(client, answer, signal, (piece) => {
    pieces.push(piece);
    bytes += piece.length;
    return { isEnough: bytes > TEXT_BODY_BYTES_MAX };
  });
  if (bytes > TEXT_BODY_BYTES_MAX) {
    throw storageError('HTTP_BODY', {
      target: targetOf(answer.url),
      rule: `text longer than ${TEXT_BODY_BYTES_MAX} bytes`,
    });
  }
  return Buffer.concat(pieces).toString('utf8');
}

/** What is moved here is freed: nobody is at its other end. */
let nowhere: MessagePort | null = null;

/**
 * Gives the memory of a piece back at once if it has it for itself: V8 looks for such only when there are 32 MiB of them,
 * and those count as the daemon's.
 */
function release({ buffer, byteOffset, byteLength }: Buffer): void {
  if (!(buffer instanceof ArrayBuffer) || byteOffset !== 0 || byteLength !== buffer.byteLength) return;
  if (nowhere === null) {
    const { port1, port2 } = new MessageChannel();
    port2.close();
    nowhere = port1;
  }
  nowhere.postMessage(null, [buffer]);
}

/** What the reader of a body says to a piece. */
interface Taken {
  /** The next piece comes when this has settled. */
  held?: Promise<void> | undefined;
  /** No more: the rest is cut off, with its connection. */
  isEnough: boolean;
}

/**
 * Gives the body to `take`, piece by piece as it arrives: by events, since iterating a stream costs a turn of the event
 * loop for each. Resolves at its end. What `take` does with a piece does not count against the time-out for the next one.
 * @throws as `readText`, and the signal's reason
 */
function eachPiece(
  client: HttpClient,
  answer: HttpAnswer,
  signal: AbortSignal,
  take: (piece: Buffer) => Taken,
): Promise<void> {
  const { body } = answer;
  const target = targetOf(answer.url);
  return new Promise((resolve, reject) => {
    const timer = new PhaseTimer(target, (error) => body.destroy(error));
    const abort = () => body.destroy(signal.reason);
    let seen = 0;
    const ended = (): void => {
      timer.stop();
      signal.removeEventListener('abort', abort);
      body.off('data', arrived).off('end', whole).off('close', broke);
    };
    const whole = (): void => {
      ended();
      resolve();
    };
    const broke = (): void => {
      ended();
      const error: unknown = body.errored;
      if (signal.aborted) reject(signal.reason);
      else if (error instanceof Error && 'facts' in error) reject(error);
      else reject(storageError('HTTP_BODY', { target, rule: `connection lost after ${seen} bytes` }, error));
    };
    const arrived = (piece: Buffer): void => {
      seen += piece.length;
      let taken: Taken;
      try {
        taken = take(piece);
      } catch (error) {
        ended();
        body.destroy();
        reject(error);
        return;
      }
      const { held, isEnough } = taken;
      if (isEnough) {
        whole();
        body.destroy();
      } else if (held === undefined) timer.goesOn();
      else {
        timer.stop();
        body.pause();
        void held.then(() => {
          if (body.destroyed) return;
          timer.start('body', client.bodyTimeoutMs);
          body.resume();
        });
      }
    };
    timer.start('body', client.bodyTimeoutMs);
    signal.addEventListener('abort', abort, { once: true });
    if (body.destroyed) broke();
    else body.on('data', arrived).once('end', whole).once('close', broke);
  });
}

/** Done with an answer: a small body is read to its end, which keeps the connection; anything else is cut off. */
export function discard(answer: HttpAnswer): void {
  const { body } = answer;
  const length = Number(answer.headers['content-length'] ?? Number.NaN);
  if (!(length <= DISCARDED_BYTES_MAX || body.complete)) {
    body.destroy();
    return;
  }
  body.resume();
  const late = setTimeout(() => body.destroy(), DISCARDED_MS_MAX).unref();
  body.once('close', () => clearTimeout(late));
}
