/** Runs rows over all subjects, alternating, and hands the figures to the report. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { bundlePrograms, Floor } from './bundle.ts';
import { closedLoop, countedLoop, openLoop, type Slice } from './loops.ts';
import { FIRST_REQUESTS, firstWorkload } from './mixed.ts';
import { type Load, loadName, type Options } from './options.ts';
import { bringIn } from './page-cache.ts';
import { type Figures, type Idle, report } from './report.ts';
import { type Row, rows, type Workload } from './rows.ts';
import { programOf, type Subject, type SubjectName, startSubject } from './subjects.ts';
import { BIG_BYTES, LARGE_DIRS, LARGE_FILES_PER_DIR, LARGE_SHARE_FILES, makeTree, type Tree } from './tree.ts';
import { cpuUs, withOthers } from './usage.ts';

/** Open loops only where one request is one operation of a few microseconds. */
const OPEN_ROWS = ['GETATTR', 'LOOKUP+FORGET', 'READ 4 KiB', 'READ 128 KiB'];
/** Before the first slice of a row: a compiler that works while the row runs has seen it by then. */
const WARM_ROW_MS = 300;
/** 1,000 requests at the lower rate: below that, a 99th percentile is noise. */
const OPEN_SLICE_MS = 1000;
/**
 * With both cores in use, whoever else wants to run takes one of them for some milliseconds, and that is all that a 99th
 * percentile then shows. An open loop during which others had more than this of one CPU is run again, a few times at most.
 */
const OTHERS_MAX = 0.03;
const OPEN_TRIES_MAX = 4;
/** What the bars of open loops compare. */
const OPEN_SUBJECTS: readonly SubjectName[] = ['ours', 'ours-quiet', 'nydusd', 'virtiofsd'];
/** Idle: from this long after the last request, over this long. */
const IDLE_AFTER_MS = 1000;
const IDLE_MS = 10_000;
const IDLE_QUICK_MS = 2000;
const FIRST_ROW = `first ${FIRST_REQUESTS} mixed`;
const FIRST_LOAD = 'depth 1';
/** nydusd now and then misses the kick of INIT. */
const STARTS_MAX = 3;

export async function measureRows(options: Options): Promise<void> {
  const tree = makeTree();
  bundlePrograms('null-device', 'floor');
  const subjects = await startAll(options, tree);
  const figures: Figures[] = [];
  const idle: Idle[] = [];
  try {
    for (const subject of subjects) warmUp(subject, options);
    const jobs = jobsOf(options);
    report.begin(jobs.length);
    for (const { row, fs, load } of jobs) {
      const measured = await measureRow(row, fs, load, subjects, tree, options);
      figures.push(measured);
      report.line(measured);
    }
    idle.push(...(await measureIdle(subjects, options.quick ? IDLE_QUICK_MS : IDLE_MS)));
  } finally {
    for (const subject of subjects) subject.stop();
  }
  report.finish({ rows: figures, idle, first: await measureFirst(options, tree) }, subjects, options);
}

/** One line of the table. */
interface Job {
  row: Row;
  fs: 'share' | 'image';
  load: Load;
}

function jobsOf(options: Options): Job[] {
  return options.fs.flatMap((fs) =>
    rows(fs === 'share' ? LARGE_SHARE_FILES : LARGE_DIRS * LARGE_FILES_PER_DIR)
      .filter((row) => isAsked(row.name, options) && !(row.writes && fs === 'image'))
      .flatMap((row) => {
        const loads = options.loads.filter(({ kind }) => kind === 'closed' || OPEN_ROWS.includes(row.name));
        return loads.map((load) => ({ row, fs, load }));
      }),
  );
}

/** CPU of every back end while nobody asks anything. */
async function measureIdle(subjects: readonly Subject[], ms: number): Promise<Idle[]> {
  const cpu = (subject: Subject): number => subject.pids.reduce((sum, pid) => sum + cpuUs(pid), 0);
  await sleep(IDLE_AFTER_MS);
  const before = subjects.map(cpu);
  await sleep(ms);
  return subjects.map((subject, i) => ({ subject: subject.name, cpuMs: (cpu(subject) - before[i]) / 1000, ms }));
}

/** The first requests of fresh daemons, one after the other: what a starting pod meets. */
async function measureFirst(options: Options, tree: Tree): Promise<Figures[]> {
  const names = options.subjects.filter((name) => name !== 'null' && name !== 'ours-quiet');
  const all: Figures[] = [];
  const isWanted = isAsked(FIRST_ROW, options) && options.loads.some((load) => loadName(load) === FIRST_LOAD);
  for (const fs of isWanted ? options.fs : []) {
    const slices: Partial<Record<SubjectName, Slice[]>> = {};
    for (let round = 0; round < (options.quick ? 1 : options.alternations); round++) {
      for (const name of round % 2 === 0 ? names : [...names].reverse()) {
        const program = programOf(name);
        if (program === null) continue;
        bringIn([join(tree.share, 'hot'), tree.bootstrap, tree.blobs]);
        const subject = await startWithin(STARTS_MAX, name, program, tree);
        try {
          const root = subject[fs];
          if (root === null) continue;
          const workload = firstWorkload(subject.client, root);
          workload.prepare();
          slices[name] = [...(slices[name] ?? []), countedLoop(subject.client, workload, FIRST_REQUESTS, subject.pids)];
        } finally {
          subject.stop();
        }
      }
    }
    const figures = { fs, row: FIRST_ROW, load: FIRST_LOAD, slices, floorUs: null };
    all.push(figures);
    report.line(figures);
  }
  return all;
}

