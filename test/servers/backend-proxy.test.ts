/** Backend http-proxy against our own nydus-backend-proxy, over TCP and over a socket. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { createBlobServer } from '../../src/cli/nydus-backend-proxy.ts';
import { freshDir } from '../../src/storage/cache/cache.testing.ts';
import { BLOBS, Reader } from './image.ts';

for (const kind of ['TCP', 'a socket'] as const) {
  test(`http-proxy over ${kind}: by the path of a registry and by plain name`, async () => {
    const dir = freshDir();
    mkdirSync(join(dir, 'blobs'));
    for (const [id, bytes] of BLOBS) writeFileSync(join(dir, 'blobs', id), bytes);
    const server = createBlobServer(join(dir, 'blobs'));
    const socket = join(dir, 'proxy.sock');
    await new Promise<void>((resolve) => {
      if (kind === 'TCP') server.listen(0, '127.0.0.1', resolve);
      else server.listen(socket, resolve);
    });
    const bound = server.address();
    const addr = typeof bound === 'object' ? `http://127.0.0.1:${bound?.port}` : socket;
    const plain = new Reader('http-proxy', { addr });
    await plain.read(50);
    assert.equal(plain.store.stats.failedRequests, 0);
    await plain.close();
    if (kind === 'TCP') {
      const host = addr.replace('http://', '');
      const registry = new Reader('registry', { scheme: 'http', host, repo: 'team/app' });
      await registry.read(50);
      assert.equal(registry.store.stats.failedRequests, 0);
      await registry.close();
    }
    server.closeAllConnections();
    server.close();
  });
}
