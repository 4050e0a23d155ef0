/** nginx as mirror of a registry, as TLS endpoint with a private authority, as the target of links that expire. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { freshDir } from '../../src/storage/cache/cache.testing.ts';
import { registryMissing, startRegistry } from '../../src/storage/registry.testing.ts';
import { BLOBS, putBlob, REPO, Reader } from './image.ts';
import { makeCertificates, missing, RealServer } from './servers.ts';

const skip = registryMissing() ?? missing('nginx');
const lines = (text: string, part: string) => text.split('\n').filter((line) => line.includes(part)).length;

describe('nginx', { skip, concurrency: true }, () => {
  test('as mirror of a registry with tokens: serves all data, is left when it dies and found again', async () => {
    const dir = freshDir();
    const registry = await startRegistry(dir, 'token', REPO, BLOBS);
    putBlob(join(dir, 'blobs'));
    const mirror = await RealServer.nginx(
      join(dir, 'mirror'),
      `location /v2/${REPO}/blobs/ { if ($http_x_registry = "") { return 400; } alias ${dir}/blobs/; }
       location = /ping { return 200; }`,
    );
    const host = `http://${mirror.host}`;
    const settings = { ping_url: `${host}/ping`, headers: { 'X-Registry': registry.host }, failure_limit: 2 };
    const reader = new Reader('registry', {
      scheme: 'http',
      host: registry.host,
      repo: REPO,
      auth: registry.auth,
      mirrors: [{ host, health_check_interval: 1, ...settings }],
    });
    await reader.read(20);
    assert.equal(registry.tokens.length, 0, 'the registry was not asked at all');
    await mirror.kill();
    await reader.read(20);
    assert.equal(registry.tokens.length, 1);
    await mirror.start();
    const served = () => lines(mirror.log(), 'sha256:');
    for (let before = served(); served() === before; await sleep(200)) await reader.read(1);
    assert.equal(reader.store.stats.failedRequests, 0);
    await reader.close();
    await mirror.kill();
    await registry.close();
  });

  test('as mirror with other bytes: table and chunks are fetched anew from the registry itself', async () => {
    const dir = freshDir();
    const registry = await startRegistry(dir, 'none', REPO, BLOBS);
    const spoilt = [...BLOBS].map(([id, bytes]): [string, Buffer] => [
      id,
      Buffer.from(bytes.map((byte) => byte ^ 0x5a)),
    ]);
    putBlob(join(dir, 'blobs'), new Map(spoilt));
    const mirror = await RealServer.nginx(join(dir, 'mirror'), `location /v2/${REPO}/blobs/ { alias ${dir}/blobs/; }`);
    const mirrors = [{ host: `http://${mirror.host}` }];
    const reader = new Reader('registry', { scheme: 'http', host: registry.host, repo: REPO, mirrors });
    await reader.read(1);
    // The chunk table was the first to be wrong, and the registry is asked for some seconds after that.
    const asked = lines(mirror.log(), 'sha256:');
    assert.ok(asked > 0);
    await sleep(5_100);
    await reader.read(30);
    assert.ok(lines(mirror.log(), 'sha256:') > asked);
    assert.ok(reader.store.stats.badChunks > 0);
    await reader.close();
    await mirror.kill();
    await registry.close();
  });

  test('as TLS endpoint before a registry with basic authentication: private authority, strict unless told', async () => {
    const dir = freshDir();
    const registry = await startRegistry(dir, 'basic', REPO, BLOBS);
    const tls = makeCertificates(join(dir, 'tls'));
    const other = makeCertificates(join(dir, 'other'));
    const front = await RealServer.nginx(
      join(dir, 'front'),
      `ssl_certificate ${tls.certificate}; ssl_certificate_key ${tls.key};
       location / { proxy_pass http://${registry.host}; proxy_set_header Host $http_host; }`,
      'ssl',
    );
    const config = { host: front.host, repo: REPO, auth: registry.auth };
    for (const trust of [{ ca_cert_files: [other.ca, tls.ca] }, { skip_verify: true }]) {
      const reader = new Reader('registry', { ...config, ...trust });
      await reader.read(10);
      assert.equal(reader.store.stats.failedRequests, 0);
      await reader.close();
    }
    const wrongName = { host: front.host.replace('127.0.0.1', 'localhost'), ca_cert_files: [tls.ca] };
    for (const trust of [{}, { ca_cert_files: [other.ca] }, wrongName]) {
      const reader = new Reader('registry', { ...config, ...trust });
      await assert.rejects(reader.read(1), { code: 'HTTP_CONNECT' }, JSON.stringify(trust));
      await reader.close();
    }
    // Only the four names of trusted clients: none fell back to plain HTTP.
    assert.equal(lines(front.log(), '" 400 '), 0);
    await front.kill();
    await registry.close();
  });

  test('as target of signed links of 2 s: asked for anew when they have expired, without a failed request', async () => {
    const dir = freshDir();
    putBlob(join(dir, 'blobs'));
    const secret = 'l1nk-s3cret';
    const store = await RealServer.nginx(
      join(dir, 'store'),
      `location /store/ {
         secure_link $arg_md5,$arg_expires;
         secure_link_md5 "$secure_link_expires$uri ${secret}";
         if ($secure_link = "") { return 403; }
         if ($secure_link = "0") { return 403; }
         alias ${dir}/blobs/;
       }`,
    );
    let links = 0;
    const registry = createServer((request, response) => {
      links++;
      const uri = `/store/${(request.url ?? '').split('/').pop()}`;
      const expires = Math.floor(Date.now() / 1000) + 2;
      const md5 = createHash('md5').update(`${expires}${uri} ${secret}`).digest('base64url');
      const location = `http://${store.host}${uri}?md5=${md5}&expires=${expires}`;
      assert.equal(request.headers.authorization, 'Bearer for the registry alone');
      response.writeHead(307, { location }).end();
    });
    await new Promise<void>((resolve) => registry.listen(0, '127.0.0.1', resolve));
    const reader = new Reader('registry', {
      scheme: 'http',
      host: `127.0.0.1:${(registry.address() as AddressInfo).port}`,
      repo: REPO,
      registry_token: 'for the registry alone',
    });
    for (const end = Date.now() + 7_000; Date.now() < end; await sleep(100)) await reader.read(1);
    assert.ok(links >= 3 && links <= 5, `${links} links`);
    assert.equal(reader.store.stats.failedRequests, 0);
    assert.ok(lines(store.log(), '" 403 ') >= 2, 'links have expired');
    await reader.close();
    registry.close();
    await store.kill();
  });
});
