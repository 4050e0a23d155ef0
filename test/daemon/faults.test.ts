/** Life with faults (issue "Drop-in"): what clients, hosts and guests do to a daemon, and what it must not do then. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { OPS } from '../../src/fuse/opcodes.ts';
import { FuseClient, readArgs } from '../../src/virtiofs/testing/fuse-client.ts';
import { BLOBS, BOOTSTRAP, endsWell, failure, rafs, registry, share, umount, withDaemon } from './fault-helpers.ts';
import { FaultServer } from './fault-server.ts';
import { type ApiAnswer, localfsConfig, NYDUSD, Nydusd } from './nydusd.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'faults-'));
/** A busy machine makes single answers late; a daemon that waits for something makes all of them late. */
const ROUNDS = 8;

after(() => rmSync(ROOT, { recursive: true, force: true }));

async function timed(action: () => Promise<ApiAnswer>, status: number): Promise<number> {
  const from = performance.now();
  const answer = await action();
  const ms = performance.now() - from;
  assert.equal(answer.status, status, answer.text);
  return ms;
}

test('a dead registry: mount within 200 ms; GET, and DELETE with parked reads, within 100 ms', async () => {
  const server = await FaultServer.start(BLOBS);
  await server.mode('hang');
  try {
    await withDaemon(async (daemon) => {
      const client = new FuseClient(daemon.sock, { timeoutMs: 20_000, queueSize: 256 });
      client.init();
      const config = registry(server.host, join(daemon.dir, 'cache'));
      const best = { mount: Number.POSITIVE_INFINITY, get: Number.POSITIVE_INFINITY, umount: Number.POSITIVE_INFINITY };
      for (let round = 0; round < ROUNDS; round++) {
        const where = `/i${round}`;
        best.mount = Math.min(best.mount, await timed(() => daemon.mount(where, rafs(config)), 204));
        const node = client.walk(`${where}/big/multi-chunk`);
        const fh = client.open(node) as bigint;
        for (let i = 0; i < 16; i++) client.submit('READ', readArgs(fh, 0, 4096), { nodeid: node, replyBytes: 4096 });
        best.get = Math.min(best.get, await timed(() => daemon.get('/api/v1/daemon'), 200));
        best.umount = Math.min(best.umount, await timed(() => umount(daemon, where), 204));
        for (let i = 0; i < 16; i++) assert.ok(client.wait(1, 5000) !== null, `read ${i} hangs after the umount`);
      }
      client.close();
      assert.ok(best.mount <= 200 && best.get <= 100 && best.umount <= 100, JSON.stringify(best));
    });
  } finally {
    server.stop();
  }
});

