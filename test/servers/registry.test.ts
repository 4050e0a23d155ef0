/** Debian's docker-registry with tokens of seconds, and with credentials that are wrong for a while. */
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { freshDir } from '../../src/storage/cache/cache.testing.ts';
import { registryMissing, startRegistry, type TestRegistry } from '../../src/storage/registry.testing.ts';
import { BLOBS, REPO, Reader } from './image.ts';

async function start(): Promise<TestRegistry> {
  const dir = freshDir();
  mkdirSync(dir, { recursive: true });
  return startRegistry(dir, 'token', REPO, BLOBS);
}

const reader = (registry: TestRegistry) =>
  new Reader('registry', { scheme: 'http', host: registry.host, repo: REPO, auth: registry.auth });

describe('a registry with tokens', { skip: registryMissing() ?? false, concurrency: true }, () => {
  test('of 5 s: renewed before they end, no request is refused', async () => {
    const registry = await start();
    registry.setTokenSeconds(5);
    const reading = reader(registry);
    for (const end = Date.now() + 9_000; Date.now() < end; await sleep(100)) await reading.read(1);
    // Half of their life after the other, and the first one at once.
    assert.ok(registry.tokens.length >= 3 && registry.tokens.length <= 6, `${registry.tokens.length} tokens`);
    assert.equal(reading.store.stats.failedRequests, 0);
    await reading.close();
    await registry.close();
  });

  test('that end sooner than they say: asked for anew on 401', async () => {
    const registry = await start();
    // The registry takes tokens for a minute longer than they live.
    registry.setTokenSeconds(-57, 600);
    const reading = reader(registry);
    await reading.read(1);
    await sleep(4_000);
    await reading.read(1);
    assert.equal(registry.tokens.length, 2);
    await reading.close();
    await registry.close();
  });

  test('whose token server refuses everybody for 10 s: reads fail, then heal by themselves', async () => {
    const registry = await start();
    registry.setTokenSeconds(-57, 2);
    const reading = reader(registry);
    await reading.read(1);
    registry.refuseAll(true);
    await sleep(4_000);
    for (const end = Date.now() + 6_000; Date.now() < end; await sleep(500)) {
      await assert.rejects(reading.read(1), { code: 'HTTP_AUTH' });
    }
    registry.refuseAll(false);
    await reading.read(20);
    await reading.close();
    await registry.close();
  });
});
