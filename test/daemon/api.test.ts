/** The HTTP server of the built daemon: connections as clients really use them, every route, every error text. */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { FIXTURES, localfsConfig, Nydusd } from './nydusd.ts';

let daemon: Nydusd;
const RAFS = '/rafs/c1/lowerdir';

before(async () => {
  daemon = await Nydusd.start();
  const share = join(daemon.dir, 'shared');
  mkdirSync(share);
  assert.equal(
    (await daemon.mount('/containers', { fs_type: 'passthrough_fs', source: share, config: '' })).status,
    204,
  );
  const source = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');
  const config = JSON.stringify(localfsConfig(join(FIXTURES, 'images/blobs'), join(daemon.dir, 'cache')));
  assert.equal((await daemon.mount(RAFS, { fs_type: 'rafs', source, config })).status, 204);
});
after(() => daemon.kill());

/** Everything a connection receives until `enough`, or until it ends. */
function receive(socket: Socket, enough: (text: string) => boolean): Promise<string> {
  return new Promise((resolve, reject) => {
    let text = '';
    const timer = setTimeout(() => reject(new Error(`no answer, only ${JSON.stringify(text)}`)), 10_000);
    const done = () => {
      clearTimeout(timer);
      socket.removeAllListeners('data');
      resolve(text);
    };
    socket.on('data', (part) => {
      text += part.toString('latin1');
      if (enough(text)) done();
    });
    socket.once('end', done);
    socket.once('error', reject);
  });
}

const GET = 'GET /api/v1/daemon HTTP/1.1\r\nHost: unix\r\n\r\n';
const complete = (text: string) => /\r\n\r\n\{.*\}$/s.test(text);

