/** Limits of a cache directory out of its table: keys of ours, named as cachefilesd names its own. */
import { type CacheLimits, MARKS_DEFAULT, type Marks } from '../cache/cache-limits.ts';
import type { Members } from './config-members.ts';

const NAMES = ['run', 'cull', 'stop'] as const;

/** null = no limits. @throws CONFIG for marks out of order */
export function parseLimits(table: Members): CacheLimits | null {
  const quotaBytes = table.whole('quota_bytes', 0, Number.MAX_SAFE_INTEGER);
  const blocks = parseMarks(table, 'b');
  const inodes = parseMarks(table, 'f');
  if (quotaBytes === 0 && blocks === null && inodes === null) return null;
  return { quotaBytes, quota: blocks ?? MARKS_DEFAULT, blocks, inodes };
}

/** The keys that `parseLimits` reads, as far as they act. */
export function limitKeys({ quotaBytes, blocks, inodes }: CacheLimits): Record<string, number> {
  const keys: Record<string, number> = quotaBytes === 0 ? {} : { quota_bytes: quotaBytes };
  for (const [prefix, marks] of [
    ['b', blocks],
    ['f', inodes],
  ] as const) {
    if (marks !== null) for (const name of NAMES) keys[prefix + name] = marks[name];
  }
  return keys;
}

/** null when none of the three is there; those that are missing have their defaults then. */
function parseMarks(table: Members, prefix: 'b' | 'f'): Marks | null {
  if (!NAMES.some((name) => table.has(prefix + name))) return null;
  const [run, cull, stop] = NAMES.map((name) => table.whole(prefix + name, MARKS_DEFAULT[name], 100));
  if (run < cull) throw table.wrong(`${prefix}run`, `must be at least ${prefix}cull, ${cull}`);
  if (cull < stop) throw table.wrong(`${prefix}cull`, `must be at least ${prefix}stop, ${stop}`);
  return { run, cull, stop };
}