describe('mounts that cannot be', () => {
  const fifo = join(ROOT, 'fifo');
  execFileSync('mkfifo', [fifo]);
  const good = JSON.stringify(localfsConfig(BLOBS, ROOT));
  const withDevice = (change: object) =>
    JSON.stringify({
      ...localfsConfig(BLOBS, ROOT),
      device: { ...(localfsConfig(BLOBS, ROOT)['device'] as object), ...change },
    });
  const rows: [name: string, body: object, message: RegExp][] = [
    ['no bootstrap there', { ...rafs({}, '/nowhere/boot'), config: good }, /\/nowhere\/boot.*ENOENT/],
    ['a bootstrap that is a directory', { ...rafs({}, ROOT), config: good }, /faults-.*not a regular file/],
    ['a bootstrap that is a FIFO', { ...rafs({}, fifo), config: good }, /fifo.*not a regular file/],
    ['a bootstrap that is a device', { ...rafs({}, '/dev/zero'), config: good }, /\/dev\/zero.*not a regular file/],
    [
      'a bootstrap that is a program',
      { ...rafs({}, process.execPath), config: good },
      /node.*no RAFS|not an? (RAFS )?image/i,
    ],
    ['no directory there', share(join(ROOT, 'gone')), /cannot mount .*gone at \/x: ENOENT/],
    ['a file for a directory', share(BOOTSTRAP), /boot.* at \/x: not a directory/],
    ['configuration: cut JSON', { ...rafs({}), config: good.slice(0, 60) }, /\/x.*(JSON|position|Unexpected|parse)/],
    ['configuration: no text at all', { ...rafs({}), config: '' }, /\/x.*config/i],
    ['configuration: a list', { ...rafs({}), config: '[1]' }, /\/x.*config/i],
    ['configuration: no backend', { ...rafs({}), config: '{"device":{},"mode":"direct"}' }, /\/x.*backend/],
    [
      'configuration: unknown backend',
      { ...rafs({}), config: withDevice({ backend: { type: 'floppy', config: {} } }) },
      /\/x.*floppy/,
    ],
    [
      'configuration: a number in quotes',
      {
        ...rafs({}),
        config: withDevice({ backend: { type: 'registry', config: { host: 'h', repo: 'r', timeout: '5' } } }),
      },
      /\/x.*timeout/,
    ],
    [
      'configuration: a cache that is a file',
      {
        ...rafs({}),
        config: withDevice({ cache: { type: 'blobcache', config: { work_dir: BOOTSTRAP } } }),
      },
      /\/x.*work_dir|v6-zstd-blake3\.boot/,
    ],
  ];
  test('are 500 with path and reason each, and leave the mount table as it was', async () => {
    await withDaemon(async (daemon) => {
      mkdirSync(join(daemon.dir, 'shared'));
      assert.equal((await daemon.mount('/containers', share(join(daemon.dir, 'shared')))).status, 204);
      const before = await daemon.info();
      const open = () => readdirSync(`/proc/${daemon.pid}/fd`).length;
      const firstAnswer = await daemon.mount('/x', rows[0]![1]);
      assert.equal(firstAnswer.status, 500);
      const openBefore = open();
      for (const [name, body, message] of rows) {
        const answer = await daemon.mount('/x', body);
        assert.equal(answer.status, 500, `${name}: ${answer.text}`);
        assert.match(failure(answer), message, name);
        assert.deepEqual((await daemon.info()).backend_collection, before.backend_collection, name);
      }
      assert.ok(open() <= openBefore + 1, `descriptors ${openBefore} -> ${open()}`);
    });
  });
});

