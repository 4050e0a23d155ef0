/** Servers that answer wrongly, late, or not at all; through the backends, one attempt each. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { SILENT } from '../../common/log.ts';
import { BLOB, BLOB_ID, NEVER } from '../backend.suite.ts';
import { type Backend, openBackend } from '../backend.ts';
import { parseConfig } from '../config/config.ts';
import { parseRetryAfter } from '../retry.ts';

type Answer = (response: ServerResponse, request: IncomingMessage) => void;

let answer: Answer = () => {};
let requests: IncomingMessage[] = [];
const server: Server = createServer((request, response) => {
  requests.push(request);
  answer(response, request);
});
const opened: Backend[] = [];
let host = '';

before(async () => {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
});
after(() => {
  for (const backend of opened) backend.close();
  server.closeAllConnections();
  server.close();
});

async function open(type: string, config: object): Promise<Backend> {
  const text = JSON.stringify({ device: { backend: { type, config } }, mode: 'direct' });
  const backend = await openBackend(parseConfig(text).backend, SILENT);
  opened.push(backend);
  return backend;
}

const KINDS = {
  'http-proxy': (more: object = {}) => open('http-proxy', { addr: `http://${host}`, path: '/x', timeout: 1, ...more }),
  registry: (more: object = {}) => open('registry', { scheme: 'http', host, repo: 'r', timeout: 1, ...more }),
};

const OFFSET = 1000;
const BYTES = 5000;
const SLICE = BLOB.subarray(OFFSET, OFFSET + BYTES);
const RANGE = `bytes ${OFFSET}-${OFFSET + BYTES - 1}/${BLOB.length}`;

interface Fault {
  id: string;
  answer: Answer;
  code: string;
  retryable: boolean;
}

const FAULTS: Fault[] = [
  { id: '404', answer: (r) => r.writeHead(404).end('no'), code: 'HTTP_NOT_FOUND', retryable: true },
  { id: '410', answer: (r) => r.writeHead(410).end('gone'), code: 'BLOB_NOT_FOUND', retryable: false },
  { id: '400', answer: (r) => r.writeHead(400).end('no'), code: 'HTTP_STATUS', retryable: false },
  { id: '403', answer: (r) => r.writeHead(403).end('no'), code: 'HTTP_AUTH', retryable: false },
  { id: '416', answer: (r) => r.writeHead(416).end('no'), code: 'HTTP_STATUS', retryable: false },
  { id: '500', answer: (r) => r.writeHead(500).end('no'), code: 'HTTP_BUSY', retryable: true },
  { id: '503', answer: (r) => r.writeHead(503, { 'retry-after': '7' }).end(), code: 'HTTP_BUSY', retryable: true },
  { id: '429', answer: (r) => r.writeHead(429).end(), code: 'HTTP_BUSY', retryable: true },
  { id: '204', answer: (r) => r.writeHead(204).end(), code: 'HTTP_BODY', retryable: true },
  {
    id: 'short body with its length',
    answer: (r) => r.writeHead(206, { 'content-range': RANGE, 'content-length': 100 }).end(SLICE.subarray(0, 100)),
    code: 'HTTP_BODY',
    retryable: true,
  },
  {
    id: 'body cut off',
    answer: (r) => {
      r.writeHead(206, { 'content-range': RANGE, 'content-length': BYTES });
      r.write(SLICE.subarray(0, 100), () => r.destroy());
    },
    code: 'HTTP_BODY',
    retryable: true,
  },
  {
    id: 'body too long',
    answer: (r) => r.writeHead(206, { 'content-range': RANGE }).end(BLOB.subarray(OFFSET, OFFSET + BYTES + 1)),
    code: 'HTTP_BODY',
    retryable: true,
  },
  {
    id: 'endless body',
    answer: (r) => {
      r.writeHead(206, { 'content-range': RANGE });
      const more = () => {
        while (!r.destroyed && r.write(BLOB));
      };
      r.on('drain', more);
      more();
    },
    code: 'HTTP_BODY',
    retryable: true,
  },
  {
    id: 'another range',
    answer: (r) =>
      r.writeHead(206, { 'content-range': `bytes 0-${BYTES - 1}/${BLOB.length}` }).end(BLOB.subarray(0, BYTES)),
    code: 'HTTP_BODY',
    retryable: true,
  },
  {
    id: 'range in nonsense',
    answer: (r) => r.writeHead(206, { 'content-range': 'bytes x-y/z' }).end(SLICE),
    code: 'HTTP_BODY',
    retryable: true,
  },
  { id: '206 without range', answer: (r) => r.writeHead(206).end(SLICE), code: 'HTTP_BODY', retryable: true },
  {
    id: '200 shorter than the offset',
    answer: (r) => r.writeHead(200).end('hello'),
    code: 'HTTP_BODY',
    retryable: true,
  },
  {
    id: 'compressed',
    answer: (r) => r.writeHead(206, { 'content-range': RANGE, 'content-encoding': 'gzip' }).end(SLICE),
    code: 'HTTP_BODY',
    retryable: true,
  },
  { id: 'reset', answer: (r) => r.socket?.resetAndDestroy(), code: 'HTTP_CONNECT', retryable: true },
  {
    id: 'no HTTP at all',
    answer: (r) => r.socket?.end('SSH-2.0-OpenSSH_9.2\r\n'),
    code: 'HTTP_CONNECT',
    retryable: true,
  },
  {
    id: 'another protocol',
    answer: (r) => r.socket?.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n'),
    code: 'HTTP_CONNECT',
    retryable: true,
  },
  { id: 'no headers', answer: () => {}, code: 'HTTP_TIMEOUT', retryable: true },
];

for (const [kind, openKind] of Object.entries(KINDS)) {
  describe(`faults through ${kind}`, () => {
    for (const fault of FAULTS) {
      test(`${fault.id} is ${fault.code}`, async () => {
        answer = fault.answer;
        const backend = await openKind();
        await assert.rejects(backend.read(BLOB_ID, OFFSET, BYTES, NEVER), {
          name: 'AppError',
          code: fault.code,
          retryable: fault.retryable,
        });
        // The same backend goes on.
        answer = (r) => r.writeHead(206, { 'content-range': RANGE }).end(SLICE);
        assert.ok((await backend.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
      });
    }
    test('Range ignored: the slice of a 200 is taken, and the rest of the body is not read', async () => {
      answer = (r) => r.writeHead(200, { 'content-length': BLOB.length }).end(BLOB);
      const backend = await openKind();
      assert.ok((await backend.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
    });
    test('a 200 that says it is the slice, as upstream nydus-backend-proxy answers', async () => {
      answer = (r) =>
        r.writeHead(200, { 'content-range': `bytes ${OFFSET}-${OFFSET + BYTES - 1}/${BYTES}` }).end(SLICE);
      const backend = await openKind();
      assert.ok((await backend.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
    });
    test('a connection the server has closed meanwhile is no failure', async () => {
      answer = (r) => r.writeHead(206, { 'content-range': RANGE }).end(SLICE);
      const backend = await openKind();
      for (let i = 0; i < 3; i++) {
        assert.ok((await backend.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
        server.closeIdleConnections();
      }
    });
    test('Retry-After is passed on', async () => {
      answer = (r) => r.writeHead(503, { 'retry-after': '7' }).end();
      const backend = await openKind();
      await assert.rejects(backend.read(BLOB_ID, OFFSET, BYTES, NEVER), {
        facts: {
          target:
            backend.kind === 'registry' ? `http://${host}/v2/r/blobs/sha256:${BLOB_ID}` : `http://${host}/x/${BLOB_ID}`,
          status: 503,
          retryAfterMs: 7000,
        },
      });
    });
    test('HEAD without a length is an error', async () => {
      answer = (r) => r.writeHead(200, { 'transfer-encoding': 'chunked' }).end();
      await assert.rejects((await openKind()).size(BLOB_ID, NEVER), { code: 'HTTP_BODY' });
    });
  });
}

test('a body that stalls is HTTP_TIMEOUT', async () => {
  answer = (r) => {
    r.writeHead(206, { 'content-range': RANGE });
    r.write(SLICE.subarray(0, 10));
  };
  const started = Date.now();
  await assert.rejects((await KINDS['http-proxy']()).read(BLOB_ID, OFFSET, BYTES, NEVER), { code: 'HTTP_TIMEOUT' });
  assert.ok(Date.now() - started < 7000);
});

test('answers of no interest whose bodies stall keep no connection for long', async () => {
  answer = (r) => r.writeHead(404, { 'content-length': 100 }).write('no');
  const backend = await KINDS['http-proxy']({ connect_timeout: 10 });
  const refused = Array.from({ length: 40 }, () =>
    assert.rejects(backend.read(BLOB_ID, OFFSET, BYTES, NEVER), { code: 'HTTP_NOT_FOUND' }),
  );
  await Promise.all(refused);
});

test('nobody listens: HTTP_CONNECT', async () => {
  const backend = await open('http-proxy', { addr: 'http://127.0.0.1:1', path: '' });
  await assert.rejects(backend.read(BLOB_ID, 0, 1, NEVER), { code: 'HTTP_CONNECT', retryable: true });
});

test('an address that swallows packets: connect time-out', async () => {
  // A listener whose backlog is full answers no SYN; 192.0.2.1 (TEST-NET-1) is routed nowhere, or refused at once.
  const backend = await open('http-proxy', { addr: 'http://192.0.2.1', path: '', connect_timeout: 1 });
  await assert.rejects(backend.read(BLOB_ID, 0, 1, NEVER), (error: { code: string }) =>
    ['HTTP_TIMEOUT', 'HTTP_CONNECT'].includes(error.code),
  );
});

describe('redirects of a registry', () => {
  const redirectTo =
    (location: string): Answer =>
    (r, request) => {
      if (request.url?.startsWith('/cdn')) return void r.writeHead(206, { 'content-range': RANGE }).end(SLICE);
      r.writeHead(307, { location }).end();
    };
  test('are followed with the range and without credentials, and remembered', async () => {
    answer = redirectTo('/cdn?signature=s3cret');
    const backend = await KINDS.registry({ registry_token: 'token' });
    requests = [];
    for (let i = 0; i < 2; i++) assert.ok((await backend.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
    assert.deepEqual(
      requests.map(({ url, headers }) => [url?.slice(0, 4), headers.authorization, headers.range]),
      [
        ['/v2/', 'Bearer token', `bytes=${OFFSET}-${OFFSET + BYTES - 1}`],
        ['/cdn', undefined, `bytes=${OFFSET}-${OFFSET + BYTES - 1}`],
        ['/cdn', undefined, `bytes=${OFFSET}-${OFFSET + BYTES - 1}`],
      ],
    );
  });
  test('whose target has expired are asked for again', async () => {
    let generation = 0;
    answer = (r, request) => {
      if (request.url === `/cdn${generation}`) return void r.writeHead(206, { 'content-range': RANGE }).end(SLICE);
      if (request.url?.startsWith('/cdn')) return void r.writeHead(403).end('expired');
      r.writeHead(302, { location: `http://${host}/cdn${generation}` }).end();
    };
    const backend = await KINDS.registry();
    for (generation = 0; generation < 3; generation++) {
      assert.ok((await backend.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
    }
  });
  test('whose target sends on later is asked for again; one that fails, by the next try', async () => {
    let target = '/cdn0';
    let status = 302;
    answer = (r, request) => {
      if (request.url === target) return void r.writeHead(206, { 'content-range': RANGE }).end(SLICE);
      if (request.url?.startsWith('/cdn')) return void r.writeHead(status, { location: '/cdn-of-old' }).end();
      r.writeHead(302, { location: target }).end();
    };
    const backend = await KINDS.registry();
    const read = async () => assert.ok((await backend.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
    await read();
    target = '/cdn1';
    await read();
    target = '/cdn2';
    status = 503;
    await assert.rejects(read(), { code: 'HTTP_BUSY' });
    await read();
  });
  test('in a circle, to nowhere and to other schemes are errors', async () => {
    for (const location of ['/again', 'file:///etc/passwd', 'http://']) {
      answer = (r) => r.writeHead(302, { location }).end();
      await assert.rejects((await KINDS.registry()).read(BLOB_ID, OFFSET, BYTES, NEVER), { code: 'HTTP_BODY' });
    }
    answer = (r) => r.writeHead(302).end();
    await assert.rejects((await KINDS.registry()).read(BLOB_ID, OFFSET, BYTES, NEVER), { code: 'HTTP_BODY' });
  });
  test('errors of a signed target do not show its signature', async () => {
    answer = (r, request) => {
      if (request.url?.startsWith('/cdn')) return void r.writeHead(500).end();
      r.writeHead(307, { location: '/cdn?signature=s3cret' }).end();
    };
    await assert.rejects((await KINDS.registry()).read(BLOB_ID, OFFSET, BYTES, NEVER), (error: Error) => {
      assert.ok(error.message.includes('/cdn') && !error.message.includes('s3cret'));
      return true;
    });
  });
});

test('with skip_verify a registry that speaks no TLS is asked in plain HTTP; without, never', async () => {
  answer = (r) => r.writeHead(206, { 'content-range': RANGE }).end(SLICE);
  const lenient = await KINDS.registry({ scheme: 'https', skip_verify: true });
  assert.ok((await lenient.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
  const strict = await KINDS.registry({ scheme: 'https' });
  await assert.rejects(strict.read(BLOB_ID, OFFSET, BYTES, NEVER), { code: 'HTTP_CONNECT' });
});

test('TLS: a private authority from ca_cert_files or of the host, or no verification at all', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'tls-'));
  const [key, pem] = [join(dir, 'key.pem'), join(dir, 'cert.pem')];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  const request = ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];
  execFileSync('openssl', [...request, ...subject, '-keyout', key, '-out', pem], { stdio: 'ignore' });
  const secure = createSecureServer({ key: readFileSync(key), cert: readFileSync(pem) }, (_, r) =>
    r.writeHead(206, { 'content-range': RANGE }).end(SLICE),
  );
  await new Promise<void>((resolve) => secure.listen(0, 'localhost', resolve));
  const addr = `https://localhost:${(secure.address() as AddressInfo).port}`;
  for (const trust of [{ ca_cert_files: [pem] }, { skip_verify: true }]) {
    const backend = await open('http-proxy', { addr, ...trust });
    assert.ok((await backend.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
  }
  const ofHost = process.env['SSL_CERT_FILE'];
  process.env['SSL_CERT_FILE'] = pem;
  const trusting = await open('http-proxy', { addr });
  assert.ok((await trusting.read(BLOB_ID, OFFSET, BYTES, NEVER)).equals(SLICE));
  delete process.env['SSL_CERT_FILE'];
  if (ofHost !== undefined) process.env['SSL_CERT_FILE'] = ofHost;
  const strict = await open('http-proxy', { addr });
  await assert.rejects(strict.read(BLOB_ID, OFFSET, BYTES, NEVER), { code: 'HTTP_CONNECT', message: /SELF_SIGNED/ });
  await assert.rejects(open('http-proxy', { addr, ca_cert_files: [join(dir, 'none')] }), { code: 'CONFIG' });
  secure.closeAllConnections();
  secure.close();
  rmSync(dir, { recursive: true });
});

test('a challenge answered for ever with 401 ends', async () => {
  answer = (r) => r.writeHead(401, { 'www-authenticate': 'Basic realm="x"' }).end();
  const backend = await KINDS.registry({ auth: 'dTpw' });
  requests = [];
  await assert.rejects(backend.read(BLOB_ID, OFFSET, BYTES, NEVER), { code: 'HTTP_AUTH' });
  assert.equal(requests.length, 2);
});

test('a token server that lies', async () => {
  const cases: [string, string][] = [
    ['not json', 'HTTP_BODY'],
    ['{}', 'HTTP_BODY'],
    ['null', 'HTTP_BODY'],
    [JSON.stringify({ token: 'a\r\nX-Evil: 1' }), 'HTTP_BODY'],
    ['x'.repeat(2 << 20), 'HTTP_BODY'],
  ];
  for (const [text, code] of cases) {
    answer = (r, request) => {
      if (request.url?.startsWith('/token')) return void r.writeHead(200).end(text);
      r.writeHead(401, { 'www-authenticate': `Bearer realm="http://${host}/token",service="s"` }).end();
    };
    await assert.rejects((await KINDS.registry()).read(BLOB_ID, OFFSET, BYTES, NEVER), { code }, text.slice(0, 20));
  }
  answer = (r) => r.writeHead(401, { 'www-authenticate': 'Bearer realm="ftp://x/"' }).end();
  await assert.rejects((await KINDS.registry()).read(BLOB_ID, OFFSET, BYTES, NEVER), { code: 'HTTP_AUTH' });
});

test('Retry-After in seconds, as a date, and in nonsense', () => {
  const now = Date.parse('2026-01-01T00:00:00Z');
  assert.equal(parseRetryAfter('3', now), 3000);
  assert.equal(parseRetryAfter('Thu, 01 Jan 2026 00:00:05 GMT', now), 5000);
  assert.equal(parseRetryAfter('Thu, 01 Jan 2015 00:00:05 GMT', now), 0);
  assert.equal(parseRetryAfter('soon', now), 0);
  assert.equal(parseRetryAfter(undefined, now), 0);
});
