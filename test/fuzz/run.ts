/**
 * `npm run fuzz -- [--seed N] [--cases N] [--hours N] [--seconds N] [--first N] [--only TEXT] [--patience N]`
 *
 * Attacks the built daemon through its real socket until cases or time run out. A finding ends the run with exit code 1
 * and the line that repeats it. `--patience` stretches the times within which answers must come, for loaded machines.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Campaign, type CampaignOptions } from './campaign.ts';
import { Finding } from './finding.ts';

const HOUR_S = 3600;

function options(argv: string[]): CampaignOptions {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({
    args: argv,
    options: { seed: text, cases: text, hours: text, seconds: text, first: text, only: text, patience: text },
  });
  const number = (value: string | undefined, otherwise: number): number => {
    const n = value === undefined ? otherwise : Number(value);
    if (!Number.isFinite(n) || n < 0) throw new Error(`not a number: ${value}`);
    return n;
  };
  const bySeconds = number(values.seconds, number(values.hours, 0) * HOUR_S);
  return {
    seed: number(values.seed, Math.floor(Math.random() * 2 ** 31)),
    first: number(values.first, 0),
    cases: number(values.cases, bySeconds > 0 ? Number.MAX_SAFE_INTEGER : 20_000),
    seconds: bySeconds > 0 ? bySeconds : Number.POSITIVE_INFINITY,
    only: values.only ?? '',
    patience: number(values.patience, 1),
    print: (line) => process.stdout.write(`${line}\n`),
  };
}

/** Runs a campaign; the exit code. */
async function main(argv: string[]): Promise<number> {
  const campaign = await Campaign.start(options(argv));
  try {
    await campaign.run();
    return 0;
  } catch (error) {
    if (!(error instanceof Finding)) throw error;
    process.stdout.write(`\nFINDING: ${error.message}\nrepeat it with: ${campaign.repeatLine()}\n`);
    return 1;
  } finally {
    await campaign.end();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).then(
    (code) => process.exit(code),
    (error: unknown) => {
      console.error(error);
      process.exit(2);
    },
  );
}
