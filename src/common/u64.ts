/**
 * Little-endian u64 as JS numbers, without BigInt. A value above 2^53-1 is refused (-1), never rounded: offsets and
 * sizes that large cannot be real, and a rounded one would point at other bytes.
 */

/** 2^53-1 >> 32: a high word above this does not fit a safe integer. */
const HIGH_WORD_MAX = 0x1f_ffff;

/** u64 at `at`, or -1 when it exceeds 2^53-1. */
export function u64(view: DataView, at: number): number {
  const high = view.getUint32(at + 4, true);
  return high > HIGH_WORD_MAX ? -1 : high * 2 ** 32 + view.getUint32(at, true);
}

/** i64 at `at`, or 0 when it is no safe integer: for times, where a wild value must not cost the whole file. */
export function timeSeconds(view: DataView, at: number): number {
  const value = view.getInt32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
  return Number.isSafeInteger(value) ? value : 0;
}

/** Writes a safe integer >= 0 as u64. @throws RangeError on anything else: a builder bug, never input. */
export function putU64(view: DataView, at: number, value: number): void {
  if (!Number.isSafeInteger(value) || value < 0) throw new RangeError(`${value} is no u64`);
  view.setUint32(at, value % 2 ** 32, true);
  view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
}

/** Writes a safe integer, negative ones too, as i64 (two's complement); times before 1970 need it. */
export function putI64(view: DataView, at: number, value: number): void {
  if (!Number.isSafeInteger(value)) throw new RangeError(`${value} is no i64`);
  const low = ((value % 2 ** 32) + 2 ** 32) % 2 ** 32;
  view.setUint32(at, low, true);
  view.setInt32(at + 4, (value - low) / 2 ** 32, true);
}

/** `value` rounded up to a multiple of `unit`; exact up to 2^53-1. */
export function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}
