/** Random calls on a shared directory through the real socket, compared with a model of it. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { modelCommands } from './model-commands.ts';
import { newRoot } from './model-fs.ts';
import { args, type Caller, cString, ModelGuest } from './model-guest.ts';

const COMMANDS_MAX = 120;

let runs = 0;

/**
 * Runs `numRuns` lists of calls, each in a new directory of the share whose root is `share` and on the host `dir`.
 * @throws with the shortest list that fails
 */
export function compareWithModel(
  caller: Caller,
  share: bigint,
  dir: string,
  options: { seed: number; numRuns: number },
): void {
  const property = fc.property(modelCommands(COMMANDS_MAX), (commands) => {
    const name = `model-${runs++}`;
    const made = caller.call('MKDIR', share, args(0o755, 0, cString(name)), 128);
    assert.equal(made.error, 0, 'MKDIR of the case');
    const rootId = made.body.readBigUInt64LE(0);
    const model = newRoot();
    const guest = new ModelGuest(caller, model, rootId);
    try {
      fc.modelRun(() => ({ model, real: guest }), commands);
    } finally {
      guest.end();
      caller.call('BATCH_FORGET', 0n, args(1, 0, rootId, 1n), 0);
      rmSync(join(dir, name), { recursive: true });
    }
  });
  fc.assert(property, { ...options, includeErrorInReport: true });
}
