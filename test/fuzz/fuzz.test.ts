/** A short run of the fuzzer: one case of everything and as many more as fit. `npm run fuzz` is the long one. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { REPOSITORY } from '../daemon/nydusd.ts';
import { CASES_FOR_ALL, Campaign } from './campaign.ts';
import { DEFECT_NAMES } from './chain-cases.ts';
import { PLANTED_BUGS, withBug } from './planted-bugs.ts';

const SECONDS = 25;
/** Other tests and guests share the machine. */
const PATIENCE = 8;

test('fuzz: one of everything through the real socket, no finding', { timeout: 170_000 }, async (t) => {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const lines: string[] = [];
  const print = (line: string): void => void lines.push(line);
  const options = { seed, first: 0, only: '', patience: PATIENCE, print };
  const campaign = await Campaign.start({ ...options, cases: Math.max(1500, CASES_FOR_ALL), seconds: SECONDS });
  try {
    await campaign.run();
  } catch (error) {
    throw new Error(`repeat it with: ${campaign.repeatLine()}`, { cause: error });
  } finally {
    await campaign.end();
  }
  for (const line of lines) t.diagnostic(line);
  for (const name of DEFECT_NAMES) assert.notEqual(campaign.counts.get(`chain ${name}`), undefined);
});

test('each planted bug has its place in the sources as they are', () => {
  for (const bug of PLANTED_BUGS) withBug(readFileSync(join(REPOSITORY, bug.file), 'utf8'), bug);
});
