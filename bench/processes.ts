/**
 * `npm run bench -- process`: from start to RUNNING, beside a bare Node; resident and private memory of the first and the
 * tenth daemon; private memory of each of ten mounted images of 10 MB metadata.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type PeerImage, peerImage } from './peer-image.ts';
import { versionOf } from './programs.ts';
import { aligned, type Bar, publish } from './record.ts';
import { benchRoot, ROOT_HOME } from './root.ts';
import { mountAt, programOf, type SubjectName, state } from './subjects.ts';
import { median, spread } from './summary.ts';
import { memoryKiB } from './usage.ts';

const STARTS = 11;
const STARTS_QUICK = 3;
const DAEMONS = 10;
const IMAGES = 10;
/** What a daemon puts aside after its start has been put aside by then. */
const SETTLE_MS = 3000;
const START_MS_MAX = 20_000;
/** Bar of the end-to-end issue: RUNNING within a bare Node's life and this. */
const START_OVER_NODE_MS_MAX = 50;

interface Started {
  child: ChildProcess;
  dir: string;
  api: string;
  ms: number;
}

interface Memory {
  rssMB: number;
  privateMB: number;
}

interface Measured {
  name: SubjectName;
  startMs: number[];
  /** The first, and the tenth of ten. */
  first: Memory;
  tenth: Memory;
  perImageMB: number;
}

async function start(name: SubjectName, program: string): Promise<Started> {
  const dir = mkdtempSync(join(ROOT_HOME, 'daemon-'));
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
  return { child, dir, api, ms: performance.now() - from };
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

function memory({ child }: Started): Memory {
  const pid = child.pid as number;
  return {
    rssMB: memoryKiB(pid, 'Rss') / 1024,
    privateMB: memoryKiB(pid, 'Private_Clean', 'Private_Dirty') / 1024,
  };
}

/** @throws Error when a daemon does not come up or refuses a mount */
export async function measureProcesses(options: { quick: boolean; record: boolean }): Promise<void> {
  const starts = options.quick ? STARTS_QUICK : STARTS;
  const image = peerImage(benchRoot().path, 'plain', null);
  const bare = Array.from({ length: starts }, bareNode);
  const measured: Measured[] = [];
  const versions: Record<string, string> = {};
  for (const name of ['ours', 'nydusd'] as const) {
    const program = programOf(name);
    if (program === null) {
      process.stderr.write(`bench: ${name} is not installed (npm run bench:peers)\n`);
      continue;
    }
    versions[name] = versionOf(program);
    measured.push(await measure(name, program, starts, image));
  }
  const metadataMB = statSync(image.bootstrap).size / 1e6;
  const headings = [
    'daemon',
    'start to RUNNING, ms',
    'RSS, MB',
    'private, MB',
    'tenth: RSS, MB',
    'private, MB',
    `private per mounted image of ${metadataMB.toFixed(0)} MB metadata, MB`,
  ];
  const rows = [
    ['node -e 0, to its end', range(bare), '', '', '', '', ''],
    ...measured.map(({ name, startMs, first, tenth, perImageMB }) => [
      name,
      range(startMs),
      ...[first, tenth].flatMap(({ rssMB, privateMB }) => [rssMB.toFixed(1), privateMB.toFixed(1)]),
      perImageMB.toFixed(2),
    ]),
  ];
  process.stdout.write(`${aligned([headings, ...rows])}\n`);
  const figures = { bareNodeMs: bare, measured };
  publish({ name: 'process', headings, rows, bars: [startBar(bare, measured)], versions, figures }, options.record);
}

async function measure(name: SubjectName, program: string, starts: number, image: PeerImage): Promise<Measured> {
  const startMs: number[] = [];
  for (let i = 0; i < starts; i++) {
    const started = await start(name, program);
    startMs.push(started.ms);
    stop(started);
  }
  const daemons: Started[] = [];
  try {
    daemons.push(await start(name, program));
    await sleep(SETTLE_MS);
    const first = memory(daemons[0]);
    while (daemons.length < DAEMONS) daemons.push(await start(name, program));
    await sleep(SETTLE_MS);
    const tenth = memory(daemons[DAEMONS - 1]);
    const perImageMB = await mountImages(daemons[0], image);
    return { name, startMs, first, tenth, perImageMB };
  } finally {
    daemons.forEach(stop);
  }
}

/** One mount first, since it loads what all need; then ten more, each a file of its own. */
async function mountImages(daemon: Started, { bootstrap, blobDir }: PeerImage): Promise<number> {
  let before = 0;
  for (let i = 0; i <= IMAGES; i++) {
    const copy = join(daemon.dir, `boot-${i}`);
    copyFileSync(bootstrap, copy);
    const work = join(daemon.dir, `cache-${i}`);
    mkdirSync(work);
    await mountAt(daemon.api, `image-${i}`, copy, blobDir, work);
    if (i > 0 && i < IMAGES) continue;
    await sleep(SETTLE_MS);
    const { privateMB } = memory(daemon);
    if (i === IMAGES) return (privateMB - before) / IMAGES;
    before = privateMB;
  }
  return Number.NaN;
}

function range(values: readonly number[]): string {
  return `${median(values).toFixed(1)} ± ${spread(values).toFixed(1)}`;
}

function startBar(bare: readonly number[], measured: readonly Measured[]): Bar {
  const ours = measured.find(({ name }) => name === 'ours');
  const over = ours === undefined ? Number.NaN : median(ours.startMs) - median(bare);
  return {
    text: `RUNNING at most ${START_OVER_NODE_MS_MAX} ms after a bare Node's end`,
    figure: `${over.toFixed(1)} ms`,
    met: over <= START_OVER_NODE_MS_MAX,
  };
}
