/** `bin/nydusctl` against our daemon, and upstream's against it: acceptance vector A20 of the contract. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { FIXTURES, localfsConfig, NYDUSD, Nydusd } from '../daemon/nydusd.ts';

const OURS = join(NYDUSD, '../nydusctl');
const BOOTSTRAP = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');

/** Upstream's tool: named, on PATH, or where cargo installs it. */
function upstream(): string | null {
  const onPath = (process.env['PATH'] ?? '').split(':').map((dir) => join(dir, 'nydusctl'));
  const candidates = [process.env['NYDUSCTL'] ?? '', ...onPath, join(homedir(), '.cargo/bin/nydusctl')];
  return candidates.find((path) => path !== '' && existsSync(path)) ?? null;
}

interface Result {
  status: number | null;
  stdout: string;
  stderr: string;
}

/** Runs `program` without stopping this process, which reads the daemon's log. */
function run(program: string, args: readonly string[]): Promise<Result> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'], timeout: 30_000 });
    const result = { status: null, stdout: '', stderr: '' } as Result;
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      result.stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      result.stderr += text;
    });
    child.on('error', reject);
    child.on('close', (status) => resolve({ ...result, status }));
  });
}

class Bed {
  daemon!: Nydusd;
  config!: string;

  async start(): Promise<void> {
    this.daemon = await Nydusd.start();
    this.config = join(this.daemon.dir, 'config.json');
    mkdirSync(join(this.daemon.dir, 'share'));
    const config = localfsConfig(join(FIXTURES, 'images/blobs'), join(this.daemon.dir, 'cache'));
    writeFileSync(this.config, JSON.stringify(config));
  }

  get share(): string {
    return join(this.daemon.dir, 'share');
  }

  async mounts(): Promise<string[]> {
    return Object.keys((await this.daemon.info()).backend_collection).sort();
  }

  readonly mountImage = () => ['mount', '-s', BOOTSTRAP, '-c', this.config, '-m', '/rafs/a/lowerdir', '-t', 'rafs'];
  readonly mountShare = () => [
    'mount',
    '-s',
    this.share,
    '-c',
    this.config,
    '-m',
    '/containers',
    '-t',
    'passthrough_fs',
  ];
}

