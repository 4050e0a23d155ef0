/** What two lists of a tree disagree about, in words; and the expected trees of the fixtures. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import type { Entry, EntryType, Manifest } from './manifest.ts';

export type Field =
  | 'type'
  | 'mode'
  | 'uid'
  | 'gid'
  | 'ino'
  | 'nlink'
  | 'links'
  | 'size'
  | 'mtimeSec'
  | 'mtimeNsec'
  | 'target'
  | 'rdev'
  | 'sha256'
  | 'xattrs';

/** What every image keeps. `links` is which names share one file; inode numbers are not kept, nanoseconds not by all. */
export const IMAGE_FIELDS: readonly Field[] = [
  'type',
  'mode',
  'uid',
  'gid',
  'nlink',
  'links',
  'size',
  'mtimeSec',
  'target',
  'rdev',
  'sha256',
  'xattrs',
];

/** A host directory shows everything as it is. */
export const SHARE_FIELDS: readonly Field[] = [...IMAGE_FIELDS, 'ino', 'mtimeNsec'];

/** A report of thousands of lines helps nobody. */
const DIFFERENCES_SHOWN = 20;

/** One line per difference: a missing path, one too many, or a field with both values. Order of the paths. */
export function differences(expected: Manifest, actual: Manifest, fields: readonly Field[]): string[] {
  const lines: string[] = [];
  const expectedLinks = linkGroups(expected);
  const actualLinks = linkGroups(actual);
  for (const path of [...new Set([...expected.keys(), ...actual.keys()])].sort()) {
    const [want, got] = [expected.get(path), actual.get(path)];
    if (got === undefined) lines.push(`${path}: missing`);
    else if (want === undefined) lines.push(`${path}: not expected (${got.type})`);
    else {
      for (const field of fields) {
        const [a, b] =
          field === 'links'
            ? [expectedLinks.get(path), actualLinks.get(path)]
            : [value(want, field), value(got, field)];
        // Builders write time 0 for the root and readers show their own start instead.
        if (path === '/' && field.startsWith('mtime')) continue;
        if (a !== null && a !== undefined && a !== b) lines.push(`${path}: ${field} is ${b}, expected ${a}`);
      }
    }
  }
  return lines;
}

/** @throws AssertionError that lists the first differences */
export function assertSame(expected: Manifest, actual: Manifest, fields: readonly Field[], what: string): void {
  assert.ok(expected.size > 1, `${what}: an expected tree of ${expected.size} entries proves nothing`);
  const lines = differences(expected, actual, fields);
  const shown = lines.slice(0, DIFFERENCES_SHOWN).join('\n');
  assert.ok(lines.length === 0, `${what}: ${lines.length} differences in ${expected.size} entries\n${shown}`);
}

/** A comparable value; null = this list does not know it. */
function value(entry: Entry, field: Exclude<Field, 'links'>): string | number | null {
  if (field === 'xattrs') return entry.xattrs.join(' ');
  // Link counts and sizes of directories belong to the file system that holds them.
  if (entry.type === 'dir' && (field === 'size' || field === 'nlink')) return null;
  if (field === 'size' && entry.type !== 'file') return null;
  return entry[field];
}

/** For each file with several names: the first of them. Empty for lists without inode numbers. */
function linkGroups(manifest: Manifest): Map<string, string> {
  const first = new Map<string, string>();
  const groups = new Map<string, string>();
  for (const path of [...manifest.keys()].sort()) {
    const entry = manifest.get(path)!;
    if (entry.ino === null || entry.type === 'dir' || (entry.nlink ?? 1) < 2) continue;
    if (!first.has(entry.ino)) first.set(entry.ino, path);
    groups.set(path, first.get(entry.ino)!);
  }
  return groups;
}

interface FixtureRecord {
  path: string;
  path_base64?: boolean;
  type: EntryType;
  mode: string;
  uid: number;
  gid: number;
  mtime: number;
  nlink?: number;
  size?: number;
  sha256?: string;
  target?: string;
  rdev?: [number, number];
  xattrs?: Record<string, string>;
}

/** Reads an expected tree (format: README of the fixtures). */
export function expectedTree(path: string): Manifest {
  const manifest: Manifest = new Map();
  for (const entry of JSON.parse(readFileSync(path, 'utf8')) as FixtureRecord[]) {
    const name = Buffer.from(entry.path, entry.path_base64 === true ? 'base64' : 'utf8').toString('latin1');
    manifest.set(name, {
      type: entry.type,
      mode: Number(entry.mode),
      uid: entry.uid,
      gid: entry.gid,
      ino: null,
      nlink: entry.nlink ?? null,
      size: entry.size ?? null,
      mtimeSec: entry.mtime,
      mtimeNsec: null,
      target: entry.target === undefined ? null : Buffer.from(entry.target, 'utf8').toString('latin1'),
      rdev: entry.rdev === undefined ? null : entry.rdev.join(':'),
      sha256: entry.sha256 ?? null,
      xattrs: Object.entries(entry.xattrs ?? {})
        .map(([name, base64]) => `${Buffer.from(name, 'utf8').toString('latin1')}=${base64}`)
        .sort(),
    });
  }
  return manifest;
}
