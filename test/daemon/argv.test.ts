/** A1: every command line of Kata (kata-contract 1.2) and of nydus-snapshotter (5.7, 11) starts a daemon that is RUNNING in 2 s. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { type Argv, FIXTURES, localfsConfig, Nydusd, slowdown } from './nydusd.ts';

const RUNNING_MS_MAX = 2000;
/** A busy machine starts late now and then, a wrong command line always does. */
const TRIES = 3;
/** Kata's default flags for virtiofsd, which reach us too. */
const VIRTIOFSD_DEFAULTS = ['--thread-pool-size=1', '--announce-submounts'];

const ROOT = mkdtempSync(join(tmpdir(), 'argv-'));
after(() => rmSync(ROOT, { recursive: true, force: true }));

/** Starts until one start is in time; hands the running daemon on. */
async function starts(start: () => Nydusd, check: (daemon: Nydusd) => Promise<void>): Promise<void> {
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < TRIES && best > RUNNING_MS_MAX; i++) {
    const from = performance.now();
    const daemon = start();
    try {
      await daemon.running();
      best = Math.min(best, performance.now() - from);
      const answer = await daemon.get('/api/v1/daemon');
      assert.equal(answer.status, 200);
      const { version } = JSON.parse(answer.text) as { version: Record<string, unknown> };
      for (const member of ['package_ver', 'git_commit', 'build_time', 'profile', 'rustc'])
        assert.equal(typeof version[member], 'string', member);
      await check(daemon);
    } finally {
      daemon.kill();
    }
  }
  assert.ok(best <= RUNNING_MS_MAX || best <= RUNNING_MS_MAX * slowdown(), `RUNNING after ${best} ms`);
}

const QEMU = { sock: 'vhost-fs.sock', apisock: 'nydusd-api.sock' };
const CLH = { sock: 'virtiofsd.sock', apisock: 'nydusd-api.sock' };
const STRATOVIRT = { sock: 'virtiofs_kata.socket', apisock: 'nydusd_kata.socket' };

describe('A1: Kata', () => {
  const rows: [name: string, names: typeof QEMU, argv: Argv][] = [
    ['Go 2.4 to 3.0, no subcommand', QEMU, (s, a) => ['--log-level', 'info', '--apisock', a, '--sock', s]],
    [
      'Go 3.1, hybrid mode',
      QEMU,
      (s, a) => ['virtiofs', '--hybrid-mode', '--log-level', 'debug', '--apisock', a, '--sock', s],
    ],
    ['Go 3.2 and later, QEMU', QEMU, (s, a) => ['virtiofs', '--log-level', 'info', '--apisock', a, '--sock', s]],
    ['Go, Cloud Hypervisor, debug', CLH, (s, a) => ['virtiofs', '--log-level', 'debug', '--apisock', a, '--sock', s]],
    ['Go, StratoVirt', STRATOVIRT, (s, a) => ['virtiofs', '--log-level', 'info', '--apisock', a, '--sock', s]],
    ['runtime-rs', CLH, (s, a) => ['virtiofs', '--hybrid-mode', '--log-level', 'info', '--apisock', a, '--sock', s]],
    [
      'runtime-rs rootless: bare names, the socket directory is the cwd',
      CLH,
      () => [
        ...['virtiofs', '--hybrid-mode', '--log-level', 'info'],
        ...['--apisock', CLH.apisock, '--sock', CLH.sock],
      ],
    ],
    [
      'hybrid mode last',
      QEMU,
      (s, a) => ['virtiofs', '--log-level', 'info', '--apisock', a, '--sock', s, '--hybrid-mode'],
    ],
    [
      'options before the subcommand, joined',
      QEMU,
      (s, a) => [`--apisock=${a}`, '-l', 'info', 'virtiofs', `--sock=${s}`],
    ],
    [
      'repeated options, and one of another mode (the example of Kata’s documentation)',
      QEMU,
      (s, a) => [
        ...['virtiofs', '--log-level', 'info', '--apisock', a, '--sock', s],
        ...['--log-level', 'debug', '--threads', '4'],
      ],
    ],
    [
      'defaults of runtime-rs’s templates',
      QEMU,
      (s, a) => ['virtiofs', '--log-level', 'info', '--apisock', a, '--sock', s, '-o', 'announce_submounts'],
    ],
    [
      'legacy virtiofsd flags',
      QEMU,
      (s, a) => [
        ...['virtiofs', '--apisock', a, '--sock', s, '-o', 'announce_submounts', '-d', '--cache=auto'],
        ...['--sandbox', 'chroot', '--xattr', '--posix-acl', '--no-announce-submounts', '--seccomp', 'none'],
        ...['--inode-file-handles=never', '--modcaps=+sys_admin', '--socket-group', 'kvm', '-f'],
      ],
    ],
  ];
  for (const [name, names, argv] of rows) {
    test(`A1: ${name}`, async () => {
      const start = () => {
        const dir = mkdtempSync(join(ROOT, 'kata-'));
        const [apisock, sock] = [join(dir, names.apisock), join(dir, names.sock)];
        return new Nydusd((s, a) => [...argv(s, a), ...VIRTIOFSD_DEFAULTS], dir, undefined, apisock, sock);
      };
      await starts(start, async (daemon) => {
        assert.ok(existsSync(daemon.sock) && existsSync(daemon.apisock), 'a socket is missing');
        (await daemon.connectVmm()).destroy();
        await daemon.printed(/options of virtiofsd ignored: .*--thread-pool-size=1 --announce-submounts/);
      });
    });
  }
});

