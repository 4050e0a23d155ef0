/** Registries whose token servers, old tokens and redirect targets give trouble. */
import assert from 'node:assert/strict';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { type AddressInfo, createServer as createNetServer, type Server } from 'node:net';
import { after, afterEach, before, describe, test } from 'node:test';
import { SILENT } from '../../common/log.ts';
import { NEVER } from '../backend.suite.ts';
import { type Backend, openBackend } from '../backend.ts';
import { parseConfig, type RegistryConfig } from '../config/config.ts';
import { applyChange, parseChange } from '../config/config-change.ts';

const BLOB = Buffer.from('0123456789');
const ID = 'a'.repeat(64);

type Route = (request: IncomingMessage, response: ServerResponse) => void;

/** What is asked, as `path authorization`; the routes of the test at hand by the first part of the path. */
let asked: string[] = [];
let routes: Record<string, Route> = {};
const server = createServer((request, response) => {
  const path = (request.url ?? '').split('/')[1]?.split('?')[0] ?? '';
  asked.push(`${path} ${request.headers.authorization ?? '-'}`);
  (routes[path] ?? answer(404))(request, response);
});
let host = '';
const opened: Backend[] = [];

const listen = (anyServer: Server) => new Promise<void>((resolve) => anyServer.listen(0, '127.0.0.1', resolve));

