/** The table of the rows: a line as soon as it is measured, and at the end the outcome. */
import type { Slice } from './loops.ts';
import { LOAD_NAMES } from './options.ts';
import { earlier, publish } from './record.ts';
import { rowBars } from './row-bars.ts';
import { rows } from './rows.ts';
import { SUBJECTS, type Subject, type SubjectName } from './subjects.ts';
import { median, type Ratio, ratioOf, spread, verdict } from './summary.ts';

/** All slices of one row under one load, in the order of alternation. */
export interface Figures {
  fs: 'share' | 'image';
  row: string;
  load: string;
  slices: Partial<Record<SubjectName, Slice[]>>;
  /** CPU of the host calls alone, one number per round; null where there are none, and for open loops. */
  floorUs: number[] | null;
}

/** CPU of a back end that nobody asks anything. */
export interface Idle {
  subject: SubjectName;
  cpuMs: number;
  ms: number;
}

/** Everything of one run. */
export interface Measured {
  rows: readonly Figures[];
  idle: readonly Idle[];
  /** The first requests of fresh daemons. */
  first: readonly Figures[];
}

export type Metric = 'cpuUs' | 'p50Us' | 'p99Us';

const PEERS: readonly SubjectName[] = ['nydusd', 'virtiofsd'];
const CLIENT_BOUND = 0.8;

export const of = (slices: readonly Slice[], what: Metric | 'clientBusy'): number[] =>
  slices.map((slice) => slice[what]);

/** What the bars look at: latency at depth 1 and under open loops, CPU at depth 32. */
export function metricOf(load: string): Metric {
  if (load === 'depth 1') return 'p50Us';
  return load === 'depth 32' ? 'cpuUs' : 'p99Us';
}

export interface Against extends Ratio {
  better: SubjectName;
  verdict: ReturnType<typeof verdict>;
}

/** Ours against the better of `peers` by `metric`; null when one side was not measured. */
export function against({ slices }: Figures, metric: Metric, peers: readonly SubjectName[] = PEERS): Against | null {
  const { ours } = slices;
  const measured = peers.flatMap((name) =>
    slices[name] === undefined ? [] : [{ name, values: of(slices[name], metric) }],
  );
  if (ours === undefined || measured.length === 0) return null;
  const better = measured.reduce((a, b) => (median(b.values) < median(a.values) ? b : a));
  const ratio = ratioOf(of(ours, metric), better.values);
  return { better: better.name, ...ratio, verdict: verdict(ratio) };
}

/** `*n`: the client was busy most of the time, and got one interrupt for n requests. */
function cell(slices: readonly Slice[] | undefined): string {
  if (slices === undefined) return '–';
  const cpu = of(slices, 'cpuUs');
  const requests = slices.reduce((sum, slice) => sum + slice.requests, 0);
  const signals = slices.reduce((sum, slice) => sum + slice.signals, 0);
  const busy = median(of(slices, 'clientBusy')) > CLIENT_BOUND && signals > 0 ? ` *${short(requests / signals)}` : '';
  return `${short(median(cpu))}±${short(spread(cpu))} · ${short(median(of(slices, 'p50Us')))} · ${short(median(of(slices, 'p99Us')))}${busy}`;
}

function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function ratioText(figures: Figures): string {
  const got = against(figures, metricOf(figures.load));
  return got === null ? '–' : `${got.ratio.toFixed(2)}±${got.spread.toFixed(2)} ${got.better} ${got.verdict}`;
}

const HEADINGS = ['files', 'row', 'load', 'ours / better peer', ...SUBJECTS, 'floor'];
const WIDTHS = [6, 24, 10, 28, 24, 24, 24, 24, 24, 24];

function padded(values: readonly string[]): string {
  return values
    .map((value, i) => value.padEnd(WIDTHS[i] ?? 0))
    .join(' ')
    .trimEnd();
}

function cells(figures: Figures): string[] {
  return [
    figures.fs,
    figures.row,
    figures.load,
    ratioText(figures),
    ...SUBJECTS.map((name) => cell(figures.slices[name])),
    figures.floorUs === null ? '–' : short(median(figures.floorUs)),
  ];
}

/** What is measured again replaces what was there; the order is that of a whole run. */
function merged(before: Measured, now: Measured): Measured {
  const names = rows(1).map(({ name }) => name);
  const place = ({ fs, row, load }: Figures): number =>
    ((fs === 'share' ? 0 : 1) * names.length + names.indexOf(row)) * LOAD_NAMES.length + LOAD_NAMES.indexOf(load);
  const join = (old: readonly Figures[], fresh: readonly Figures[]): Figures[] => {
    const places = new Set(fresh.map(place));
    return [...old.filter((one) => !places.has(place(one))), ...fresh].sort((a, b) => place(a) - place(b));
  };
  return { rows: join(before.rows, now.rows), first: join(before.first, now.first), idle: now.idle };
}

export const report = {
  begin(lines: number): void {
    process.stdout.write(`${lines} rows; CPU us per request ± spread · p50 us · p99 us\n${padded(HEADINGS)}\n`);
  },

  line(figures: Figures): void {
    process.stdout.write(`${padded(cells(figures))}\n`);
  },

  /** @param add true: beside what earlier runs measured of other rows */
  finish(measured: Measured, subjects: readonly Subject[], { record, add }: { record: boolean; add: boolean }): void {
    const before = add ? earlier('rows') : null;
    const figures = before === null ? measured : merged(before.figures as Measured, measured);
    // Columns nobody was measured in say nothing.
    const lines = [...figures.rows, ...figures.first].map(cells);
    const used = HEADINGS.map((_, i) => i < 4 || lines.some((line) => line[i] !== '–'));
    const kept = (row: readonly string[]): string[] => row.filter((_, i) => used[i]);
    publish(
      {
        name: 'rows',
        headings: kept(HEADINGS),
        rows: lines.map(kept),
        bars: rowBars(figures.rows, figures.idle),
        versions: { ...before?.about.versions, ...Object.fromEntries(subjects.map((s) => [s.name, s.version])) },
        figures,
      },
      record,
    );
  },
};
