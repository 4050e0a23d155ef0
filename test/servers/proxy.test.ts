/** tinyproxy between us and nginx: plain and through tunnels, with a password, killed while it carries data. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { freshDir } from '../../src/storage/cache/cache.testing.ts';
import { putBlob, Reader } from './image.ts';
import { type Certificates, makeCertificates, missing, RealServer } from './servers.ts';

describe('a forward proxy', { skip: missing('nginx', 'tinyproxy') }, () => {
  const dir = freshDir();
  let tls: Certificates;
  let plain: RealServer;
  let secure: RealServer;
  let proxy: RealServer;

  before(async () => {
    putBlob(join(dir, 'blobs'));
    tls = makeCertificates(join(dir, 'tls'));
    // Slow enough to be in the middle of something when the proxy dies.
    const files = `limit_rate 60k; location /blobs/ { alias ${dir}/blobs/sha256:; }`;
    plain = await RealServer.nginx(join(dir, 'plain'), files);
    const keys = `ssl_certificate ${tls.certificate}; ssl_certificate_key ${tls.key};`;
    secure = await RealServer.nginx(join(dir, 'secure'), keys + files, 'ssl');
    proxy = await RealServer.tinyproxy(join(dir, 'proxy'));
  });
  after(async () => {
    for (const server of [plain, secure, proxy]) await server.kill();
  });

  const read = (scheme: 'http' | 'https', more: object) => {
    const addr = scheme === 'http' ? `http://${plain.host}` : `https://${secure.host}`;
    return new Reader('http-proxy', { addr, path: '/blobs', ca_cert_files: [tls.ca], ...more });
  };

  for (const scheme of ['http', 'https'] as const) {
    test(`${scheme} goes through it`, async () => {
      const reader = read(scheme, { proxy: { url: `http://${proxy.host}`, fallback: false } });
      await reader.read(20);
      assert.equal(reader.store.stats.failedRequests, 0);
      const method = scheme === 'http' ? 'GET http://' : 'CONNECT 127';
      assert.ok(proxy.log().includes(method), proxy.log());
      await reader.close();
    });
    for (const fallback of [true, false]) {
      test(`${scheme}, fallback ${fallback}: killed in the middle of reads and started again, no read fails`, async () => {
        const reader = read(scheme, { proxy: { url: `http://${proxy.host}`, fallback } });
        await reader.read(2);
        let isRead = false;
        const reading = reader.read(60).finally(() => {
          isRead = true;
        });
        await sleep(150);
        await proxy.kill();
        assert.equal(isRead, false);
        if (!fallback) await proxy.start();
        await reading;
        if (!fallback) assert.ok(reader.store.stats.failedRequests > 0, 'requests were under way');
        if (fallback) {
          await reader.read(10);
          await proxy.start();
        }
        await reader.read(10);
        await reader.close();
      });
    }
  }

  test('wants a password', async () => {
    const locked = await RealServer.tinyproxy(join(dir, 'locked'), 'me hunter2');
    for (const scheme of ['http', 'https'] as const) {
      const known = read(scheme, { proxy: { url: `http://me:hunter2@${locked.host}`, fallback: false } });
      await known.read(5);
      assert.equal(known.store.stats.failedRequests, 0);
      await known.close();
      const stranger = read(scheme, { proxy: { url: `http://me:wrong@${locked.host}`, fallback: false } });
      await assert.rejects(
        stranger.read(1),
        (error: Error) => !error.message.includes('wrong@') && /40[17]/.test(error.message),
      );
      await stranger.close();
    }
    await locked.kill();
  });
});
