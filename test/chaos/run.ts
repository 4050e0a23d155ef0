/**
 * `npm run chaos -- [--rounds N] [--only TEXT] [--seed N]`: every scenario, then N kills (200), and a table. Exit code 1 when
 * bytes were wrong, a failure stuck, a reader saw an error it must not see, or a complete chunk was fetched again.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Random } from '../fuzz/random.ts';
import { killRound } from './kills.ts';
import { CHUNKS, ChaosRig, type Counts, noCounts } from './rig.ts';
import { SCENARIOS, type Scenario } from './scenarios.ts';

const ROUNDS = 200;

export interface Row {
  name: string;
  counts: Counts;
  bad: string | null;
}

/** One scenario; `bad` says what it showed that must not be. */
export async function runScenario(rig: ChaosRig, scenario: Scenario): Promise<Row> {
  const counts = noCounts();
  let bad: string | null = null;
  try {
    await scenario.run(rig, counts);
  } catch (error) {
    bad = (error as Error).message;
  }
  if (counts.wrongBytes > 0) bad ??= 'wrong bytes';
  if (counts.sticky > 0) bad ??= 'failed after the fault was lifted';
  if (counts.errors > 0 && !scenario.mayFail) bad ??= 'an error reached the reader';
  return { name: scenario.name, counts, bad };
}

/** `rounds` kills; `killedMid` counts those that came while chunks were missing. */
export async function runKills(rig: ChaosRig, rounds: number, seed: number): Promise<Row & { killedMid: number }> {
  const counts = noCounts();
  const random = new Random(seed);
  let bad: string | null = null;
  let killedMid = 0;
  try {
    for (let i = 0; i < rounds; i++) {
      const ready = await killRound(rig, () => random.u32() / 2 ** 32, counts);
      if (ready > 0 && ready < CHUNKS.length) killedMid++;
    }
  } catch (error) {
    bad = (error as Error).message;
  }
  if (counts.wrongBytes + counts.sticky > 0) bad ??= 'wrong bytes or failures that stuck';
  if (counts.refetched > 0) bad ??= `${counts.refetched} complete chunks fetched again`;
  return { name: `kill -9, ${rounds} rounds, ${killedMid} in the middle of filling`, counts, bad, killedMid };
}

function line({ name, counts, bad }: Row): string {
  const { wrongBytes, sticky, refetched, errors, recoveryMs } = counts;
  const numbers = [errors, wrongBytes, sticky, refetched, Math.round(recoveryMs)]
    .map((n) => `${n}`.padStart(8))
    .join('');
  return `${name.padEnd(58)}${numbers}  ${bad ?? 'ok'}`;
}

async function main(argv: string[]): Promise<number> {
  const text = { type: 'string' } as const;
  const { values } = parseArgs({ args: argv, options: { rounds: text, only: text, seed: text } });
  const rig = await ChaosRig.start();
  let isGood = true;
  const show = (row: Row): void => {
    isGood &&= row.bad === null;
    process.stdout.write(`${line(row)}\n`);
  };
  try {
    process.stdout.write(`${'scenario'.padEnd(58)}  errors   wrong  sticky refetch recov ms\n`);
    for (const scenario of SCENARIOS.filter(({ name }) => name.includes(values.only ?? ''))) {
      show(await runScenario(rig, scenario));
    }
    const rounds = Number(values.rounds ?? (values.only === undefined ? ROUNDS : 0));
    if (rounds > 0) show(await runKills(rig, rounds, Number(values.seed ?? 1)));
  } finally {
    rig.end();
  }
  return isGood ? 0 : 1;
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
