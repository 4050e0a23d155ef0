/** Runs rows over all subjects, alternating, and hands the figures to the report. */
import { bundlePrograms, floorOf } from './bundle.ts';
import { closedLoop, openLoop, type Slice } from './loops.ts';
import { type Load, loadName, type Options } from './options.ts';
import { type Figures, report } from './report.ts';
import { type Row, rows, type Workload } from './rows.ts';
import { programOf, type Subject, type SubjectName, startSubject } from './subjects.ts';
import { BIG_BYTES, makeTree, type Tree } from './tree.ts';

const SUBJECTS: readonly SubjectName[] = ['ours', 'nydusd', 'virtiofsd', 'virtiofsd-c', 'null'];
/** Descriptors every peer may hold where the hard limit is low: the rest of the limit is for its own. */
const LARGE_SHARE_MAX = 8000;
const LARGE_IMAGE = 100_000;
/** Open loops only where one request is one operation of a few microseconds. */
const OPEN_ROWS = ['GETATTR', 'LOOKUP+FORGET', 'READ 4 KiB', 'READ 128 KiB'];
/** Before the first slice of a row: a compiler that works while the row runs has seen it by then. */
const WARM_ROW_MS = 300;
const OPEN_SLICE_MS = 500;
/** nydusd now and then misses the kick of INIT. */
const STARTS_MAX = 3;

export async function measureRows(options: Options): Promise<void> {
  const tree = makeTree();
  bundlePrograms('null-device', 'floor');
  const subjects = await startAll(options, tree);
  const figures: Figures[] = [];
  try {
    for (const subject of subjects) warmUp(subject, options);
    for (const fs of options.fs) {
      for (const row of rows(fs === 'share' ? LARGE_SHARE_MAX : LARGE_IMAGE)) {
        if (!wanted(row, fs, options)) continue;
        for (const load of options.loads) {
          if (load.kind === 'open' && !OPEN_ROWS.includes(row.name)) continue;
          const measured = measureRow(row, fs, load, subjects, options);
          if (load.kind === 'closed' && load.depth > 1) measured.floorUs = floor(row, fs, tree, options);
          figures.push(measured);
          report.line(measured);
        }
      }
    }
  } finally {
    for (const subject of subjects) subject.stop();
  }
  report.finish(figures, subjects, options.record);
}

async function startAll(options: Options, tree: Tree): Promise<Subject[]> {
  const subjects: Subject[] = [];
  for (const name of options.subjects ?? SUBJECTS) {
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

/** Image rows have a floor only where bytes are read: everything else is answered from memory. */
function floor(row: Row, fs: 'share' | 'image', tree: Tree, options: Options): number[] | null {
  if (fs === 'image' && !row.name.startsWith('READ ')) return null;
  return floorOf(tree.share, row.name, options.sliceMs, options.alternations);
}

function wanted(row: Row, fs: string, options: Options): boolean {
  if (row.writes && fs === 'image') return false;
  return (
    options.rows.length === 0 ||
    options.rows.some((part) => row.name === part || (part.endsWith('*') && row.name.startsWith(part.slice(0, -1))))
  );
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

function measureRow(row: Row, fs: 'share' | 'image', load: Load, all: readonly Subject[], options: Options): Figures {
  const subjects = all.filter((subject) => subject[fs] !== null);
  const slices: Partial<Record<SubjectName, Slice[]>> = {};
  const workloads = new Map<Subject, Workload>();
  for (const subject of subjects) {
    const workload = row.make(subject.client, subject[fs]!);
    workload.prepare();
    workloads.set(subject, workload);
    slices[subject.name] = [];
    run(subject, workload, load, Math.max(options.sliceMs, WARM_ROW_MS));
  }
  for (let round = 0; round < options.alternations; round++) {
    // Every other round backwards: what drifts over a round meets each subject at both ends.
    const order = round % 2 === 0 ? subjects : [...subjects].reverse();
    for (const subject of order) {
      slices[subject.name]!.push(run(subject, workloads.get(subject)!, load, options.sliceMs));
    }
  }
  for (const workload of workloads.values()) {
    workload.finish();
  }
  return { fs, row: row.name, load: loadName(load), slices, floorUs: null };
}

function run(subject: Subject, workload: Workload, load: Load, ms: number): Slice {
  return load.kind === 'closed'
    ? closedLoop(subject.client, workload, load.depth, ms, subject.pids)
    : openLoop(subject.client, workload, load.rate, Math.max(ms, OPEN_SLICE_MS), subject.pids);
}