describe('nydusctl', () => {
  const bed = new Bed();
  before(() => bed.start());
  after(() => bed.daemon?.kill());
  const ctl = (...args: string[]) => run(OURS, ['--sock', bed.daemon.apisock, ...args]);
  const good = async (...args: string[]): Promise<string> => {
    const { status, stdout, stderr } = await ctl(...args);
    assert.deepEqual([status, stderr], [0, '']);
    return stdout;
  };

  test('mount, info, umount', async () => {
    assert.equal(await good(...bed.mountImage()), '');
    assert.equal(await good('mount', '-s', bed.share, '--mountpoint', '/with space+&', '-t', 'passthrough_fs'), '');
    assert.deepEqual(await bed.mounts(), ['/rafs/a/lowerdir', '/with space+&']);
    const info = await good('info');
    assert.match(info, /^Version: +"v\S+"\nStatus: +"RUNNING"\nProfile: +"release"\nCommit: +"\S+"\nInstances:\n/);
    assert.match(
      info,
      /Instance Mountpoint: +\/rafs\/a\/lowerdir\n\tType: +Rafs\n\tMounted Time: +2\d{3}-.*\n\tMode: +direct\n\tPrefetch: +\w+\n\tPrefetch Merging Size: +\d+\n/,
    );
    const raw = JSON.parse(await good('info', '--raw')) as { state: string };
    assert.equal(raw.state, 'RUNNING');
    assert.equal(await good('umount', '--mountpoint', '/with space+&'), '');
    assert.equal(await good('umount', '-m', '/rafs/a/lowerdir'), '');
    assert.deepEqual(await bed.mounts(), []);
  });

  test('metrics in words and in JSON', async () => {
    await good(...bed.mountImage());
    assert.match(
      await good('metrics', 'backend'),
      /^Backend Type: +"localfs"\nRead Amount: +\d+ Bytes \([\d.]+ MB\)\n/,
    );
    assert.match(
      await good('metrics', 'cache'),
      /Directory: +".*\/cache"\nFiles: +\[".*\.blob\.data"\]\n[\s\S]*Prefetch Bandwidth: +[\d.]+ MB\/S\n/,
    );
    assert.match(await good('metrics', 'fsstats'), /Read Errors: +\d+\n[\s\S]* {2}batch_forget: +\d+\n$/);
    for (const [category, member] of [
      ['backend', 'read_count'],
      ['cache', 'store_path'],
      ['fsstats', 'fop_hits'],
    ]) {
      assert.ok(member! in JSON.parse(await good('-r', 'metrics', category!)), category);
    }
    const rates = await good('metrics', 'backend', '--interval', '1', '--count', '1');
    assert.match(rates, /^Backend Read Bandwidth: +[\d.]+ KB\/S\nBackend Average IO Size: +\d+ Bytes\n/);
    await good('umount', '/rafs/a/lowerdir');
  });

  test('top: a plain line a mount when it writes to no terminal', async () => {
    await good(...bed.mountImage());
    await good(...bed.mountShare());
    const lines = (await good('top', '--interval', '1', '--count', '2')).trimEnd().split('\n');
    assert.equal(lines.length, 4);
    for (const line of lines) {
      assert.match(line, /^\S+Z \/\S+ ops\/s=\d+ read=[\d.]+MB\/s fetch=\S+ hit=(-|\d+%) prefetch=(-|all|[\d.]+MB)$/);
    }
    const raw = JSON.parse(await good('top', '--raw', '-I', '1', '-n', '1')) as { mounts: { mountpoint: string }[] };
    assert.deepEqual(raw.mounts.map(({ mountpoint }) => mountpoint).sort(), ['/containers', '/rafs/a/lowerdir']);
    for (const where of await bed.mounts()) await good('umount', '-m', where);
  });

  test('what goes on for ever ends when its reader does', async () => {
    await good(...bed.mountImage());
    for (const what of ['top', 'metrics backend']) {
      const command = `${OURS} -S ${bed.daemon.apisock} ${what} -I 1 | head -n 1`;
      assert.equal((await run('sh', ['-c', command])).status, 0, what);
    }
    await good('umount', '-m', '/rafs/a/lowerdir');
  });

  test('top: a screen on a terminal', async (t) => {
    const script = spawnSync('script', ['--version']);
    if (script.error !== undefined) return t.skip('script(1), which gives it a terminal, is not installed');
    await good(...bed.mountImage());
    const { stdout } = await run('script', ['-qec', `${OURS} -S ${bed.daemon.apisock} top -I 1 -n 1`, '/dev/null']);
    assert.ok(stdout.includes('\x1b[H\x1b[2J'), 'the screen is not cleared');
    assert.match(stdout, /MOUNT +OPS\/S +READ MB\/S +FETCH KB\/S +HIT +PREFETCH\r?\n\/rafs\/a\/lowerdir +\d+ /);
    await good('umount', '-m', '/rafs/a/lowerdir');
  });

  test('set log-level', async () => {
    await good('set', 'log-level', 'debug');
    await good('info');
    await bed.daemon.printed(/DEBUG .*GET \/api\/v1\/daemon answered 200/);
    await good('set', 'log-level', 'info');
  });

  describe('fails with one line on stderr', () => {
    const rows: [string, string[], number, RegExp][] = [
      [
        'what the daemon refuses',
        ['umount', '-m', '/nowhere'],
        1,
        /Request failed\. \{"code":"UNDEFINED",.*doesn't exist/,
      ],
      ['a level nobody knows', ['set', 'log-level', 'loud'], 1, /Request failed\. .*ResponsePayloadType/],
      ['no counters', ['metrics', 'cache'], 1, /Request failed\. .*NoCounter/],
      [
        'no configuration file',
        ['mount', '-s', '/a', '-c', '/nonexistent', '-m', '/a', '-t', 'rafs'],
        1,
        /cannot read the configuration \/nonexistent/,
      ],
      ['no subcommand', [], 2, /a subcommand is required/],
      ['unknown subcommand', ['dance'], 2, /unexpected word "dance"/],
      ['unknown option', ['info', '--loud'], 2, /unknown option "--loud"/],
      ['option of another subcommand', ['info', '-m', '/a'], 2, /--mountpoint means nothing to info/],
      ['no category', ['metrics'], 2, /category of metrics is one of backend, cache, fsstats/],
      ['interval elsewhere', ['metrics', 'cache', '-I', '1'], 2, /--interval is for metrics backend and top/],
      ['nothing to set', ['set', 'colour', 'red'], 2, /set log-level VALUE/],
      ['mount without a source', ['mount', '-m', '/a', '-t', 'rafs'], 2, /--source is required/],
      ['a type nobody knows', ['mount', '-t', 'ext4'], 2, /-t is one of rafs, passthrough_fs/],
    ];
    for (const [name, args, code, says] of rows) {
      test(name, async () => {
        const { status, stdout, stderr } = await ctl(...args);
        assert.deepEqual([status, stdout], [code, '']);
        assert.match(stderr, says);
        assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
      });
    }
    test('no daemon', async () => {
      const { status, stderr } = await run(OURS, ['-S', '/nonexistent/api.sock', 'info']);
      assert.deepEqual([status, /no answer on \/nonexistent\/api.sock: .*ENOENT/.test(stderr)], [1, true], stderr);
    });
    test('no socket', async () => assert.equal((await run(OURS, ['info'])).status, 2));
  });

  test('help names every subcommand', async () => {
    for (const args of [['--help'], ['help'], ['-h']]) {
      const { status, stdout } = await run(OURS, args);
      assert.equal(status, 0);
      for (const name of ['info', 'set', 'metrics', 'mount', 'umount', 'top'])
        assert.match(stdout, new RegExp(`^  ${name} `, 'm'));
    }
  });
});

const UPSTREAM = upstream();

describe("A20: upstream's nydusctl", {
  skip:
    UPSTREAM === null
      ? "nydusctl of crate nydus-rs is not installed (set NYDUSCTL, or 'cargo install nydus-rs')"
      : false,
}, () => {
  const bed = new Bed();
  before(() => bed.start());
  after(() => bed.daemon?.kill());
  const good = async (...args: string[]): Promise<string> => {
    const { status, stdout, stderr } = await run(UPSTREAM!, ['--sock', bed.daemon.apisock, ...args]);
    assert.deepEqual([status, stderr], [0, ''], stdout);
    return stdout;
  };

  test('A20: mount and info', async () => {
    assert.match(await good('info'), /Status: +"RUNNING"/);
    await good(...bed.mountImage());
    await good(...bed.mountShare());
    assert.deepEqual(await bed.mounts(), ['/containers', '/rafs/a/lowerdir']);
    const info = await good('info');
    assert.match(info, /Instance Mountpoint: +\/containers\n\tType: +PassthroughFs\n\tMounted Time: +2\d{3}-/);
    assert.match(
      info,
      /Type: +Rafs\n\tMounted Time: .*\n\tMode: +direct\n\tPrefetch: +\w+\n\tPrefetch Merging Size: +\d+/,
    );
    assert.equal((JSON.parse(await good('--raw', 'info')) as { state: string }).state, 'RUNNING');
  });

  test('A20: metrics', async () => {
    assert.match(await good('metrics', 'backend'), /Backend Type: +"localfs"/);
    assert.match(await good('metrics', 'cache'), /Files: +\[".*\.blob\.data"\]/);
    assert.match(await good('metrics', 'fsstats'), /Read Errors: +\d+/);
    for (const category of ['backend', 'cache', 'fsstats']) JSON.parse(await good('--raw', 'metrics', category));
  });

  test('A20: set', async () => assert.equal(await good('set', 'log-level', 'warn'), ''));

  test('A20: umount', async () => {
    // 2.2.0 takes the mount point as a word although its help says -m; later ones know -m.
    for (const where of ['/containers', '/rafs/a/lowerdir']) {
      const { status } = await run(UPSTREAM!, ['--sock', bed.daemon.apisock, 'umount', '-m', where]);
      if (status !== 0) await good('umount', where);
    }
    assert.deepEqual(await bed.mounts(), []);
  });
});
