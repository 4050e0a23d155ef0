/** The table in the terminal, the JSON, and bench/RESULTS.md. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import type { Slice } from './loops.ts';
import type { Subject, SubjectName } from './subjects.ts';
import { median, ratioOf, spread, verdict } from './summary.ts';
import { REPOSITORY } from './tree.ts';

/** All slices of one row under one load, in the order of alternation. */
export interface Figures {
  fs: 'share' | 'image';
  row: string;
  load: string;
  slices: Partial<Record<SubjectName, Slice[]>>;
  /** CPU of the host calls alone. */
  floorUs: number[] | null;
}

const PEERS: readonly SubjectName[] = ['nydusd', 'virtiofsd'];
const CLIENT_BOUND = 0.8;
/** Of the start: somebody may commit while the rows run. */
const REVISION = revision();

const of = (slices: readonly Slice[], what: 'cpuUs' | 'p50Us' | 'p99Us' | 'clientBusy'): number[] =>
  slices.map((slice) => slice[what]);

/** What the bars look at: latency at depth 1 and under open loops, CPU at depth 32. */
export function metricOf(load: string): 'cpuUs' | 'p50Us' | 'p99Us' {
  if (load === 'depth 1') return 'p50Us';
  return load === 'depth 32' ? 'cpuUs' : 'p99Us';
}

/** Ours against the better peer by `metric`; null without a peer. */
export function against({ slices }: Figures, metric: 'cpuUs' | 'p50Us' | 'p99Us') {
  const ours = slices.ours;
  const peers = PEERS.filter((name) => slices[name] !== undefined);
  if (ours === undefined || peers.length === 0) return null;
  const better = peers.reduce((a, b) => (median(of(slices[b]!, metric)) < median(of(slices[a]!, metric)) ? b : a));
  const ratio = ratioOf(of(ours, metric), of(slices[better]!, metric));
  return { better, ...ratio, verdict: verdict(ratio) };
}

function cell(slices: readonly Slice[] | undefined): string {
  if (slices === undefined) return '–';
  const cpu = median(of(slices, 'cpuUs'));
  const busy = median(of(slices, 'clientBusy')) > CLIENT_BOUND ? '*' : '';
  return `${short(cpu)}±${short(spread(of(slices, 'cpuUs')))} · ${short(median(of(slices, 'p50Us')))} · ${short(median(of(slices, 'p99Us')))}${busy}`;
}

function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function ratioText(figures: Figures): string {
  const metric = metricOf(figures.load);
  const got = against(figures, metric);
  return got === null ? '–' : `${got.ratio.toFixed(2)}±${got.spread.toFixed(2)} ${got.better} ${got.verdict}`;
}

function titles(): SubjectName[] {
  return ['ours', 'nydusd', 'virtiofsd', 'virtiofsd-c', 'null'];
}

function cells(figures: Figures): string[] {
  return [
    figures.fs,
    figures.row,
    figures.load,
    ratioText(figures),
    ...titles().map((name) => cell(figures.slices[name])),
    figures.floorUs === null ? '–' : short(median(figures.floorUs)),
  ];
}

const HEADINGS = ['files', 'row', 'load', 'ours / better peer', ...titles(), 'floor'];
const WIDTHS = [6, 24, 10, 28, 24, 24, 24, 24, 24];

export const report = {
  line(figures: Figures): void {
    const text = cells(figures)
      .map((value, i) => value.padEnd(WIDTHS[i]))
      .join(' ');
    process.stdout.write(`${text.trimEnd()}\n`);
  },

  /** Writes the JSON, and the checked-in table when `record`. */
  finish(figures: readonly Figures[], subjects: readonly Subject[], record: boolean): void {
    const about = {
      revision: REVISION,
      time: new Date().toISOString(),
      machine: `${cpus()[0]?.model ?? '?'}, ${cpus().length} CPUs, Linux ${release()}, Node ${process.version}`,
      subjects: Object.fromEntries(subjects.map(({ name, version }) => [name, version])),
    };
    const home = join(REPOSITORY, '.cache', 'bench');
    mkdirSync(home, { recursive: true });
    writeFileSync(join(home, 'results.json'), JSON.stringify({ about, figures }, null, 1));
    if (!record) return;
    const table = [HEADINGS, HEADINGS.map(() => '---'), ...figures.map(cells)];
    const markdown = table.map((row) => `| ${row.join(' | ')} |`).join('\n');
    const head = readFileSync(join(REPOSITORY, 'bench', 'RESULTS.md'), 'utf8').split(MARK)[0];
    const facts = `Revision ${about.revision}, ${about.time.slice(0, 10)}; ${about.machine}; ${Object.entries(
      about.subjects,
    )
      .filter(([, version]) => version !== '')
      .map(([name, version]) => `${name} ${version}`)
      .join(', ')}.`;
    writeFileSync(join(REPOSITORY, 'bench', 'RESULTS.md'), `${head}${MARK}\n\n${facts}\n\n${markdown}\n`);
  },
};

/** Text above is written by hand, below by `npm run bench -- --record`. */
const MARK = '<!-- rows -->';

function revision(): string {
  try {
    return execFileSync('git', ['describe', '--always', '--dirty'], { cwd: REPOSITORY, encoding: 'utf8' }).trim();
  } catch {
    return 'unknown';
  }
}
