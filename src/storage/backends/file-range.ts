/** A range of a local file, whole or while it arrives. */
import type { FileHandle } from 'node:fs/promises';
import type { Sink } from '../backend.ts';

/** Longest piece a sink waits for. */
const PIECE_BYTES_MAX = 256 << 10;

/**
 * Reads `bytes` bytes at `offset`, in the sink's buffer where there is one.
 * @returns how many there were: fewer only at the end of the file
 * @throws Node's errors, and the signal's reason
 */
export async function readFileRange(
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
    const { bytesRead } = await file.read(buffer, gotBytes, length, offset + gotBytes);
    if (bytesRead === 0) break;
    gotBytes += bytesRead;
    await sink?.arrived(gotBytes);
    signal.throwIfAborted();
  }
  return { buffer, gotBytes };
}
