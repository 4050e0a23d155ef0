/**
 * The conformance suite over virtqueues: the same cases that run through /dev/fuse, inside a guest, on a shared
 * directory. Node itself is started from the share, so demand paging of a 100 MB program goes through the device too.
 */
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after } from 'node:test';
import { buildSync } from 'esbuild';
import { POSIX_CASES } from '../../src/passthrough/posix.suite.ts';
import { GUEST_KINDS, librariesOf, REPOSITORY } from './assets.ts';
import { withDaemon } from './daemon.ts';
import { guestTest, runGuest } from './guest.ts';
import { MOUNT_SHARE, script } from './in-guest.ts';
import { SENTINEL } from './posix-runner.ts';

/** Node under software emulation takes its time to start. */
const SUITE_TIMEOUT_MS = 240_000;
const GUEST_MIB = 1024;

const scratch = mkdtempSync(join(tmpdir(), 'nydus-posix-'));
chmodSync(scratch, 0o755);
after(() => rmSync(scratch, { recursive: true, force: true }));

/** A share with Node, its libraries, the suite and an empty directory to run it in. */
function makeShare(): string {
  const share = join(scratch, `share-${Date.now()}`);
  mkdirSync(join(share, 'tools/lib'), { recursive: true });
  mkdirSync(join(share, 'place'));
  copyFileSync(process.execPath, join(share, 'tools/node'));
  for (const library of librariesOf(basename(process.execPath)))
    copyFileSync(library, join(share, 'tools/lib', basename(library)));
  buildSync({
    entryPoints: [join(REPOSITORY, 'test/vm/posix-runner.ts')],
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'cjs',
    external: ['koffi'],
    outfile: join(share, 'tools/runner.cjs'),
    logLevel: 'error',
  });
  for (const name of ['koffi', '@koromix']) {
    cpSync(join(REPOSITORY, 'node_modules', name), join(share, 'tools/node_modules', name), { recursive: true });
  }
  return share;
}

const RUN = `
tools=/share/containers/tools
$tools/lib/ld-linux-x86-64.so.2 --library-path $tools/lib $tools/node $tools/runner.cjs /share/containers/place >/tmp/results 2>&1 || true
send results /tmp/results`;

guestTest('the POSIX suite passes on a shared directory', GUEST_KINDS, async (kind) => {
  const share = makeShare();
  await withDaemon(async (daemon) => {
    await daemon.mountShare('/containers', share);
    const { data } = await runGuest({
      kind,
      socket: daemon.sock,
      memoryMib: GUEST_MIB,
      caseTimeoutMs: SUITE_TIMEOUT_MS,
      script: script(MOUNT_SHARE, { name: 'posix', run: RUN }),
    });
    const lines = data.get('results')?.toString('utf8').trimEnd().split('\n') ?? [];
    assert.equal(lines.at(-1), SENTINEL, `the suite did not end:\n${lines.slice(-20).join('\n')}`);
    const failed = lines.filter((line) => line.startsWith('FAIL'));
    assert.deepEqual(failed, []);
    const ran = lines.filter((line) => line.startsWith('pass')).length;
    assert.equal(ran, POSIX_CASES.length, `${ran} of ${POSIX_CASES.length} cases ran`);
  });
});
