/** The quick scenarios and a few kills; `npm run chaos` has the slow ones and 200 kills. */
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { ChaosRig } from './rig.ts';
import { runKills, runScenario } from './run.ts';
import { SCENARIOS } from './scenarios.ts';

const ROUNDS = 10;

let rig: ChaosRig;
before(async () => {
  rig = await ChaosRig.start();
});
after(() => rig.end());

for (const scenario of SCENARIOS.filter(({ isSlow }) => isSlow !== true)) {
  test(scenario.name, { timeout: 120_000 }, async () => {
    const { bad, counts } = await runScenario(rig, scenario);
    assert.equal(bad, null, JSON.stringify(counts));
  });
}

test(`kill -9 while the cache fills, ${ROUNDS} times`, { timeout: 120_000 }, async (t) => {
  const { bad, counts, name } = await runKills(rig, ROUNDS, Math.floor(Math.random() * 2 ** 31));
  t.diagnostic(name);
  assert.equal(bad, null, JSON.stringify(counts));
});
