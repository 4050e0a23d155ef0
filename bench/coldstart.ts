/**
 * `npm run bench -- coldstart`: how soon a real program out of an image that is not here yet says something. The image is
 * the peer's, over /dev/fuse, its cache empty, its blob behind `blob-server.ts`. Ours and nydusd in turn, both cores.
 */
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BlobServer, BYTES_PER_SECOND, type Counted } from './blob-server.ts';
import { bundlePrograms } from './bundle.ts';
import { coldStartBars, headings, resultRows } from './coldstart-report.ts';
import { type DaemonName, daemonProgram, Mounted } from './mount.ts';
import { type PeerImage, peerImage } from './peer-image.ts';
import { versionOf } from './programs.ts';
import { aligned, publish } from './record.ts';
import { benchRoot, ROOT_HOME } from './root.ts';
import { REPOSITORY } from './tree.ts';

export const PROGRAMS = ['python3', '60 files'] as const;
export type ProgramName = (typeof PROGRAMS)[number];
/**
 * `trace`: a list made from what an earlier start read, as `GET /api/v1/trace` tells it. `all cached`: what the program needs is
 * in the cache directory of a daemon started anew, which is as fast as any prefetch can become.
 */
export const PREFETCHES = ['none', 'whole image', 'table', 'list', 'trace', 'all cached'] as const;
export type PrefetchKind = (typeof PREFETCHES)[number];

/** Which lines of the table to measure, and how often. */
export interface ColdStartOptions {
  record: boolean;
  programs: readonly ProgramName[];
  daemons: readonly DaemonName[];
  prefetches: readonly PrefetchKind[];
  rounds: number;
}

/** One line of the table. */
export interface Case {
  daemon: DaemonName;
  amplifyBytes: number;
  prefetch: PrefetchKind;
}

/** One cold start. */
export interface Start extends Counted {
  /** From a mount that answers, and from the start of the daemon. */
  outputMs: number;
  fromSpawnMs: number;
  /** Of the daemon, from its start to the first output. */
  cpuMs: number;
  /** Requests that a reader waited for; null where the daemon does not tell. */
  demandRequests: number | null;
  /** Resident memory of the daemon when the mount answered, and its most at the end. */
  mountedMB: number;
  peakMB: number;
  /** From the mount until everything was in the cache; null where nobody waited for that. */
  wholeMs: number | null;
}

export interface Measured {
  program: ProgramName;
  line: Case;
  starts: Start[];
}

const MIB = 1 << 20;
const LINES: readonly Case[] = [
  { daemon: 'ours', amplifyBytes: MIB, prefetch: 'none' },
  { daemon: 'nydusd', amplifyBytes: MIB, prefetch: 'none' },
  { daemon: 'nydusd', amplifyBytes: 0, prefetch: 'none' },
  { daemon: 'ours', amplifyBytes: MIB, prefetch: 'whole image' },
  { daemon: 'nydusd', amplifyBytes: MIB, prefetch: 'whole image' },
  { daemon: 'ours', amplifyBytes: MIB, prefetch: 'table' },
  { daemon: 'nydusd', amplifyBytes: MIB, prefetch: 'table' },
  { daemon: 'ours', amplifyBytes: MIB, prefetch: 'list' },
  { daemon: 'nydusd', amplifyBytes: MIB, prefetch: 'list' },
  { daemon: 'ours', amplifyBytes: MIB, prefetch: 'trace' },
  { daemon: 'ours', amplifyBytes: MIB, prefetch: 'all cached' },
  { daemon: 'nydusd', amplifyBytes: MIB, prefetch: 'all cached' },
];
/** Speculation that nobody waited for is still counted: what comes later than this after the output belongs to nobody. */
const SETTLE_MS = 300;
const WHOLE_MS_MAX = 60_000;
const PROGRAM_MS_MAX = 60_000;
const PYTHON = ['/usr/bin/python3', '-c', 'import ssl, json, asyncio, sqlite3; print(1, flush=True)'];

