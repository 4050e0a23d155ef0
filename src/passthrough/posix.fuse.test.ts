/** The POSIX suite through /dev/fuse: kernel, session and passthrough together, once per cache policy that differs in kind. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, chmodSync, constants, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { CachePolicy } from './options.ts';
import { type Lacks, posixSuite } from './posix.suite.ts';

const SERVER = fileURLToPath(new URL('./serve.testing.ts', import.meta.url));
const PLACES: readonly { cache: CachePolicy; lacks: Lacks }[] = [
  { cache: 'auto', lacks: {} },
  { cache: 'never', lacks: { mmap: 'DIRECT_IO has no shared mappings' } },
];

function unavailable(): string | false {
  if (process.getuid?.() !== 0) return 'needs root to mount';
  try {
    accessSync('/dev/fuse', constants.R_OK | constants.W_OK);
    return false;
  } catch {
    return '/dev/fuse is missing: load the fuse module';
  }
}

for (const { cache, lacks } of PLACES) {
  describe(`cache ${cache}`, { skip: unavailable() }, () => {
    const base = mkdtempSync(join(tmpdir(), 'posix-fuse-'));
    const [share, mountpoint] = [join(base, 'share'), join(base, 'mnt')];
    let server: ChildProcess;

    before(async () => {
      chmodSync(base, 0o755);
      mkdirSync(share);
      mkdirSync(mountpoint);
      server = spawn(process.execPath, ['--import', 'tsx', SERVER, share, mountpoint, cache], {
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const stdout = server.stdout;
      assert.ok(stdout);
      const [said] = await Promise.race([once(stdout, 'data'), once(server, 'exit')]);
      assert.equal(String(said), 'mounted\n');
    });

    after(async () => {
      try {
        execFileSync('umount', [mountpoint]);
      } catch (error) {
        // A case that failed has left a file open or mapped: let go of the mount anyway, and tell.
        execFileSync('umount', ['-l', mountpoint]);
        server.kill('SIGKILL');
        throw error;
      }
      if (server.exitCode === null) await once(server, 'exit');
      rmSync(base, { recursive: true, force: true });
      assert.equal(server.exitCode, 0);
    });

    posixSuite(`/dev/fuse, cache ${cache}`, () => mountpoint, lacks);
  });
}
