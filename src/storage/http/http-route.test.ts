/** Forward proxies and mirrors: who is asked in which order, what happens when one of them is ill. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, request, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import { type AddressInfo, connect, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Logger, SILENT } from '../../common/log.ts';
import { NEVER } from '../backend.suite.ts';
import { type Backend, openBackend } from '../backend.ts';
import { parseConfig } from '../config/config.ts';
import { applyChange, parseChange } from '../config/config-change.ts';
import { DEMAND_POLICY, withRetry } from '../retry.ts';

const BLOB = Buffer.from('0123456789');
const ID = 'a'.repeat(64);
const PASSWORD = 'hunter2';

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

/** A server that notes what it is asked, by name, in `asked`. */
class Node {
  answer: Answer = serveRange;
  readonly opened: Server;
  port = 0;

  constructor(
    readonly name: string,
    tls: { key: Buffer; cert: Buffer } | null = null,
  ) {
    const listener: Answer = (request, response) => {
      asked.push({ by: name, url: request.url ?? '', request });
      this.answer(request, response);
    };
    this.opened = tls === null ? createServer(listener) : createSecureServer(tls, listener);
  }

  async listen(port = 0): Promise<void> {
    await new Promise<void>((resolve) => this.opened.listen(port, 'localhost', resolve));
    this.port = (this.opened.address() as AddressInfo).port;
  }

  get host(): string {
    return `localhost:${this.port}`;
  }

  get url(): string {
    return `http://${this.host}`;
  }
}

let asked: { by: string; url: string; request: IncomingMessage }[] = [];
const who = () => asked.map(({ by }) => by);

