/**
 * Edits of TOML files that belong to somebody else: keys are set line by line, everything else stays as it is, and every
 * line we wrote says so, so that it can be taken back whatever others have changed since.
 *
 *   shared_fs = "virtio-fs"        ─merge─▶   # nydusd-ts was: shared_fs = "virtio-fs"
 *                                             shared_fs = "virtio-fs-nydus" # nydusd-ts
 *                                  ◀unmerge─
 *
 * Understood: tables, dotted names with quoted parts, values over several lines, lines that end with CR LF. A table
 * written inline (`a = { b = 1 }`) is left alone: its keys look missing, and to set one is a conflict.
 */
import { Conflict } from './paths.ts';

/** One key to set; `table` '' is the top level. `value` is TOML text. */
export interface Entry {
  table: string;
  key: string;
  value: string;
}

const MARK = ' # nydusd-ts';
const WAS = '# nydusd-ts was: ';
const NO_NEWLINE = '# nydusd-ts: the line above ended the file';
/** First line of a file that did not exist before. */
export const CREATED = '# nydusd-ts: made by hack/kata/install';

interface Statement {
  kind: 'table' | 'key';
  /** Of a key: the table it is in. */
  table: string;
  key: string;
  /** Of a key: what is written before it, as `a.b.` in `a.b.key = 1`. */
  prefix: string;
  /** Of a key: its text behind `=`, comment included. */
  value: string;
  first: number;
  last: number;
}

/** Keys of a fragment, in order. */
export function entriesOf(fragment: string): Entry[] {
  return statements(fragment.split('\n'))
    .filter(({ kind }) => kind === 'key')
    .map(({ table, key, value }) => ({ table, key, value }));
}

/** Text of a value; null when the key is not set. */
export function valueAt(text: string, table: string, key: string): string | null {
  const found = statements(text.split('\n')).find((s) => isKey(s, table, key));
  return found === undefined ? null : found.value;
}

/** Names of all tables, normalised: double quotes, no spaces. */
export function tablesOf(text: string): string[] {
  return statements(text.split('\n'))
    .filter(({ kind }) => kind === 'table')
    .map(({ table }) => table);
}

/**
 * Sets `entries` in `text`. Again with the same entries it changes nothing.
 * @param reversible marks the lines for `unmerge`; off for a copy that is ours as a whole
 * @throws Conflict when a table of `entries` is written inline
 */
export function merge(text: string, entries: readonly Entry[], reversible: boolean): string {
  const lines = text.split('\n');
  if (lines.at(-1) !== '') lines.push(...(reversible && text !== '' ? [NO_NEWLINE, ''] : ['']));
  for (const entry of entries) set(lines, entry, reversible);
  return lines.join('\n');
}

function set(lines: string[], { table, key, value }: Entry, reversible: boolean): void {
  const mark = reversible ? MARK : '';
  const all = statements(lines);
  const known = all.find((s) => isKey(s, table, key));
  if (known !== undefined) {
    if (known.value === value) return;
    const old = lines.slice(known.first, known.last + 1);
    const isOurs = old.length === 1 && old[0]!.endsWith(MARK);
    const kept = reversible && !isOurs ? old.map((line) => WAS + line) : [];
    lines.splice(known.first, old.length, ...kept, `${indentOf(old[0]!)}${known.prefix}${key} = ${value}${mark}`);
    return;
  }
  const inline = all.find((s) => s.kind === 'key' && `${table}.`.startsWith(`${pathOf(s)}.`));
  if (inline !== undefined)
    throw new Conflict(
      `line ${inline.first + 1} writes ${pathOf(inline)} inline; make it a table of its own and run again`,
    );
  const head = all.find((s) => s.kind === 'table' && s.table === table);
  const within = all.filter((s) => s.table === table && s.kind === 'key');
  // Behind the keys that are there: a comment above the first one stays with it.
  const after = within.at(-1) ?? head;
  if (after !== undefined) {
    lines.splice(after.last + 1, 0, `${indentOf(lines[after.first]!)}${after.prefix}${key} = ${value}${mark}`);
  } else if (table === '') {
    const created = lines[0] === CREATED ? 1 : 0;
    lines.splice(created, 0, `${key} = ${value}${mark}`);
  } else {
    lines.splice(
      lines.length - 1,
      0,
      ...(reversible ? ['# nydusd-ts'] : ['']),
      `[${table}]${mark}`,
      `${key} = ${value}${mark}`,
    );
  }
}

