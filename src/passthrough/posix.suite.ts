/**
 * What a POSIX file system does, as a list of cases: run against a plain directory of the host (which proves the suite),
 * and against every way our daemon can show one (`/dev/fuse`, a guest).
 *
 * A run names what the place under test lacks, and why, in one list; a case that needs it is skipped with that reason.
 */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import type { Need, PosixCase } from './posix/case.ts';
import { DIRECTORY_CASES } from './posix/directories.ts';
import { FILE_CASES } from './posix/files.ts';
import { LINK_CASES } from './posix/links.ts';
import { METADATA_CASES } from './posix/metadata.ts';
import { SPACE_CASES } from './posix/space.ts';
import { XATTR_CASES } from './posix/xattrs.ts';

export type { Need, PosixCase } from './posix/case.ts';

export const POSIX_CASES: readonly PosixCase[] = [
  ...FILE_CASES,
  ...SPACE_CASES,
  ...LINK_CASES,
  ...DIRECTORY_CASES,
  ...METADATA_CASES,
  ...XATTR_CASES,
];

/** Why a need cannot be met at this place. */
export type Lacks = Partial<Record<Need, string>>;

/** Runs one case in a fresh directory below `place`. Throws what the case throws. */
export function runPosixCase(posixCase: PosixCase, place: string): void {
  chmodSync(place, 0o755); // cases that act as other users have to get in
  const dir = mkdtempSync(join(place, 'case-'));
  try {
    posixCase.run(dir);
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

/** The reason to skip a case, or false. */
export function skipReason(posixCase: PosixCase, lacks: Lacks): string | false {
  for (const need of posixCase.needs ?? []) if (lacks[need] !== undefined) return lacks[need];
  return false;
}

/** What this process itself lacks, whatever it runs on. */
export function ownLacks(): Lacks {
  if (process.getuid?.() === 0) return {};
  const why = 'not run as root';
  return { root: why, users: why, devices: why };
}

/**
 * Declares all cases as tests named `<name>: <case>`. `place` is asked once the tests run, so that a mount can be made in a
 * `before` hook.
 */
export function posixSuite(name: string, place: () => string, lacks: Lacks = {}): void {
  const missing = { ...ownLacks(), ...lacks };
  describe(`posix ${name}`, () => {
    for (const posixCase of POSIX_CASES) {
      test(posixCase.id, { skip: skipReason(posixCase, missing) }, () => runPosixCase(posixCase, place()));
    }
  });
}
