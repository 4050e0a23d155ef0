/**
 * Who fetches what among the processes that share a cache directory: OFD locks on ranges of `nydusd-ts/<id>.blob.lock`, where
 * byte i stands for chunk i. A lock vanishes with its process, also when that is killed.
 *
 * Only tried, never waited for: whoever holds some of them is fetching, so waiting while holding could deadlock.
 */
import { tryLock, unlock } from '../../sys/lock.ts';
import type { PlannedChunk } from '../fetch-plan.ts';

/** These lie behind all chunks (at most 1 << 24). */
export const LOCK_OPEN_AT = 2 ** 32;
const LOCK_META_AT = 2 ** 32 + 1;

export class ChunkLocks {
  /** @param lockFd gives the lock file, -1 where there is none: everything is "locked" then, without a lock */
  constructor(private readonly lockFd: () => number) {}

  /** Locks as many of `chunks` as nobody else has; neighbours in one call. Their indexes. */
  take(chunks: readonly PlannedChunk[]): Set<number> {
    const fd = this.lockFd();
    const taken = new Set<number>();
    for (const { first, count } of runsOf(chunks.map(({ index }) => index))) {
      const isWhole = fd < 0 || tryLock(fd, first, count) === 0;
      for (let index = first; index < first + count; index++) {
        if (isWhole || tryLock(fd, index, 1) === 0) taken.add(index);
      }
    }
    return taken;
  }

  give(taken: ReadonlySet<number>): void {
    const fd = this.lockFd();
    if (fd < 0) return;
    for (const { first, count } of runsOf([...taken])) unlock(fd, first, count);
  }

  takeMeta(): boolean {
    const fd = this.lockFd();
    return fd < 0 || tryLock(fd, LOCK_META_AT, 1) === 0;
  }

  giveMeta(): void {
    const fd = this.lockFd();
    if (fd >= 0) unlock(fd, LOCK_META_AT, 1);
  }
}

/** Maximal runs of consecutive numbers. */
function runsOf(indexes: number[]): { first: number; count: number }[] {
  const runs: { first: number; count: number }[] = [];
  for (const index of indexes.sort((a, b) => a - b)) {
    const last = runs[runs.length - 1];
    if (last !== undefined && last.first + last.count === index) last.count++;
    else runs.push({ first: index, count: 1 });
  }
  return runs;
}
