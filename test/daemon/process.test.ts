/** The daemon as a process: how fast it is there, what it costs, what it is called, what ends it and what does not. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { FIXTURES, KATA_ARGV, localfsConfig, NYDUSD, Nydusd, slowdown } from './nydusd.ts';

const MiB = 1024 * 1024;

/** One field of /proc/PID/smaps_rollup in bytes. */
function memory(pid: number, field: 'Rss' | 'Anonymous'): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  return Number(new RegExp(`^${field}: +(\\d+) kB`, 'm').exec(text)![1]) * 1024;
}

/** CPU time of all threads so far, in ms. */
function cpuMs(pid: number): number {
  let ns = 0;
  for (const tid of readdirSync(`/proc/${pid}/task`)) {
    ns += Number(readFileSync(`/proc/${pid}/task/${tid}/schedstat`, 'utf8').split(' ')[0]);
  }
  return ns / 1e6;
}

const median = (values: number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** exec until `GET /api/v1/daemon` says RUNNING, in ms; asked every millisecond, as nobody but a test would. */
async function timeToRunning(dir: string): Promise<number> {
  const startedAt = performance.now();
  const daemon = new Nydusd(KATA_ARGV, dir);
  const ask = () =>
    new Promise<boolean>((resolve) => {
      const socket = connect(daemon.apisock);
      socket.once('error', () => resolve(false));
      socket.once('connect', () => socket.write('GET /api/v1/daemon HTTP/1.1\r\n\r\n'));
      socket.once('data', (text) => {
        socket.destroy();
        resolve(text.includes('"RUNNING"'));
      });
    });
  while (!(await ask())) await sleep(1);
  const ms = performance.now() - startedAt;
  assert.ok(existsSync(daemon.sock), 'RUNNING before the socket of the VMM was there');
  await daemon.stop();
  return ms;
}

async function timeOfBareNode(): Promise<number> {
  const startedAt = performance.now();
  const child = spawn(process.execPath, ['-e', '0'], { stdio: 'ignore' });
  await new Promise((resolve) => child.on('close', resolve));
  return performance.now() - startedAt;
}

test('RUNNING is answered within the time of a bare node plus 50 ms (medians of 20)', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'nydusd-start-'));
  // Other tests may run beside this one: the best of four rounds counts, and the limit grows with what they take.
  let best = Number.POSITIVE_INFINITY;
  let limitMs = 50;
  for (let round = 0; round < 4 && best > limitMs; round++) {
    limitMs = 50 * slowdown();
    const bare: number[] = [];
    const daemon: number[] = [];
    for (let i = 0; i < 20; i++) {
      bare.push(await timeOfBareNode());
      daemon.push(await timeToRunning(dir));
    }
    t.diagnostic(
      `bare node ${median(bare).toFixed(1)} ms, RUNNING ${median(daemon).toFixed(1)} ms, limit ${limitMs.toFixed(0)}`,
    );
    best = Math.min(best, median(daemon) - median(bare));
  }
  rmSync(dir, { recursive: true });
  assert.ok(best <= limitMs, `${best} ms more than a bare node`);
});

test('with one mounted image: RSS at most 72 MiB, of it anonymous 32; then 10 idle seconds cost at most 2 ms of CPU', {
  timeout: 60_000,
}, async (t) => {
  const daemon = await Nydusd.start();
  try {
    const source = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');
    const config = JSON.stringify(localfsConfig(join(FIXTURES, 'images/blobs'), join(daemon.dir, 'cache')));
    const answer = await daemon.mount('/rafs/c/lowerdir', { fs_type: 'rafs', source, config });
    assert.equal(answer.status, 204, answer.text);
    const rss = memory(daemon.pid, 'Rss');
    const anonymous = memory(daemon.pid, 'Anonymous');
    await sleep(1500);
    const settled = memory(daemon.pid, 'Rss');
    const before = cpuMs(daemon.pid);
    await sleep(10_000);
    const idleMs = cpuMs(daemon.pid) - before;
    const mib = (bytes: number) => (bytes / MiB).toFixed(1);
    t.diagnostic(
      `RSS ${mib(rss)} MiB, settled ${mib(settled)}, anonymous ${mib(anonymous)}; idle ${idleMs.toFixed(2)} ms in 10 s`,
    );
    // A slow machine has given the pages of the start back before the first look.
    assert.ok(rss <= 72 * MiB && settled <= rss + 2 * MiB, `RSS ${mib(rss)} then ${mib(settled)} MiB`);
    assert.ok(anonymous <= 32 * MiB, `anonymous ${mib(anonymous)} MiB`);
    assert.ok(idleMs <= 2, `idle for 10 s: ${idleMs} ms`);
  } finally {
    daemon.kill();
  }
});

