/** Table and bars of the cold starts. */
import type { Case, Measured, ProgramName, Start } from './coldstart.ts';
import type { Bar } from './record.ts';
import { median, type Ratio, ratioOf, spread } from './summary.ts';

/** Bars of the issues. */
const OUTPUT_RATIO_MAX = 0.8;
const WHOLE_OUTPUT_RATIO_MAX = 1.1;
const WHOLE_MEMORY_MB_MAX = 32;
const WHOLE_TIME_RATIO_MAX = 1.5;
const TRACE_RATIO_MAX = 0.6;
/** Without the table of chunks, which every start has to read. */
const TRACE_DEMANDS_MAX = 1;

export const headings = [
  'program',
  'daemon',
  'prefetch',
  'first output, ms',
  'from start of the daemon, ms',
  'CPU of the daemon, ms',
  'requests',
  'of them waited for',
  'MB',
  'RSS at mount, MB',
  'peak RSS, MB',
  'whole image, s',
];

type Figure = Exclude<keyof Start, 'wholeMs' | 'demandRequests'>;

function of({ starts }: Measured, what: Figure): number[] {
  return starts.map((start) => start[what]);
}

export function resultRows(measured: readonly Measured[]): string[][] {
  return measured.map((one) => {
    const { program, line, starts } = one;
    const mid = (what: Figure, digits: number, divisor = 1) => (median(of(one, what)) / divisor).toFixed(digits);
    const wholeMs = starts.flatMap((start) => (start.wholeMs === null ? [] : [start.wholeMs]));
    const amplified = line.daemon === 'ours' || line.amplifyBytes > 0 ? '' : ', amplify_io 0';
    return [
      program,
      line.daemon + amplified,
      line.prefetch,
      `${mid('outputMs', 0)} ± ${spread(of(one, 'outputMs')).toFixed(0)}`,
      mid('fromSpawnMs', 0),
      mid('cpuMs', 0),
      mid('requests', 0),
      demands(one),
      mid('bytes', 1, 1e6),
      mid('mountedMB', 0),
      mid('peakMB', 0),
      wholeMs.length === 0 ? '' : (median(wholeMs) / 1000).toFixed(2),
    ];
  });
}

function demands({ starts }: Measured): string {
  const known = starts.flatMap(({ demandRequests }) => (demandRequests === null ? [] : [demandRequests]));
  return known.length === 0 ? '' : median(known).toFixed(0);
}

/** @param idealMs what the blob takes on the line without any pause */
export function coldStartBars(measured: readonly Measured[], idealMs: number): Bar[] {
  const programs = new Set(measured.map(({ program }) => program));
  return [...programs].flatMap((program) => barsOf(program, measured, idealMs));
}

function barsOf(program: ProgramName, measured: readonly Measured[], idealMs: number): Bar[] {
  const find = (daemon: Case['daemon'], prefetch: Case['prefetch']) =>
    measured.find(
      (one) =>
        one.program === program &&
        one.line.daemon === daemon &&
        one.line.prefetch === prefetch &&
        one.line.amplifyBytes > 0,
    );
  const plain = find('ours', 'none');
  const peer = find('nydusd', 'none');
  const whole = find('ours', 'whole image');
  const ratio = (a: Measured | undefined, b: Measured | undefined, what: Figure): Ratio | null =>
    a === undefined || b === undefined ? null : ratioOf(of(a, what), of(b, what));
  const bar = (text: string, got: Ratio | null, limit: number): Bar => ({
    text: `${program}: ${text}`,
    figure: got === null ? 'not measured' : `${got.ratio.toFixed(2)} ± ${got.spread.toFixed(2)}`,
    met: got !== null && got.ratio <= limit,
  });
  const figure = (text: string, value: number, unit: string, limit: number): Bar => ({
    text: `${program}: ${text}`,
    figure: Number.isNaN(value) ? 'not measured' : `${value.toFixed(1)} ${unit}`,
    met: value <= limit,
  });
  const grownMB = whole === undefined ? Number.NaN : median(whole.starts.map((s) => s.peakMB - s.mountedMB));
  const wholeMs = whole === undefined ? Number.NaN : median(whole.starts.map((s) => s.wholeMs ?? Number.NaN));
  const limitMs = WHOLE_TIME_RATIO_MAX * idealMs;
  const trace = find('ours', 'trace');
  const peers = measured.filter(
    ({ line, ...one }) => one.program === program && line.daemon === 'nydusd' && line.prefetch !== 'all cached',
  );
  const best = [...peers].sort((a, b) => median(of(a, 'outputMs')) - median(of(b, 'outputMs')))[0];
  const traceDemands = median(trace?.starts.map((start) => start.demandRequests ?? Number.NaN) ?? []);
  return [
    bar(`first output at most ${OUTPUT_RATIO_MAX} of nydusd's`, ratio(plain, peer, 'outputMs'), OUTPUT_RATIO_MAX),
    bar('no more bytes than nydusd', ratio(plain, peer, 'bytes'), 1),
    bar(
      `whole image: first output at most ${WHOLE_OUTPUT_RATIO_MAX} of ours without`,
      ratio(whole, plain, 'outputMs'),
      WHOLE_OUTPUT_RATIO_MAX,
    ),
    figure(
      `whole image: peak RSS at most ${WHOLE_MEMORY_MB_MAX} MB above the mount's`,
      grownMB,
      'MB',
      WHOLE_MEMORY_MB_MAX,
    ),
    bar(
      `trace: first output at most ${TRACE_RATIO_MAX} of nydusd's best`,
      ratio(trace, best, 'outputMs'),
      TRACE_RATIO_MAX,
    ),
    figure('trace: no demand miss but the table of chunks', traceDemands, 'requests', TRACE_DEMANDS_MAX),
    figure(`whole image: cached within ${(limitMs / 1000).toFixed(1)} s`, wholeMs / 1000, 's', limitMs / 1000),
  ];
}
