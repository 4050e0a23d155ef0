/**
 * An S3 server that checks signatures: moto with authentication on. It is 300 MB of Python, so it is installed on demand:
 *
 *     python3 -m venv V && V/bin/pip install 'moto[server]'
 *     MOTO_SERVER=V/bin/moto_server npm test -- test/servers/s3.test.ts
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../src/storage/registry.testing.ts';
import { BLOBS, Reader } from './image.ts';

interface Request {
  method?: string;
  path: string;
  service: string;
  region: string;
  host: string;
  headers?: Record<string, string>;
  body?: string | Buffer;
}
interface Keys {
  accessKeyId: string;
  secretAccessKey: string;
}
const aws4 = createRequire(import.meta.url)('aws4') as {
  sign(request: Request, keys: Keys): Request & { headers: Record<string, string> };
};

const MOTO = process.env['MOTO_SERVER'];
/** What moto takes for the region of any host name. */
const REGION = 'us-east-1';
const BUCKET = 'images';
/** Characters that two implementations encode alike only when both do it right. */
const PREFIX = "team a/(1)+'$&=@:~/ä/";
/** Making a user with a key and a policy, before which nobody has a key. */
const FIRST_ACTIONS = 3;
const READY_MS_MAX = 60_000;

describe('s3', { skip: MOTO === undefined ? 'MOTO_SERVER is not set' : false }, () => {
  let child: ChildProcess;
  let endpoint = '';
  let keys: Keys = { accessKeyId: 'none', secretAccessKey: 'none' };

  async function send(request: Omit<Request, 'region' | 'host'>): Promise<string> {
    const signed = aws4.sign({ ...request, region: REGION, host: endpoint }, keys);
    const answer = await fetch(`http://${endpoint}${request.path}`, {
      method: request.method ?? 'POST',
      headers: signed.headers,
      body: request.body ?? null,
    });
    const text = await answer.text();
    assert.equal(answer.status, 200, text);
    return text;
  }

  function iam(action: string, members: Record<string, string>): Promise<string> {
    const body = new URLSearchParams({ Action: action, Version: '2010-05-08', ...members }).toString();
    const headers = { 'content-type': 'application/x-www-form-urlencoded; charset=utf-8' };
    return send({ service: 'iam', path: '/', method: 'POST', headers, body });
  }

  before(async () => {
    const port = await freePort();
    endpoint = `127.0.0.1:${port}`;
    child = spawn(MOTO!, ['-H', '127.0.0.1', '-p', `${port}`], {
      stdio: 'ignore',
      env: { ...process.env, INITIAL_NO_AUTH_ACTION_COUNT: `${FIRST_ACTIONS}` },
    });
    const isUp = () =>
      fetch(`http://${endpoint}/moto-api/`).then(
        () => true,
        () => false,
      );
    for (const end = Date.now() + READY_MS_MAX; !(await isUp()); await sleep(200)) assert.ok(Date.now() < end);
    await iam('CreateUser', { UserName: 'reader' });
    const policy = { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: 's3:*', Resource: '*' }] };
    await iam('PutUserPolicy', { UserName: 'reader', PolicyName: 'all', PolicyDocument: JSON.stringify(policy) });
    const made = await iam('CreateAccessKey', { UserName: 'reader' });
    const member = (name: string) => new RegExp(`<${name}>(.*?)</${name}>`).exec(made)?.[1] ?? assert.fail(made);
    keys = { accessKeyId: member('AccessKeyId'), secretAccessKey: member('SecretAccessKey') };
    await send({ service: 's3', method: 'PUT', path: `/${BUCKET}` });
    const headers = { 'content-type': 'application/octet-stream' };
    for (const [id, body] of BLOBS) {
      const name = `${PREFIX}${id}`
        .split('/')
        .map(encodeURIComponent)
        .join('/')
        .replaceAll("'", '%27')
        .replaceAll('(', '%28')
        .replaceAll(')', '%29');
      await send({ service: 's3', method: 'PUT', path: `/${BUCKET}/${name}`, headers, body });
    }
  });
  after(() => {
    child.kill('SIGKILL');
  });

  const reader = (change: object = {}) =>
    new Reader('s3', {
      scheme: 'http',
      endpoint,
      region: REGION,
      bucket_name: BUCKET,
      object_prefix: PREFIX,
      access_key_id: keys.accessKeyId,
      access_key_secret: keys.secretAccessKey,
      ...change,
    });

  test('takes our signatures', async () => {
    const reading = reader();
    await reading.read(40);
    assert.equal(reading.store.stats.failedRequests, 0);
    await reading.close();
  });
  for (const [id, change] of Object.entries({
    'a wrong secret': { access_key_secret: 'hunter2' },
    'an unknown key': { access_key_id: 'AKIAIOSFODNN7EXAMPLE' },
  })) {
    test(`refuses ${id}`, async () => {
      const reading = reader(change);
      await assert.rejects(reading.read(1), { code: 'HTTP_AUTH' });
      await reading.close();
    });
  }
});
