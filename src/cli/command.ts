/**
 * Command-line parsing from one table that also renders the help text. Our own because a general parser costs 15 ms
 * of start-up and refuses what this one must skip: unknown options are warned about, never fatal (kata-contract 1.2).
 */
import { usageError } from './fail.ts';

/** One option. The key in its table is the long name without dashes. */
export interface OptionSpec {
  short?: string;
  aliases?: readonly string[];
  /** Name of the value in the help (`PATH`); absent for a flag. */
  value?: string;
  /** Allowed values, for help and check. */
  choices?: readonly string[];
  /** Whole number within these bounds. */
  range?: readonly [min: number, max: number];
  /** Shown in the help; the reader of the option applies it. */
  default?: string;
  /** Heading in the help; options without one come first. */
  group?: string;
  help: string;
}

export type OptionTable = Record<string, OptionSpec>;

/** Values by long name: the text for options with a value, true for flags; absent when not given. */
export type OptionValues<T extends OptionTable> = {
  [K in keyof T]?: T[K] extends { value: string } ? string : true;
};

export interface CommandSpec<T extends OptionTable> {
  name: string;
  /** One sentence. */
  summary: string;
  /** `name [SUBCOMMAND] [OPTIONS]` lines. */
  usage: readonly string[];
  /** Subcommands and what they do. Recognised anywhere in argv. */
  subcommands?: Record<string, string>;
  /** Subcommand → names of the words that may follow it; the last of a name that ends with `…` as often as one likes. */
  operands?: Record<string, readonly string[]>;
  /** Options of other programs that are skipped; words below `unknown: skip` get the same treatment with another text. */
  ignored?: Record<string, string>;
  options: T;
  unknown: 'skip' | 'refuse';
}

export interface Parsed<T extends OptionTable> {
  subcommand: string | null;
  values: OptionValues<T>;
  /** Words after the subcommand; no more than it names. */
  operands: string[];
  /** What was skipped, as typed, for one warning line each kind. */
  ignored: string[];
  unknown: string[];
}

/** Longest argv word repeated in a message. */
const ECHO_CHARS_MAX = 200;

/**
 * Parses argv (without interpreter and script). A repeated option: the last one wins. Accepted: `--opt v`, `--opt=v`,
 * `-o v`, `-ov`, `-o=v`. An option that is skipped takes the next word with it unless that is an option or a subcommand.
 * @throws AppError USAGE for a missing value, a value outside its choices or range, a stray word
 */
export function parseArgs<T extends OptionTable>(spec: CommandSpec<T>, argv: readonly string[]): Parsed<T> {
  const names = namesOf(spec.options);
  const parsed: Parsed<T> = { subcommand: null, values: {}, operands: [], ignored: [], unknown: [] };
  const values: Record<string, string | true> = {};
  for (let i = 0; i < argv.length; i++) {
    const word = argv[i]!;
    if (!isOption(word)) {
      takeWord(spec, parsed, word);
      continue;
    }
    const { key, attached } = split(word, names);
    const long = names.get(key);
    const next = argv[i + 1];
    if (long === undefined) {
      const takesNext = attached === null && next !== undefined && !isOption(next) && !isSubcommand(spec, next);
      skip(spec, parsed, key, takesNext ? `${word} ${next}` : word);
      if (takesNext) i++;
      continue;
    }
    const option = spec.options[long]!;
    if (option.value !== undefined) {
      const following = next === undefined || isOption(next) ? null : next;
      values[long] = checked(spec.name, key, option, attached ?? following);
      if (attached === null) i++;
      continue;
    }
    // `--flag=false` never meant "on" to anybody who typed it.
    if (attached === 'false') delete values[long];
    else values[long] = true;
  }
  parsed.values = values as OptionValues<T>;
  return parsed;
}

/** As typed → long name. */
function namesOf(options: OptionTable): Map<string, string> {
  const names = new Map<string, string>();
  for (const [long, { aliases = [], short }] of Object.entries(options)) {
    for (const name of [long, ...aliases]) names.set(`--${name}`, long);
    if (short !== undefined) names.set(`-${short}`, long);
  }
  return names;
}

function isSubcommand<T extends OptionTable>({ subcommands }: CommandSpec<T>, word: string): boolean {
  return subcommands !== undefined && Object.hasOwn(subcommands, word);
}

