/**
 * `npm run chaos -- [--only TEXT] [--image KIND,…|all] [--subject ours,nydusd] [--transport frontend,fuse] [--kills N]
 * [--big] [--seed N]`: every scenario over every column, N kills of each (200), and a table. Exit code 1 when, in ours,
 * bytes were wrong, a failure stuck, a reader saw an error it must not see, or a complete chunk was fetched again.
 */
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Random } from '../fuzz/random.ts';
import { type Counts, noCounts } from './counts.ts';
import { bigImage, type Image, imageOf, KINDS, type Kind } from './images.ts';
import { killRound } from './kills.ts';
import { ChaosRig, type Column, programOf, SUBJECTS, TRANSPORTS } from './rig.ts';
import { SCENARIOS, type Scenario } from './scenarios.ts';

const KILLS = 200;

interface Row {
  name: string;
  counts: Counts;
  bad: string | null;
}

/** One scenario; `bad` says what it showed that must not be. */
export async function runScenario(rig: ChaosRig, column: Column, image: Image, scenario: Scenario): Promise<Row> {
  const counts = noCounts();
  let bad: string | null = null;
  try {
    await scenario.run(rig, column, image, counts);
  } catch (error) {
    bad = (error as Error).message;
  }
  rig.sweep();
  if (counts.wrongBytes > 0) bad ??= 'wrong bytes';
  if (counts.sticky > 0) bad ??= 'failed after the fault was lifted';
  if (counts.errors > 0 && !scenario.mayFail) bad ??= 'an error reached the reader';
  return { name: scenario.name, counts, bad };
}

/** `rounds` kills; the name says how many came while chunks were missing. */
export async function runKills(
  rig: ChaosRig,
  column: Column,
  image: Image,
  rounds: number,
  seed: number,
): Promise<Row> {
  const counts = noCounts();
  const random = new Random(seed);
  let bad: string | null = null;
  let survived = 0;
  let inTheMiddle = 0;
  try {
    for (; survived < rounds; survived++) {
      const ready = await killRound(rig, column, image, () => random.u32() / 2 ** 32, counts);
      rig.sweep();
      if (ready > 0 && ready < (image.chunks ?? []).length) inTheMiddle++;
    }
  } catch (error) {
    bad = (error as Error).message;
  }
  if (counts.wrongBytes + counts.sticky > 0) bad ??= 'wrong bytes or failures that stuck';
  if (counts.refetched > 0) bad ??= `${counts.refetched} complete chunks fetched again`;
  const name = `kill -9: ${survived} of ${rounds} survived, ${inTheMiddle} in the middle of filling`;
  return { name, counts, bad };
}

/** What every scenario is run with. */
export function fits(scenario: Scenario, image: Image): boolean {
  return !scenario.needsMetadata || image.metadata !== null;
}

function line(image: Image, { subject, transport }: Column, { name, counts, bad }: Row): string {
  const { wrongBytes, sticky, refetched, errors, recoveryMs } = counts;
  const numbers = [errors, wrongBytes, sticky, refetched, Math.round(recoveryMs)].map((n) => `${n}`.padStart(8));
  const where = `${image.kind.padEnd(9)} ${subject.padEnd(6)} ${transport.padEnd(8)}`;
  return `${name.padEnd(60)} ${where}${numbers.join('')}  ${bad ?? 'ok'}`;
}

const TEXT = { type: 'string' } as const;

const HELP = `Usage: npm run chaos -- [OPTION…]
Failing registries, disks and processes against our daemon and nydusd (where it is installed). Exits with 1 when ours
showed wrong bytes, a failure that stuck, an error a reader must not see, or fetched a complete chunk again.

  --only TEXT            scenarios whose name contains it, no kills
  --image KIND,…|all     ${KINDS.join(', ')} (v6)
  --subject NAME,…       ${SUBJECTS.join(', ')} (all)
  --transport NAME,…     ${TRANSPORTS.join(', ')} (all)
  --kills N              kill -9 while the cache fills, N rounds for each image and column, no scenarios (${KILLS} beside them)
  --seed N               of the kills (1)
  --big                  an image of 150 MB made for this, instead of --image
`;

function choices(argv: string[]) {
  const { values } = parseArgs({
    args: argv,
    options: {
      only: TEXT,
      image: TEXT,
      subject: TEXT,
      transport: TEXT,
      kills: TEXT,
      seed: TEXT,
      big: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return null;
  const listed = (text: string | undefined, all: readonly string[]): string[] => {
    if (text === undefined || text === 'all') return [...all];
    const names = text.split(',');
    const unknown = names.find((one) => !all.includes(one));
    if (unknown !== undefined) throw new Error(`"${unknown}" is none of ${all.join(', ')}`);
    return names;
  };
  const columns = listed(values.subject, SUBJECTS).flatMap((subject) =>
    listed(values.transport, TRANSPORTS).map((transport) => ({ subject, transport }) as Column),
  );
  // Kills alone are asked for with `--kills`; scenarios alone with `--only`.
  const scenarios = SCENARIOS.filter(({ name }) => values.kills === undefined && name.includes(values.only ?? ''));
  if (scenarios.length === 0 && values.kills === undefined)
    throw new Error(`no scenario has "${values.only}" in its name`);
  return {
    columns: columns.filter(({ subject }) => programOf(subject) !== null),
    kinds: listed(values.image ?? 'v6', KINDS) as Kind[],
    scenarios,
    kills: Number(values.kills ?? (values.only === undefined ? KILLS : 0)),
    seed: Number(values.seed ?? 1),
    isBig: values.big,
  };
}

async function main(argv: string[]): Promise<number> {
  const chosen = choices(argv);
  if (chosen === null) {
    process.stdout.write(HELP);
    return 0;
  }
  const { columns, kinds, scenarios, kills, seed, isBig } = chosen;
  const scratch = isBig ? fs.mkdtempSync(path.join(fs.realpathSync('/var/tmp'), 'chaos-big-')) : null;
  const images = scratch === null ? kinds.map(imageOf) : [bigImage(scratch)];
  const rig = await ChaosRig.start(images[0]!.blobs);
  let isGood = true;
  const show = (image: Image, column: Column, row: Row): void => {
    if (column.subject === 'ours') isGood &&= row.bad === null;
    process.stdout.write(`${line(image, column, row)}\n`);
  };
  try {
    const head = `${'image'.padEnd(9)} ${'daemon'.padEnd(6)} ${'by'.padEnd(8)}`;
    process.stdout.write(`${'scenario'.padEnd(60)} ${head}  errors   wrong  sticky refetch recov ms\n`);
    for (const scenario of scenarios) {
      for (const image of images.filter((one) => fits(scenario, one))) {
        for (const column of columns) show(image, column, await runScenario(rig, column, image, scenario));
      }
    }
    if (kills > 0) {
      for (const image of images) {
        for (const column of columns) show(image, column, await runKills(rig, column, image, kills, seed));
      }
    }
  } finally {
    rig.end();
    if (scratch !== null) fs.rmSync(scratch, { recursive: true });
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
