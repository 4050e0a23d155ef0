/** A range of a local file, whole or while it arrives. */
import type { FileHandle } from 'node:fs/promises';
import type { Sink } from '../backend.ts';
import { Gate } from '../gate.ts';

/** Longest piece a sink waits for. */
const PIECE_BYTES_MAX = 256 << 10;

/**
 * Each holds a thread of the pool until the file system answers, which a dead server's never does. The pool has four: one is
 * left for mounts that ask the same file system (`file-systems.ts`), one for the data of others.
 */
const ASKED_MAX = 2;

/** Requests to the file system of one backend. */
export const newFileGate = () => new Gate(ASKED_MAX);

/** `answer`, or the signal's reason once that fires: who waits for a file system that hangs can go. */
export function unlessAborted<T>(signal: AbortSignal, answer: Promise<T>): Promise<T> {
  signal.throwIfAborted();
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    answer.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

/**
 * Reads `bytes` bytes at `offset`, in the sink's buffer where there is one: a read that hangs keeps its reader, because
 * the buffer is the kernel's until it ends.
 * @returns how many there were: fewer only at the end of the file
 * @throws Node's errors, and the signal's reason
 */
export async function readFileRange(
  gate: Gate,
  file: FileHandle,
  offset: number,
  bytes: number,
  sink: Sink | undefined,
  signal: AbortSignal,
): Promise<{ buffer: Buffer; gotBytes: number }> {
  const buffer = sink?.buffer ?? Buffer.allocUnsafeSlow(bytes);
  const pieceBytes = sink === undefined ? bytes : PIECE_BYTES_MAX;
  let gotBytes = 0;
  while (gotBytes < bytes) {
    const length = Math.min(pieceBytes, bytes - gotBytes);
    const { bytesRead } = await gate.run(signal, () => file.read(buffer, gotBytes, length, offset + gotBytes));
    if (bytesRead === 0) break;
    gotBytes += bytesRead;
    await sink?.arrived(gotBytes);
    signal.throwIfAborted();
  }
  return { buffer, gotBytes };
}