/** An operand, as long as the subcommand names any, or the subcommand. */
function takeWord<T extends OptionTable>(spec: CommandSpec<T>, parsed: Parsed<T>, word: string): void {
  const refuse = (text: string) => usageError('USAGE', { command: spec.name, text });
  const { subcommand } = parsed;
  const operands = subcommand === null ? [] : (spec.operands?.[subcommand] ?? []);
  if (operands.at(-1)?.endsWith('…') === true || parsed.operands.length < operands.length) {
    parsed.operands.push(word);
    return;
  }
  if (!isSubcommand(spec, word)) throw refuse(`unexpected word ${quoted(word)}`);
  if (subcommand !== null && subcommand !== word) throw refuse(`${quoted(subcommand)} and ${quoted(word)} at once`);
  parsed.subcommand = word;
}

/** @param shown the option with what it takes along, as typed */
function skip<T extends OptionTable>(spec: CommandSpec<T>, parsed: Parsed<T>, key: string, shown: string): void {
  if (spec.ignored !== undefined && Object.hasOwn(spec.ignored, key)) parsed.ignored.push(shorten(shown));
  else if (spec.unknown === 'skip') parsed.unknown.push(shorten(shown));
  else throw usageError('USAGE', { command: spec.name, text: `unknown option ${quoted(key)}` });
}

/** `-` alone is a word (standard input by convention), everything else that starts with a dash is an option. */
function isOption(word: string): boolean {
  return word.length > 1 && word.startsWith('-');
}

function split(word: string, names: ReadonlyMap<string, string>): { key: string; attached: string | null } {
  const equals = word.indexOf('=');
  if (word.startsWith('--')) {
    return equals < 0
      ? { key: word, attached: null }
      : { key: word.slice(0, equals), attached: word.slice(equals + 1) };
  }
  if (word.length > 2 && names.has(word.slice(0, 2))) {
    return { key: word.slice(0, 2), attached: word.slice(word[2] === '=' ? 3 : 2) };
  }
  return equals < 0 ? { key: word, attached: null } : { key: word.slice(0, equals), attached: word.slice(equals + 1) };
}

/** @param value null: there is none */
function checked(command: string, key: string, option: OptionSpec, value: string | null): string {
  if (value === null) throw usageError('USAGE', { command, text: `${key} needs a value <${option.value}>` });
  const fail = (text: string) => usageError('USAGE', { command, text: `${key} ${text}, not ${quoted(value)}` });
  if (value === '') throw fail(`needs a value <${option.value}>`);
  if (value.includes('\0')) throw fail('takes no NUL byte');
  if (option.choices !== undefined && !option.choices.includes(value))
    throw fail(`is one of ${option.choices.join(', ')}`);
  if (option.range !== undefined) {
    const [min, max] = option.range;
    const number = /^\d{1,15}$/.test(value) ? Number(value) : Number.NaN;
    if (!(number >= min && number <= max)) throw fail(`is a whole number from ${min} to ${max}`);
  }
  return value;
}

function shorten(word: string): string {
  return word.length <= ECHO_CHARS_MAX ? word : `${word.slice(0, ECHO_CHARS_MAX)}…`;
}

function quoted(word: string): string {
  return JSON.stringify(shorten(word));
}

/** The help text, rendered from the same table that parses. */
export function renderHelp<T extends OptionTable>(spec: CommandSpec<T>): string {
  const lines = [spec.summary, '', 'Usage:', ...spec.usage.map((line) => `  ${line}`)];
  if (spec.subcommands !== undefined) {
    lines.push('', 'Subcommands:', ...columns(Object.entries(spec.subcommands)));
  }
  const groups = new Map<string, [string, string][]>();
  for (const [long, option] of Object.entries(spec.options)) {
    const group = option.group ?? 'Options';
    const rows = groups.get(group) ?? [];
    groups.set(group, rows);
    const value = option.value === undefined ? '' : ` <${option.value}>`;
    const extra = [
      ...(option.choices === undefined ? [] : [`one of ${option.choices.join(', ')}`]),
      ...(option.default === undefined ? [] : [`default ${option.default}`]),
      ...(option.aliases === undefined ? [] : [`also --${option.aliases.join(', --')}`]),
    ];
    rows.push([
      `${option.short === undefined ? '    ' : `-${option.short}, `}--${long}${value}`,
      extra.length === 0 ? option.help : `${option.help} (${extra.join('; ')})`,
    ]);
  }
  for (const [group, rows] of groups) lines.push('', `${group}:`, ...columns(rows));
  if (spec.ignored !== undefined) {
    lines.push('', 'Accepted and ignored:', ...columns(Object.entries(spec.ignored)));
  }
  return `${lines.join('\n')}\n`;
}

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.min(32, Math.max(...rows.map(([left]) => left.length)));
  return rows.map(([left, right]) =>
    left.length > width ? `  ${left}\n  ${' '.repeat(width)}  ${right}` : `  ${left.padEnd(width)}  ${right}`,
  );
}