describe('A1: nydus-snapshotter', { skip: existsSync('/dev/fuse') ? false : 'no /dev/fuse' }, () => {
  const bootstrap = join(FIXTURES, 'images/boot/v6-zstd-blake3.boot');
  const config = join(ROOT, 'config.json');
  writeFileSync(config, JSON.stringify(localfsConfig(join(FIXTURES, 'images/blobs'), join(ROOT, 'cache'))));
  const list = join(ROOT, 'list');
  writeFileSync(list, '/big/multi-chunk\n\n');

  const supervisorPath = join(ROOT, 'supervisor.sock');
  const supervisor = createServer((socket) => socket.on('error', () => {}).resume()).listen(supervisorPath);
  after(() => supervisor.close());

  const image = ['--config', config, '--bootstrap', bootstrap];
  const common = ['--log-level', 'info', '--log-rotation-size', '100'];
  const supervised = ['--id', 'd1', '--supervisor', supervisorPath];
  type FuseArgv = (mountpoint: string, apisock: string) => string[];
  const rows: [name: string, isImage: boolean, argv: FuseArgv][] = [
    [
      'dedicated',
      true,
      (m, a) => [
        ...['fuse', '--thread-num', '4', ...image, '--mountpoint', m, '--apisock', a, ...common],
        ...['--failover-policy', 'resend'],
      ],
    ],
    [
      'dedicated, with everything there is',
      true,
      (m, a) => [
        ...['fuse', '--thread-num', '4', '--id', 'd1', ...image, '--mountpoint', m, '--apisock', a, ...common],
        ...['--supervisor', supervisorPath, '--log-file', join(ROOT, 'nydusd.log'), '--prefetch-files', list],
        ...['--backend-source', 'http://localhost/config', '--failover-policy', 'resend'],
      ],
    ],
    [
      'shared',
      false,
      (m, a) => [
        ...['fuse', '--thread-num', '4', ...supervised, '--mountpoint', m, '--apisock', a, ...common],
        ...['--failover-policy', 'resend'],
      ],
    ],
    ['shared, older', false, (m, a) => ['fuse', '--mountpoint', m, '--apisock', a, '--log-level', 'info']],
    ['no subcommand', false, (m, a) => ['--mountpoint', m, '--apisock', a, '--failover-policy', 'flush']],
  ];
  for (const [name, isImage, argv] of rows) {
    test(`A1: ${name}`, async () => {
      const start = () => {
        const mountpoint = mkdtempSync(join(ROOT, 'mnt-'));
        const dir = mountpoint.replace('mnt-', 'dir-');
        mkdirSync(dir);
        return new Nydusd((_, a) => argv(mountpoint, a), dir);
      };
      await starts(start, async (daemon) => {
        const mountpoint = daemon.dir.replace('dir-', 'mnt-');
        assert.ok(readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${mountpoint} `), 'not mounted');
        assert.equal(existsSync(join(mountpoint, 'big/multi-chunk')), isImage);
        const end = await daemon.stop();
        assert.equal(end.code, 0, daemon.output);
        assert.ok(!readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${mountpoint} `), 'still mounted');
      });
    });
  }

  test('A1: fscache is not served: exit code 1 and why', async () => {
    const daemon = new Nydusd((_, a) => ['singleton', '--fscache', ROOT, '--fscache-threads', '4', '--apisock', a]);
    try {
      assert.equal((await daemon.ended).code, 1);
      assert.match(daemon.output, /singleton is not served/);
    } finally {
      daemon.kill();
    }
  });
});
