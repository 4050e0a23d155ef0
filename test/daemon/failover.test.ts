/** A FUSE daemon dies or is replaced, and who reads from its mount does not notice (kata-contract 4.6, 5.6, 11). */
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FailoverRig, kernelCanResend, type Mode } from './failover-rig.ts';

const KILLS = 10;
const UPGRADE_AFTER = [3, 7];
/** Between two kills; readers are somewhere in the middle of a file then. */
const BREATH_MS = 150;

const PLACES: Record<Mode, string> = { dedicated: '', shared: '/5' };

for (const mode of ['dedicated', 'shared'] as const) {
  describe(`${mode} daemon`, { skip: kernelCanResend() ? false : 'the kernel has no FUSE_NOTIFY_RESEND' }, () => {
    const rig = new FailoverRig(mode);
    after(() => rig.stop());
    test(`${KILLS} times kill -9 and two live upgrades under a reader: no error, no stall, equal sums`, async () => {
      await rig.start();
      if (mode === 'shared') await rig.mount(PLACES[mode]);
      const root = rig.mountpoint + PLACES[mode];
      const reader = rig.reader(root);
      await reader.further(1);
      for (let i = 0; i < KILLS; i++) {
        await rig.crash();
        await rig.check(root, i);
        if (UPGRADE_AFTER.includes(i)) {
          await rig.upgrade();
          await rig.check(root, KILLS + i);
        }
        await sleep(BREATH_MS);
      }
      await reader.further(1);
      await reader.finish(rig.stallMsMax);
      const { ms, code } = await rig.daemon!.stop();
      assert.equal(code, 0);
      assert.ok(ms < 1000, `${ms} ms`);
    });
  });
}
