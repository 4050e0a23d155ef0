/** The bars of the rows: each over all rows it speaks of, with those that miss it. A row without a peer misses it. */
import type { Bar } from './record.ts';
import { against, type Figures, type Idle, type Metric, of } from './report.ts';
import { median, type Ratio, ratioOf } from './summary.ts';

const LIGHT_FLOOR_US = 20;
const HALF = 0.5;
/** Of nydusd, CPU of the image's GETATTR and LOOKUP. */
const METADATA_RATIO_MAX = 0.8;
const FLOOR_RATIO_MAX = 1.15;
const POLLING_RATIO_MAX = 1.2;
const IDLE_MS_MAX_PER_10_S = 2;
const BIG_READ = /^READ (128 KiB|1 MiB)/;

/** What a row misses a bar by; null when it meets it. */
type Miss = (figures: Figures) => string | null;

export function rowBars(figures: readonly Figures[], idle: readonly Idle[]): Bar[] {
  const at = (load: RegExp, fs?: Figures['fs']) =>
    figures.filter((one) => load.test(one.load) && (fs === undefined || one.fs === fs));
  const metadata = at(/^depth 32$/, 'image').filter(({ row }) => /^(GETATTR|LOOKUP)/.test(row));
  return [
    bar('depth 32, share: CPU not above the better peer', at(/^depth 32$/, 'share'), notAbove('cpuUs')),
    bar('depth 32, image: CPU not above nydusd', at(/^depth 32$/, 'image'), notAbove('cpuUs')),
    bar(`depth 32, image: GETATTR and LOOKUP at most ${METADATA_RATIO_MAX} of nydusd`, metadata, (one) =>
      limit(against(one, 'cpuUs'), METADATA_RATIO_MAX),
    ),
    bar(
      `depth 32: READ from 128 KiB within ${FLOOR_RATIO_MAX} of the floor`,
      at(/^depth 32$/).filter(({ row }) => BIG_READ.test(row)),
      (one) => limit(againstFloor(one), FLOOR_RATIO_MAX),
    ),
    bar(
      `depth 1: p50 at most ${HALF} of the better peer where the floor is below ${LIGHT_FLOOR_US} us`,
      at(/^depth 1$/).filter(isLight),
      (one) => limit(against(one, 'p50Us'), HALF),
    ),
    bar(
      'depth 1: p50 of heavier rows below the better peer by half of its GETATTR',
      at(/^depth 1$/).filter((one) => !isLight(one)),
      belowByHalfOfGetattr(figures),
    ),
    bar(`open loop, 1000/s: CPU at most ${POLLING_RATIO_MAX} of polling off`, at(/^1000\/s$/), (one) =>
      limit(against(one, 'cpuUs', ['ours-quiet']), POLLING_RATIO_MAX),
    ),
    bar('open loop: p99 not above the better peer', at(/\/s$/), notAbove('p99Us')),
    ...idleBar(idle),
  ];
}

/** A bar of which no row was asked for is not met. */
function bar(text: string, rows: readonly Figures[], miss: Miss): Bar {
  const missed = rows.flatMap((one) => {
    const by = miss(one);
    return by === null ? [] : [`${one.fs} ${one.row}${one.load.endsWith('/s') ? ` ${one.load}` : ''} ${by}`];
  });
  const figure = `${rows.length - missed.length} of ${rows.length} rows${missed.length > 0 ? `; ${missed.join(', ')}` : ''}`;
  return { text, figure, met: rows.length > 0 && missed.length === 0 };
}

function notAbove(metric: Metric): Miss {
  return (one) => {
    const got = against(one, metric);
    if (got === null) return 'without a peer';
    return got.verdict === 'above' ? text(got) : null;
  };
}

function limit(got: Ratio | null, max: number): string | null {
  if (got === null) return 'not measured';
  return got.ratio <= max ? null : text(got);
}

function text({ ratio, spread }: Ratio): string {
  return `${ratio.toFixed(2)}±${spread.toFixed(2)}`;
}

function againstFloor({ slices, floorUs }: Figures): Ratio | null {
  return slices.ours === undefined || floorUs === null ? null : ratioOf(of(slices.ours, 'cpuUs'), floorUs);
}

/** Answers from memory, without a host call, have no floor to wait for. */
function isLight({ floorUs }: Figures): boolean {
  return floorUs === null || median(floorUs) < LIGHT_FLOOR_US;
}

function belowByHalfOfGetattr(figures: readonly Figures[]): Miss {
  return (one) => {
    const got = against(one, 'p50Us');
    const getattr = figures.find(({ fs, row, load }) => fs === one.fs && row === 'GETATTR' && load === one.load);
    const [ours, peer] = [one.slices.ours, got === null ? undefined : one.slices[got.better]];
    const light = got === null ? undefined : getattr?.slices[got.better];
    if (ours === undefined || peer === undefined || light === undefined) return 'not measured';
    const below = median(of(peer, 'p50Us')) - median(of(ours, 'p50Us'));
    const wanted = HALF * median(of(light, 'p50Us'));
    return below >= wanted ? null : `${below.toFixed(0)} us below, wanted ${wanted.toFixed(0)}`;
  };
}

function idleBar(idle: readonly Idle[]): Bar[] {
  const ours = idle.find(({ subject }) => subject === 'ours');
  if (ours === undefined) return [];
  const per10s = (ours.cpuMs * 10_000) / ours.ms;
  return [
    {
      text: `idle CPU at most ${IDLE_MS_MAX_PER_10_S} ms in 10 s`,
      figure: idle.map(({ subject, cpuMs, ms }) => `${subject} ${((cpuMs * 10_000) / ms).toFixed(2)} ms`).join(', '),
      met: per10s <= IDLE_MS_MAX_PER_10_S,
    },
  ];
}
