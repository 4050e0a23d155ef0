/** S3 and OSS: signatures against published and independently made ones, then whole requests against a server that checks. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import fc from 'fast-check';
import { SILENT } from '../../common/log.ts';
import { BLOB, BLOB_ID, backendSuite, NEVER } from '../backend.suite.ts';
import { type Backend, openBackend } from '../backend.ts';
import { type ObjectStoreConfig, parseConfig } from '../config/config.ts';
import { openHttpClient } from '../http/http.ts';
import { encodePath, openObjectStore, ossAuthorization, signV4 } from './object-store.ts';

const SECRET = 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY';
const PREFIX = 'team a/(1)+';
const DATE = 'Sun, 22 Nov 2026 08:00:00 GMT';

test('signature version 4 of the ranged GET in the S3 documentation', () => {
  const keys = { accessKeyId: 'AKIAIOSFODNN7EXAMPLE', secret: SECRET, region: 'us-east-1' };
  const url = new URL('https://examplebucket.s3.amazonaws.com/test.txt');
  const signed = signV4(keys, 'GET', url, { range: 'bytes=0-9' }, new Date('2013-05-24T00:00:00Z'));
  assert.equal(signed['x-amz-date'], '20130524T000000Z');
  assert.equal(
    signed['authorization'],
    'AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, ' +
      'SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, ' +
      'Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41',
  );
});

test('the OSS signature is the one that openssl makes', () => {
  const text = `GET\n\n\n${DATE}\n/bucket/${BLOB_ID}`;
  const binary = execFileSync('openssl', ['dgst', '-sha1', '-hmac', SECRET, '-binary'], { input: text });
  const expected = `OSS id:${binary.toString('base64')}`;
  assert.equal(ossAuthorization('id', SECRET, 'GET', DATE, `/bucket/${BLOB_ID}`), expected);
});

/** The SDKs carry no types. */
interface Aws4 {
  sign(
    request: { service: string; region: string; host: string; method: string; path: string; headers: object },
    keys: { accessKeyId: string; secretAccessKey: string },
  ): { headers: Record<string, string> };
}
interface AliSigner {
  buildCanonicalString(method: string, resource: string, request: object, expires: string): string;
  authorization(accessKeyId: string, secret: string, canonical: string): string;
}
const require = createRequire(import.meta.url);
const aws4 = require('aws4') as Aws4;
const aliOss = require('ali-oss/lib/common/signUtils.js') as AliSigner;

/** Keys of objects as prefixes make them: every printable character, some outside of ASCII, several slashes. */
const objectKeys = fc.string({ unit: fc.constantFrom(...`/ !"#$%&'()*+,-.:;<=>?@[]^_{|}~azAZ09äπ€`), maxLength: 40 });
const dates = fc.date({ min: new Date('2000-01-01'), max: new Date('2100-01-01'), noInvalidDate: true });

test('signatures of S3 are those of the SDK aws4, for any key, region, secret and date', () => {
  const property = fc.property(
    objectKeys,
    dates,
    fc.constantFrom('GET', 'HEAD'),
    fc.stringMatching(/^[a-z]{2}-[a-z]{4,9}-\d$/),
    fc.string({ minLength: 1 }),
    (key, date, method, region, secret) => {
      const url = new URL(`https://s3.example:9000/${encodePath(`bucket/${key}`)}`);
      const signed = signV4({ accessKeyId: 'id', secret, region }, method, url, { range: 'bytes=0-9' }, date);
      const { authorization, ...headers } = signed;
      const request = { service: 's3', region, host: url.host, method, path: url.pathname, headers };
      const all = { ...request, extraHeadersToInclude: { range: true } };
      const expected = aws4.sign(all, { accessKeyId: 'id', secretAccessKey: secret }).headers['Authorization'];
      assert.equal(authorization, expected);
    },
  );
  fc.assert(property, { numRuns: 200 });
});

test('signatures of OSS are those of the SDK ali-oss, for any key, secret and date', () => {
  const property = fc.property(
    objectKeys,
    dates,
    fc.constantFrom('GET', 'HEAD'),
    fc.string(),
    (key, at, method, secret) => {
      const [date, resource] = [at.toUTCString(), `/bucket/${key}`];
      const canonical = aliOss.buildCanonicalString(method, resource, { headers: { 'content-type': '' } }, date);
      const expected = aliOss.authorization('id', secret, canonical);
      assert.equal(ossAuthorization('id', secret, method, date, resource), expected);
    },
  );
  fc.assert(property, { numRuns: 200 });
});

const root = mkdtempSync(join(tmpdir(), 'object-store-'));
const socketPath = join(root, 'oss.sock');
const refused: string[] = [];

/** Serves BLOB to requests whose signature is right. */
function serve(isRight: (request: IncomingMessage) => boolean, path: string) {
  return createServer((request: IncomingMessage, response: ServerResponse) => {
    if (!isRight(request)) {
      refused.push(request.url ?? '');
      return void response.writeHead(403).end();
    }
    if (decodeURIComponent(request.url ?? '') !== path) return void response.writeHead(404).end();
    const match = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? '');
    if (match === null) return void response.writeHead(200, { 'content-length': BLOB.length }).end();
    const [first, last] = [Number(match[1]), Math.min(Number(match[2]), BLOB.length - 1)];
    if (first > last) return void response.writeHead(416).end();
    response.writeHead(206, { 'content-range': `bytes ${first}-${last}/${BLOB.length}` });
    response.end(BLOB.subarray(first, last + 1));
  });
}

