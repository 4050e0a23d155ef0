/** What processes cost: CPU from schedstat over all threads and children, resident and private memory from /proc. */
import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';

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

/** Milliseconds that all CPUs together were idle since the machine's start, in steps of 10. */
function idleMs(): number {
  const [, , , , idle = 0, wait = 0] = (read('/proc/stat').split('\n', 1)[0] ?? '').split(/\s+/).map(Number);
  return (idle + wait) * 10;
}

/** Does `work`, and says how much of one CPU everybody else used meanwhile. @param pids those who work too */
export function withOthers<T>(pids: readonly number[], work: () => T): { got: T; others: number } {
  const ours = (): number => {
    const { user, system } = process.cpuUsage();
    return (user + system + pids.reduce((sum, pid) => sum + cpuUs(pid), 0)) / 1000;
  };
  const [idleFrom, oursFrom, from] = [idleMs(), ours(), performance.now()];
  const got = work();
  const wallMs = performance.now() - from;
  const busyMs = wallMs * cpus().length - (idleMs() - idleFrom);
  return { got, others: Math.max(busyMs - (ours() - oursFrom), 0) / wallMs };
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

/** Resident memory of a process in KiB, now or at its most (VmHWM); 0 when it is gone. */
export function rssKiB(pid: number, what: 'now' | 'peak'): number {
  const field = what === 'now' ? 'VmRSS' : 'VmHWM';
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(read(`/proc/${pid}/status`))?.[1] ?? 0);
}

/** The most memory that a process and all it ever started were seen to have, each at its own most: an upper bound. */
export class PeakMemory {
  private readonly peaks = new Map<number, number>();

  constructor(private readonly pid: number) {}

  look(): void {
    this.visit(this.pid);
  }

  get peakKiB(): number {
    return [...this.peaks.values()].reduce((sum, kib) => sum + kib, 0);
  }

  private visit(pid: number): void {
    const kib = rssKiB(pid, 'peak');
    if (kib > 0) this.peaks.set(pid, kib);
    for (const child of read(`/proc/${pid}/task/${pid}/children`).split(' ')) {
      if (child.trim() !== '') this.visit(Number(child));
    }
  }
}
