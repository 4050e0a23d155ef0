/** Acceptance vectors A2–A8, A10 and A11 of kata-contract section 9, against the built bundle. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { FIXTURES, localfsConfig, Nydusd } from './nydusd.ts';

describe('requests of Kata', () => {
  let daemon: Nydusd;
  let share: string;
  let config: Record<string, unknown>;
  const bootstrap = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');

  before(async () => {
    daemon = await Nydusd.start();
    share = join(daemon.dir, 'shared');
    mkdirSync(share);
    config = localfsConfig(join(FIXTURES, 'images/blobs'), join(daemon.dir, 'cache'));
  });
  after(() => daemon.kill());

  const rafs = (settings: object) => ({ fs_type: 'rafs', source: bootstrap, config: JSON.stringify(settings) });
  const isError = (text: string) => {
    const body = JSON.parse(text) as { code: unknown; message: unknown };
    assert.equal(typeof body.code, 'string');
    assert.equal(typeof body.message, 'string');
    return body.message as string;
  };

  test('A2: GET is answered within 100 ms beside 25 idle connections', async () => {
    const idle = await Promise.all(Array.from({ length: 25 }, () => daemon.connectApi()));
    await daemon.get('/api/v1/daemon');
    // A busy machine makes single answers late; a daemon that waits for the idle ones makes all of them late.
    let bestMs = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 10 && bestMs >= 100; i++) {
      const startedAt = performance.now();
      assert.equal((await daemon.get('/api/v1/daemon')).status, 200);
      bestMs = Math.min(bestMs, performance.now() - startedAt);
    }
    assert.ok(bestMs < 100, `${bestMs} ms`);
    assert.ok(idle.every((socket) => !socket.destroyed && socket.readable));
    for (const socket of idle) socket.destroy();
  });

  test('A3: raw and encoded mount points', async () => {
    const passthrough = { fs_type: 'passthrough_fs', source: share, config: '' };
    for (const spelling of ['/containers', '%2Fcontainers']) {
      const answer = await daemon.mount(spelling, passthrough);
      assert.deepEqual([answer.status, answer.text], [204, ''], daemon.output);
      const { backend_collection } = await daemon.info();
      assert.deepEqual(Object.keys(backend_collection), ['/containers']);
      const gone = await daemon.request('DELETE', `/api/v1/mount?mountpoint=${spelling}`, undefined, {
        'content-length': '0',
      });
      assert.deepEqual([gone.status, gone.text], [204, '']);
    }
  });

  test('A4: the same mount point twice', async () => {
    const passthrough = { fs_type: 'passthrough_fs', source: share, config: '' };
    assert.equal((await daemon.mount('/twice', passthrough)).status, 204);
    const answer = await daemon.mount('/twice', passthrough);
    assert.equal(answer.status, 500);
    assert.match(isError(answer.text), /object or filesystem already exists/);
    assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/twice')).status, 204);
  });

  test('A5: unknown members, mirrors, id_mapping and zero prefetch members', async () => {
    const odd = structuredClone(config) as {
      device: { backend: { config: Record<string, unknown> } };
      [member: string]: unknown;
    };
    odd.device.backend.config['mirrors'] = [{ host: 'http://mirror.example', headers: {}, failure_limit: 5 }];
    odd['id_mapping'] = [0, 100_000, 65_536];
    odd['warmup'] = 5;
    odd['fs_prefetch'] = { enable: false, threads_count: 0, merging_size: 0, bandwidth_rate: 0, prefetch_all: false };
    const answer = await daemon.mount('/rafs/odd/lowerdir', rafs(odd));
    assert.deepEqual([answer.status, answer.text], [204, '']);
    const { backend_collection } = await daemon.info();
    const mount = backend_collection['/rafs/odd/lowerdir'] as {
      backend_type: string;
      mounted_time: string;
      config: object;
    };
    assert.equal(mount.backend_type, 'Rafs');
    assert.match(mount.mounted_time, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{1,9} \+00:00:00$/);
    assert.equal((mount.config as { version: number }).version, 2);
  });

  test('A6: a configuration of 200 KiB', async () => {
    const big = structuredClone(config) as { device: { backend: { config: Record<string, unknown> } } };
    big.device.backend.config['ca_cert_files'] = Array.from(
      { length: 4000 },
      (_, i) => `/etc/ssl/certs/authority-number-${i}-of-many.pem`,
    );
    const body = rafs(big);
    assert.ok(JSON.stringify(body).length > 200 * 1024);
    assert.equal((await daemon.mount('/rafs/big/lowerdir', body)).status, 204);
    // The limit of 1 MiB is for files (kata-contract 3.3).
    const huge = rafs({ ...config, comment: 'x'.repeat(3 << 20) });
    assert.equal((await daemon.mount('/rafs/huge/lowerdir', huge)).status, 204);
  });

  test('A7: umount of what never was mounted', async () => {
    const tolerated = await daemon.request('DELETE', '/api/v1/mount?mountpoint=/rafs/x/lowerdir');
    assert.deepEqual([tolerated.status, tolerated.text], [204, '']);
    const strict = await daemon.request('DELETE', '/api/v1/mount?mountpoint=/elsewhere');
    assert.equal(strict.status, 500);
    assert.match(isError(strict.text), /doesn't exist/);
  });

  test('A8: bodies that are wrong', async () => {
    const notJson = await daemon.request('POST', '/api/v1/mount?mountpoint=/bad', '{"source": nothing');
    assert.equal(notJson.status, 400);
    assert.match(isError(notJson.text), /^ParseBody\(Error\(".*", line: 1, column: \d+\)\)$/);
    const noSource = await daemon.mount('/bad', { fs_type: 'rafs', config: '' });
    assert.equal(noSource.status, 400);
    assert.match(isError(noSource.text), /missing field `source`/);
    const wrongType = await daemon.mount('/bad', { fs_type: 'ext4', source: share, config: '' });
    assert.equal(wrongType.status, 500);
    assert.match(isError(wrongType.text), /only 'rafs' and 'passthrough_fs' are supported, but ext4 was specified/);
    assert.ok(!('/bad' in (await daemon.info()).backend_collection));
  });
});

test('A10: SIGTERM with a VMM connected ends within 1 s and removes both sockets', async () => {
  const daemon = await Nydusd.start();
  try {
    const vmm = await daemon.connectVmm();
    const idle = await daemon.connectApi();
    const end = await daemon.stop();
    assert.deepEqual([end.code, end.signal], [0, null], daemon.output);
    assert.ok(end.ms < 1000, `${end.ms} ms`);
    assert.deepEqual([existsSync(daemon.sock), existsSync(daemon.apisock)], [false, false]);
    vmm.destroy();
    idle.destroy();
  } finally {
    daemon.kill();
  }
});

test('A11: a VMM that vanished is followed by another', async () => {
  const daemon = await Nydusd.start();
  try {
    for (let round = 0; round < 5; round++) {
      const vmm = await daemon.connectVmm();
      // GET_FEATURES (1), version 1, no payload; the reply has the same id and 8 bytes.
      vmm.write(Buffer.from('010000000100000000000000', 'hex'));
      const reply = await new Promise<Buffer>((resolve) => vmm.once('data', resolve));
      assert.equal(reply.readUInt32LE(0), 1, `round ${round}`);
      assert.equal(reply.readUInt32LE(8), 8);
      vmm.destroy();
    }
    assert.equal((await daemon.info()).state, 'RUNNING');
  } finally {
    daemon.kill();
  }
});

test('stale sockets are removed, living ones and other files are not', async () => {
  const first = await Nydusd.start();
  try {
    // kill -9 leaves both files.
    await first.stop('SIGKILL');
    assert.ok(existsSync(first.sock) && existsSync(first.apisock));
    const second = new Nydusd(undefined, first.dir);
    await second.running();
    const third = new Nydusd((_, a) => ['virtiofs', '--apisock', a, '--sock', 'other.sock'], first.dir);
    assert.equal((await third.ended).code, 1);
    assert.match(third.output, /SOCKET_BUSY: .*api\.sock is in use/);
    assert.equal((await second.info()).state, 'RUNNING');
    await second.stop();
  } finally {
    first.kill();
  }
});

test('a socket path of 108 bytes is refused, and so is one that is no socket', async () => {
  const long = new Nydusd((_, a) => ['virtiofs', '--apisock', a, '--sock', `/tmp/${'s'.repeat(103)}`]);
  const dir = new Nydusd((_, a) => ['virtiofs', '--apisock', a, '--sock', '/etc/passwd']);
  try {
    assert.equal((await long.ended).code, 1);
    assert.match(long.output, /at most 107 bytes, this one 108/);
    assert.equal((await dir.ended).code, 1);
    assert.match(dir.output, /exists and is no socket, so it was not removed/);
  } finally {
    long.kill();
    dir.kill();
  }
});

test('a socket that another program listens on stays', async () => {
  const daemon = new Nydusd((s) => ['--version', s]);
  const server = createServer().listen(daemon.sock);
  try {
    const other = new Nydusd(undefined, daemon.dir);
    assert.equal((await other.ended).code, 1);
    assert.match(other.output, /SOCKET_BUSY/);
  } finally {
    server.close();
    daemon.kill();
  }
});
