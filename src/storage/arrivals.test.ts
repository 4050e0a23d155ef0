/** What a reader gets of a range while it arrives, and what is brought before the first reader comes. */
import assert from 'node:assert/strict';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { SILENT } from '../common/log.ts';
import { assertCached, freshDir, httpConfig, isReady } from './cache/cache.testing.ts';
import { expectedChunks, makeBlob, wantAll } from './fixtures.testing.ts';
import { DEMAND_POLICY } from './retry.ts';
import { BlobStore } from './store.ts';

const CHUNK_BYTES = 16 << 10;
const COUNT = 64;
const MADE = makeBlob(
  Array.from({ length: COUNT }, (_, i) => Buffer.alloc(CHUNK_BYTES, i + 1)),
  { compressor: 'none', crc: true },
);
const CHUNKS = expectedChunks(MADE.info, MADE.file);
/** Chunks of a range that arrive before it stalls. */
const SENT = 8;
const PATIENCE_MS = 3_000;

let server: Server;
let url = '';
let asked: [number, number][] = [];
/** Answers of long ranges that wait to go on. */
let stalled: (() => void)[] = [];
let refuse: ((reply: ServerResponse) => boolean) | null = null;

before(async () => {
  server = createServer((call, reply) => {
    const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(call.headers.range ?? '')!.map(Number);
    asked.push([from, to - from + 1]);
    if (refuse?.(reply) === true) return;
    const range = `bytes ${from}-${to}/${MADE.file.length}`;
    reply.writeHead(206, { 'content-length': to - from + 1, 'content-range': range });
    const now = Math.min(to + 1, from + SENT * CHUNK_BYTES);
    reply.write(MADE.file.subarray(from, now));
    if (now === to + 1) reply.end();
    else stalled.push(() => reply.end(MADE.file.subarray(now, to + 1)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
after(() => server.close());
beforeEach(() => {
  asked = [];
  stalled = [];
  refuse = null;
});

const goOn = () => {
  for (const go of stalled.splice(0)) go();
};

function open(options: object = {}, policy = DEMAND_POLICY) {
  const store = new BlobStore(SILENT, policy);
  const config = httpConfig(freshDir(), url, 'b', { amplify_io: 1 << 20, ...options });
  return { store, handle: store.openBlob(MADE.info, MADE.digests, config) };
}

async function within(work: Promise<unknown>, what: string): Promise<void> {
  const late = sleep(PATIENCE_MS, 'late', { ref: false });
  assert.notEqual(await Promise.race([work, late]), 'late', what);
}

describe('a range that stalls behind its first chunks', () => {
  test('the reader of the first has it at once; who comes for another that has arrived, too; the rest comes with the rest', async () => {
    const { store, handle } = open();
    await within(store.fetch(handle.handle, wantAll([CHUNKS[0]])), 'the wanted chunk waits for its window');
    assert.equal(stalled.length, 1);
    await within(store.fetch(handle.handle, wantAll([CHUNKS[SENT - 2]])), 'a chunk that has arrived waits for company');
    const far = store.fetch(handle.handle, wantAll([CHUNKS[SENT + 3]]));
    await sleep(20);
    assert.ok(!isReady(handle, SENT + 3));
    goOn();
    await far;
    assertCached(handle, CHUNKS[SENT + 3]);
    const all = CHUNKS.slice(0, SENT + 4);
    await store.fetch(handle.handle, wantAll(all));
    assert.equal(asked.length, 2, 'table and range');
    for (const chunk of all) assertCached(handle, chunk);
    await store.close();
  });

  test('it breaks off: what has arrived is kept, the rest is asked for again', async () => {
    const { store, handle } = open({}, { ...DEMAND_POLICY, attempts: 1 });
    refuse = (reply) => {
      if (asked.length !== 2) return false;
      const [from, bytes] = asked[1];
      reply.writeHead(206, {
        'content-length': bytes,
        'content-range': `bytes ${from}-${from + bytes - 1}/${MADE.file.length}`,
      });
      reply.write(MADE.file.subarray(from, from + SENT * CHUNK_BYTES), () => reply.destroy());
      return true;
    };
    await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
    while (store.stats.failedRequests === 0) await sleep(5);
    await within(store.fetch(handle.handle, wantAll([CHUNKS[SENT - 1]])), 'it was not kept');
    assert.equal(asked.length, 2);
    // Who comes while the range is failing shares its error.
    const rest = () => store.fetch(handle.handle, wantAll([CHUNKS[SENT]]));
    await within(rest().catch(rest), 'it is not asked for again');
    assert.equal(asked.length, 3);
    await store.close();
  });
});

test('read-ahead of a reader who found his chunk there after all', async () => {
  const { store, handle } = open({ amplify_io: 1 });
  await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
  const [here, ahead] = wantAll([CHUNKS[0], CHUNKS[5]]);
  await store.fetch(handle.handle, [here, { ...ahead, isAhead: true }]);
  while (asked.length < 3) await sleep(5);
  assert.deepEqual(asked[2], [CHUNKS[5].compressedOffset, CHUNK_BYTES]);
  await store.fetch(handle.handle, wantAll([CHUNKS[5]]));
  assert.equal(asked.length, 3);
  await store.close();
});

describe('an image that was mounted', () => {
  test('the chunk table comes before the first reader, once', async () => {
    const { store, handle } = open({ amplify_io: 0 });
    store.prepare(handle.handle);
    store.prepare(handle.handle);
    while (store.stats.fetchedBytes === 0) await sleep(5);
    assert.equal(asked.length, 1);
    await store.fetch(handle.handle, wantAll([CHUNKS[3]]));
    assert.deepEqual(asked.at(-1), [CHUNKS[3].compressedOffset, CHUNK_BYTES]);
    assert.equal(asked.length, 2);
    await store.close();
  });

  test('a server that refuses the table then: the first reader has all his tries', async () => {
    const { store, handle } = open({ amplify_io: 0 }, { ...DEMAND_POLICY, delayMs: 1 });
    refuse = (reply) => {
      if (asked.length > 3) return false;
      reply.writeHead(503).end();
      return true;
    };
    store.prepare(handle.handle);
    await store.fetch(handle.handle, wantAll([CHUNKS[0]]));
    assert.equal(asked.length, 5, 'ahead, twice in vain, table, chunk');
    await store.close();
  });

  test('closed while the table comes', async () => {
    const { store, handle } = open();
    refuse = () => true;
    store.prepare(handle.handle);
    while (asked.length === 0) await sleep(5);
    store.closeBlob(handle.handle);
    await within(store.close(), 'it waits for the table');
  });
});
