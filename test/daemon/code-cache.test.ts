/** What the build compiled ahead is what the daemon's threads take: V8 refuses a cache whose flags are not theirs without a word. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const DIST = join(ROOT, 'dist');

/** In a Node with the options of the launcher's first line. */
const TAKE = `
const { readFileSync } = require('node:fs');
const [bundle, cache] = process.argv.slice(1);
const cachedData = readFileSync(cache);
const script = new (require('node:vm').Script)(readFileSync(bundle, 'latin1'), { filename: bundle, cachedData });
process.stdout.write(String(script.cachedDataRejected));`;

for (const thread of ['main', 'device']) {
  test(`the ${thread} thread's code cache is taken, and is the one the loader asks for`, () => {
    const [cache, ...others] = readdirSync(DIST).filter((name) => name.startsWith(`nydusd.${thread}.`));
    assert.ok(cache !== undefined && others.length === 0, 'npm run build could not serve an image');
    assert.ok(readFileSync(join(DIST, 'nydusd.cjs'), 'utf8').includes(cache));
    assert.equal(statSync(join(DIST, cache)).mode & 0o022, 0, 'its code is what the next daemon runs');
    const [, node = '', ...options] =
      /^#!(\S+)(?: (\S+))?/.exec(readFileSync(join(ROOT, 'bin', 'nydusd'), 'utf8')) ?? [];
    const args = [...options.filter((option) => option !== undefined), '-e', TAKE];
    const rejected = execFileSync(node, [...args, join(DIST, 'nydusd.bundle.cjs'), join(DIST, cache)], {
      encoding: 'utf8',
    });
    assert.equal(rejected, 'false');
  });
}
