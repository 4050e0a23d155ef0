/** The real images of the fixtures folder, read from its `cases.tsv`. */
import { createHash } from 'node:crypto';
import { copyFileSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { REPOSITORY } from './assets.ts';
import type { LocalfsBackend } from './daemon.ts';

export interface FixtureCase {
  name: string;
  /** Expected tree, bootstrap: absolute paths. */
  expect: string;
  bootstrap: string;
  /** Where its blobs are. */
  backend: LocalfsBackend;
}

export const FIXTURES = join(process.env['NYDUS_FIXTURES'] ?? join(REPOSITORY, '..', 'shared', 'fixtures'), 'images');
export const BLOBS = join(FIXTURES, 'blobs');

/** @throws when the folder has no `cases.tsv` */
export function fixtureCases(): FixtureCase[] {
  const rows = readFileSync(join(FIXTURES, 'cases.tsv'), 'utf8')
    .split('\n')
    .filter((row) => row !== '');
  return rows.map((row) => {
    const [name, expect, bootstrap] = row.split('\t') as [string, string, string];
    const path = join(FIXTURES, bootstrap);
    // A bootstrap inside its blob: the one file is both.
    const backend: LocalfsBackend = path.endsWith('.blob')
      ? { type: 'localfs', blobFile: path }
      : { type: 'localfs', dir: BLOBS };
    return { name, expect: join(FIXTURES, expect), bootstrap: path, backend };
  });
}

/**
 * The same cases for a registry, where a blob's name is its digest: those that hold their bootstrap are copied to `dir`
 * under that name, as a snapshotter keeps layers.
 */
export function registryCases(dir: string): { cases: Omit<FixtureCase, 'backend'>[]; blobs: Map<string, Buffer> } {
  const paths = readdirSync(BLOBS).map((id) => join(BLOBS, id));
  const cases = fixtureCases().map(({ name, expect, bootstrap }) => {
    if (!bootstrap.endsWith('.blob')) return { name, expect, bootstrap };
    const path = join(dir, createHash('sha256').update(readFileSync(bootstrap)).digest('hex'));
    copyFileSync(bootstrap, path);
    paths.push(path);
    return { name, expect, bootstrap: path };
  });
  return { cases, blobs: new Map(paths.map((path) => [basename(path), readFileSync(path)])) };
}
