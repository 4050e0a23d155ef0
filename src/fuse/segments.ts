/**
 * A scattered piece of memory the guest (or the /dev/fuse buffer) lends us for bulk data: the payload of a WRITE or
 * the space for a READ reply. Data moves between it and files by vectored syscalls; JS never copies it.
 *
 *     address[first] + skip ──┐                    the arrays belong to the chain walker; Segments only
 *     ┌──────────┬────────────▼─────────┐          remembers where in them its bytes begin
 *     │  header  │  data data data …    │ → next
 *     └──────────┴──────────────────────┘
 */
import { errno } from '../sys/errno.ts';
import { copyMemory, fillMemory, IOVECS_MAX, preadv2, pwritev2 } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';

const IOVEC_BYTES = 16;
const iovecs = new NativeMemory(IOVECS_MAX * IOVEC_BYTES);

/** Address of the scratch iovecs that `fill` writes: for syscalls made at once on this thread. */
export const IOVECS = iovecs.address;

export class Segments {
  address: Float64Array = NONE_F64;
  length: Uint32Array = NONE_U32;
  /** Index of the first segment. */
  first = 0;
  /** One past the last segment. */
  end = 0;
  /** Bytes of the first segment that are not ours. */
  skip = 0;
  /** Bytes in all. */
  bytes = 0;

  /** Points at segments `first`..`end` of the arrays, less `skip` bytes of the first ones; `total` is their byte sum. */
  set(address: Float64Array, length: Uint32Array, first: number, end: number, skip: number, total: number): void {
    this.address = address;
    this.length = length;
    this.bytes = total - skip;
    while (first < end && skip >= (length[first] as number)) skip -= length[first++] as number;
    this.first = first;
    this.end = end;
    this.skip = skip;
  }

  clear(): void {
    this.first = this.end = this.skip = this.bytes = 0;
  }
}

const NONE_F64 = new Float64Array(0);
const NONE_U32 = new Uint32Array(0);

/** Bytes the last `fill` described. */
let filledBytes = 0;

/** Bytes described by the iovecs of the last `fill`. */
export function lastFilledBytes(): number {
  return filledBytes;
}

/**
 * Writes struct iovec for bytes [skip, skip + bytes) of `segments` to IOVECS, neighbours merged, at most IOVECS_MAX.
 * Returns the number of iovecs; `lastFilledBytes()` says how many bytes they cover (less than `bytes` when they ran out).
 */
export function fill(segments: Segments, skip: number, bytes: number): number {
  const { address, length, end } = segments;
  const words = iovecs.u32;
  let index = segments.first;
  let inside = segments.skip + skip;
  while (index < end && inside >= (length[index] as number)) inside -= length[index++] as number;
  let count = 0;
  let covered = 0;
  let lastEnd = -1;
  let lastBytes = 0;
  for (; index < end && covered < bytes; index++) {
    const start = (address[index] as number) + inside;
    let take = (length[index] as number) - inside;
    inside = 0;
    if (take > bytes - covered) take = bytes - covered;
    if (start === lastEnd) {
      // Guest pages that happen to lie side by side: one iovec less for the kernel to walk.
      lastBytes += take;
      words[(count - 1) * 4 + 2] = lastBytes;
    } else {
      if (count === IOVECS_MAX) break;
      const at = count * 4;
      const high = Math.floor(start / 0x1_0000_0000);
      words[at] = start - high * 0x1_0000_0000;
      words[at + 1] = high;
      words[at + 2] = take;
      words[at + 3] = 0;
      lastBytes = take;
      count++;
    }
    lastEnd = start + take;
    covered += take;
    if (lastBytes > 0x4000_0000) lastEnd = -1; // keep each iovec below 2 GiB whatever the guest lays out
  }
  filledBytes = covered;
  return count;
}

/**
 * Reads file bytes [offset, offset + bytes) of `fd` into `segments` from byte `skip` on. Returns the bytes read (short
 * at end of file), or -errno when nothing was read. `flags` are RWF_*.
 */
export function readInto(
  segments: Segments,
  skip: number,
  bytes: number,
  fd: number,
  offset: number,
  flags: number,
): number {
  let done = 0;
  while (done < bytes) {
    const count = fill(segments, skip + done, bytes - done);
    if (count === 0) break;
    const n = preadv2(fd, iovecs.address, count, offset + done, flags);
    if (n < 0) return done > 0 ? done : n;
    done += n;
    if (n < filledBytes) break;
  }
  return done;
}

/** As readInto, from `segments` to the file. */
export function writeFrom(
  segments: Segments,
  skip: number,
  bytes: number,
  fd: number,
  offset: number,
  flags: number,
): number {
  let done = 0;
  while (done < bytes) {
    const count = fill(segments, skip + done, bytes - done);
    if (count === 0) break;
    const n = pwritev2(fd, iovecs.address, count, offset + done, flags);
    if (n < 0) return done > 0 ? done : n;
    done += n;
    if (n < filledBytes) break;
  }
  return done;
}

/** Zeroes bytes [skip, skip + bytes) of `segments`. Returns `bytes`, or -EFAULT when they are not that long. */
export function zero(segments: Segments, skip: number, bytes: number): number {
  return eachPiece(segments, skip, bytes, 0);
}

/** Copies `bytes` native bytes from `source` to `segments` at byte `skip`. Returns `bytes`, or -EFAULT when they are not that long. */
export function copyTo(segments: Segments, skip: number, source: number, bytes: number): number {
  return eachPiece(segments, skip, bytes, source);
}

function eachPiece(segments: Segments, skip: number, bytes: number, source: number): number {
  const { address, length, end } = segments;
  let index = segments.first;
  let inside = segments.skip + skip;
  while (index < end && inside >= (length[index] as number)) inside -= length[index++] as number;
  let done = 0;
  for (; index < end && done < bytes; index++) {
    let take = (length[index] as number) - inside;
    if (take > bytes - done) take = bytes - done;
    const at = (address[index] as number) + inside;
    if (source === 0) fillMemory(at, 0, take);
    else copyMemory(at, source + done, take);
    inside = 0;
    done += take;
  }
  return done === bytes ? bytes : -errno.EFAULT;
}
