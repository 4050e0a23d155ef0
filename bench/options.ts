/** Command line of the row benchmark. */
import { parseArgs } from 'node:util';
import type { SubjectName } from './subjects.ts';

export type Load = { kind: 'closed'; depth: number } | { kind: 'open'; rate: number };

export interface Options {
  /** Milliseconds of each slice, and alternations of all subjects. */
  sliceMs: number;
  alternations: number;
  warmUpMs: number;
  loads: Load[];
  subjects: SubjectName[] | null;
  fs: ('share' | 'image')[];
  /** Names of rows, or beginnings with a star; empty: all. */
  rows: string[];
  quick: boolean;
  /** Write RESULTS.md and the JSON beside it. */
  record: boolean;
}

export function loadName(load: Load): string {
  return load.kind === 'closed' ? `depth ${load.depth}` : `${load.rate}/s`;
}

const LOADS: Record<string, Load> = {
  '1': { kind: 'closed', depth: 1 },
  '32': { kind: 'closed', depth: 32 },
  open1000: { kind: 'open', rate: 1000 },
  open20000: { kind: 'open', rate: 20_000 },
};

/** Options of the benchmarks without rows. @throws Error about the option that is wrong */
export function parseCommon(argv: readonly string[]): { quick: boolean; record: boolean } {
  const { values } = parseArgs({
    args: [...argv],
    options: { quick: { type: 'boolean', default: false }, record: { type: 'boolean', default: false } },
  });
  return values;
}

/** @throws Error about the option that is wrong */
export function parseOptions(argv: readonly string[]): Options {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      quick: { type: 'boolean', default: false },
      record: { type: 'boolean', default: false },
      row: { type: 'string', multiple: true, default: [] },
      depth: { type: 'string', multiple: true, default: [] },
      fs: { type: 'string', multiple: true, default: [] },
      subject: { type: 'string', multiple: true, default: [] },
      'slice-ms': { type: 'string' },
      alternations: { type: 'string' },
    },
  });
  const split = (list: readonly string[]): string[] => list.flatMap((text) => text.split(','));
  const loads = values.depth.length > 0 ? split(values.depth) : values.quick ? ['1', '32'] : Object.keys(LOADS);
  const fs = values.fs.length > 0 ? split(values.fs) : ['share', 'image'];
  const rows = split(values.row);
  return {
    sliceMs: Number(values['slice-ms'] ?? (values.quick ? 100 : 300)),
    alternations: Number(values.alternations ?? 5),
    warmUpMs: values.quick ? 500 : 2000,
    loads: loads.map((name) => LOADS[name] ?? fail(`--depth ${name}: ${Object.keys(LOADS).join(', ')}`)),
    subjects: values.subject.length > 0 ? (split(values.subject) as SubjectName[]) : null,
    fs: fs.map((name) => (name === 'share' || name === 'image' ? name : fail(`--fs ${name}: share or image`))),
    rows: rows.length > 0 || !values.quick ? rows : QUICK_ROWS,
    quick: values.quick,
    record: values.record,
  };
}

/** What fits a minute. */
const QUICK_ROWS = ['GETATTR', 'LOOKUP*', 'OPEN+RELEASE', 'READ 4 KiB', 'READ 128 KiB'];

function fail(text: string): never {
  throw new Error(text);
}
