/**
 * Whether busy polling is worth anything here: only with a second CPU that this process may really use.
 *
 * The affinity mask does not count (Kata and benchmarks pin the daemon to one core on purpose); CPUs online and the
 * cgroup's CPU quota do.
 */
import { readFileSync } from 'node:fs';

/** CPUs in a kernel list such as `0-3,8`. */
export function cpusInList(list: string): number {
  let count = 0;
  for (const part of list.trim().split(',')) {
    const [from, to] = part.split('-').map(Number);
    if (from !== undefined && Number.isInteger(from)) count += (to ?? from) - from + 1;
  }
  return count;
}

/** CPUs a cgroup v2 `cpu.max` line (`max 100000`, `150000 100000`) grants; Infinity without a quota. */
export function cpusOfQuota(line: string): number {
  const [quota, period] = line.trim().split(' ').map(Number);
  return quota === undefined || period === undefined || !(quota > 0) || !(period > 0) ? Infinity : quota / period;
}

function readOr(path: string, otherwise: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return otherwise;
  }
}

/** The smallest quota of this process's cgroup and those above it. */
function quotaHere(): number {
  const line = readOr('/proc/self/cgroup', '')
    .split('\n')
    .find((l) => l.startsWith('0::'));
  let path = line?.slice(3) ?? '/';
  let least = Infinity;
  for (;;) {
    least = Math.min(least, cpusOfQuota(readOr(`/sys/fs/cgroup${path}/cpu.max`, 'max 100000')));
    if (path === '/' || path === '') return least;
    path = path.slice(0, Math.max(path.lastIndexOf('/'), 1));
    if (path === '/') path = '';
  }
}

/** True when polling may be switched on: two CPUs online and a quota of at least two. */
export function pollingPays(): boolean {
  return cpusInList(readOr('/sys/devices/system/cpu/online', '0')) >= 2 && quotaHere() >= 2;
}
