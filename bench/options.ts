/** Command lines of the benchmarks. */
import { parseArgs } from 'node:util';
import { type ColdStartOptions, PREFETCHES, PROGRAMS } from './coldstart.ts';
import { DAEMONS } from './mount.ts';
import { SUBJECTS, type SubjectName } from './subjects.ts';

export type Load = { kind: 'closed'; depth: number } | { kind: 'open'; rate: number };

export interface Options {
  /** Milliseconds of each slice, and alternations of all subjects. */
  sliceMs: number;
  alternations: number;
  warmUpMs: number;
  loads: Load[];
  subjects: readonly SubjectName[];
  fs: ('share' | 'image')[];
  /** Names of rows, or beginnings with a star; empty: all. */
  rows: string[];
  quick: boolean;
  /** Write RESULTS.md and the JSON beside it. */
  record: boolean;
  /** Keep what earlier runs of this revision measured of other rows. */
  add: boolean;
}

export const HELP = `npm run bench [-- COMMAND] [OPTIONS]

Commands, each with its table and its bars:
  rows        requests of a guest, our daemon beside its peers (the default)
  coldstart   first output of programs out of an image that is not here yet
  build       nydus-image beside tar and upstream's
  process     start to RUNNING, memory
  all         all of these

Options:
  --quick            fewer rows and rounds: shows that it works, decides nothing
  --record           write the table into bench/RESULTS.md
  --help

Of rows only; each takes a list, or several times one:
  --row NAME         as the table names it, or a beginning and *
  --fs               share, image
  --depth            1, 32, open1000, open20000
  --subject          ours, ours-quiet, nydusd, virtiofsd, virtiofsd-c, null
  --slice-ms N       length of a slice (300; open loops at least 1000)
  --alternations N   slices of each subject (5)
  --add              keep what earlier runs of this revision measured: a table made in pieces

Of coldstart only:
  --program          python3, "60 files"
  --daemon           ours, nydusd
  --prefetch         none, "whole image", table, list, trace, "all cached"
  --rounds N         starts of each line (5)

Peers are found on PATH or at $NYDUSD, $VIRTIOFSD and $NYDUS_IMAGE; npm run bench:peers installs them. What is
missing is left out, and its bars count as not met.
`;

export function loadName(load: Load): string {
  return load.kind === 'closed' ? `depth ${load.depth}` : `${load.rate}/s`;
}

const LOADS: Record<string, Load> = {
  '1': { kind: 'closed', depth: 1 },
  '32': { kind: 'closed', depth: 32 },
  open1000: { kind: 'open', rate: 1000 },
  open20000: { kind: 'open', rate: 20_000 },
};

export const LOAD_NAMES = Object.values(LOADS).map(loadName);

/** A command line that is wrong: told without a stack. */
export class UsageError extends Error {}

/** Options of the benchmarks without rows. @throws UsageError about the option that is wrong */
export function parseCommon(argv: readonly string[]): { quick: boolean; record: boolean } {
  return parse(argv, COMMON);
}

/** @throws UsageError about the option that is wrong */
export function parseColdStart(argv: readonly string[]): ColdStartOptions {
  const list = { type: 'string', multiple: true, default: [] as string[] } as const;
  const values = parse(argv, { ...COMMON, program: list, daemon: list, prefetch: list, rounds: { type: 'string' } });
  const isPart = [...values.program, ...values.daemon, ...values.prefetch].length > 0;
  if (isPart && values.record) throw new UsageError('--record: only of all lines together');
  return {
    record: values.record,
    programs: chosen('--program', split(values.program), PROGRAMS),
    daemons: chosen('--daemon', split(values.daemon), DAEMONS),
    prefetches: chosen('--prefetch', split(values.prefetch), PREFETCHES),
    rounds: number('--rounds', values.rounds, values.quick ? 2 : 5),
  };
}

const COMMON = {
  quick: { type: 'boolean', default: false },
  record: { type: 'boolean', default: false },
} as const;

/** @throws UsageError about the option that is wrong */
export function parseOptions(argv: readonly string[]): Options {
  const list = { type: 'string', multiple: true, default: [] as string[] } as const;
  const values = parse(argv, {
    ...COMMON,
    add: { type: 'boolean', default: false },
    row: list,
    depth: list,
    fs: list,
    subject: list,
    'slice-ms': { type: 'string' },
    alternations: { type: 'string' },
  });
  const depths = split(values.depth);
  const rows = split(values.row);
  return {
    sliceMs: number('--slice-ms', values['slice-ms'], values.quick ? 100 : 300),
    alternations: number('--alternations', values.alternations, 5),
    warmUpMs: values.quick ? 500 : 2000,
    loads: chosen('--depth', depths.length > 0 || !values.quick ? depths : ['1', '32'], Object.keys(LOADS)).map(
      (name) => LOADS[name] as Load,
    ),
    subjects: chosen('--subject', split(values.subject), SUBJECTS),
    fs: chosen('--fs', split(values.fs), ['share', 'image']),
    rows: rows.length > 0 || !values.quick ? rows : QUICK_ROWS,
    quick: values.quick,
    record: values.record,
    add: values.add,
  };
}

/** What fits a minute. */
const QUICK_ROWS = ['GETATTR', 'LOOKUP*', 'OPEN+RELEASE', 'READ 4 KiB', 'READ 128 KiB'];

function parse<T extends NonNullable<Parameters<typeof parseArgs>[0]>['options']>(argv: readonly string[], options: T) {
  try {
    return parseArgs({ args: [...argv], options, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}

function split(list: readonly string[]): string[] {
  return list.flatMap((text) => text.split(','));
}

/** Those of `all` that were named, in the order of `all`; all without a name. */
function chosen<T extends string>(option: string, names: readonly string[], all: readonly T[]): T[] {
  const unknown = names.find((name) => !all.includes(name as T));
  if (unknown !== undefined) throw new UsageError(`${option} ${unknown}: one of ${all.join(', ')}`);
  return all.filter((name) => names.length === 0 || names.includes(name));
}

function number(option: string, text: string | undefined, otherwise: number): number {
  const value = Number(text ?? otherwise);
  if (!Number.isInteger(value) || value < 1) throw new UsageError(`${option} ${text}: a whole number from 1`);
  return value;
}