describe('connections', () => {
  test('an answer has the headers of nydusd and no keep-alive limit', async () => {
    const answer = await daemon.get('/api/v1/daemon');
    assert.equal(answer.headers['server'], 'Nydus API');
    assert.equal(answer.headers['content-type'], 'application/json');
    assert.equal(answer.headers['keep-alive'], undefined);
  });

  test('one connection serves request after request, also pipelined and byte by byte', async () => {
    const socket = await daemon.connectApi();
    for (let i = 0; i < 3; i++) {
      socket.write(GET);
      assert.match(await receive(socket, complete), /^HTTP\/1\.1 200 OK\r\n/);
    }
    socket.write(GET + GET);
    await receive(socket, (text) => text.split('"RUNNING"').length === 3);
    const answer = receive(socket, complete);
    for (const byte of GET) {
      socket.write(byte);
      await sleep(1);
    }
    await answer;
    socket.destroy();
  });

  test('pipelined requests are done in their order: what was mounted is there to be unmounted', async () => {
    const body = JSON.stringify({ fs_type: 'passthrough_fs', source: join(daemon.dir, 'shared'), config: '' });
    const at = '/api/v1/mount?mountpoint=%2Fpipelined HTTP/1.1\r\nHost: unix\r\n';
    const socket = await daemon.connectApi();
    socket.write(`POST ${at}Content-Length: ${body.length}\r\n\r\n${body}DELETE ${at}\r\n`);
    const text = await receive(socket, (sofar) => sofar.split('\r\n\r\n').length === 3);
    assert.deepEqual(text.match(/^HTTP\/1\.1 \d+/gm), ['HTTP/1.1 204', 'HTTP/1.1 204']);
    socket.destroy();
  });

  test('2,000 clients at once', async () => {
    const sockets = await Promise.all(Array.from({ length: 2000 }, () => daemon.connectApi()));
    sockets.at(-1)!.write(GET);
    assert.match(await receive(sockets.at(-1)!, complete), /RUNNING/);
    for (const socket of sockets) socket.destroy();
  });

  test('a client that has shut down its sending side gets its answer', async () => {
    const socket = await daemon.connectApi();
    socket.end(GET);
    assert.match(await receive(socket, () => false), /"state":"RUNNING"/);
  });

  test('a client that shuts down without a word is closed, the others stay', async () => {
    const idle = await daemon.connectApi();
    const leaving = await daemon.connectApi();
    leaving.end();
    assert.equal(await receive(leaving, () => false), '');
    idle.write(GET);
    assert.match(await receive(idle, complete), /RUNNING/);
    idle.destroy();
  });

  test('an idle connection outlives every default time-out of Node', { timeout: 30_000 }, async () => {
    const silent = await daemon.connectApi();
    const afterRequest = await daemon.connectApi();
    afterRequest.write(GET);
    await receive(afterRequest, complete);
    const headersHalf = await daemon.connectApi();
    headersHalf.write('GET /api/v1/daemon HT');
    // keepAliveTimeout is 5 s by default.
    await sleep(7000);
    for (const [socket, rest] of [
      [silent, GET],
      [afterRequest, GET],
      [headersHalf, 'TP/1.1\r\n\r\n'],
    ] as const) {
      socket.write(rest);
      assert.match(await receive(socket, complete), /RUNNING/);
      socket.destroy();
    }
  });

  test('absolute targets, lower-case headers, odd and missing hosts, HTTP/1.0', async () => {
    for (const head of [
      'GET http://unix/api/v1/daemon HTTP/1.1\r\nhost: 2f72756e2f6b617461\r\n\r\n',
      'GET /api/v1/daemon HTTP/1.1\r\nuser-agent: x\r\n\r\n',
      'GET /api/v1/daemon HTTP/1.0\r\n\r\n',
      'GET /api/v1/daemon?unused=1 HTTP/1.1\r\nHost: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n',
    ]) {
      const socket = await daemon.connectApi();
      socket.write(head);
      assert.match(await receive(socket, complete), /^HTTP\/1\.1 200 OK\r\n.*RUNNING/s);
      socket.destroy();
    }
  });

  test('what is no HTTP, or wants a tunnel, is refused in JSON', async () => {
    for (const text of ['\x16\x03\x01 not http\r\n\r\n', 'CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n']) {
      const socket = await daemon.connectApi();
      socket.write(text);
      assert.match(await receive(socket, () => false), /^HTTP\/1\.1 400 Bad Request\r\n.*"code":"UNDEFINED"/s);
    }
  });

  test('a refusal does not cost the connection', async () => {
    const socket = await daemon.connectApi();
    for (const [head, status] of [
      ['GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n', 404],
      ['OPTIONS /api/v1/daemon HTTP/1.1\r\nHost: x\r\n\r\n', 400],
      ['GET /api/v1/metrics?id=nothing HTTP/1.1\r\nHost: x\r\n\r\n', 404],
      ['POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}', 404],
      ['PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\nContent-Length: 2\r\n\r\n{}', 400],
    ] as const) {
      socket.write(head);
      const answer = await receive(socket, complete);
      assert.match(
        answer,
        new RegExp(`^HTTP/1\\.1 ${status} .*\r\nConnection: keep-alive\r\n.*"code":"UNDEFINED"`, 's'),
      );
    }
    socket.write(GET);
    assert.match(await receive(socket, complete), /RUNNING/);
    socket.destroy();
  });

  test('a chunked body', async () => {
    const socket = await daemon.connectApi();
    const body = JSON.stringify({ log_level: 'Info' });
    socket.write('PUT /api/v1/daemon HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n');
    for (const piece of [body.slice(0, 5), body.slice(5)]) socket.write(`${piece.length.toString(16)}\r\n${piece}\r\n`);
    socket.write('0\r\n\r\n');
    assert.match(await receive(socket, (text) => text.includes('\r\n\r\n')), /^HTTP\/1\.1 204 /);
    socket.destroy();
  });

  test('bodies beyond 8 MiB, announced and not', async () => {
    const announced = await daemon.connectApi();
    announced.write('POST /api/v1/mount?mountpoint=/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n{');
    assert.match(await receive(announced, complete), /^HTTP\/1\.1 413 .*connection: close/is);
    const chunked = await daemon.connectApi();
    chunked.on('error', () => {});
    chunked.write('POST /api/v1/mount?mountpoint=/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n');
    const piece = `100000\r\n${'x'.repeat(1 << 20)}\r\n`;
    const answer = receive(chunked, complete);
    for (let i = 0; i < 9; i++) chunked.write(piece);
    assert.match(await answer, /^HTTP\/1\.1 413 /);
    announced.destroy();
    chunked.destroy();
    assert.equal((await daemon.get('/api/v1/daemon')).status, 200);
  });

  test('a client that dies in the middle of a body leaves nothing behind', async () => {
    const socket = await daemon.connectApi();
    socket.write('POST /api/v1/mount?mountpoint=/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"source');
    await sleep(50);
    socket.destroy();
    assert.ok(!('/x' in (await daemon.info()).backend_collection));
  });
});