describe('umount of what is not mounted', () => {
  test('twice, and never mounted: 204 for images, as Kata needs it; 500 elsewhere', async () => {
    await withDaemon(async (daemon) => {
      mkdirSync(join(daemon.dir, 'cache'));
      const where = '/rafs/c/lowerdir';
      const body = rafs(localfsConfig(BLOBS, join(daemon.dir, 'cache')));
      assert.equal((await daemon.mount(where, body)).status, 204);
      for (let i = 0; i < 3; i++) assert.deepEqual((await umount(daemon, where)).text, '');
      assert.equal((await umount(daemon, '/rafs/never/lowerdir')).status, 204);
      const strange = await umount(daemon, '/17');
      assert.equal(strange.status, 500);
      assert.match(failure(strange), /^Mount\(MountFilesystem\(Other\("object or filesystem doesn't exist"\)\)\)$/);
    });
  });
  test('A7: with --strict-umount 500 everywhere', async () => {
    const daemon = await Nydusd.start((s, a) => ['virtiofs', '--strict-umount', '--sock', s, '--apisock', a]);
    try {
      const answer = await umount(daemon, '/rafs/x/lowerdir');
      assert.equal(answer.status, 500);
      assert.match(failure(answer), /doesn't exist/);
    } finally {
      daemon.kill();
    }
  });
});

test('300 mounts at once, each by a client of its own, and 300 umounts', { timeout: 120_000 }, async () => {
  const MOUNTS = 300;
  await withDaemon(async (daemon) => {
    mkdirSync(join(daemon.dir, 'cache'));
    const config = localfsConfig(BLOBS, join(daemon.dir, 'cache'));
    const open = () => readdirSync(`/proc/${daemon.pid}/fd`).length;
    const paths = Array.from({ length: MOUNTS }, (_, i) => `/rafs/c${i}/lowerdir`);
    const all = (ask: (path: string) => Promise<ApiAnswer>) => Promise.all(paths.map(ask));
    // Once before: what is loaded for the first image stays.
    assert.equal((await daemon.mount('/first', rafs(config))).status, 204);
    const before = open();
    const mounting = all((path) => daemon.mount(path, rafs(config)));
    assert.equal((await daemon.get('/api/v1/daemon')).status, 200);
    for (const answer of await mounting) assert.deepEqual([answer.status, answer.text], [204, '']);
    assert.equal(Object.keys((await daemon.info()).backend_collection).length, MOUNTS + 1);
    const client = new FuseClient(daemon.sock);
    client.init();
    const content = client.readFile('/first/big/multi-chunk');
    for (const path of [paths[0], paths[150], paths[299]])
      assert.ok(content.equals(client.readFile(`${path}/big/multi-chunk`)));
    const { fop_hits } = JSON.parse((await daemon.get(`/api/v1/metrics?id=${paths[299]}`)).text);
    assert.ok(fop_hits[4] > 0, 'reads of the 300th mount are not counted');
    for (const answer of await all((path) => umount(daemon, path))) assert.equal(answer.status, 204);
    client.close();
    assert.deepEqual(Object.keys((await daemon.info()).backend_collection), ['/first']);
    for (let i = 0; i < 100 && open() > before + 8; i++) await sleep(50);
    assert.ok(open() <= before + 8, `descriptors ${before} -> ${open()}`);
  });
});

test('a client that sends half a request and stays keeps nobody waiting, and gets its answer in the end', async () => {
  await withDaemon(async (daemon) => {
    mkdirSync(join(daemon.dir, 'shared'));
    const body = JSON.stringify(share(join(daemon.dir, 'shared')));
    const head = `POST /api/v1/mount?mountpoint=/late HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n`;
    const halves: [Socket, string][] = [];
    for (const text of ['POST /api/v1/mou', head, head + body.slice(0, 20)]) {
      const socket = await daemon.connectApi();
      socket.write(text);
      halves.push([socket, (head + body).slice(text.length)]);
    }
    for (let i = 0; i < 20; i++) assert.equal((await daemon.get('/api/v1/daemon')).status, 200);
    assert.equal((await daemon.mount('/m', JSON.parse(body))).status, 204);
    const statuses: string[] = [];
    for (const [socket, rest] of halves) {
      const answer = new Promise<string>((resolve) => socket.once('data', (text) => resolve(text.toString('latin1'))));
      socket.write(rest);
      statuses.push((await answer).slice(0, 12));
      socket.destroy();
    }
    assert.deepEqual(
      statuses,
      ['HTTP/1.1 204', 'HTTP/1.1 500', 'HTTP/1.1 500'],
      'the first mounts, the others find it',
    );
  });
});

test('an image is swapped 20 times under readers: a handle keeps its bytes, a new lookup sees the new image', async () => {
  const sources = ['a', 'b'].map((name) => {
    const dir = join(ROOT, `swap-${name}`);
    mkdirSync(join(dir, 'src'), { recursive: true });
    mkdirSync(join(dir, 'blobs'));
    const content = Buffer.from(`image ${name} `.repeat(20_000));
    writeFileSync(join(dir, 'src/f'), content);
    const builder = join(NYDUSD, '..', 'nydus-image');
    execFileSync(builder, ['create', '-B', join(dir, 'boot'), '-D', join(dir, 'blobs'), join(dir, 'src')]);
    return { body: rafs(localfsConfig(join(dir, 'blobs'), join(dir, 'blobs')), join(dir, 'boot')), content };
  });
  await withDaemon(async (daemon) => {
    const client = new FuseClient(daemon.sock);
    client.init();
    assert.equal((await daemon.mount('/r', sources[0]!.body)).status, 204);
    const held: { node: bigint; fh: bigint; content: Buffer }[] = [];
    const check = ({ node, fh, content }: (typeof held)[number]) => {
      const reply = client.read(node, fh, 50_000, 100_000);
      assert.equal(reply.error, 0);
      assert.ok(content.subarray(50_000, 150_000).equals(reply.body), 'an open file shows other bytes');
    };
    for (let round = 1; round <= 20; round++) {
      const before = sources[(round + 1) % 2]!;
      const node = client.walk('/r/f');
      held.push({ node, fh: client.open(node) as bigint, content: before.content });
      const now = sources[round % 2]!;
      const swap = daemon.request('PUT', '/api/v1/mount?mountpoint=/r', JSON.stringify(now.body));
      let isDone = false;
      void swap.then(() => {
        isDone = true;
      });
      while (!isDone) {
        for (const file of held) check(file);
        await sleep(0);
      }
      assert.equal((await swap).status, 204);
      assert.ok(now.content.equals(client.readFile('/r/f')), `round ${round}: the old image is still seen`);
    }
    for (const file of held) check(file);
    client.close();
  });
});

/** SIGSTOP, and waits until every thread has stopped. */
function freeze(pid: number): void {
  process.kill(pid, 'SIGSTOP');
  const threads = readdirSync(`/proc/${pid}/task`);
  const runs = (tid: string) => !/\) [tT] /.test(readFileSync(`/proc/${pid}/task/${tid}/stat`, 'utf8'));
  while (threads.some(runs));
}

