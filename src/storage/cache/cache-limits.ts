/**
 * How much a cache directory may hold: a quota in bytes, and marks on free blocks and inodes of its file system, as the
 * kernel's cachefilesd has them. Pure.
 *
 *   free  ████████████████████████████   nothing is done
 *   run   ───────────────────────────    culling, once begun, ends here
 *   cull  ────────────────               below, blobs that nobody uses go, the longest unused first
 *   stop  ─────                          below, nothing more is kept: reads go on uncached
 */

/** Percent of the whole that is free; run ≥ cull ≥ stop. */
export interface Marks {
  run: number;
  cull: number;
  stop: number;
}

export interface CacheLimits {
  /** Of all files of the directory on the disk; 0 = no quota. */
  quotaBytes: number;
  /** Of the quota. */
  quota: Marks;
  /** Of the blocks and inodes of the file system; null = whatever others leave. */
  blocks: Marks | null;
  inodes: Marks | null;
}

/** As cachefilesd. */
export const MARKS_DEFAULT: Marks = { run: 7, cull: 5, stop: 1 };

export interface Usage {
  /** Of the directory's files. */
  usedBytes: number;
  /** Of the file system. */
  blocks: { free: number; all: number };
  inodes: { free: number; all: number };
}

/** `ok`: above all run marks. `full`: below one. `cull` and `stop`: below one of these. */
export type Pressure = 'ok' | 'full' | 'cull' | 'stop';

const ORDER: readonly Pressure[] = ['ok', 'full', 'cull', 'stop'];

/** The worst of all limits. */
export function pressureOf(limits: CacheLimits, usage: Usage): Pressure {
  const found: Pressure[] = ['ok'];
  if (limits.quotaBytes > 0) {
    found.push(against(limits.quota, limits.quotaBytes - usage.usedBytes, limits.quotaBytes));
  }
  if (limits.blocks !== null) found.push(against(limits.blocks, usage.blocks.free, usage.blocks.all));
  if (limits.inodes !== null) found.push(against(limits.inodes, usage.inodes.free, usage.inodes.all));
  return found.reduce((worst, one) => (ORDER.indexOf(one) > ORDER.indexOf(worst) ? one : worst));
}

/** Some file systems count no inodes: `all` is 0 there, and there always is room. */
function against(marks: Marks, free: number, all: number): Pressure {
  const percent = all === 0 ? 100 : (100 * free) / all;
  if (percent < marks.stop) return 'stop';
  if (percent < marks.cull) return 'cull';
  return percent < marks.run ? 'full' : 'ok';
}

/** Bytes that may still be written before the stop mark of the quota. */
export function bytesUntilStop(limits: CacheLimits, usedBytes: number): number {
  if (limits.quotaBytes === 0) return Number.POSITIVE_INFINITY;
  return limits.quotaBytes * (1 - limits.quota.stop / 100) - usedBytes;
}