describe('routes that fail', () => {
  const rafs = JSON.stringify({ fs_type: 'rafs', source: '/nowhere/boot', config: '{}' });
  const share = JSON.stringify({ fs_type: 'passthrough', source: '/nowhere', config: '' });
  const rows: [string, string, string | undefined, number, RegExp][] = [
    ['GET', '/api/v1/nothing', undefined, 404, /^NoRoute$/],
    ['GET', '/api/v1/daemon/', undefined, 404, /^NoRoute$/],
    ['GET', '/__proto__', undefined, 404, /^NoRoute$/],
    ['GET', '//api/v1/daemon', undefined, 404, /^NoRoute$/],
    ['DELETE', '/api/v1/daemon', undefined, 400, /^BadRequest$/],
    ['PATCH', '/api/v1/mount?mountpoint=/x', rafs, 400, /^BadRequest$/],
    ['GET', '/api/v1/daemon', '{}', 400, /^BadRequest$/],
    ['OPTIONS', '/api/v1/daemon', undefined, 400, /^BadRequest$/],
    ['PUT', '/api/v1/daemon/exit', '{}', 400, /^BadRequest$/],
    ['PUT', '/api/v1/daemon/start', '{}', 400, /^BadRequest$/],
    ['PUT', '/api/v1/daemon', undefined, 400, /^BadRequest$/],
    ['PUT', '/api/v1/daemon', '{"log_level":3}', 400, /^ParseBody\(Error\("invalid type of `log_level`, /],
    ['PUT', '/api/v1/config', undefined, 400, /^BadRequest$/],
    ['PUT', '/api/v1/config', 'auth', 400, /^ParseBody\(Error\(".*", line: 1, column: \d+\)\)$/],
    ['GET', '/api/v1/daemon/backend', undefined, 400, /^QueryString\("'mountpoint' should be/],
    [
      'GET',
      '/api/v1/daemon/backend?mountpoint=/nothing',
      undefined,
      500,
      /^FsBackendInfo\(DaemonAbnormal\(Other\("object or filesystem doesn't exist"\)\)\)$/,
    ],
    ['PUT', '/api/v1/mount', rafs, 400, /^QueryString/],
    [
      'POST',
      '/api/v1/mount?mountpoint=/x',
      '{\n "source": "/a",\n x',
      400,
      /^ParseBody\(Error\(".*", line: 3, column: \d+\)\)$/,
    ],
    [
      'POST',
      '/api/v1/mount?mountpoint=/x',
      '{"source":"/a","config":"","fs_type":"RAFS"}',
      500,
      /but RAFS was specified/,
    ],
    ['POST', '/api/v1/mount?mountpoint=/x', '{"source":"/a","config":""}', 500, /but {2}was specified/],
    ['POST', '/api/v1/mount?mountpoint=/x', undefined, 400, /^BadRequest$/],
    ['DELETE', '/api/v1/mount?mountpoint=/x', '{}', 400, /^BadRequest$/],
    ['POST', '/api/v1/mount', rafs, 400, /^QueryString\("'mountpoint' should be specified in query string"\)$/],
    ['DELETE', '/api/v1/mount', undefined, 400, /^QueryString/],
    ['POST', '/api/v1/mount?mountpoint=/x', '[]', 400, /^ParseBody\(Error\("expected an object"/],
    ['POST', '/api/v1/mount?mountpoint=/x', '{"source":1,"config":""}', 400, /invalid type of `source`/],
    ['POST', '/api/v1/mount?mountpoint=/x', '{"source":"/a"}', 400, /missing field `config`/],
    ['POST', '/api/v1/mount?mountpoint=/x', share.replace('}', ',"prefetch_files":[1]}'), 400, /`prefetch_files`/],
    [
      'POST',
      '/api/v1/mount?mountpoint=/x',
      share.replace('}', ',"prefetch_files":["a"]}'),
      500,
      /invalid prefetch file list/,
    ],
    [
      'POST',
      '/api/v1/mount?mountpoint=/x',
      rafs,
      500,
      /^Mount\(MountFilesystem\(Other\("MOUNT_FAILED: cannot mount \/nowhere\/boot at \/x: .*device.*/,
    ],
    ['POST', '/api/v1/mount?mountpoint=/x', share, 500, /cannot mount \/nowhere at \/x: ENOENT/],
    [
      'POST',
      '/api/v1/mount?mountpoint=/x',
      '{"source":"","config":"","fs_type":"passthrough_fs"}',
      500,
      /the source is empty/,
    ],
    ['POST', '/api/v1/mount?mountpoint=relative', share, 500, /must start with \//],
    ['POST', '/api/v1/mount?mountpoint=/a/../b', share, 500, /contains \.\./],
    [
      'PUT',
      '/api/v1/mount?mountpoint=/nothing-there',
      rafs,
      500,
      /^Mount\(MountFilesystem\(Other\("object or filesystem doesn't exist"\)\)\)$/,
    ],
    ['PUT', '/api/v1/mount?mountpoint=/containers', rafs, 500, /filesystem type mismatch, expect RAFS/],
    ['PUT', '/api/v1/daemon', '{"log_level":"loud"}', 500, /^Configure\(ResponsePayloadType\)$/],
    ['PUT', '/api/v1/daemon', '{}', 400, /^ParseBody\(Error\("missing field `log_level`", line: 1, column: 2\)\)$/],
    ['PUT', '/api/v1/daemon/start', undefined, 400, /^Configure\(DaemonAbnormal\(UnexpectedEvent\("Start"\)\)\)$/],
    [
      'PUT',
      '/api/v1/daemon/fuse/takeover',
      undefined,
      400,
      /^Upgrade\(DaemonAbnormal\(UnexpectedEvent\("Takeover"\)\)\)$/,
    ],
    ['PUT', '/api/v1/daemon/fuse/sendfd', undefined, 501, /Unsupported/],
    ['GET', '/api/v2/blobs?domain_id=x', undefined, 501, /Unsupported/],
    ['PUT', '/api/v2/blobs', '{}', 501, /^CreateBlobObject\(DaemonAbnormal\(Unsupported\)\)$/],
    ['DELETE', '/api/v2/blobs?domain_id=x&blob_id=y', undefined, 501, /^DeleteBlobObject/],
    ['DELETE', '/api/v2/blobs?blob_id=y', undefined, 501, /Unsupported/],
    ...['', '/files', '/pattern', '/backend', '/blobcache'].map((route): (typeof rows)[number] => [
      'GET',
      `/api/v1/metrics${route}?id=/nothing`,
      undefined,
      404,
      /^\w+\(Metrics\(Stats\(NoCounter\)\)\)$/,
    ]),
    ['GET', '/api/v1/metrics?id=/nothing', undefined, 404, /^GlobalMetrics\(Metrics\(Stats\(NoCounter\)\)\)$/],
    [
      'GET',
      '/api/v1/metrics/blobcache?id=/containers',
      undefined,
      404,
      /^BlobcacheMetrics\(Metrics\(Stats\(NoCounter\)\)\)$/,
    ],
    ['GET', '/api/v1/daemon/backend?mountpoint=/containers', undefined, 500, /RAFS/],
    ['PUT', '/api/v1/config', '{"colour":"red"}', 500, /CONFIG_KEY: unknown configuration key \\"colour\\"/],
  ];
  for (const [method, path, body, status, message] of rows) {
    test(`${method} ${path} ${body ?? ''}: ${status}`, async () => {
      const answer = await daemon.request(method, path, body);
      assert.equal(answer.status, status, answer.text);
      const error = JSON.parse(answer.text) as { code: string; message: string };
      assert.equal(error.code, 'UNDEFINED');
      assert.match(error.message, message);
      assert.deepEqual(
        Object.keys((await daemon.info()).backend_collection),
        ['/containers', RAFS],
        'the mount table changed',
      );
    });
  }
});

test('a query is read as a browser reads it: percent-decoded, plus is a space, the first of two counts', async () => {
  const share = { fs_type: 'passthrough', source: join(daemon.dir, 'shared'), config: '' };
  for (const [spelling, where] of [
    ['%2Fa%20b', '/a b'],
    ['/a+b', '/a b'],
    ['/a%2Bb', '/a+b'],
    ['/first&mountpoint=/second', '/first'],
    ['/%C3%A9', '/é'],
  ] as const) {
    assert.equal((await daemon.mount(spelling, share)).status, 204, spelling);
    assert.ok(where in (await daemon.info()).backend_collection, `${spelling} is not ${where}`);
    assert.equal((await daemon.request('DELETE', `/api/v1/mount?mountpoint=${spelling}`)).status, 204);
  }
});

test('metrics without an id need exactly one image', async () => {
  const where = '/rafs/second/lowerdir';
  const source = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');
  const config = JSON.stringify(localfsConfig(join(FIXTURES, 'images/blobs'), join(daemon.dir, 'cache')));
  assert.equal((await daemon.mount(where, { fs_type: 'rafs', source, config })).status, 204);
  for (const route of ['', '/files', '/pattern', '/backend', '/blobcache'])
    assert.equal((await daemon.get(`/api/v1/metrics${route}`)).status, 404, route);
  assert.equal((await daemon.request('DELETE', `/api/v1/mount?mountpoint=${where}`)).status, 204);
  assert.equal((await daemon.get('/api/v1/metrics')).status, 200);
});

describe('routes that work', () => {
  const json = async (path: string) => {
    const answer = await daemon.get(path);
    assert.equal(answer.status, 200, answer.text);
    return JSON.parse(answer.text);
  };

  test('v2 daemon has no mounts', async () => assert.equal((await json('/api/v2/daemon')).backend_collection, null));

  test('passthrough shows no configuration, an image one without secrets', async () => {
    const { backend_collection: all } = await json('/api/v1/daemon');
    assert.equal(all['/containers'].config, null);
    assert.equal(all['/containers'].backend_type, 'PassthroughFs');
    assert.equal(all[RAFS].config.id, '/17');
    assert.equal(all[RAFS].config.backend.registry, null);
    assert.equal(all[RAFS].config.rafs.enable_xattr, true);
  });

  test('superblock of an image', async () => {
    const superblock = await json(`/api/v1/daemon/backend?mountpoint=${RAFS}`);
    assert.equal(superblock.chunk_size, 4096);
    assert.ok(superblock.inodes_count > 10);
  });

  test('metrics by mount point, with and without slash, and by the id of the configuration', async () => {
    for (const id of [RAFS, RAFS.slice(1), '/17', '17']) {
      const cache = await json(`/api/v1/metrics/blobcache?id=${id}`);
      assert.match(cache.underlying_files[0], /^[0-9a-f]{64}\.blob\.data$/, id);
      assert.equal(cache.store_path, join(daemon.dir, 'cache'));
    }
    // One image only: no id needed.
    assert.equal((await json('/api/v1/metrics/backend')).backend_type, 'localfs');
    const metrics = await json('/api/v1/metrics?id=/containers');
    assert.deepEqual([metrics.fop_hits.length, metrics.block_count_read.length], [15, 8]);
    assert.deepEqual(await json('/api/v1/metrics/files?id=/containers'), {});
    assert.deepEqual(await json('/api/v1/metrics/pattern?id=/containers'), []);
    assert.equal((await daemon.get('/api/v1/metrics/inflight')).status, 204);
  });

  test('metrics without an id are those of the only image, whatever directories there are', async () => {
    assert.equal((await json('/api/v1/metrics')).id, RAFS);
  });

  test('/healthz asks the device thread, /readyz the state', async () => {
    for (const path of ['/healthz', '/readyz']) {
      const answer = await daemon.get(path);
      assert.deepEqual([answer.status, answer.text], [200, 'ok\n']);
    }
    assert.equal((await daemon.request('PUT', '/healthz')).status, 400);
  });

  test('/metrics is Prometheus text: every family described once, before its samples', async () => {
    const answer = await daemon.get('/metrics');
    assert.equal(answer.status, 200);
    assert.match(answer.headers['content-type'] ?? '', /^text\/plain; version=0\.0\.4/);
    assert.ok(answer.text.endsWith('\n'));
    const types = new Map<string, string>();
    let help = '';
    const samples = new Set<string>();
    for (const line of answer.text.trimEnd().split('\n')) {
      const [, word, name, rest] = /^# (HELP|TYPE) (nydusd_[a-z_]+) (.+)$/.exec(line) ?? [];
      if (word === 'HELP') help = name!;
      else if (word === 'TYPE') {
        assert.equal(name, help, 'a TYPE without its HELP');
        assert.ok(!types.has(name!), `${name} twice`);
        assert.equal(rest === 'counter', name!.endsWith('_total'), name);
        types.set(name!, rest!);
      } else {
        const [, sample, labels] =
          /^(nydusd_[a-z_]+)((?:\{(?:[a-z]+="[^"\\]*",?)+\})?) -?[\d.]+(?:e[+-]?\d+)?$/.exec(line) ?? [];
        assert.equal(sample, help, line);
        assert.ok(!samples.has(`${sample}${labels}`), `${line} twice`);
        samples.add(`${sample}${labels}`);
      }
    }
    assert.match(answer.text, /^nydusd_mounts\{type="Rafs"\} 1$/m);
    assert.match(answer.text, /^nydusd_running 1$/m);
    assert.match(answer.text, /^nydusd_requests_total\{opcode="LOOKUP"\} \d+$/m);
    assert.match(answer.text, /^nydusd_backend_requests_total \d+$/m);
  });
  test('/metrics escapes in names what the format escapes, and nothing else', async () => {
    const odd = '/tab\t "quoted" back\\slash\nline';
    const source = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');
    const config = JSON.stringify(localfsConfig(join(FIXTURES, 'images/blobs'), join(daemon.dir, 'cache')));
    const at = `/api/v1/mount?mountpoint=${encodeURIComponent(odd)}`;
    const body = JSON.stringify({ fs_type: 'rafs', source, config });
    assert.equal((await daemon.request('POST', at, body)).status, 204);
    const shown = 'mountpoint="/tab\t \\"quoted\\" back\\\\slash\\nline"';
    assert.ok((await daemon.get('/metrics')).text.includes(`nydusd_image_chunks{${shown}} `));
    assert.equal((await daemon.request('DELETE', at)).status, 204);
  });

  test('events are the errors logged', async () => {
    const events = await json('/api/v1/daemon/events');
    assert.equal(events.max_errors, 500);
    assert.ok(Array.isArray(events.errors));
  });

  test('the log level changes while running', async () => {
    const set = (level: string) => daemon.request('PUT', '/api/v1/daemon', JSON.stringify({ log_level: level }));
    assert.equal((await set('DEBUG')).status, 204);
    await daemon.get('/api/v1/daemon');
    await daemon.printed(/DEBUG API: GET \/api\/v1\/daemon answered 200/);
    assert.equal((await set('info')).status, 204);
  });

  test('settings: none for a directory of blobs', async () => {
    assert.deepEqual(await json('/api/v1/config'), {});
    assert.equal(
      (await daemon.request('PUT', '/api/v1/config?id=/17', '{"registry_auth":"dXNlcjpwYXNz"}')).status,
      204,
    );
  });

  test('settings of a registry: credentials are replaced, and never shown nor logged', async () => {
    const where = '/rafs/private/lowerdir';
    const secrets = ['b2xkOnNlY3JldA==', 'bmV3OnNlY3JldA=='];
    const config = localfsConfig('/unused', join(daemon.dir, 'cache')) as { device: Record<string, unknown> };
    config.device['id'] = '/private';
    config.device['backend'] = {
      type: 'registry',
      config: { scheme: 'http', host: '127.0.0.1:1', repo: 'r', auth: secrets[0] },
    };
    const source = join(FIXTURES, 'images/boot/v6-zstd-sha256-4k.boot');
    const mounted = await daemon.mount(where, { fs_type: 'rafs', source, config: JSON.stringify(config) });
    assert.equal(mounted.status, 204, mounted.text);
    const body = JSON.stringify({ registry_auth: secrets[1] });
    assert.equal((await daemon.request('PUT', '/api/v1/config?id=%2Fprivate', body)).status, 204);
    assert.deepEqual(await json('/api/v1/config?id=%2Fprivate'), { registry_auth: '***' });
    assert.deepEqual(await json(`/api/v1/config?id=${where}`), { registry_auth: '***' });
    assert.deepEqual(await json('/api/v1/config'), { [`${where}:registry_auth`]: '***' });
    const shown = (await daemon.get('/api/v1/daemon')).text + daemon.output;
    assert.equal((await daemon.request('DELETE', `/api/v1/mount?mountpoint=${where}`)).status, 204);
    for (const secret of secrets) assert.ok(!shown.includes(secret), 'a credential is shown');
  });

  test('settings show the limits of a cache, as its configuration does', async () => {
    const config = localfsConfig(join(FIXTURES, 'images/blobs'), join(daemon.dir, 'limited')) as {
      device: { cache: { config: object } };
    };
    config.device.cache.config = { ...config.device.cache.config, quota_bytes: 1 << 30, bcull: 4 };
    const source = join(FIXTURES, 'images/boot/v6-zstd-sha256-4k.boot');
    const mounted = await daemon.mount('/limited', { fs_type: 'rafs', source, config: JSON.stringify(config) });
    assert.equal(mounted.status, 204, mounted.text);
    const limits = { quota_bytes: 1 << 30, brun: 7, bcull: 4, bstop: 1 };
    const texts = Object.fromEntries(Object.entries(limits).map(([key, value]) => [key, String(value)]));
    assert.deepEqual(await json('/api/v1/config?id=/limited'), texts);
    const { backend_collection } = await json('/api/v1/daemon');
    const { filecache } = backend_collection['/limited'].config.cache;
    assert.deepEqual(Object.fromEntries(Object.keys(limits).map((key) => [key, filecache[key]])), limits);
    assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/limited')).status, 204);
  });

  test('an image is swapped in place', async () => {
    const source = join(FIXTURES, 'images/boot/v6-none-sha256-4k.boot');
    const config = JSON.stringify(localfsConfig(join(FIXTURES, 'images/blobs'), join(daemon.dir, 'cache')));
    const before = await json(`/api/v1/daemon/backend?mountpoint=${RAFS}`);
    const answer = await daemon.request(
      'PUT',
      `/api/v1/mount?mountpoint=${RAFS}`,
      JSON.stringify({ fs_type: 'rafs', source, config }),
    );
    assert.equal(answer.status, 204, answer.text);
    const now = await json(`/api/v1/daemon/backend?mountpoint=${RAFS}`);
    assert.notDeepEqual(now, before);
  });
});

test('PUT exit answers, then ends the daemon', async () => {
  const other = await Nydusd.start();
  try {
    assert.equal((await other.request('PUT', '/api/v1/daemon/exit')).status, 204);
    assert.deepEqual(await other.ended, { code: 0, signal: null });
  } finally {
    other.kill();
  }
});
