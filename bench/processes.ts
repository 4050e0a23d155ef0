/**
 * `npm run bench -- process`: from start to RUNNING, beside a bare Node; resident and private memory of the first and the
 * tenth daemon.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { programOf, type SubjectName, state } from './subjects.ts';
import { median, spread } from './summary.ts';
import { memoryKiB } from './usage.ts';

const STARTS = 11;
const DAEMONS = 10;
/** What a daemon puts aside after its start has been put aside by then. */
const SETTLE_MS = 3000;
const START_MS_MAX = 20_000;

interface Started {
  child: ChildProcess;
  dir: string;
  ms: number;
}

async function start(name: SubjectName, program: string): Promise<Started> {
  const dir = mkdtempSync(join(tmpdir(), 'bench-'));
  const api = join(dir, 'api.sock');
  const extra = name === 'nydusd' ? ['--rlimit-nofile', '0'] : [];
  const from = performance.now();
  const child = spawn(program, ['virtiofs', ...extra, '--sock', join(dir, 'fs.sock'), '--apisock', api], {
    stdio: 'ignore',
  });
  while (!(await state(api))) {
    if (performance.now() - from > START_MS_MAX) throw new Error(`${name} is not RUNNING`);
    await sleep(1);
  }
  return { child, dir, ms: performance.now() - from };
}

function stop({ child, dir }: Started): void {
  child.kill('SIGKILL');
  rmSync(dir, { recursive: true, force: true });
}

function bareNode(): number {
  const from = performance.now();
  spawnSync(process.execPath, ['-e', '0']);
  return performance.now() - from;
}

function memory(started: Started): string {
  const pid = started.child.pid as number;
  const rss = memoryKiB(pid, 'Rss') / 1024;
  const own = memoryKiB(pid, 'Private_Clean', 'Private_Dirty') / 1024;
  return `RSS ${rss.toFixed(1)} MB, private ${own.toFixed(1)} MB`;
}

/** Prints the table. */
export async function measureProcesses(): Promise<void> {
  const bare = Array.from({ length: STARTS }, bareNode);
  print(`node -e 0 to its end: ${median(bare).toFixed(1)} ms ± ${spread(bare).toFixed(1)}`);
  for (const name of ['ours', 'nydusd'] as const) {
    const program = programOf(name);
    if (program === null) {
      print(`${name}: not installed`);
      continue;
    }
    const times: number[] = [];
    for (let i = 0; i < STARTS; i++) {
      const started = await start(name, program);
      times.push(started.ms);
      stop(started);
    }
    print(`${name}: start to RUNNING ${median(times).toFixed(1)} ms ± ${spread(times).toFixed(1)}`);
    const daemons: Started[] = [];
    try {
      for (let i = 1; i <= DAEMONS; i++) {
        daemons.push(await start(name, program));
        if (i !== 1 && i !== DAEMONS) continue;
        await sleep(SETTLE_MS);
        print(`${name}: daemon ${i}: ${memory(daemons[i - 1])}`);
      }
    } finally {
      daemons.forEach(stop);
    }
  }
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}