function serveRange(request: IncomingMessage, response: ServerResponse): void {
  const [, first, last] = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '') ?? ['', '0', `${BLOB.length - 1}`];
  response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${BLOB.length}` });
  response.end(BLOB.subarray(Number(first), Number(last) + 1));
}

const status =
  (code: number): Answer =>
  (_, response) =>
    void response.writeHead(code).end();
const breakOff: Answer = (_, response) => {
  response.writeHead(206, { 'content-range': 'bytes 2-4/10', 'content-length': 3 });
  response.write('2', () => response.destroy());
};

/** What a forward proxy does with absolute URLs. */
const forward: Answer = (incoming, response) => {
  const { host: _, 'proxy-authorization': __, ...headers } = incoming.headers;
  const onward = request(incoming.url ?? '', { method: incoming.method, headers, agent: false }, (answer) => {
    response.writeHead(answer.statusCode ?? 500, answer.headers);
    answer.pipe(response);
  });
  onward.on('error', () => response.destroy());
  onward.end();
};

const dir = mkdtempSync(join(tmpdir(), 'route-'));
const certificate = makeCertificate();
const origin = new Node('origin');
const secure = new Node('secure', certificate);
const proxy = new Node('proxy');
const mirrors = [new Node('mirror 0'), new Node('mirror 1')] as const;
const nodes = [origin, secure, proxy, ...mirrors];
for (const node of nodes) await node.listen();
proxy.opened.on('connect', (incoming: IncomingMessage, socket) => {
  asked.push({ by: 'proxy', url: `CONNECT ${incoming.url}`, request: incoming });
  const [host, port] = (incoming.url ?? '').split(':');
  const onward = connect(Number(port), host, () => socket.write('HTTP/1.1 200 OK\r\n\r\n'));
  onward.on('error', () => socket.destroy());
  socket.on('error', () => onward.destroy());
  socket.on('close', () => onward.destroy());
  onward.pipe(socket).pipe(onward);
});

const opened: Backend[] = [];
const lines: string[] = [];
const note = (text: string) => void lines.push(text);
const LOG: Logger = { ...SILENT, warn: note, info: note, error: note, debug: note };

beforeEach(() => {
  asked = [];
  for (const node of nodes) node.answer = serveRange;
  proxy.answer = forward;
});
afterEach(() => {
  for (const backend of opened.splice(0)) backend.close();
});
after(() => {
  for (const { opened: server } of nodes) {
    (server as ReturnType<typeof createServer>).closeAllConnections();
    server.close();
  }
  rmSync(dir, { recursive: true });
});

function makeCertificate(): { key: Buffer; cert: Buffer } {
  const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  const how = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  execFileSync('openssl', [...how, ...subject, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  return { key: readFileSync(key), cert: readFileSync(cert) };
}

async function open(more: object, addr = origin.url) {
  const config = {
    addr,
    path: '/blobs',
    timeout: 1,
    connect_timeout: 1,
    ca_cert_files: [join(dir, 'cert.pem')],
    ...more,
  };
  return openConfig('http-proxy', config);
}

async function openConfig(type: string, members: object) {
  const config = parseConfig(
    JSON.stringify({ device: { backend: { type, config: members } }, mode: 'direct' }),
  ).backend;
  const backend = await openBackend(config, LOG);
  opened.push(backend);
  return { config, backend, read: async () => (await backend.read(ID, 2, 3, NEVER)).toString() };
}

const fallback = (isOn: boolean, more: object = {}) => ({ proxy: { url: proxy.url, fallback: isOn, ...more } });
const mirrored = (more: object = {}) => ({
  mirrors: mirrors.map(({ url }) => ({ host: url, failure_limit: 2, ...more })),
});

describe('a forward proxy', () => {
  test('gets absolute URLs for http, with its credentials and not with those of others', async () => {
    const { read } = await open({ proxy: { url: `http://me:${PASSWORD}@${proxy.host}` } });
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['proxy', 'origin']);
    assert.equal(asked[0]?.url, `${origin.url}/blobs/${ID}`);
    const { headers } = asked[0].request;
    assert.equal(headers.host, origin.host);
    assert.equal(headers['proxy-authorization'], `Basic ${Buffer.from(`me:${PASSWORD}`).toString('base64')}`);
    assert.equal(headers.authorization, undefined);
  });
  test('gets CONNECT for https, once for many requests', async () => {
    const { read } = await open(fallback(false), `https://${secure.host}`);
    for (let i = 0; i < 3; i++) assert.equal(await read(), '234');
    assert.deepEqual(who(), ['proxy', 'secure', 'secure', 'secure']);
    assert.equal(asked[0]?.url, `CONNECT ${secure.host}`);
  });
  test('with use_http gets http URLs where https is meant', async () => {
    proxy.answer = serveRange;
    const { read } = await open(fallback(false, { use_http: true }), `https://${secure.host}`);
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['proxy']);
    assert.equal(asked[0]?.url, `http://${secure.host}/blobs/${ID}`);
  });
  test('may speak TLS itself', async () => {
    secure.answer = forward;
    const { read } = await open({ proxy: { url: `https://${secure.host}` } });
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['secure', 'origin']);
  });
  test('is one without a scheme too', async () => {
    const { read } = await open({ proxy: { url: proxy.host } });
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['proxy', 'origin']);
  });

  const troubles: [string, Answer, string][] = [
    ['status 500', status(500), 'HTTP_BUSY'],
    ['status 429', status(429), 'HTTP_BUSY'],
    ['status 407', status(407), 'HTTP_STATUS'],
    ['a reset', (_, response) => void response.socket?.resetAndDestroy(), 'HTTP_CONNECT'],
    ['silence', () => {}, 'HTTP_TIMEOUT'],
  ];
  for (const [id, answer, code] of troubles) {
    test(`${id}: with fallback the server itself is asked, without it is ${code}`, async () => {
      proxy.answer = answer;
      assert.equal(await (await open(fallback(true))).read(), '234');
      assert.deepEqual(who().slice(-1), ['origin']);
      asked = [];
      await assert.rejects((await open(fallback(false))).read(), { code });
      assert.ok(!who().includes('origin'));
    });
  }
  test('that refuses CONNECT is gone around with fallback only', async () => {
    const dead = { url: 'http://127.0.0.1:1' };
    for (const addr of [origin.url, `https://${secure.host}`]) {
      assert.equal(await (await open({ proxy: { ...dead, fallback: true } }, addr)).read(), '234');
      const strict = await open({ proxy: { ...dead, fallback: false } }, addr);
      await assert.rejects(strict.read(), { code: 'HTTP_CONNECT', message: /by proxy 127\.0\.0\.1:1/ });
    }
  });
  test('that lets one request time out is left alone for a while, then asked again', async () => {
    proxy.answer = () => {};
    const { read } = await open(fallback(true, { check_interval: 1 }));
    assert.equal(await read(), '234');
    asked = [];
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['origin']);
    proxy.answer = forward;
    await sleep(1100);
    asked = [];
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['proxy', 'origin']);
  });
  test('whose ping fails is not asked until it succeeds', async () => {
    const ping: Answer = (incoming, response) => {
      if (incoming.url?.endsWith('/healthy')) status(isHealthy ? 200 : 503)(incoming, response);
      else forward(incoming, response);
    };
    let isHealthy = false;
    proxy.answer = ping;
    const pinged = { ping_url: `${proxy.url}/healthy`, check_interval: 1 };
    const { read } = await open(fallback(true, pinged));
    assert.equal(await read(), '234');
    await until(() => lines.some((line) => /is not well/.test(line)));
    asked = [];
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['origin']);
    isHealthy = true;
    await until(() => lines.some((line) => /is well again/.test(line)));
    asked = [];
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['proxy', 'origin']);
  });
  test('is probed only while it is in use', async () => {
    const { read } = await open(
      fallback(true, { ping_url: `${proxy.url}/healthy`, check_interval: 1, check_pause_elapsed: 1 }),
    );
    proxy.answer = (incoming, response) => (incoming.url === '/healthy' ? status(200) : forward)(incoming, response);
    const pings = () => asked.filter(({ url }) => url === '/healthy').length;
    await sleep(100);
    assert.equal(pings(), 0);
    await read();
    await sleep(3200);
    const before = pings();
    assert.ok(before >= 1 && before <= 3, `${before} pings`);
    await sleep(1500);
    assert.equal(pings(), before);
    await read();
    await until(() => pings() > before);
  });
  test('is replaced while requests are made', async () => {
    const { config, read } = await open({ proxy: { url: 'http://127.0.0.1:1', fallback: false } });
    await assert.rejects(read(), { code: 'HTTP_CONNECT' });
    applyChange(config, parseChange({ proxy_url: proxy.url }));
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['proxy', 'origin']);
    applyChange(config, parseChange({ proxy_url: '' }));
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['proxy', 'origin', 'origin']);
  });
  test('carries redirected requests, not those for tokens', async () => {
    origin.answer = (incoming, response) => {
      if (incoming.url === '/token') return void response.end('{"token":"t"}');
      if (incoming.url?.startsWith('/cdn')) return serveRange(incoming, response);
      if (incoming.headers.authorization === 'Bearer t')
        return void response.writeHead(307, { location: '/cdn' }).end();
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${origin.url}/token",service="s"` }).end();
    };
    const { read } = await openConfig('registry', { scheme: 'http', host: origin.host, repo: 'r', ...fallback(false) });
    assert.equal(await read(), '234');
    const asking = asked.filter(({ by }) => by === 'proxy').map(({ url }) => new URL(url).pathname.slice(0, 4));
    assert.deepEqual(asking, ['/v2/', '/v2/', '/cdn']);
    assert.equal(asked.filter(({ url }) => url === '/token').length, 1);
  });
});