describe('names and words', () => {
  test('ps and pidof show nydusd, and the launcher has an absolute interpreter', async () => {
    const daemon = await Nydusd.start();
    try {
      assert.equal(readFileSync(`/proc/${daemon.pid}/comm`, 'utf8'), 'nydusd\n');
      assert.equal(
        spawnSync('ps', ['-o', 'comm=', '-p', String(daemon.pid)], { encoding: 'utf8' }).stdout.trim(),
        'nydusd',
      );
      assert.match(readFileSync(NYDUSD, 'utf8'), /^#!\/\S*node( |\n)/);
      // pidof compares the first word.
      const words = () => readFileSync(`/proc/${daemon.pid}/cmdline`, 'latin1').replace(/\0+$/, '').split('\0');
      for (let i = 0; i < 100 && words()[0] !== NYDUSD; i++) await sleep(10);
      assert.deepEqual(words(), [NYDUSD, ...KATA_ARGV(daemon.sock, daemon.apisock)]);
    } finally {
      daemon.kill();
    }
  });

  const run = (...args: string[]) =>
    spawnSync(NYDUSD, args, { encoding: 'utf8', timeout: 20_000, env: { PATH: '/nowhere' } });

  test('A19: --version has the lines the snapshotter reads', () => {
    const { status, stdout } = run('--version');
    assert.equal(status, 0);
    for (const name of ['Version', 'Git Commit', 'Build Time', 'Profile', 'Rustc']) {
      assert.match(stdout, new RegExp(`^${name}:\\s+\\S`, 'm'));
    }
  });

  test('--help goes to stdout, mistakes to stderr with usage and exit code 2', () => {
    const help = run('virtiofs', '--help');
    assert.equal(help.status, 0);
    assert.match(help.stdout, /--shared-dir <DIR>/);
    for (const args of [
      [],
      ['virtiofs'],
      ['virtiofs', '--sock'],
      ['fuse'],
      ['serve'],
      ['--sock', '/x', '--log-level', 'loud'],
    ]) {
      const { status, stderr, stdout } = run(...args);
      assert.equal(status, 2, args.join(' '));
      assert.match(stderr, /^nydusd: .*\nUsage:\n {2}nydusd virtiofs/, args.join(' '));
      assert.equal(stdout, '');
    }
  });

  test('a start that fails says what and why, with exit code 1', () => {
    const { status, stderr } = run('virtiofs', '--sock', '/nowhere/at/all.sock');
    assert.equal(status, 1);
    assert.match(stderr, /cannot listen on \/nowhere\/at\/all\.sock: ENOENT/);
  });
});

describe('started by hand, without the API', () => {
  test('a shared directory is mounted before RUNNING', async () => {
    const daemon = new Nydusd((s, a) => ['virtiofs', '--sock', s, '--shared-dir', '.', '--apisock', a]);
    try {
      await daemon.running();
      assert.deepEqual(Object.keys((await daemon.info()).backend_collection), ['/']);
    } finally {
      daemon.kill();
    }
  });

  test('an image with its configuration, at a place of its own', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nydusd-hand-'));
    const bootstrap = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');
    writeFileSync(
      join(dir, 'config.json'),
      JSON.stringify(localfsConfig(join(FIXTURES, 'images/blobs'), join(dir, 'cache'))),
    );
    const daemon = new Nydusd(
      (s, a) => ['-A', a, '--sock', s, '-B', bootstrap, '-C', 'config.json', '-m', '/image'],
      dir,
    );
    try {
      await daemon.running();
      assert.deepEqual(Object.keys((await daemon.info()).backend_collection), ['/image']);
    } finally {
      daemon.kill();
    }
  });

  test('a mount that fails ends the start', async () => {
    const daemon = new Nydusd((s) => ['virtiofs', '--sock', s, '--shared-dir', '/nowhere']);
    try {
      assert.equal((await daemon.ended).code, 1);
      assert.match(daemon.output, /cannot mount \/nowhere at \/: ENOENT/);
      assert.ok(!existsSync(daemon.sock));
    } finally {
      daemon.kill();
    }
  });

  test('without the API it runs and ends the same', async () => {
    const daemon = new Nydusd((s) => ['virtiofs', '--sock', s]);
    try {
      await daemon.printed(/INFO RUNNING as virtiofs .*no API/);
      (await daemon.connectVmm()).destroy();
      const end = await daemon.stop('SIGINT');
      assert.equal(end.code, 0);
      assert.ok(!existsSync(daemon.sock));
    } finally {
      daemon.kill();
    }
  });

  test('a log file takes the lines', async () => {
    const daemon = new Nydusd((s, a) => [
      'virtiofs',
      '--sock',
      s,
      '--apisock',
      a,
      '--log-file',
      'out',
      '--log-level',
      'debug',
    ]);
    try {
      await daemon.running();
      await daemon.stop();
      assert.match(
        readFileSync(join(daemon.dir, 'out.log'), 'utf8'),
        /INFO RUNNING[\s\S]*DEBUG API[\s\S]*INFO received SIGTERM: stopping\n/,
      );
      assert.equal(daemon.output, '');
    } finally {
      daemon.kill();
    }
  });
});

