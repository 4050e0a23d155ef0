/** `nydusd fuse`: the same file systems on the host, through the kernel's own FUSE client. Needs root and /dev/fuse. */
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { posixSuite } from '../../src/passthrough/posix.suite.ts';
import { assertSame, expectedTree, IMAGE_FIELDS } from '../vm/compare.ts';
import { rafsConfig } from '../vm/daemon.ts';
import { BLOBS, fixtureCases } from '../vm/fixture-cases.ts';
import { hostManifest } from '../vm/manifest.ts';
import { makeSampleTree } from '../vm/sample-tree.ts';
import { FaultServer } from './fault-server.ts';
import { localfsConfig, NYDUSD, Nydusd } from './nydusd.ts';

const ROOT = fs.mkdtempSync(path.join(tmpdir(), 'fuse-'));
const FILES = 10_000;
fs.chmodSync(ROOT, 0o755); // the suite acts as other users, who have to get in

/** A daemon that serves `args` on a fresh mount point. */
async function mounted(args: string[]): Promise<{ daemon: Nydusd; mountpoint: string }> {
  const mountpoint = fs.mkdtempSync(path.join(ROOT, 'mnt-'));
  const daemon = await Nydusd.start((_, apisock) => [
    'fuse',
    '--mountpoint',
    mountpoint,
    '--apisock',
    apisock,
    ...args,
  ]);
  return { daemon, mountpoint };
}

