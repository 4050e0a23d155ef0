/** Several processes and one cache directory: every chunk is fetched once, also when one of them is killed. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type BlobServer, freshDir, httpConfig, startBlobServer } from './cache/cache.testing.ts';
import { blobBytes, blobTable, expectedChunks } from './fixtures.testing.ts';
import type { ReaderTask } from './reader.testing.ts';
import { DEMAND_POLICY } from './retry.ts';
import type { StoreStats } from './stats.ts';

const IMAGE = 'v6-zstd-blake3';
const [INFO] = blobTable(IMAGE);
const CHUNKS = expectedChunks(INFO);
/** So that processes started one after another meet in the middle of the work. */
const ANSWER_MS = 15;

interface Reader {
  child: ChildProcess;
  stats: Promise<StoreStats>;
}

function startReader(
  workDir: string,
  server: BlobServer,
  name: string,
  more: Partial<ReaderTask> & { amplifyIo: number },
): Reader {
  const cache = { type: 'blobcache', config: { work_dir: workDir } };
  const backend = { type: 'http-proxy', config: { addr: server.url, path: name } };
  const config = { device: { backend, cache }, mode: 'direct', digest_validate: true, amplify_io: more.amplifyIo };
  const task: ReaderTask = { image: IMAGE, config: JSON.stringify(config), readers: 4, chunksPerRead: 3, ...more };
  const script = join(import.meta.dirname, 'reader.testing.ts');
  const child = spawn(process.execPath, ['--import', 'tsx', script, JSON.stringify(task)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout?.on('data', (data) => (text += data));
  const stats = once(child, 'exit').then(([code, signal]) => {
    assert.equal(code, 0, `reader ${name} ended with ${code ?? signal}`);
    return JSON.parse(text) as StoreStats;
  });
  stats.catch(() => {});
  return { child, stats };
}

/** How often each chunk was sent, and the chunk table under -1, to clients whose path is in `names`. */
function timesSent(server: BlobServer, names: string[]): Map<number, number> {
  const times = new Map<number, number>();
  const count = (index: number) => times.set(index, (times.get(index) ?? 0) + 1);
  for (const { path, first, last } of server.served) {
    if (!names.includes(path.split('/')[1])) continue;
    if (first === INFO.ciOffset) count(-1);
    for (const chunk of CHUNKS) {
      if (chunk.compressedOffset >= first && chunk.compressedOffset + chunk.compressedSize - 1 <= last)
        count(chunk.index);
    }
  }
  return times;
}

async function withServer(run: (server: BlobServer, workDir: string) => Promise<void>): Promise<void> {
  const server = await startBlobServer(new Map([[INFO.id, blobBytes(INFO.id)]]));
  server.onRequest = (send) => void setTimeout(send, ANSWER_MS);
  try {
    await run(server, freshDir());
  } finally {
    server.close();
  }
}

describe('processes that share a cache', () => {
  for (const amplifyIo of [0, 65536, 1 << 20]) {
    test(`three processes of four readers, amplify_io ${amplifyIo}: every chunk and the table once`, () =>
      withServer(async (server, workDir) => {
        const readers = ['a', 'b', 'c'].map((name) => startReader(workDir, server, name, { amplifyIo }));
        const stats = await Promise.all(readers.map((reader) => reader.stats));
        const times = timesSent(server, ['a', 'b', 'c']);
        assert.equal(times.get(-1), 1);
        for (const { index } of CHUNKS) assert.equal(times.get(index), 1, `chunk ${index}`);
        assert.equal(
          stats.reduce((sum, { chunksFetched }) => sum + chunksFetched, 0),
          CHUNKS.length,
        );
        const late = startReader(workDir, server, 'late', { amplifyIo });
        assert.equal((await late.stats).requests, 0, 'a later process fetches nothing');
      }));
  }

  test('one is killed in the middle: the other goes on at once, and refetches only what died with it', () =>
    withServer(async (server, workDir) => {
      const victim = startReader(workDir, server, 'victim', { amplifyIo: 0 });
      const untilVictimHas = async (chunks: number) => {
        while (timesSent(server, ['victim']).size < chunks) {
          assert.equal(victim.child.exitCode, null, 'the reader to be killed ended by itself');
          await sleep(5);
        }
      };
      // On a busy machine the other would do all the work before the victim begins.
      await untilVictimHas(10);
      const other = startReader(workDir, server, 'other', { amplifyIo: 0 });
      await untilVictimHas(40);
      // Stopped first: whatever it holds, it holds while the other wants it.
      victim.child.kill('SIGSTOP');
      await sleep(200);
      const killedAt = Date.now();
      victim.child.kill('SIGKILL');
      await other.stats;
      assert.ok(Date.now() - killedAt < 15_000);
      const ofVictim = timesSent(server, ['victim']);
      const all = timesSent(server, ['victim', 'other']);
      const twice = CHUNKS.filter(({ index }) => (all.get(index) ?? 0) > 1);
      for (const { index } of CHUNKS) assert.ok((all.get(index) ?? 0) >= 1 && (all.get(index) ?? 0) <= 2);
      for (const { index } of twice) assert.ok(ofVictim.has(index), `chunk ${index} was fetched twice by the survivor`);
      assert.ok(twice.length <= 24, `${twice.length} chunks fetched twice`);
    }));

  test('nobody waits for a chunk another process is at when only read-ahead wants it', () =>
    withServer(async (server, workDir) => {
      // Held for ever: the second process must not need it.
      const held = CHUNKS[200];
      server.onRequest = (send, _response, { first, path }) => {
        if (path.startsWith('/slow') && first === held.compressedOffset) return;
        setTimeout(send, ANSWER_MS);
      };
      const { BlobStore } = await import('./store.ts');
      const { SILENT } = await import('../common/log.ts');
      const { wantAll } = await import('./fixtures.testing.ts');
      const slow = new BlobStore(SILENT);
      const fast = new BlobStore(SILENT);
      const slowConfig = httpConfig(workDir, server.url, 'slow', { amplify_io: 0 });
      const slowHandle = slow.openBlob(INFO, () => null, slowConfig);
      const hung = slow.fetch(slowHandle.handle, wantAll([held]));
      hung.catch(() => {});
      while (!server.served.some(({ first }) => first === held.compressedOffset)) await sleep(5);
      const fastHandle = fast.openBlob(INFO, () => null, httpConfig(workDir, server.url, 'fast'));
      const started = Date.now();
      await fast.fetch(fastHandle.handle, wantAll([CHUNKS[199]]));
      assert.ok(Date.now() - started < DEMAND_POLICY.deadlineMs / 2, 'it waited for the chunk that is held');
      await slow.close();
      await fast.fetch(fastHandle.handle, wantAll([held]));
      await fast.close();
      assert.ok(existsSync(join(workDir, 'nydusd-ts', `${INFO.id}.blob.lock`)));
    }));
});