describe('an inherited descriptor instead of --sock', () => {
  /** GET_FEATURES, version 1; answered with the same id, the reply flag and 8 bytes. */
  const GET_FEATURES = Buffer.from('010000000100000000000000', 'hex');
  const fdOf = (handle: object) => (handle as { _handle: { fd: number } })._handle.fd;
  const reply = (socket: Socket) => new Promise<Buffer>((resolve) => socket.once('data', resolve));

  const withFd = async (fd: number, use: (output: () => string) => Promise<void>) => {
    const child = spawn(NYDUSD, ['virtiofs', '--fd', '3'], { stdio: ['ignore', 'pipe', 'pipe', fd] });
    let output = '';
    for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (text) => (output += text));
    try {
      await use(() => output);
      child.kill('SIGTERM');
      assert.equal(await new Promise((resolve) => child.on('exit', resolve)), 0, output);
    } finally {
      child.kill('SIGKILL');
    }
  };

  test('listening', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nydusd-fd-'));
    const path = join(dir, 's');
    const server = createServer().listen(path);
    await new Promise((resolve) => server.once('listening', resolve));
    await withFd(fdOf(server), async (output) => {
      while (!output().includes('RUNNING')) await sleep(5);
      // Node unlinks the path of a server that it closes; the inherited descriptor listens on.
      renameSync(path, `${path}2`);
      server.close();
      for (let i = 0; i < 2; i++) {
        const vmm = connect(`${path}2`);
        vmm.write(GET_FEATURES);
        assert.equal((await reply(vmm)).readUInt32LE(8), 8);
        vmm.destroy();
      }
    });
    rmSync(dir, { recursive: true });
  });

  test('connected', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nydusd-fd-'));
    const server = createServer({ pauseOnConnect: true }).listen(join(dir, 's'));
    await new Promise((resolve) => server.once('listening', resolve));
    const vmm = connect(join(dir, 's'));
    const accepted = await new Promise<Socket>((resolve) => server.once('connection', resolve));
    await withFd(fdOf(accepted), async () => {
      accepted.destroy();
      vmm.write(GET_FEATURES);
      assert.equal((await reply(vmm)).readUInt32LE(8), 8);
    });
    vmm.destroy();
    server.close();
    rmSync(dir, { recursive: true });
  });

  test('neither', () => {
    const { status, stderr } = spawnSync(NYDUSD, ['virtiofs', '--fd', '3'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'pipe', 'ignore'],
    });
    assert.equal(status, 1);
    assert.match(stderr, /--fd 3 is no socket/);
  });
});

