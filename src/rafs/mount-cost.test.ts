import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { writeSyntheticImage } from './synthetic.testing.ts';
import { writeSyntheticV5 } from './v5/synthetic.testing.ts';
import { ImageWalker } from './walk.ts';

const TIME_DIFFERENCE_MS_MAX = 20;
const RSS_DIFFERENCE_BYTES_MAX = 4 * 1024 * 1024;
/** Whoever else works on the machine only adds to a cost. */
const ROUNDS_MAX = 5;

const dir = mkdtempSync(join(tmpdir(), 'rafs-cost-'));

after(() => rmSync(dir, { recursive: true }));

/** 10,000,000 inodes are 1.7 GB of bootstrap: `npm run test:matrix` (v5 ends at 4 GiB of records and 2 of file). */
const isWhole = process.env['FORMAT_MATRIX'] === 'whole';

for (const [version, write, dirs] of [
  ['v6', writeSyntheticImage, isWhole ? 10_000 : 1000],
  ['v5', writeSyntheticV5, 1000],
] as const) {
  describe(version, () => {
    const small = join(dir, `${version}-small.boot`);
    const large = join(dir, `${version}-large.boot`);
    before(() => {
      write(small, 10, 1000);
      write(large, dirs, 1000);
    });
    after(() => rmSync(large));

    test('the synthetic images are valid', () => {
      const walker = new ImageWalker(small);
      assert.equal([...walker.walk()].length, walker.metadata.names);
      walker.close();
    });

    test(`mounting, looking up and listing: ${dirs * 1000} inodes cost the time and memory of 10,000`, (t) => {
      let [few, many] = probe(small, large);
      for (let round = 1; round < ROUNDS_MAX && !isAlike(few, many); round++) {
        const again = probe(small, large);
        [few, many] = [lower(few, again[0]), lower(many, again[1])];
      }
      t.diagnostic(`10,011 names: ${few.ms.toFixed(2)} ms, ${few.rssBytes} bytes of RSS`);
      t.diagnostic(`${many.names} names: ${many.ms.toFixed(2)} ms, ${many.rssBytes} bytes of RSS`);
      assert.deepEqual([few.names, many.names], [10_011, 1 + dirs * 1001]);
      assert.ok(isAlike(few, many), JSON.stringify({ few, many }));
    });
  });
}

interface Cost {
  ms: number;
  rssBytes: number;
  names: number;
}

function probe(small: string, large: string): [few: Cost, many: Cost] {
  const file = join(import.meta.dirname, 'mount-cost.probe.testing.ts');
  // The small one twice: the first is the warm-up.
  const argv = ['--expose-gc', '--import', 'tsx', file, small, small, large];
  return JSON.parse(execFileSync(process.execPath, argv, { encoding: 'utf8', timeout: 60_000 }));
}

function isAlike(a: Cost, b: Cost): boolean {
  const isTimeAlike = Math.abs(a.ms - b.ms) <= TIME_DIFFERENCE_MS_MAX;
  return isTimeAlike && Math.abs(a.rssBytes - b.rssBytes) <= RSS_DIFFERENCE_BYTES_MAX;
}

function lower(a: Cost, b: Cost): Cost {
  return { ...a, ms: Math.min(a.ms, b.ms), rssBytes: Math.min(a.rssBytes, b.rssBytes) };
}