describe('mirrors', () => {
  test('are asked first, for the same path, with headers of their own', async () => {
    const { read } = await open(
      mirrored({ headers: { 'X-Dragonfly-Registry': 'https://origin', Authorization: PASSWORD } }),
    );
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['mirror 0']);
    assert.equal(asked[0]?.url, `/blobs/${ID}`);
    const { headers } = asked[0].request;
    assert.equal(headers.host, mirrors[0].host);
    assert.equal(headers['x-dragonfly-registry'], 'https://origin');
    assert.equal(headers.authorization, PASSWORD);
  });
  test('that have not got it or do not give it are passed over, and stay well', async () => {
    const { read } = await open(mirrored({ headers: { 'x-mirror': '1' } }));
    mirrors[0].answer = status(404);
    mirrors[1].answer = status(403);
    for (let i = 0; i < 4; i++) assert.equal(await read(), '234');
    assert.deepEqual(who().slice(-3), ['mirror 0', 'mirror 1', 'origin']);
    assert.equal(asked.at(-1)?.request.headers['x-mirror'], undefined);
  });
  const failures: [string, Answer][] = [
    ['answers 502', status(502)],
    ['resets connections', (_, response) => void response.socket?.resetAndDestroy()],
  ];
  for (const [id, answer] of failures) {
    test(`one that ${id} is left out after failure_limit, until its ping succeeds`, async () => {
      const { read } = await open(mirrored({ ping_url: `${mirrors[0].url}/ping`, health_check_interval: 1 }));
      mirrors[0].answer = answer;
      for (let i = 0; i < 4; i++) assert.equal(await read(), '234');
      assert.deepEqual(who(), ['mirror 0', 'mirror 1', 'mirror 0', 'mirror 1', 'mirror 1', 'mirror 1']);
      mirrors[0].answer = serveRange;
      await until(async () => {
        asked = [];
        assert.equal(await read(), '234');
        return who().join() === 'mirror 0';
      });
    });
  }
  test('one whose bodies break off is left out too', async () => {
    const { read } = await open(mirrored());
    mirrors[0].answer = breakOff;
    for (let i = 0; i < 2; i++) await assert.rejects(read(), { code: 'HTTP_BODY' });
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['mirror 0', 'mirror 0', 'mirror 1']);
  });
  test('a success between failures counts', async () => {
    const { read } = await open(mirrored());
    for (const answer of [status(500), serveRange, status(500), serveRange]) {
      mirrors[0].answer = answer;
      assert.equal(await read(), '234');
    }
    assert.equal(who().filter((name) => name === 'mirror 0').length, 4);
  });

  test('one that has only a part of the blob is passed over', async () => {
    const { read } = await open(mirrored());
    mirrors[0].answer = status(416);
    assert.equal(await read(), '234');
    assert.deepEqual(who(), ['mirror 0', 'mirror 1']);
  });

  for (const authThrough of [false, true]) {
    test(`auth_through ${authThrough}: who is asked for a token`, async () => {
      for (const node of [origin, mirrors[0]]) {
        node.answer = (incoming, response) => {
          if (incoming.url === '/token') return void response.end('{"token":"t"}');
          if (incoming.headers.authorization === 'Bearer t') return serveRange(incoming, response);
          response.writeHead(401, { 'www-authenticate': `Bearer realm="${node.url}/token",service="s"` }).end();
        };
      }
      const [mirror] = mirrored({ auth_through: authThrough }).mirrors;
      const { read } = await openConfig('registry', {
        scheme: 'http',
        host: origin.host,
        repo: 'r',
        mirrors: [mirror],
      });
      assert.equal(await read(), '234');
      const names = who().join(', ');
      // POST to the token server is its first try, answered at once.
      if (authThrough) assert.equal(names, 'mirror 0, mirror 0, mirror 0');
      else assert.equal(names, 'mirror 0, origin, origin, mirror 0');
    });
  }
});

