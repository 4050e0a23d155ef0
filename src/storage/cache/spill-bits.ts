/**
 * What the device thread sees of a blob's spill (`spill.ts`): a descriptor with chunks at their uncompressed offsets, a bit
 * for each that is there, and a clock that moves when one goes.
 *
 * Chunks of a spill come and go, unlike those of a cache file. A reader therefore looks at the clock, then at the bits,
 * copies, and looks at the clock again: main clears bits, then moves the clock, then takes the bytes away, so a clock that
 * stood still says that the copied bytes were whole.
 */

/** The device thread's half of a spill; structured-clonable. */
export interface SpillHandle {
  /** Descriptor in the first four bytes, valid once a bit is set; then as `BlobHandle.ready`. */
  bits: SharedArrayBuffer;
  /** One word for all blobs of a store. */
  clock: SharedArrayBuffer;
}

const FD_BYTES = 4;

export function newSpillHandle(chunkCount: number, clock: SharedArrayBuffer = newSpillClock()): SpillHandle {
  return { bits: new SharedArrayBuffer(FD_BYTES + Math.ceil(chunkCount / 8)), clock };
}

export function newSpillClock(): SharedArrayBuffer {
  return new SharedArrayBuffer(4);
}

/** Both threads' view of a handle; calls allocate nothing. */
export class SpillView {
  private readonly fdWord: Int32Array;
  private readonly bits: Uint8Array;
  private readonly clock: Int32Array;

  constructor(handle: SpillHandle) {
    this.fdWord = new Int32Array(handle.bits, 0, 1);
    this.bits = new Uint8Array(handle.bits, FD_BYTES);
    this.clock = new Int32Array(handle.clock);
  }

  has(chunk: number): boolean {
    return (Atomics.load(this.bits, chunk >>> 3) & maskOf(chunk)) !== 0;
  }

  /** Only after `has` of a chunk. */
  get fd(): number {
    return Atomics.load(this.fdWord, 0);
  }

  now(): number {
    return Atomics.load(this.clock, 0);
  }

  setFd(fd: number): void {
    Atomics.store(this.fdWord, 0, fd);
  }

  set(chunk: number): void {
    Atomics.or(this.bits, chunk >>> 3, maskOf(chunk));
  }

  clear(chunk: number): void {
    Atomics.and(this.bits, chunk >>> 3, 0xff ^ maskOf(chunk));
  }

  tick(): void {
    Atomics.add(this.clock, 0, 1);
  }
}

function maskOf(chunk: number): number {
  return 0x80 >>> (chunk & 7);
}
