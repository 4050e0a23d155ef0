/** The built daemon's shared directory against the model of it; `npm run fuzz` does the same among its cases. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { Nydusd } from '../daemon/nydusd.ts';
import { compareWithModel } from './model.ts';
import type { Caller } from './model-guest.ts';

const RUNS = 1000;
/** What the daemon opens once and keeps is open after these. */
const WARM_UP_RUNS = 50;
/** Other tests share the machine. */
const ANSWER_MS = 20_000;

const notRoot = process.getuid?.() === 0 ? false : 'trusted xattrs and other owners need root';

test(`${RUNS} lists of calls agree with the model`, { timeout: 170_000, skip: notRoot }, async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'model-'));
  const daemon = await Nydusd.start();
  const seed = Number(process.env['MODEL_SEED'] ?? Math.floor(Math.random() * 2 ** 31));
  t.diagnostic(`MODEL_SEED=${seed}`);
  try {
    const answer = await daemon.mount('/share', { fs_type: 'passthrough_fs', source: dir, config: '' });
    assert.equal(answer.status, 204, answer.text);
    const client = new FuseClient(daemon.sock, { timeoutMs: ANSWER_MS });
    client.init();
    const caller: Caller = { call: (op, nodeid, body, replyBytes) => client.call(op, body, { nodeid, replyBytes }) };
    const descriptors = (): number => readdirSync(`/proc/${daemon.pid}/fd`).length;
    const share = client.walk('/share');
    compareWithModel(caller, share, dir, { seed, numRuns: WARM_UP_RUNS });
    const before = descriptors();
    compareWithModel(caller, share, dir, { seed, numRuns: RUNS });
    assert.ok(
      descriptors() <= before,
      `${before} descriptors before, ${descriptors()} when all is closed and forgotten`,
    );
    client.close();
  } finally {
    daemon.kill();
    rmSync(dir, { recursive: true, force: true });
  }
});
