/** Starts that used to fail, ends in every state, and what a client that watches for the end sees of it. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { OPS } from '../../src/fuse/opcodes.ts';
import { FailoverRig, inState, isMounted, put } from './failover-rig.ts';
import { BLOBS, endsWell, failure, rafs, registry, share, umount, withDaemon } from './fault-helpers.ts';
import { FaultServer } from './fault-server.ts';
import { localfsConfig, NYDUSD, Nydusd } from './nydusd.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'ends-'));
after(() => rmSync(ROOT, { recursive: true, force: true }));

describe('starts that used to fail', () => {
  test('--rlimit-nofile above the hard limit: as much as there is, and a warning', async (t) => {
    if (process.getuid?.() !== 0) return t.skip('needs root, to become somebody who may not raise limits');
    const dir = mkdtempSync(join(tmpdir(), 'nydusd-nofile-'));
    chmodSync(dir, 0o777);
    const nobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'];
    const daemon = new Nydusd((s, a) => ['virtiofs', '--sock', s, '--apisock', a, '--rlimit-nofile', '500000'], dir, [
      'prlimit',
      '--nofile=1024:2048',
      ...nobody,
      NYDUSD,
    ]);
    try {
      await daemon.running();
      const limits = () =>
        /Max open files +(\d+) +(\d+)/.exec(readFileSync(`/proc/${daemon.pid}/limits`, 'utf8'))!.slice(1);
      await daemon.printed(/WARN .*limit of open files is 2048: 500000 is above the hard limit/);
      assert.deepEqual(limits(), ['2048', '2048']);
    } finally {
      daemon.kill();
    }
  });

  test('options nobody knows are skipped with their values', async () => {
    const unknown = ['--colour', 'red', '--answer=42', '--flag', '-q', '7'];
    const daemon = await Nydusd.start((s, a) => [...unknown, 'virtiofs', '--apisock', a, '--shiny', '--sock', s]);
    try {
      await daemon.printed(/WARN .*unknown options skipped: --colour red --answer=42 --flag -q 7 --shiny\n/);
    } finally {
      daemon.kill();
    }
  });

  test('stdin, stdout and stderr closed', async () => {
    const dir = mkdtempSync(join(ROOT, 'closed-'));
    const daemon = new Nydusd(undefined, dir, ['sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh', NYDUSD]);
    try {
      await daemon.running();
      (await daemon.connectVmm()).destroy();
      for (let i = 0; i < 5; i++) assert.equal((await daemon.get('/api/v1/nothing')).status, 404);
      const { code } = await daemon.stop();
      assert.equal(code, 0);
    } finally {
      daemon.kill();
    }
  });

  test('what cannot be served ends with 1, what is missing with 2 and the usage', () => {
    const run = (line: string) => spawnSync(NYDUSD, line.split(' '), { encoding: 'utf8', timeout: 20_000 });
    for (const line of ['singleton --fscache /x --fscache-threads 4', 'nbd /dev/nbd0 -B /b', 'uffd -S /s', 'daemon']) {
      const { status, stderr } = run(line);
      assert.deepEqual(
        [status, stderr.includes('is not served by this daemon; use virtiofs or fuse')],
        [1, true],
        stderr,
      );
    }
    for (const line of ['virtiofs --apisock /a', 'fuse --apisock /a', '--log-level info']) {
      const { status, stderr } = run(line);
      assert.deepEqual([status, stderr.includes('\nUsage:\n')], [2, true], stderr);
    }
  });
});

describe('SIGTERM in every state ends it with 0 within 1 s', () => {
  test('while mounts are under way', async () => {
    await withDaemon(async (daemon) => {
      mkdirSync(join(daemon.dir, 'cache'));
      const config = localfsConfig(BLOBS, join(daemon.dir, 'cache'));
      for (let i = 0; i < 40; i++) daemon.mount(`/i${i}`, rafs(config)).catch(() => {});
      await sleep(20);
      await endsWell(daemon);
    });
  });
  test('with a VMM that is in the middle of a message, and one that waits', async () => {
    await withDaemon(async (daemon) => {
      const first = await daemon.connectVmm();
      first.write(Buffer.from('0100000001', 'hex'));
      const second = await daemon.connectVmm();
      await sleep(50);
      await endsWell(daemon);
      first.destroy();
      second.destroy();
    });
  });
  test('with requests of API clients half sent, and twice', async () => {
    await withDaemon(async (daemon) => {
      const half = await daemon.connectApi();
      half.write('POST /api/v1/mount?mountpoint=/x HTTP/1.1\r\nContent-Length: 10\r\n\r\n{');
      daemon.child.kill('SIGTERM');
      await endsWell(daemon);
      half.destroy();
    });
  });
  test('INIT and READY of a successor; in INIT mounts are answered 503', async () => {
    const rig = new FailoverRig('shared');
    try {
      await rig.start();
      for (const state of ['INIT', 'READY']) {
        const next = rig.launch(join(rig.dir, `${state}.sock`), true);
        await inState(next, 'INIT');
        if (state === 'INIT') {
          const answers = [
            await next.mount('/5', share(ROOT)),
            await next.request('PUT', '/api/v1/mount?mountpoint=/5', JSON.stringify(share(ROOT))),
            await umount(next, '/rafs/c/lowerdir'),
            await next.get('/readyz'),
          ];
          assert.deepEqual(
            answers.map(({ status }) => status),
            [503, 503, 503, 503],
          );
          for (const answer of answers.slice(0, 3)) assert.equal(failure(answer), 'Mount(MountFilesystem(NotReady))');
        } else {
          rig.supervisor.sendStates();
          await put(next, '/api/v1/daemon/fuse/takeover');
          await inState(next, 'READY');
        }
        const { ms, code, signal } = await next.stop();
        assert.deepEqual([code, signal], [0, null], next.output);
        assert.ok(ms < 1000, `${state}: ${ms} ms`);
        assert.equal(existsSync(next.apisock), false);
        assert.ok(isMounted(rig.mountpoint), `${state}: it has unmounted what another serves`);
      }
    } finally {
      await rig.stop();
    }
  });
  test('fuse, with a reader that waits for a dead registry', async () => {
    const server = await FaultServer.start(BLOBS);
    const dir = mkdtempSync(join(ROOT, 'fuse-'));
    mkdirSync(join(dir, 'mnt'));
    const daemon = await Nydusd.start((_, a) => ['fuse', '--mountpoint', join(dir, 'mnt'), '--apisock', a]);
    try {
      await server.mode('hang');
      assert.equal((await daemon.mount('/i', rafs(registry(server.host, join(dir, 'cache'))))).status, 204);
      const reader = spawn('cat', [join(dir, 'mnt/i/big/multi-chunk')], { stdio: 'ignore' });
      const ended = new Promise((resolve) => reader.once('exit', resolve));
      const isRead = ({ opcode }: { opcode: number }) => opcode === OPS.READ.op;
      const inflight = async () => (await daemon.get('/api/v1/metrics/inflight')).text;
      for (let i = 0; i < 500 && !JSON.parse((await inflight()) || '[]').some(isRead); i++) await sleep(10);
      assert.ok(JSON.parse(await inflight()).some(isRead));
      await endsWell(daemon);
      assert.equal(await ended, 1, 'the reader gets an error');
    } finally {
      daemon.kill();
      server.stop();
    }
  });
});

describe('a client with an edge-triggered epoll on an idle connection', () => {
  /** Prints each event of the connection; `ready` when it watches. */
  const WATCHER = `
import select, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
e = select.epoll()
e.register(s, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLET)
print('ready', flush=True)
while True:
    for _, events in e.poll(): print('hup' if events & (select.EPOLLHUP | select.EPOLLRDHUP) else 'event', flush=True)
`;
  const ways: [string, (daemon: Nydusd) => Promise<unknown>][] = [
    ['SIGTERM', (daemon) => daemon.stop()],
    ['SIGKILL', (daemon) => daemon.stop('SIGKILL')],
    [
      'PUT exit',
      async (daemon) => {
        await daemon.request('PUT', '/api/v1/daemon/exit');
        await daemon.ended;
      },
    ],
  ];
  for (const [name, end] of ways) {
    test(`sees exactly one hang-up, at death by ${name}, and none before`, async (t) => {
      const daemon = await Nydusd.start();
      const watcher = spawn('python3', ['-c', WATCHER, daemon.apisock], { stdio: ['ignore', 'pipe', 'inherit'] });
      let seen = '';
      watcher.stdout.setEncoding('utf8').on('data', (text: string) => {
        seen += text;
      });
      const isMissing = await new Promise<boolean>((resolve) => {
        watcher.once('error', () => resolve(true));
        watcher.stdout.once('data', () => resolve(false));
      });
      try {
        if (isMissing) return t.skip('python3 is not installed');
        await Promise.all(
          Array.from({ length: 30 }, () => daemon.request('GET', '/api/v1/daemon', undefined, { connection: 'close' })),
        );
        await sleep(100);
        assert.equal(seen, 'ready\n', 'an event before the end');
        await end(daemon);
        for (let i = 0; i < 100 && seen === 'ready\n'; i++) await sleep(20);
        await sleep(300);
        assert.equal(seen, 'ready\nhup\n');
      } finally {
        watcher.kill('SIGKILL');
        daemon.kill();
      }
    });
  }
});