describe('a device thread that hangs in a system call', () => {
  /** A directory whose file system is another daemon of ours, stopped: every system call on it hangs. */
  const onHungDirectory = async (
    body: (daemon: Nydusd, client: FuseClient, hung: { source: string; hang(): void }) => Promise<void>,
  ) => {
    const dir = mkdtempSync(join(ROOT, 'hung-'));
    for (const name of ['src', 'mnt']) mkdirSync(join(dir, name));
    writeFileSync(join(dir, 'src/f'), 'x');
    const below = await Nydusd.start((_, a) => [
      ...['fuse', '--writable', '--shared-dir', join(dir, 'src')],
      ...['--mountpoint', join(dir, 'mnt'), '--apisock', a],
    ]);
    const daemon = await Nydusd.start();
    const client = new FuseClient(daemon.sock);
    try {
      client.init();
      assert.equal((await daemon.mount('/containers', share(join(dir, 'mnt')))).status, 204);
      await body(daemon, client, { source: join(dir, 'mnt'), hang: () => freeze(below.pid) });
    } finally {
      client.close();
      daemon.kill();
      below.child.kill('SIGCONT');
      await below.stop();
      below.kill();
    }
  };

  test('/healthz says so within 2 s, inflight says in which request, GETs go on, SIGTERM ends it', async () => {
    await onHungDirectory(async (daemon, client, { hang }) => {
      assert.equal((await daemon.get('/healthz')).status, 200);
      const dir = client.walk('/containers');
      hang();
      client.submit('LOOKUP', Buffer.from('new\0'), { nodeid: dir, replyBytes: 128 });
      await sleep(300);
      const from = performance.now();
      const health = daemon.get('/healthz');
      for (let i = 0; i < 10; i++) assert.equal((await daemon.get('/api/v1/daemon')).status, 200);
      assert.deepEqual([(await health).status, (await health).text], [503, 'the device thread does not answer\n']);
      assert.ok(performance.now() - from < 2000, `${performance.now() - from} ms`);
      const [request] = JSON.parse((await daemon.get('/api/v1/metrics/inflight')).text);
      assert.deepEqual([request.opcode, request.inode], [OPS.LOOKUP.op, Number(dir)]);
      assert.ok(request.age_ms >= 300, `${request.age_ms}`);
      assert.equal((await daemon.get('/metrics')).status, 200);
      await endsWell(daemon);
    });
  });

  test('neither GETs nor mounts from elsewhere wait for those that hang, whichever part of them does', async () => {
    await onHungDirectory(async (daemon, _, { source, hang }) => {
      hang();
      const config = JSON.stringify(localfsConfig(BLOBS, ROOT));
      const bootstrap = { ...rafs({}, join(source, 'boot')), config };
      const mounts = [
        daemon.mount('/second', share(source)),
        daemon.mount('/third', bootstrap),
        daemon.mount('/cache', rafs(localfsConfig(BLOBS, join(source, 'cache')))),
      ];
      for (const mount of mounts) mount.catch(() => {});
      for (let i = 0; i < 20; i++) assert.equal((await daemon.get('/api/v1/daemon')).status, 200);
      assert.equal((await daemon.mount('/fourth', share('/'))).status, 204);
      assert.equal(
        await Promise.race([...mounts.map((mount) => mount.then(() => 'answered')), sleep(100, 'waits')]),
        'waits',
      );
      for (const { status, text } of await Promise.all(mounts)) {
        assert.equal(status, 500);
        assert.match(text, /SOURCE_HANGS: .* (does not answer within 10 s|is not looked at)/);
      }
      // Through a link, which lies on a file system that answers.
      const link = join(ROOT, 'link-to-hung');
      symlinkSync(source, link);
      const refused = (await daemon.mount('/second', share(link))).text;
      assert.ok(
        refused.includes(`SOURCE_HANGS: ${link} is not looked at while what is mounted at ${source} `),
        refused,
      );
      assert.equal((await daemon.mount('/fifth', rafs(localfsConfig(BLOBS, ROOT)))).status, 204);
      await endsWell(daemon);
    });
  });
});
