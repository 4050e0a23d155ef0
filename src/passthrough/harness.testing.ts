/** A share of a fresh directory with a guest, for tests. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDescriptors } from '../common/descriptors.testing.ts';
import { Arena } from '../sys/arena.ts';
import { DescriptorBudget } from './budget.ts';
import { Guest } from './guest.testing.ts';
import type { PassthroughOptions } from './options.ts';
import { Passthrough } from './passthrough.ts';

export interface Fixture {
  /** The shared directory. */
  dir: string;
  /** A directory beside it that no guest may ever reach. */
  outside: string;
  arena: Arena;
  budget: DescriptorBudget;
  fs: Passthrough;
  guest: Guest;
}

/** A share of a fresh directory, gone when `use` returns. Fails when a descriptor was left open. */
export function withShare(
  options: Partial<PassthroughOptions>,
  use: (fixture: Fixture) => void,
  parent = tmpdir(),
): void {
  const base = mkdtempSync(join(parent, 'passthrough-'));
  try {
    withShareAt(base, options, use);
  } finally {
    rmSync(base, { recursive: true, force: true });
  }
}

export function withShareAt(base: string, options: Partial<PassthroughOptions>, use: (fixture: Fixture) => void): void {
  const dir = mkdtempSync(join(base, 'share-'));
  const outside = mkdtempSync(join(base, 'outside-'));
  const arena = Arena.create('passthrough-test');
  const budget = new DescriptorBudget(10_000);
  const before = openDescriptors();
  const fs = new Passthrough({ source: dir, ...options }, { arena, tables: 'p', budget });
  try {
    use({ dir, outside, arena, budget, fs, guest: new Guest(fs) });
    fs.destroy();
    const after = openDescriptors();
    assert.deepEqual(after.sort(), before.sort(), 'open descriptors');
    assert.equal(budget.used, 0, 'descriptors in the budget');
  } finally {
    fs.destroy();
    arena.close();
  }
}

/** The entry, or an error that shows the errno. */
export function ok<T>(value: T | number): T {
  if (typeof value === 'number') throw new Error(`answered ${value}`);
  return value;
}

/** For tests that make files of other users, devices, mounts or trusted attributes. */
export const needsRoot = { skip: process.getuid?.() === 0 ? false : 'needs root: run as root, or in a user namespace' };