before(async () => {
  await listen(server);
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(() => {
  asked = [];
  for (const backend of opened.splice(0)) backend.close();
});
after(() => {
  server.closeAllConnections();
  server.close();
});

const answer =
  (status: number, headers: Record<string, string> = {}): Route =>
  (_, r) =>
    void r.writeHead(status, headers).end();
const blob: Route = (_, r) => void r.writeHead(206, { 'content-range': 'bytes 2-4/10' }).end(BLOB.subarray(2, 5));
const challenge = (): Route => answer(401, { 'www-authenticate': `Bearer realm="http://${host}/token",service="s"` });
const basic = answer(401, { 'www-authenticate': 'Basic realm="r"' });
const token =
  (text: string, seconds = 600): Route =>
  (_, r) =>
    void r.end(JSON.stringify({ token: text, expires_in: seconds }));
/** The blob for requests with one of these headers, else `otherwise`. */
const only =
  (headers: string[], otherwise: Route): Route =>
  (request, response) =>
    (headers.includes(request.headers.authorization ?? '-') ? blob : otherwise)(request, response);

async function open(more: object = {}) {
  const members = { scheme: 'http', host, repo: 'r', timeout: 2, ...more };
  const text = JSON.stringify({ device: { backend: { type: 'registry', config: members } }, mode: 'direct' });
  const config = parseConfig(text).backend as RegistryConfig;
  const backend = await openBackend(config, SILENT);
  opened.push(backend);
  return { config, read: async () => (await backend.read(ID, 2, 3, NEVER)).toString() };
}

const AUTH = Buffer.from('u:p').toString('base64');

describe('tokens', () => {
  test('a token server in trouble costs nothing while the old token is good', async () => {
    routes = { v2: only(['Bearer one'], challenge()), token: token('one', 2) };
    const { read } = await open();
    assert.equal(await read(), '234');
    routes['token'] = answer(503);
    // Half of its time is over: the moment to renew it, which fails.
    await new Promise((resolve) => setTimeout(resolve, 1100));
    assert.equal(await read(), '234');
    assert.ok(asked.filter((line) => line.startsWith('token')).length >= 2, asked.join(', '));
  });
  test('nobody waits for a token server that hangs while the old token is good', async () => {
    routes = { v2: only(['Bearer one'], challenge()), token: token('one', 2) };
    const { read } = await open({ timeout: 30 });
    assert.equal(await read(), '234');
    let ask = (): void => {};
    const isAsked = new Promise<void>((resolve) => {
      ask = resolve;
    });
    routes['token'] = () => ask();
    await new Promise((resolve) => setTimeout(resolve, 1100));
    await Promise.race([read(), new Promise((_, reject) => setTimeout(() => reject(new Error('waited')), 5000))]);
    await isAsked;
  });
  test('an answer that breaks off is worth another try', async () => {
    const cut: Route = (_, r) => {
      r.writeHead(200, { 'content-length': 100 });
      r.write('{"tok', () => r.destroy());
    };
    routes = { v2: only(['Bearer one'], challenge()), token: cut };
    const { read } = await open();
    await assert.rejects(read(), { code: 'HTTP_BODY', retryable: true });
    routes['token'] = token('one');
    assert.equal(await read(), '234');
  });
  test('many readers ask for one token, and one who gives up takes it from nobody', async () => {
    let finish = (): void => {};
    const isAsked = new Promise<void>((resolve) => {
      routes = {
        v2: only(['Bearer one'], challenge()),
        token: (request, response) => {
          resolve();
          finish = () => token('one')(request, response);
        },
      };
    });
    await open();
    const [backend] = opened;
    const controller = new AbortController();
    const given = assert.rejects(backend!.read(ID, 2, 3, controller.signal), /given up/);
    const others = Array.from({ length: 5 }, () => backend!.read(ID, 2, 3, NEVER));
    await isAsked;
    await new Promise((resolve) => setTimeout(resolve, 100));
    controller.abort(new Error('given up'));
    await given;
    finish();
    for (const got of await Promise.all(others)) assert.equal(got.toString(), '234');
    assert.equal(asked.filter((line) => line.startsWith('token')).length, 1);
  });
  test('an old token answered with a basic challenge, as Harbor does, is renewed', async () => {
    let current = 'one';
    routes = {
      v2: (request, response) => {
        const { authorization } = request.headers;
        only([`Bearer ${current}`], authorization === undefined ? challenge() : basic)(request, response);
      },
      token: (request, response) => token(current)(request, response),
    };
    const { read } = await open({ auth: AUTH });
    assert.equal(await read(), '234');
    current = 'two';
    assert.equal(await read(), '234');
    assert.equal(asked.at(-1), 'v2 Bearer two');
  });
  test('a configured token that has ended gives way to user and password', async () => {
    routes = { v2: only([`Basic ${AUTH}`], basic) };
    const { read } = await open({ auth: AUTH, registry_token: 'old' });
    assert.equal(await read(), '234');
    assert.deepEqual(asked, ['v2 Bearer old', `v2 Basic ${AUTH}`]);
  });
  test('new credentials count from the next request: no token of the old ones is used', async () => {
    const other = Buffer.from('u:q').toString('base64');
    routes = {
      v2: only(['Bearer one', 'Bearer two'], challenge()),
      token: (request, response) =>
        token(request.headers.authorization === `Basic ${AUTH}` ? 'one' : 'two')(request, response),
    };
    const { config, read } = await open({ auth: AUTH });
    assert.equal(await read(), '234');
    applyChange(config, parseChange({ registry_auth: other }));
    asked = [];
    assert.equal(await read(), '234');
    assert.deepEqual(asked, ['v2 -', `token Basic ${other}`, 'v2 Bearer two']);
  });
});

describe('redirect targets', () => {
  for (const status of [400, 401, 403, 404, 410]) {
    test(`one that answers ${status} later is asked for anew`, async () => {
      routes = { v2: answer(307, { location: '/cdn' }), cdn: blob };
      const { read } = await open();
      assert.equal(await read(), '234');
      routes = { v2: answer(307, { location: '/other' }), cdn: answer(status), other: blob };
      assert.equal(await read(), '234');
      assert.deepEqual(asked.slice(-3), ['cdn -', 'v2 -', 'other -']);
    });
  }
  test('one that is overloaded is kept', async () => {
    routes = { v2: answer(307, { location: '/cdn' }), cdn: blob };
    const { read } = await open();
    assert.equal(await read(), '234');
    routes['cdn'] = answer(429);
    await assert.rejects(read(), { code: 'HTTP_BUSY' });
    routes['cdn'] = blob;
    asked = [];
    assert.equal(await read(), '234');
    assert.deepEqual(asked, ['cdn -']);
  });
  const lies: [string, Route][] = [
    ['fails', answer(503)],
    ['answers something else', (_, r) => void r.writeHead(200).end('Hi')],
    ['gives another range', (_, r) => void r.writeHead(206, { 'content-range': 'bytes 0-2/10' }).end('012')],
  ];
  for (const [what, route] of lies) {
    test(`one that ${what} is asked for anew by the next try`, async () => {
      routes = { v2: answer(307, { location: '/cdn' }), cdn: blob };
      const { read } = await open();
      assert.equal(await read(), '234');
      routes = { v2: answer(307, { location: '/other' }), cdn: route, other: blob };
      await assert.rejects(read());
      assert.equal(await read(), '234');
    });
  }
  test('one whose bytes were wrong is asked for anew', async () => {
    routes = { v2: answer(307, { location: '/cdn' }), cdn: blob };
    const { read } = await open();
    assert.equal(await read(), '234');
    opened[0]?.doubt?.();
    routes = { v2: answer(307, { location: '/other' }), cdn: blob, other: blob };
    assert.equal(await read(), '234');
    assert.equal(asked.at(-1), 'other -');
  });
  test('one that is gone from the network is asked for anew by the next try', async () => {
    const gone = createServer(blob);
    await listen(gone);
    routes = { v2: answer(307, { location: `http://127.0.0.1:${(gone.address() as AddressInfo).port}/` }), cdn: blob };
    const { read } = await open();
    assert.equal(await read(), '234');
    gone.closeAllConnections();
    await new Promise((resolve) => gone.close(resolve));
    routes['v2'] = answer(307, { location: '/cdn' });
    await assert.rejects(read(), { code: 'HTTP_CONNECT' });
    assert.equal(await read(), '234');
  });
});

for (const [what, answer] of [
  ['says so', 'HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n'],
  ['redirects to TLS', 'HTTP/1.1 301 Moved\r\nlocation: https://127.0.0.1/v2/\r\ncontent-length: 0\r\n\r\n'],
] as const) {
  test(`a TLS server in trouble is not asked in plain HTTP for ever, also with skip_verify: it ${what}`, async () => {
    const firsts: number[] = [];
    const tls = createNetServer((socket) =>
      socket.once('data', (data) => {
        firsts.push(data[0] ?? 0);
        if (data[0] === 0x16) socket.resetAndDestroy();
        else socket.end(answer);
      }),
    );
    await listen(tls);
    const { read } = await open({
      scheme: 'https',
      host: `127.0.0.1:${(tls.address() as AddressInfo).port}`,
      skip_verify: true,
    });
    for (let i = 0; i < 2; i++) await assert.rejects(read(), { code: 'HTTP_CONNECT' });
    assert.deepEqual(firsts, [0x16, 'G'.charCodeAt(0), 0x16, 'G'.charCodeAt(0)]);
    tls.close();
  });
}
