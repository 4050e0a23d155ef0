/** What the fuzzer and its flipping thread share: a few words of a SharedArrayBuffer. */
export interface FlipperData {
  fd: number;
  bytes: number;
  shared: SharedArrayBuffer;
}

export const CELL = { STATE: 0, RUNNING: 1, RANGES: 2, SEED: 3, FLIPS: 4 } as const;
export const STATE = { IDLE: 0, RUN: 1, QUIT: 2 } as const;
export const RANGES_AT = 8;
/** Offset in the memfd, bytes, mask of the byte positions modulo 16 that may be flipped, what to flip (0: anything). */
export const RANGE_WORDS = 4;
export const RANGES_MAX = 64;
export const SHARED_BYTES = 4 * (RANGES_AT + RANGE_WORDS * RANGES_MAX);
