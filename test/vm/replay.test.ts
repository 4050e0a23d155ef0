/** `hack/kata/replay` with a guest of its own kernel, in the form of runtime-rs; `pod.test.ts` is the Go runtime's. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { REPOSITORY } from './assets.ts';
import { built } from './daemon.ts';
import { guestTest } from './guest.ts';

const REPLAY_MS_MAX = 180_000;

guestTest('a sandbox as runtime-rs drives it', ['qemu'], async () => {
  const args = ['--vmm', 'qemu', '--runtime', 'rs', '--bin', dirname(built('nydusd'))];
  const { stdout } = await promisify(execFile)(join(REPOSITORY, 'hack/kata/replay'), args, { timeout: REPLAY_MS_MAX });
  for (const step of [
    'VMM attached, guest sees /containers',
    'guest reads etc/file of container c0ffee02, and writes to its snapshot',
    'container c0ffee01x removed, nothing of it is busy',
  ])
    assert.ok(stdout.includes(step), `no step "${step}" in\n${stdout}`);
  assert.match(stdout, /ended by SIGKILL within \d+ ms\n$/);
});