/** @throws Error when the peer's nydus-image or the packages of the root are missing, or a program fails */
export async function measureColdStart(options: ColdStartOptions): Promise<void> {
  const root = benchRoot();
  const lists: Record<ProgramName, readonly string[]> = {
    python3: pythonFiles(root.path),
    '60 files': checkedInFiles(),
  };
  const serverProgram = join(bundlePrograms('blob-server'), 'blob-server.cjs');
  const plain = peerImage(root.path, 'plain', null);
  const measured: Measured[] = [];
  const lines = LINES.filter(
    ({ daemon, prefetch }) =>
      daemonProgram(daemon) !== null && options.daemons.includes(daemon) && options.prefetches.includes(prefetch),
  );
  for (const program of options.programs) {
    const tabled = peerImage(root.path, `table-${program.replace(' ', '-')}`, lists[program]);
    const trace = await traceOf(program, plain, serverProgram, lists[program]);
    const mine = lines.map((line): Measured => ({ program, line, starts: [] }));
    for (let round = 0; round < options.rounds; round++) {
      for (const one of round % 2 === 0 ? mine : [...mine].reverse()) {
        const from = one.line.prefetch === 'table' ? tabled : plain;
        const list = one.line.prefetch === 'trace' ? trace : `${lists[program].join('\n')}\n`;
        one.starts.push(await coldStart(one, from, serverProgram, lists[program], list));
        process.stdout.write('.');
      }
    }
    measured.push(...mine);
  }
  const rows = resultRows(measured);
  process.stdout.write(`\n${aligned([headings, ...rows])}\n`);
  const idealMs = (plain.blobBytes / BYTES_PER_SECOND) * 1000;
  const nydusd = daemonProgram('nydusd');
  publish(
    {
      name: 'coldstart',
      headings,
      rows,
      bars: coldStartBars(measured, idealMs),
      versions: {
        nydusd: nydusd === null ? 'missing' : versionOf(nydusd),
        image: `${(root.bytes / 1e6).toFixed(0)} MB in ${root.files} files, blob ${(plain.blobBytes / 1e6).toFixed(0)} MB`,
      },
      figures: measured,
    },
    options.record,
  );
}