describe('what does not end it', () => {
  test('SIGHUP, SIGPIPE and SIGUSR1, which opens no debugger', async () => {
    const daemon = await Nydusd.start();
    try {
      for (const signal of ['SIGHUP', 'SIGPIPE', 'SIGUSR1'] as const) process.kill(daemon.pid, signal);
      await sleep(300);
      assert.equal((await daemon.info()).state, 'RUNNING');
      assert.doesNotMatch(daemon.output, /[Dd]ebugger/);
    } finally {
      daemon.kill();
    }
  });

  /** A daemon whose stdout is `stdout`, at the level that writes a line for every request. */
  const withStdout = async (stdout: number, use: (api: string, pid: number) => Promise<void>) => {
    const dir = mkdtempSync(join(tmpdir(), 'nydusd-stdout-'));
    const api = join(dir, 'a');
    const args = ['virtiofs', '--sock', join(dir, 's'), '--apisock', api, '--log-level', 'debug'];
    const child = spawn(NYDUSD, args, { stdio: ['ignore', stdout, stdout] });
    const ended = new Promise<number | null>((resolve) => child.on('exit', resolve));
    try {
      await use(api, child.pid!);
      child.kill('SIGTERM');
      assert.equal(await ended, 0);
    } finally {
      child.kill('SIGKILL');
      rmSync(dir, { recursive: true });
    }
  };
  const get = (api: string) =>
    new Promise<string>((resolve) => {
      const socket = connect(api, () => socket.write('GET /api/v1/daemon HTTP/1.1\r\n\r\n'));
      socket.on('data', (text) => {
        socket.destroy();
        resolve(text.toString());
      });
      socket.on('error', () => resolve(''));
    });
  const running = async (api: string) => {
    while (!(await get(api)).includes('"RUNNING"')) await sleep(5);
  };

  test('A16: a reader of its log that stops: 100,000 lines, and file I/O goes on', { timeout: 120_000 }, async () => {
    const dir = mkdtempSync(join(tmpdir(), 'nydusd-fifo-'));
    const fifo = join(dir, 'fifo');
    spawnSync('mkfifo', [fifo]);
    const both = openSync(fifo, 'r+');
    await withStdout(both, async (api) => {
      await running(api);
      const client = new FuseClient(join(dirname(api), 's'));
      client.init();
      // 64 KiB of pipe and 256 KiB of queue are about 4,000 lines; each request writes one.
      const batch = 'GET /readyz HTTP/1.1\r\n\r\n'.repeat(1000);
      const socket = connect(api);
      for (let i = 0; i < 100; i++) {
        socket.write(batch);
        for (let text = ''; text.split('HTTP/1.1 200').length <= 1000; ) {
          const [part] = (await once(socket, 'data')) as [Buffer];
          text += part.toString('latin1');
        }
        const from = performance.now();
        assert.equal(client.getattr(1n).error, 0);
        assert.ok(performance.now() - from < 1000, `after ${i},000 lines: ${performance.now() - from} ms`);
      }
      socket.destroy();
      client.close();
      assert.match(await get(api), /RUNNING/);
    });
    closeSync(both);
    rmSync(dir, { recursive: true });
  });

  test('a reader of its log that goes away', async () => {
    const reader = spawn('cat', [], { stdio: ['pipe', 'ignore', 'ignore'] });
    const pipe = (reader.stdin as unknown as { _handle: { fd: number } })._handle.fd;
    await withStdout(pipe, async (api) => {
      await running(api);
      reader.kill('SIGKILL');
      await sleep(50);
      for (let i = 0; i < 20; i++) assert.match(await get(api), /RUNNING/);
    });
  });
});

test('a working directory that was removed does not matter to absolute paths', async () => {
  const gone = mkdtempSync(join(tmpdir(), 'gone-'));
  const daemon = await Nydusd.start(KATA_ARGV, ['sh', '-c', 'cd "$0" && rmdir "$0" && exec "$@"', gone, NYDUSD]);
  assert.equal((await daemon.stop()).code, 0);
});

test('SIGTERM at any moment of the start ends it, and leaves no socket', { timeout: 60_000 }, async () => {
  for (let delayMs = 0; delayMs < 260; delayMs += 10) {
    const daemon = new Nydusd();
    await sleep(delayMs);
    const end = await daemon.stop();
    // Before our handler is there, Node dies of the signal itself.
    assert.ok(
      end.code === 0 || end.signal === 'SIGTERM',
      `after ${delayMs} ms: ${JSON.stringify(end)}\n${daemon.output}`,
    );
    assert.ok(end.ms < 2000, `${end.ms} ms`);
    if (end.code === 0)
      assert.deepEqual([existsSync(daemon.sock), existsSync(daemon.apisock)], [false, false], `after ${delayMs} ms`);
    daemon.kill();
  }
});

test('descriptors: the limit is raised, and none is open that nobody needs', async () => {
  const daemon = new Nydusd((s, a) => ['virtiofs', '--sock', s, '--apisock', a, '--rlimit-nofile', '3000']);
  try {
    await daemon.running();
    const limit = () => /Max open files +(\d+)/.exec(readFileSync(`/proc/${daemon.pid}/limits`, 'utf8'))![1];
    for (let i = 0; i < 200 && limit() !== '3000'; i++) await sleep(10);
    assert.equal(limit(), '3000');
    mkdirSync(join(daemon.dir, 'shared'));
    const open = () => readdirSync(`/proc/${daemon.pid}/fd`).length;
    const before = open();
    for (let i = 0; i < 20; i++) {
      assert.equal(
        (await daemon.mount('/containers', { fs_type: 'passthrough', source: join(daemon.dir, 'shared'), config: '' }))
          .status,
        204,
      );
      assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/containers')).status, 204);
    }
    assert.ok(open() <= before + 2, `${open()} descriptors, ${before} before 20 mounts`);
  } finally {
    daemon.kill();
  }
});
