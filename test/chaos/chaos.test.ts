/**
 * Every quick scenario on both transports, the kinds of images taking turns, and a few kills; `npm run chaos` has all
 * combinations, nydusd's column, the slow scenarios and 200 kills.
 */
import assert from 'node:assert/strict';
import { accessSync, constants } from 'node:fs';
import { after, before, test } from 'node:test';
import { imageOf, KINDS } from './images.ts';
import { ChaosRig, type Column, TRANSPORTS } from './rig.ts';
import { fits, runKills, runScenario } from './run.ts';
import { SCENARIOS } from './scenarios.ts';

const KILLS = 10;
const IMAGES = KINDS.map(imageOf);

let rig: ChaosRig;
before(async () => {
  rig = await ChaosRig.start(IMAGES[0]!.blobs);
});
after(() => rig.end());

function canMount(): boolean {
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
    return process.getuid?.() === 0;
  } catch {
    return false;
  }
}

const COLUMNS = TRANSPORTS.map((transport, i): { column: Column; skip: string | false; turn: number } => ({
  column: { subject: 'ours', transport },
  skip: transport === 'fuse' && !canMount() ? 'needs root and /dev/fuse' : false,
  turn: i * (KINDS.length >> 1),
}));

for (const [i, scenario] of SCENARIOS.filter(({ isSlow }) => !isSlow).entries()) {
  for (const { column, skip, turn } of COLUMNS) {
    const fitting = IMAGES.filter((image) => fits(scenario, image));
    const image = fitting[(i + turn) % fitting.length]!;
    test(`${scenario.name}: ${image.kind}, ${column.transport}`, { timeout: 120_000, skip }, async () => {
      const { bad, counts } = await runScenario(rig, column, image, scenario);
      assert.equal(bad, null, JSON.stringify(counts));
    });
  }
}

for (const { column, skip } of COLUMNS) {
  test(`kill -9 while the cache fills, ${KILLS} times: ${column.transport}`, { timeout: 120_000, skip }, async (t) => {
    const seed = Math.floor(Math.random() * 2 ** 31);
    const { bad, counts, name } = await runKills(rig, column, IMAGES[0]!, KILLS, seed);
    t.diagnostic(`${name}, seed ${seed}`);
    assert.equal(bad, null, JSON.stringify(counts));
  });
}