function isMounted(mountpoint: string): boolean {
  return fs.readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${mountpoint} `);
}

/** SIGTERM, and what must be true after it. */
async function ends({ daemon, mountpoint }: { daemon: Nydusd; mountpoint: string }): Promise<void> {
  const { ms, code } = await daemon.stop();
  assert.equal(code, 0, daemon.output);
  assert.ok(ms < 1000, `${ms} ms`);
  assert.equal(isMounted(mountpoint), false, 'the mount is left behind');
  daemon.kill();
}

/** The kernel's EROFS driver on the bootstrap, with the cache file that our daemon filled as its device. */
async function withErofs(bootstrap: string, cache: string, use: (root: string) => Promise<void>): Promise<void> {
  const data = fs.readdirSync(cache).find((name) => name.endsWith('.blob.data'));
  assert.ok(data !== undefined, 'the daemon left no cache file');
  const root = fs.mkdtempSync(path.join(ROOT, 'erofs-'));
  const loops: string[] = [];
  try {
    for (const file of [bootstrap, path.join(cache, data)]) {
      loops.push(execFileSync('losetup', ['-f', '--show', '-r', file], { encoding: 'utf8' }).trim());
    }
    execFileSync('mount', ['-t', 'erofs', '-o', `ro,device=${loops[1]}`, loops[0]!, root]);
    await use(root);
  } finally {
    if (isMounted(root)) execFileSync('umount', [root]);
    for (const loop of loops) execFileSync('losetup', ['-d', loop]);
  }
}

after(() => {
  for (const name of fs.readdirSync(ROOT)) {
    if (isMounted(path.join(ROOT, name))) execFileSync('umount', ['-l', path.join(ROOT, name)]);
  }
  fs.rmSync(ROOT, { recursive: true, force: true });
});

for (const validate of [false, true]) {
  test(`every fixture equals its tree, validation ${validate}`, async () => {
    const served = await mounted([]);
    try {
      for (const fixture of fixtureCases()) {
        const cache = path.join(ROOT, `cache-${validate}`);
        fs.mkdirSync(cache, { recursive: true });
        const config = rafsConfig(fixture.backend, cache, validate);
        const answer = await served.daemon.mount(`/${fixture.name}`, {
          fs_type: 'rafs',
          source: fixture.bootstrap,
          config: JSON.stringify(config),
        });
        assert.equal(answer.status, 204, `${fixture.name}: ${answer.text}`);
        const shown = await hostManifest(path.join(served.mountpoint, fixture.name));
        assertSame(expectedTree(fixture.expect), shown, IMAGE_FIELDS, fixture.name);
      }
    } finally {
      await ends(served);
    }
  });
}

for (const compressor of ['none', 'lz4_block', 'zstd']) {
  test(`a ${FILES}-file image of our own equals its source, ${compressor}`, async () => {
    const source = path.join(ROOT, 'source');
    if (!fs.existsSync(source)) makeSampleTree(source, FILES);
    const blobs = path.join(ROOT, `blobs-${compressor}`);
    fs.mkdirSync(blobs);
    const bootstrap = path.join(ROOT, `${compressor}.boot`);
    const builder = path.join(path.dirname(NYDUSD), 'nydus-image');
    execFileSync(builder, ['create', '-B', bootstrap, '-D', blobs, '--compressor', compressor, source]);
    const served = await mounted(['--bootstrap', bootstrap, '--localfs-dir', blobs]);
    try {
      const expected = await hostManifest(source);
      assertSame(expected, await hostManifest(served.mountpoint), IMAGE_FIELDS, compressor);
      await withErofs(bootstrap, blobs, async (root) => {
        assertSame(expected, await hostManifest(root), IMAGE_FIELDS, `${compressor} by the kernel`);
      });
    } finally {
      await ends(served);
    }
  });
}

describe('a host directory through /dev/fuse', () => {
  let served: { daemon: Nydusd; mountpoint: string };
  before(async () => {
    const share = path.join(ROOT, 'share');
    fs.mkdirSync(share);
    served = await mounted(['--shared-dir', share, '--writable']);
  });
  posixSuite('/dev/fuse', () => served.mountpoint);
  after(() => served.daemon.kill());
  test('nothing of the cases is left open, and SIGTERM unmounts', async () => {
    const open = (): string[] =>
      fs.readdirSync(`/proc/${served.daemon.pid}/fd`).filter((fd) => {
        try {
          return fs.readlinkSync(`/proc/${served.daemon.pid}/fd/${fd}`).includes('case-');
        } catch {
          return false;
        }
      });
    for (let i = 0; i < 100 && open().length > 0; i++) await sleep(20); // FORGETs come a little later
    assert.deepEqual(open(), []);
    await ends(served);
  });
});

// The snapshotter stats the mount point of a daemon that died, and starts a successor only when that has answered.
for (const what of ['an image', 'nothing']) {
  test(`who serves nothing any more does not block stat of its mount point: ${what} on it`, async () => {
    const fixture = fixtureCases().find(({ name }) => name === 'v6-zstd-blake3')!;
    const config = path.join(ROOT, 'config.json');
    fs.writeFileSync(config, JSON.stringify(localfsConfig(BLOBS, fs.mkdtempSync(path.join(ROOT, 'cache-')))));
    const image = ['--bootstrap', fixture.bootstrap, '--config', config];
    const served = await mounted(what === 'an image' ? image : []);
    try {
      fs.statSync(served.mountpoint);
      process.kill(served.daemon.pid, 'SIGSTOP');
      await sleep(1500);
      const found = spawnSync('stat', ['-c', '%F', served.mountpoint], { encoding: 'utf8', timeout: 5000 });
      assert.equal(found.stdout.trim(), 'directory');
    } finally {
      process.kill(served.daemon.pid, 'SIGCONT');
      await ends(served);
    }
  });
}

// Whoever mounted by hand unmounts by hand, and waits for the process: upstream's own tests do.
test('umount from outside ends the daemon, as upstream', async () => {
  const served = await mounted([]);
  execFileSync('umount', [served.mountpoint]);
  const { code } = await served.daemon.ended;
  assert.equal(code, 0, served.daemon.output);
  assert.match(served.daemon.output, /unmounted from outside/);
});

test('who finds the API finds the daemon RUNNING, and the root shows mounts at once', async () => {
  const mountpoint = fs.mkdtempSync(path.join(ROOT, 'mnt-'));
  const daemon = new Nydusd((_, apisock) => ['fuse', '--mountpoint', mountpoint, '--apisock', apisock]);
  try {
    let first: { state: string } | null = null;
    // The socket's name is there a moment before somebody listens.
    while (first === null && daemon.child.exitCode === null) {
      await sleep(1);
      first = await daemon.info().catch(() => null);
    }
    assert.equal(first?.state, 'RUNNING');
    const share = fs.mkdtempSync(path.join(ROOT, 'share-'));
    const nlink = async () => (await fs.promises.stat(mountpoint)).nlink;
    assert.equal(await nlink(), 2);
    const body = { fs_type: 'passthrough_fs', source: share, config: '' };
    assert.equal((await daemon.mount('/share', body)).status, 204);
    assert.equal(await nlink(), 3, 'the kernel keeps the attributes of the root until it is told');
    assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/share')).status, 204);
    assert.equal(await nlink(), 2);
  } finally {
    await ends({ daemon, mountpoint });
  }
});

test('SIGTERM unmounts although a file is open there', async () => {
  const share = path.join(ROOT, 'share2');
  fs.mkdirSync(share);
  fs.writeFileSync(path.join(share, 'f'), 'x');
  const served = await mounted(['--shared-dir', share]);
  const fd = fs.openSync(path.join(served.mountpoint, 'f'), 'r');
  await ends(served);
  fs.closeSync(fd);
});

test('a source on its own mount point is refused: the device thread would wait for itself', async () => {
  const share = path.join(ROOT, 'share3');
  fs.mkdirSync(share);
  const served = await mounted(['--shared-dir', share]);
  const body = { fs_type: 'passthrough_fs', source: served.mountpoint, config: '' };
  const { status, text } = await served.daemon.mount('/loop', body);
  assert.equal(status, 500);
  assert.match(text, /it lies on \S+, which this daemon serves/);
  assert.equal((await served.daemon.get('/healthz')).status, 200);
  await ends(served);
});

test('a reader that waits for a dead registry can be interrupted', async () => {
  const server = await FaultServer.start(BLOBS);
  const cache = fs.mkdtempSync(path.join(ROOT, 'cache-dead-'));
  const served = await mounted([]);
  try {
    await server.mode('hang');
    const fixture = fixtureCases().find(({ name }) => name === 'v6-zstd-blake3')!;
    const backend = { type: 'registry', config: { scheme: 'http', host: server.host, repo: 'r' } };
    const config = {
      ...localfsConfig(BLOBS, cache),
      device: { backend, cache: { type: 'blobcache', config: { work_dir: cache } } },
    };
    const body = { fs_type: 'rafs', source: fixture.bootstrap, config: JSON.stringify(config) };
    assert.equal((await served.daemon.mount('/i', body)).status, 204);
    const reader = spawn('cat', [path.join(served.mountpoint, 'i/big/multi-chunk')], { stdio: 'ignore' });
    await sleep(500);
    assert.equal(reader.exitCode, null, 'the read waits');
    const from = performance.now();
    reader.kill('SIGINT');
    await new Promise((resolve) => reader.once('exit', resolve));
    assert.ok(performance.now() - from < 1000, 'the reader hangs in the kernel');
    assert.ok(fs.statSync(path.join(served.mountpoint, 'i')).isDirectory());
  } finally {
    await ends(served);
    server.stop();
  }
});