describe('without time-outs', () => {
  const hang: Answer = () => {};
  const stall: Answer = (_, response) => {
    response.writeHead(206, { 'content-range': 'bytes 2-4/10', 'content-length': 3 }).write('2');
  };
  const unlimited = { timeout: 0, connect_timeout: 0 };
  for (const [what, answer] of Object.entries({ hangs: hang, 'stalls in a body': stall })) {
    test(`who ${what} until a reader gives up is not asked by the next one`, async () => {
      for (const [node, more] of [
        [proxy, fallback(true)],
        [mirrors[0], mirrored({ failure_limit: 1 })],
      ] as const) {
        node.answer = answer;
        const { backend, read } = await open({ ...more, ...unlimited });
        const policy = { ...DEMAND_POLICY, attempts: 1, deadlineMs: 300 };
        await assert.rejects(
          withRetry(policy, 'a read', NEVER, (signal) => backend.read(ID, 2, 3, signal)),
          { code: 'DEADLINE' },
        );
        assert.equal(await read(), '234');
      }
    });
  }
});

test('what is aborted is nobody’s failure', async () => {
  proxy.answer = () => {};
  mirrors[0].answer = () => {};
  const from = lines.length;
  for (const more of [fallback(true), mirrored({ failure_limit: 1 })]) {
    const { backend } = await open(more);
    const controller = new AbortController();
    const reading = backend.read(ID, 2, 3, controller.signal);
    setTimeout(() => controller.abort(new Error('closed')), 100);
    await assert.rejects(reading, /closed/);
  }
  assert.ok(lines.slice(from).every((line) => !/failed/.test(line)));
  assert.ok(!who().includes('origin'));
});

test('no line has shown a credential', () => {
  assert.ok(lines.length > 5);
  for (const line of lines) assert.ok(!line.includes(PASSWORD), line);
});

async function until(isTrue: () => boolean | Promise<boolean>): Promise<void> {
  const end = Date.now() + 15_000;
  for (; !(await isTrue()); await sleep(20)) assert.ok(Date.now() < end, 'waited too long');
}