async function startAll(options: Options, tree: Tree): Promise<Subject[]> {
  const subjects: Subject[] = [];
  for (const name of options.subjects) {
    const program = programOf(name);
    if (program === null) {
      process.stderr.write(`bench: ${name} is not installed (npm run bench:peers): its bars count as not met\n`);
      continue;
    }
    try {
      subjects.push(await startWithin(STARTS_MAX, name, program, tree));
    } catch (error) {
      for (const subject of subjects) subject.stop();
      throw error;
    }
  }
  return subjects;
}

async function startWithin(tries: number, name: SubjectName, program: string, tree: Tree): Promise<Subject> {
  try {
    return await startSubject(name, program, tree);
  } catch (error) {
    if (tries === 1) throw error;
    process.stderr.write(`bench: ${error instanceof Error ? error.message : error}; once more\n`);
    return startWithin(tries - 1, name, program, tree);
  }
}

function isAsked(name: string, { rows: asked }: Options): boolean {
  const isLike = (part: string): boolean => (part.endsWith('*') ? name.startsWith(part.slice(0, -1)) : name === part);
  return asked.length === 0 || asked.some(isLike);
}

/** Fills the image's cache (READ waits until all is there) and lets every subject run hot. */
function warmUp(subject: Subject, options: Options): void {
  for (const fs of options.fs) {
    const root = subject[fs];
    if (root === null) continue;
    const read = rows(1).find((row) => row.name === 'READ 1 MiB sequential') as Row;
    const workload = read.make(subject.client, root);
    workload.prepare();
    const wholeFile = BIG_BYTES / 2 ** 20;
    for (let read = 0; read < wholeFile; ) {
      read += closedLoop(subject.client, workload, 4, options.warmUpMs, subject.pids).requests;
    }
    workload.finish();
  }
}

async function measureRow(
  row: Row,
  fs: 'share' | 'image',
  load: Load,
  all: readonly Subject[],
  tree: Tree,
  options: Options,
): Promise<Figures> {
  const isIn = (name: SubjectName) => (load.kind === 'open' ? OPEN_SUBJECTS.includes(name) : name !== 'ours-quiet');
  const subjects = all.filter((subject) => subject[fs] !== null && isIn(subject.name));
  const slices: Partial<Record<SubjectName, Slice[]>> = {};
  const workloads = new Map<Subject, Workload>();
  const slice = (subject: Subject, ms: number, tries: number): Slice => {
    bringIn(pagesOf(row, fs, subject.cacheDir, tree));
    return run(subject, workloads.get(subject)!, load, ms, tries);
  };
  for (const subject of subjects) {
    const workload = row.make(subject.client, subject[fs]!);
    workload.prepare();
    workloads.set(subject, workload);
    slices[subject.name] = [];
    slice(subject, Math.max(options.sliceMs, WARM_ROW_MS), 1);
  }
  const floorUs: number[] = [];
  const floor =
    load.kind === 'closed' && hasHostCalls(row, fs)
      ? await Floor.start(tree.share, row.name, load.depth, readFile(fs, subjects, tree), WARM_ROW_MS)
      : null;
  for (let round = 0; round < options.alternations; round++) {
    // Every other round backwards: what drifts over a round meets each subject at both ends.
    const order = round % 2 === 0 ? subjects : [...subjects].reverse();
    for (const subject of order) {
      slices[subject.name]!.push(slice(subject, options.sliceMs, OPEN_TRIES_MAX));
    }
    if (floor === null) continue;
    bringIn(fs === 'share' ? pagesOf(row, fs, '', tree) : [readFile(fs, subjects, tree)]);
    floorUs.push(await floor.slice(options.sliceMs));
  }
  for (const workload of workloads.values()) {
    workload.finish();
  }
  floor?.stop();
  return { fs, row: row.name, load: loadName(load), slices, floorUs: floor === null ? null : floorUs };
}

/** What READ's calls go to: the share's file, or the cache file of our daemon, which an image's chunks were written to. */
function readFile(fs: 'share' | 'image', [first]: readonly Subject[], tree: Tree): string {
  if (fs === 'share') return join(tree.share, 'big.bin');
  const data = readdirSync(first.cacheDir).find((name) => name.endsWith('.blob.data'));
  if (data === undefined) throw new Error(`${first.cacheDir} has no data file`);
  return join(first.cacheDir, data);
}

/** Of an image only READ needs the host; everything else is answered from memory. */
function hasHostCalls(row: Row, fs: 'share' | 'image'): boolean {
  return fs === 'share' || row.name.startsWith('READ ');
}

/** What a slice's answers come from: the share's files, or the image's metadata and the daemon's own cache file. */
function pagesOf(row: Row, fs: 'share' | 'image', cacheDir: string, tree: Tree): string[] {
  if (fs === 'share') return row.data === null ? [] : [join(tree.share, row.data)];
  return hasHostCalls(row, fs) ? [tree.bootstrap, cacheDir] : [tree.bootstrap];
}

/** @param triesMax of an open loop that others disturb; the quietest counts */
function run(subject: Subject, workload: Workload, load: Load, ms: number, triesMax: number): Slice {
  const { client, pids } = subject;
  if (load.kind === 'closed') return closedLoop(client, workload, load.depth, ms, pids);
  const attempt = () =>
    withOthers(pids, () => openLoop(client, workload, load.rate, Math.max(ms, OPEN_SLICE_MS), pids));
  let best = attempt();
  for (let tries = 1; best.others > OTHERS_MAX && tries < triesMax; tries++) {
    const next = attempt();
    if (next.others < best.others) best = next;
  }
  return { ...best.got, others: best.others };
}
