import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { storageError } from './errors.ts';
import { pauseBefore, type RetryPolicy, withRetry } from './retry.ts';

const FAST: RetryPolicy = { attempts: 4, delayMs: 5, factor: 2, delayMaxMs: 15, jitter: 0.5, deadlineMs: 400 };
const never = new AbortController().signal;
const busy = (retryAfterMs = 0) => storageError('HTTP_BUSY', { target: 'x', status: 503, retryAfterMs });
const missing = () => storageError('BLOB_NOT_FOUND', { blobId: 'b', where: 'x' });

/** Fails with `errors` one after another, then succeeds. */
function failing(...errors: Error[]): { run: () => Promise<string>; calls: () => number } {
  let calls = 0;
  return {
    run: async () => {
      const error = errors[calls++];
      if (error !== undefined) throw error;
      return 'done';
    },
    calls: () => calls,
  };
}

test('retryable errors are tried again, up to the limit', async () => {
  const three = failing(busy(), busy(), busy());
  assert.equal(await withRetry(FAST, 'x', never, three.run), 'done');
  assert.equal(three.calls(), 4);
  const four = failing(busy(), busy(), busy(), busy());
  await assert.rejects(withRetry(FAST, 'x', never, four.run), { code: 'HTTP_BUSY' });
  assert.equal(four.calls(), 4);
});

test('what cannot get better fails at once', async () => {
  for (const error of [missing(), new TypeError('bug')]) {
    const once = failing(error);
    await assert.rejects(withRetry(FAST, 'x', never, once.run), error);
    assert.equal(once.calls(), 1);
  }
});

describe('deadline', () => {
  test('an attempt that hangs is aborted, and the error before it is the cause', async () => {
    let calls = 0;
    const hang = (signal: AbortSignal) =>
      new Promise<never>((_, reject) => {
        if (calls++ === 0) reject(busy());
        else signal.addEventListener('abort', () => reject(signal.reason));
      });
    const started = Date.now();
    await assert.rejects(withRetry(FAST, 'blob x', never, hang), (error: Error & { code: string }) => {
      assert.equal(error.code, 'DEADLINE');
      assert.equal((error.cause as { code: string }).code, 'HTTP_BUSY');
      assert.match(error.message, /blob x/);
      return true;
    });
    assert.ok(Date.now() - started < 2000);
  });
  test('a pause longer than the deadline ends with it', async () => {
    await assert.rejects(withRetry(FAST, 'x', never, failing(busy(9_000)).run), { code: 'DEADLINE' });
  });
});

test("the caller's signal ends attempt and pause with its reason", async () => {
  for (const attempt of [failing(busy(5_000)).run, () => new Promise<never>(() => {})]) {
    const controller = new AbortController();
    const reason = storageError('CLOSED', { blobId: 'b' });
    setTimeout(() => controller.abort(reason), 20);
    const abortable = (signal: AbortSignal) =>
      Promise.race([
        attempt(),
        new Promise<never>((_, no) => signal.addEventListener('abort', () => no(signal.reason))),
      ]);
    await assert.rejects(withRetry(FAST, 'x', controller.signal, abortable), reason);
  }
  await assert.rejects(withRetry(FAST, 'x', AbortSignal.abort(new Error('early')), failing().run), /early/);
});

test('pauses grow, are jittered downwards, and never undercut Retry-After', () => {
  const policy = { ...FAST, delayMs: 100, factor: 3, delayMaxMs: 2_000 };
  const most = [1, 2, 3, 4, 5].map((tries) => pauseBefore(policy, tries, busy(), () => 0));
  assert.deepEqual(most, [100, 300, 900, 2000, 2000]);
  assert.equal(
    pauseBefore(policy, 1, busy(), () => 1),
    50,
  );
  assert.equal(
    pauseBefore(policy, 1, busy(700), () => 0),
    700,
  );
  assert.equal(
    pauseBefore(policy, 1, busy(86_400_000), () => 0),
    10_000,
  );
});