async function coldStart(
  { program, line }: Measured,
  from: PeerImage,
  serverProgram: string,
  files: readonly string[],
  list: string,
): Promise<Start> {
  const server = await BlobServer.start(serverProgram, from.blobDir);
  const folder = mkdtempSync(join(ROOT_HOME, 'start-'));
  const whole = line.prefetch === 'whole image';
  const isListed = line.prefetch === 'list' || line.prefetch === 'trace';
  const isWithout = line.prefetch === 'none' || line.prefetch === 'all cached';
  const prefetch = isWithout ? null : { all: whole, list: isListed ? list : null };
  let mounted: Mounted | null = null;
  try {
    const options = { validate: false, amplifyBytes: line.amplifyBytes, prefetch };
    if (line.prefetch === 'all cached') {
      mounted = await Mounted.start(line.daemon, from.bootstrap, server.backend, options, folder);
      await run(program, mounted.mountpoint, files);
      await sleep(SETTLE_MS);
      await mounted.end();
      server.reset();
    }
    mounted = await Mounted.start(line.daemon, from.bootstrap, server.backend, options, folder);
    const answeredAt = performance.now();
    const mountedMB = mounted.rssMB('now');
    await run(program, mounted.mountpoint, files);
    const outputMs = performance.now() - answeredAt;
    const { cpuMs } = mounted;
    let wholeMs: number | null = null;
    if (whole && line.daemon === 'ours') {
      await complete(mounted, from);
      wholeMs = performance.now() - answeredAt;
    } else await sleep(SETTLE_MS);
    const { requests, bytes } = server.counted;
    const fromSpawnMs = mounted.readyMs + outputMs;
    const demandRequests = line.daemon === 'ours' ? await demandsOf(mounted) : null;
    return {
      outputMs,
      fromSpawnMs,
      cpuMs,
      demandRequests,
      mountedMB,
      peakMB: mounted.rssMB('peak'),
      wholeMs,
      requests,
      bytes,
    };
  } finally {
    await mounted?.stop();
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

function run(program: ProgramName, mountpoint: string, files: readonly string[]): Promise<void> {
  return program === 'python3' ? firstOutput(mountpoint) : readAll(mountpoint, files);
}

/** What a start without prefetch reads. */
async function traceOf(program: ProgramName, from: PeerImage, serverProgram: string, files: readonly string[]) {
  const server = await BlobServer.start(serverProgram, from.blobDir);
  const folder = mkdtempSync(join(ROOT_HOME, 'start-'));
  const options = { validate: false, amplifyBytes: MIB, prefetch: null };
  try {
    const mounted = await Mounted.start('ours', from.bootstrap, server.backend, options, folder);
    try {
      await run(program, mounted.mountpoint, files);
      return await mounted.ask('/api/v1/trace?mountpoint=/');
    } finally {
      await mounted.stop();
    }
  } finally {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Requests to the backend less those of prefetch. */
async function demandsOf(mounted: Mounted): Promise<number> {
  const { read_count } = JSON.parse(await mounted.ask('/api/v1/metrics/backend?id=/')) as { read_count: number };
  const cache = JSON.parse(await mounted.ask('/api/v1/metrics/blobcache?id=/')) as { prefetch_requests_count: number };
  return read_count - cache.prefetch_requests_count;
}

async function complete(mounted: Mounted, { chunkCount }: PeerImage): Promise<void> {
  const until = performance.now() + WHOLE_MS_MAX;
  while (!mounted.isComplete(chunkCount)) {
    if (performance.now() > until) throw new Error(`the image is not cached after ${WHOLE_MS_MAX} ms`);
    await sleep(20);
  }
}

/** Resolves with the first byte the program prints. */
function firstOutput(mountpoint: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('chroot', [mountpoint, ...PYTHON], { stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => child.kill('SIGKILL'), PROGRAM_MS_MAX);
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    child.stdout.once('data', () => resolve());
    child.on('close', (code) => {
      clearTimeout(timer);
      reject(new Error(`python3 ended with ${code} before it printed: ${said}`)); // after `resolve` this says nothing
    });
  });
}

/** One after the other, as a shell script would; a thread of this process serves the blob meanwhile. */
async function readAll(mountpoint: string, files: readonly string[]): Promise<void> {
  for (const file of files) readFileSync(join(mountpoint, file));
}

function checkedInFiles(): string[] {
  return readFileSync(join(REPOSITORY, 'bench', 'coldstart-files.txt'), 'utf8')
    .trim()
    .split('\n');
}

/** What the program reads besides the interpreter: found by asking it which files its modules came from. */
function pythonFiles(root: string): string[] {
  const ask = [
    'import ssl, json, asyncio, sqlite3, sys',
    'maps = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}',
    'modules = {getattr(m, "__cached__", None) or getattr(m, "__file__", None) for m in sys.modules.values()}',
    'print("\\n".join(sorted(name for name in maps | modules if name and name.startswith("/usr"))))',
  ].join('\n');
  const folder = mkdtempSync(join(ROOT_HOME, 'ask-'));
  try {
    // The tree itself stays as it is: /proc is mounted on a bind mount of it.
    const script = 'mount --bind "$1" "$2" && mount -t proc proc "$2/proc" && chroot "$2" /usr/bin/python3 -c "$3"';
    const names = execFileSync('unshare', ['--mount', 'sh', '-c', script, 'sh', root, folder, ask], {
      encoding: 'utf8',
    });
    return ['/usr/bin/python3', ...names.trim().split('\n')];
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
