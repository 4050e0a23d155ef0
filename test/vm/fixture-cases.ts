/** The real images of the fixtures folder, read from its `cases.tsv`. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { REPOSITORY } from './assets.ts';

export interface FixtureCase {
  name: string;
  /** Expected tree, bootstrap: absolute paths. */
  expect: string;
  bootstrap: string;
  /** Slot of the reader it needs that is not built yet; null = must work. */
  slot: string | null;
}

export const FIXTURES = join(process.env['NYDUS_FIXTURES'] ?? join(REPOSITORY, '..', 'shared', 'fixtures'), 'images');
export const BLOBS = join(FIXTURES, 'blobs');

/** Names of images → the slot they wait for. What is not named here has to work. */
const SLOTS: readonly (readonly [RegExp, string])[] = [
  [/^inline-/, 'inline'],
  [/^v5-|-v5$/, 'v5'],
  [/^zran-/, 'zran'],
  [/-batch$/, 'batch'],
  [/-encrypt$/, 'encrypt'],
  [/^tarfs-/, 'tarfs'],
];

/** @throws when the folder has no `cases.tsv` */
export function fixtureCases(): FixtureCase[] {
  const rows = readFileSync(join(FIXTURES, 'cases.tsv'), 'utf8')
    .split('\n')
    .filter((row) => row !== '');
  return rows.map((row) => {
    const [name, expect, bootstrap] = row.split('\t') as [string, string, string];
    const slot = SLOTS.find(([pattern]) => pattern.test(name))?.[1] ?? null;
    return { name, expect: join(FIXTURES, expect), bootstrap: join(FIXTURES, bootstrap), slot };
  });
}
