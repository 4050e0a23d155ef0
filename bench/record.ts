/** What every benchmark ends with: its bars, met or not met, its JSON, and its section of bench/RESULTS.md. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release } from 'node:os';
import { join } from 'node:path';
import { REPOSITORY } from './tree.ts';

/** A promise with its figure. A figure that could not be measured (a peer is missing) is a bar not met. */
export interface Bar {
  text: string;
  figure: string;
  met: boolean;
}

/** One benchmark's outcome. */
export interface Outcome {
  /** Section of RESULTS.md and name of the JSON. */
  name: 'rows' | 'build' | 'coldstart' | 'process';
  headings: readonly string[];
  rows: readonly (readonly string[])[];
  bars: readonly Bar[];
  /** Programs measured, with their versions. */
  versions: Record<string, string>;
  /** Everything measured, for the JSON. */
  figures: unknown;
}

const HOME = join(REPOSITORY, '.cache', 'bench-results');
/** Of the start: somebody may commit while things run. */
const REVISION = revision();
const MACHINE = `${cpus()[0]?.model ?? '?'}, ${cpus().length} CPUs, Linux ${release()}, Node ${process.version}`;

interface Written {
  about: { revision: string; versions: Record<string, string> };
  figures: unknown;
}

/** What an earlier run of this very revision wrote; null without one. */
export function earlier(name: Outcome['name']): Written | null {
  try {
    const written = JSON.parse(readFileSync(join(HOME, `${name}.json`), 'utf8')) as Written;
    return written.about.revision === REVISION ? written : null;
  } catch {
    return null; // nothing was written yet
  }
}

/** Prints the bars, writes `.cache/bench-results/NAME.json`, and the section of RESULTS.md when `record`. */
export function publish(outcome: Outcome, record: boolean): void {
  const about = { revision: REVISION, time: new Date().toISOString(), machine: MACHINE, versions: outcome.versions };
  const barRows = outcome.bars.map(({ text, figure, met }) => [text, figure, met ? 'met' : 'not met']);
  process.stdout.write(`\n${aligned([BAR_HEADINGS, ...barRows])}\n`);
  mkdirSync(HOME, { recursive: true });
  const { bars, figures } = outcome;
  writeFileSync(join(HOME, `${outcome.name}.json`), JSON.stringify({ about, bars, figures }, null, 1));
  if (!record) return;
  const versions = Object.entries(outcome.versions).filter(([, version]) => version !== '');
  const facts = [
    `Revision ${about.revision}, ${about.time.slice(0, 10)}; ${about.machine}`,
    ...versions.map(([name, version]) => `${name} ${version}`),
  ];
  const text = [`${facts.join('; ')}.`, markdown([outcome.headings, ...outcome.rows])];
  if (barRows.length > 0) text.push(markdown([BAR_HEADINGS, ...barRows]));
  replaceSection(outcome.name, text.join('\n\n'));
}

const BAR_HEADINGS = ['bar', 'figure', 'verdict'];

/** Text of a table for the terminal. */
export function aligned(table: readonly (readonly string[])[]): string {
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  return table
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i]))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}

function markdown(table: readonly (readonly string[])[]): string {
  const [head, ...rest] = table;
  return [head, head.map(() => '---'), ...rest].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

/** Text outside the marks is written by hand. */
function replaceSection(name: string, text: string): void {
  const path = join(REPOSITORY, 'bench', 'RESULTS.md');
  const old = readFileSync(path, 'utf8');
  const [from, to] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`];
  const [before, rest] = split(old, from);
  const [, after] = split(rest, to);
  writeFileSync(path, `${before}${from}\n\n${text}\n\n${to}${after}`);
}

function split(text: string, mark: string): [string, string] {
  const at = text.indexOf(mark);
  if (at < 0) throw new Error(`bench/RESULTS.md has no line ${mark}`);
  return [text.slice(0, at), text.slice(at + mark.length)];
}

/** What is written into RESULTS.md makes no other program of it. */
function revision(): string {
  const git = (...args: string[]): string => execFileSync('git', args, { cwd: REPOSITORY, encoding: 'utf8' }).trim();
  try {
    const changed = git('status', '--porcelain', '--untracked-files=no', '--', '.', ':!bench/RESULTS.md');
    return `${git('rev-parse', '--short', 'HEAD')}${changed === '' ? '' : '-dirty'}`;
  } catch {
    return 'unknown';
  }
}
