/**
 * The same request in other shapes: a device must not conclude anything from where descriptors begin and end
 * (protocols 2.5: Linux sends header, arguments and data apart, Windows sends two descriptors).
 */
import type { ChainBuffer } from './driver-ring.ts';

/** Buffers of at most `bytes` each; 1 makes a descriptor of every byte. */
export function fragmented(buffers: readonly ChainBuffer[], bytes: number): ChainBuffer[] {
  const parts: ChainBuffer[] = [];
  for (const { gpa, bytes: total, writable } of buffers) {
    for (let done = 0; done < total; done += bytes) {
      parts.push({ gpa: gpa + done, bytes: Math.min(bytes, total - done), writable });
    }
  }
  return parts;
}

/** Buffers cut behind the given numbers of bytes, counted over the whole chain. */
export function cut(buffers: readonly ChainBuffer[], behind: readonly number[]): ChainBuffer[] {
  const parts: ChainBuffer[] = [];
  let position = 0;
  for (const { gpa, bytes, writable } of buffers) {
    let from = 0;
    for (const place of behind) {
      const at = place - position;
      if (at <= from || at >= bytes) continue;
      parts.push({ gpa: gpa + from, bytes: at - from, writable });
      from = at;
    }
    parts.push({ gpa: gpa + from, bytes: bytes - from, writable });
    position += bytes;
  }
  return parts;
}

/** Buffers that follow each other in memory and in direction made one. */
export function merged(buffers: readonly ChainBuffer[]): ChainBuffer[] {
  const parts: ChainBuffer[] = [];
  for (const buffer of buffers) {
    const last = parts.at(-1);
    if (last !== undefined && last.writable === buffer.writable && last.gpa + last.bytes === buffer.gpa) {
      last.bytes += buffer.bytes;
    } else {
      parts.push({ ...buffer });
    }
  }
  return parts;
}