/**
 * Takes back every line that `merge` wrote and nobody has changed since. '' with `wasCreated` when nothing of others is
 * left in a file we made.
 */
export function unmerge(text: string): { text: string; wasCreated: boolean } {
  const lines: string[] = [];
  let lastWasEnd = false;
  let wasCreated = false;
  const source = text.split('\n');
  for (const [i, line] of source.entries()) {
    if (line === CREATED) wasCreated = true;
    else if (line === NO_NEWLINE) lastWasEnd = true;
    else if (line.startsWith(WAS)) {
      // The line it stands for was changed by somebody: theirs counts.
      const ours = source.slice(i).find((next) => !next.startsWith(WAS));
      if (ours?.endsWith(MARK)) lines.push(line.slice(WAS.length));
    } else if (!line.endsWith(MARK) && line !== MARK.trim()) {
      lines.push(line);
      if (line !== '') lastWasEnd = false;
    }
  }
  if (lastWasEnd && lines.at(-1) === '') lines.pop();
  return { text: lines.join('\n'), wasCreated };
}

function isKey(s: Statement, table: string, key: string): boolean {
  return s.kind === 'key' && s.table === table && s.key === key;
}

function indentOf(line: string): string {
  return /^\s*/.exec(line)![0];
}

const TABLE = /^\s*\[\s*([^\][]+?)\s*\]\s*(?:#.*)?$/s;
const ARRAY_OF_TABLES = /^\s*\[\[/;
const PART = /[\w-]+|"[^"]*"|'[^']*'/g;
const KEY = new RegExp(`^\\s*((?:(?:${PART.source})\\s*\\.\\s*)*)(${PART.source})\\s*=\\s*(.*)$`, 's');

/** Tables and keys with the lines they take. */
function statements(lines: readonly string[]): Statement[] {
  const found: Statement[] = [];
  let table = '';
  for (let i = 0; i < lines.length; i++) {
    const line = lines[i]!;
    const head = TABLE.exec(line);
    if (head !== null) {
      table = normal(head[1]!);
      found.push({ kind: 'table', table, key: '', prefix: '', value: '', first: i, last: i });
      continue;
    }
    if (ARRAY_OF_TABLES.test(line)) {
      // Keys of its elements are nobody's business here.
      table = `[[${i}]]`;
      continue;
    }
    const pair = KEY.exec(line);
    if (pair === null) continue;
    const first = i;
    const [, prefix, key, text] = pair as unknown as [string, string, string, string];
    let value = stripped(text);
    while (isOpen(value) && i + 1 < lines.length) value += `\n${stripped(lines[++i]!)}`;
    const within = prefix === '' ? table : normal(`${table}.${prefix}`);
    found.push({ kind: 'key', table: within, key: unquoted(key), prefix, value: value.trim(), first, last: i });
  }
  return found;
}

/** A dotted name as it is written shortest: no spaces, `"` around a part that needs it. */
function normal(name: string): string {
  return (name.match(PART) ?? []).map(shortest).join('.');
}

const pathOf = ({ table, key }: Statement): string => normal(`${table}.${shortest(key)}`);

function shortest(part: string): string {
  const bare = unquoted(part);
  return /^[\w-]+$/.test(bare) ? bare : `"${bare}"`;
}

const unquoted = (part: string): string => part.replace(/^['"]|['"]$/g, '');

const STRINGS = /"(?:[^"\\]|\\.)*"|'[^']*'/g;

/** A line without its comment. */
function stripped(line: string): string {
  const masked = line.replace(STRINGS, (text) => 'x'.repeat(text.length));
  const comment = masked.indexOf('#');
  return (comment < 0 ? line : line.slice(0, comment)).trimEnd();
}

/** More opening than closing brackets, or an unfinished text over several lines. */
function isOpen(value: string): boolean {
  if ((value.match(/"""|'''/g) ?? []).length % 2 === 1) return true;
  const bare = value.replace(STRINGS, '');
  return bare.split('[').length + bare.split('{').length > bare.split(']').length + bare.split('}').length;
}