/** Recomputes from the headers that came, so that what is signed is what is sent. */
const s3 = serve((request) => {
  const { authorization, host, range } = request.headers;
  const date = String(request.headers['x-amz-date']).replace(
    /^(....)(..)(..)T(..)(..)(..)Z$/,
    (_, y, mo, d, h, mi, s) => `${y}-${mo}-${d}T${h}:${mi}:${s}Z`,
  );
  const url = new URL(request.url ?? '', `http://${host}`);
  const keys = { accessKeyId: 'id', secret: SECRET, region: 'eu-1' };
  const headers: Record<string, string> = range === undefined ? {} : { range };
  const method = request.method === 'HEAD' ? 'HEAD' : 'GET';
  return signV4(keys, method, url, headers, new Date(date))['authorization'] === authorization;
}, `/bucket/${PREFIX}${BLOB_ID}`);
const oss = serve((request) => {
  const { authorization, date, host } = request.headers;
  const method = request.method === 'HEAD' ? 'HEAD' : 'GET';
  const resource = `/bucket${decodeURIComponent(request.url ?? '')}`;
  const expected = ossAuthorization('id', SECRET, method, String(date), resource);
  return host === 'bucket.oss.example' && authorization === expected;
}, `/${PREFIX}${BLOB_ID}`);

before(async () => {
  await new Promise<void>((resolve) => s3.listen(0, '127.0.0.1', resolve));
  await new Promise<void>((resolve) => oss.listen(socketPath, resolve));
});
after(() => {
  for (const server of [s3, oss]) {
    server.closeAllConnections();
    server.close();
  }
  rmSync(root, { recursive: true, force: true });
});

function config(type: 's3' | 'oss', change: object = {}): ObjectStoreConfig {
  const endpoint = type === 's3' ? `127.0.0.1:${(s3.address() as AddressInfo).port}` : 'oss.example';
  const keys = { access_key_id: 'id', access_key_secret: SECRET, region: 'eu-1' };
  const members = { endpoint, bucket_name: 'bucket', object_prefix: PREFIX, scheme: 'http', ...keys, ...change };
  const { backend } = parseConfig(JSON.stringify({ device: { backend: { type, config: members } }, mode: 'direct' }));
  assert.ok(backend.kind === 's3' || backend.kind === 'oss');
  return backend;
}

/** The bucket is part of the host name, which only a socket lets us choose here. */
async function openOss(change: object = {}): Promise<Backend> {
  const timeouts = { connectTimeoutMs: 5000, headersTimeoutMs: 5000, bodyTimeoutMs: 5000 };
  const client = await openHttpClient({ skipVerify: false, ca: [], ...timeouts, socketPath, proxy: null });
  return openObjectStore(config('oss', change), client);
}

backendSuite('s3', null, () => openBackend(config('s3'), SILENT));
backendSuite('oss', null, () => openOss());

describe('credentials of object stores', () => {
  test('wrong ones are HTTP_AUTH, and none is ever shown', async () => {
    for (const backend of [
      await openBackend(config('s3', { access_key_secret: 'not-it' }), SILENT),
      await openOss({ access_key_secret: 'not-it' }),
    ]) {
      await assert.rejects(backend.read(BLOB_ID, 0, 1, NEVER), (error: Error & { code: string }) => {
        assert.equal(error.code, 'HTTP_AUTH');
        assert.ok(!error.message.includes('not-it'));
        return true;
      });
      backend.close();
    }
    assert.equal(refused.length, 2);
    assert.ok(!JSON.stringify(config('s3')).includes(SECRET));
  });
  test('an unsigned request carries no authorization', async () => {
    const backend = await openOss({ access_key_id: '' });
    await assert.rejects(backend.read(BLOB_ID, 0, 1, NEVER), { code: 'HTTP_AUTH' });
    backend.close();
  });
  const wrong: ['s3' | 'oss', object, RegExp][] = [
    ['s3', { region: '' }, /region/],
    ['s3', { bucket_name: '' }, /bucket_name/],
    ['s3', { endpoint: 'http://h' }, /endpoint/],
    ['s3', { bucket_name: 'a/b' }, /bucket_name/],
    ['oss', { endpoint: '' }, /endpoint/],
    ['oss', { bucket_name: 'evil.example/' }, /bucket_name/],
    ['oss', { object_prefix: '../' }, /object_prefix/],
    ['oss', { access_key_secret: 3 }, /access_key_secret/],
  ];
  for (const [type, change, message] of wrong) {
    test(`${type} with ${JSON.stringify(change)} is refused`, () => {
      assert.throws(() => config(type, change), { code: 'CONFIG', message });
    });
  }
  test('an empty endpoint of S3 is its own', () => {
    assert.equal(config('s3', { endpoint: '' }).endpoint, 's3.amazonaws.com');
  });
});
