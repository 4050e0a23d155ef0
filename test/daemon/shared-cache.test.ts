/** A21: upstream's daemon (crate nydus-rs) and ours fill and read one cache directory at the same time (kata-contract 5.5). */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { FaultServer } from './fault-server.ts';
import { FIXTURES, NYDUSD } from './nydusd.ts';

const UPSTREAM = [process.env['UPSTREAM_NYDUSD'] ?? '', join(homedir(), '.cargo/bin/nydusd')].find(existsSync);
const IMAGES = join(FIXTURES, 'images');
/** Image → its tree. Not the ones with chunks of 4 KiB: there upstream 2.2.0 alone reads a sparse file wrong. */
const TREES = { 'v6-zstd-blake3': 'full', 'v5-lz4-blake3': 'full', 'tar-v6': 'tar' } as const;
const MOUNTED_MS_MAX = 20_000;

const ROOT = mkdtempSync(join(tmpdir(), 'shared-cache-'));
let server: FaultServer;
const running: Served[] = [];

interface Served {
  child: ChildProcess;
  mountpoint: string;
}

const isMounted = (path: string): boolean => readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${path} `);

/** `program fuse` on an image; both programs take the same words. */
async function serve(program: string, image: string, cache: string): Promise<Served> {
  const dir = mkdtempSync(join(ROOT, 'run-'));
  const mountpoint = join(dir, 'mnt');
  mkdirSync(mountpoint);
  const config = join(dir, 'config.json');
  writeFileSync(
    config,
    JSON.stringify({
      device: {
        id: image,
        backend: { type: 'registry', config: { scheme: 'http', host: server.host, repo: 'r' } },
        cache: { type: 'blobcache', config: { work_dir: cache } },
      },
      mode: 'direct',
      digest_validate: false,
      enable_xattr: true,
    }),
  );
  const bootstrap = join(IMAGES, `boot/${image}.boot`);
  // Upstream dies where it may not raise the limit.
  const args = [
    'fuse',
    '--rlimit-nofile',
    '0',
    '--config',
    config,
    '--bootstrap',
    bootstrap,
    '--mountpoint',
    mountpoint,
  ];
  const child = spawn(program, [...args, '--apisock', join(dir, 'api'), '--log-level', 'warn'], { stdio: 'ignore' });
  const served = { child, mountpoint };
  running.push(served);
  const deadline = performance.now() + MOUNTED_MS_MAX;
  // Ours is mounted a little before the image is.
  while (!isMounted(mountpoint) || readdirSync(mountpoint).length === 0) {
    assert.ok(child.exitCode === null && performance.now() < deadline, `${program} does not mount ${image}`);
    await sleep(20);
  }
  return served;
}

async function stop({ child, mountpoint }: Served): Promise<void> {
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  if (child.exitCode === null) await gone;
  if (isMounted(mountpoint)) execFileSync('umount', ['-l', mountpoint]);
}

/** Digest of every file, read by four processes at a time. */
async function sums(mountpoint: string, order: string): Promise<Map<string, string>> {
  const line = `cd "$1" && find . -type f -print0 | sort -z ${order} | xargs -0 -P4 -n8 sha256sum`;
  const { stdout } = await promisify(execFile)('sh', ['-c', line, 'sh', mountpoint], { maxBuffer: 64 * 2 ** 20 });
  return new Map(
    stdout
      .split('\n')
      .filter((l) => l !== '')
      // sha256sum marks names it has to escape.
      .map((l) => (l.startsWith('\\') ? l.slice(1) : l))
      .map((l) => [l.slice(66), l.slice(0, 64)]),
  );
}

function expectedSums(tree: string): string[] {
  const entries = JSON.parse(readFileSync(join(IMAGES, `expect/${tree}.json`), 'utf8')) as {
    type: string;
    sha256: string;
  }[];
  return entries.flatMap(({ type, sha256 }) => (type === 'file' ? [sha256] : [])).sort();
}

before(async () => {
  server = await FaultServer.start(join(IMAGES, 'blobs'));
});
after(async () => {
  for (const served of running) await stop(served);
  server.stop();
  rmSync(ROOT, { recursive: true, force: true });
});

describe('A21', {
  skip:
    UPSTREAM === undefined
      ? "nydusd of crate nydus-rs is not installed (set UPSTREAM_NYDUSD, or 'cargo install nydus-rs')"
      : false,
}, () => {
  for (const [image, tree] of Object.entries(TREES)) {
    test(`A21: ${image}, read by both at once through one cache directory`, { timeout: 120_000 }, async () => {
      const cache = join(ROOT, `cache-${image}`);
      mkdirSync(cache);
      const [theirs, ours] = await Promise.all([serve(UPSTREAM!, image, cache), serve(NYDUSD, image, cache)]);
      // From both ends, so that each meets chunks of the other.
      const [a, b] = await Promise.all([sums(theirs.mountpoint, ''), sums(ours.mountpoint, '-r')]);
      assert.deepEqual(b, a);
      assert.deepEqual([...a.values()].sort(), expectedSums(tree));
      await Promise.all([stop(theirs), stop(ours)]);
      // What they have left is whole for either of them.
      await server.mode('500');
      for (const program of [UPSTREAM!, NYDUSD]) {
        const again = await serve(program, image, cache);
        assert.deepEqual(await sums(again.mountpoint, ''), a, `${program} on the cache of both`);
        await stop(again);
      }
      await server.mode('ok');
    });
  }
});
