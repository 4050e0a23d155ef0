/** What processes cost: CPU from schedstat over all threads and children, resident and private memory from /proc. */
import { readdirSync, readFileSync } from 'node:fs';

function read(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return ''; // the thread or process ended meanwhile
  }
}

/** Microseconds on a CPU of all threads of `pid` and of its living children. */
export function cpuUs(pid: number): number {
  let ns = 0;
  for (const tid of list(`/proc/${pid}/task`)) {
    ns += Number(read(`/proc/${pid}/task/${tid}/schedstat`).split(' ')[0] ?? 0);
    for (const child of read(`/proc/${pid}/task/${tid}/children`).split(' ')) {
      if (child.trim() !== '') ns += cpuUs(Number(child)) * 1000;
    }
  }
  return ns / 1000;
}

/** Microseconds the calling process's main thread was on a CPU. */
export function ownCpuUs(): number {
  return Number(read(`/proc/self/task/${process.pid}/schedstat`).split(' ')[0]) / 1000;
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** KiB of a field of /proc/PID/smaps_rollup; `Rss`, `Private_Dirty` … */
export function memoryKiB(pid: number, ...fields: readonly string[]): number {
  const text = read(`/proc/${pid}/smaps_rollup`);
  let sum = 0;
  for (const field of fields) sum += Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0);
  return sum;
}
