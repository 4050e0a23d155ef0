import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { askInTime, demandAnswer } from './file-systems.ts';

/** Asks what lies at `at` a question that `answer` answers. */
function dead(at: string, limitMs = 20) {
  let answer = () => {};
  let isAsked = false;
  const question = () => {
    isAsked = true;
    return new Promise<void>((resolve) => {
      answer = resolve;
    });
  };
  const asking = askInTime(at, `${at}/source`, question, limitMs);
  return { asking, isAsked: () => isAsked, answer: () => answer() };
}

const nextTurn = () => new Promise(setImmediate);

test('what answers is waited for, what it throws is thrown', async () => {
  assert.equal(await askInTime('/', '/a', async () => 5), 5);
  await assert.rejects(
    askInTime('/', '/a', () => Promise.reject(new Error('no'))),
    /^Error: no$/,
  );
  assert.equal(await askInTime('/', '/a', async () => 6), 6);
});

test('a file system that hangs is not asked again until it answers, others are', async () => {
  const first = dead('/nfs');
  await assert.rejects(
    first.asking,
    /SOURCE_HANGS: \/nfs\/source does not answer within 0\.02 s; is what is mounted at \/nfs alive/,
  );
  const second = dead('/nfs');
  await assert.rejects(second.asking, /SOURCE_HANGS: \/nfs\/source is not looked at while what is mounted at \/nfs /);
  assert.ok(!second.isAsked());
  assert.equal(await askInTime('/', '/a', async () => 'well'), 'well');
  first.answer();
  await nextTurn();
  assert.equal(await askInTime('/nfs', '/nfs/a', async () => 'well'), 'well');
});

test('of one file system one question is out at a time; who waits for its answer takes no thread', async () => {
  const first = dead('/nfs', 10_000);
  const second = dead('/nfs', 20);
  await assert.rejects(second.asking, /\/nfs\/source does not answer within 0\.02 s/);
  assert.ok(!second.isAsked());
  const third = dead('/nfs', 10_000);
  first.answer();
  await first.asking;
  await nextTurn();
  assert.ok(third.isAsked());
  third.answer();
  await third.asking;
});

test('while three hang no fourth is asked: a thread is left for data', async () => {
  const all = ['/a', '/b', '/c'].map((at) => dead(at));
  for (const { asking } of all) await assert.rejects(asking, /does not answer within/);
  const fourth = dead('/d');
  await assert.rejects(fourth.asking, /\/d\/source is not looked at while what is mounted at \/a, \/b, \/c /);
  assert.ok(!fourth.isAsked());
  all[1]!.answer();
  await nextTurn();
  assert.equal(await askInTime('/d', '/d/a', async () => 'well'), 'well');
  for (const { answer } of all) answer();
  await nextTurn();
});

test('a source that is missing, a directory, a device or a loop is somebody else’s matter', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'file-systems-'));
  try {
    symlinkSync('loop', join(dir, 'loop'));
    symlinkSync('../..//dev/./null', join(dir, 'relative'));
    const paths = ['/nonexistent', '/', '/dev/null', 'a\0b', `/${'n'.repeat(5000)}`, 'package.json/x'];
    for (const path of [...paths, join(dir, 'loop'), join(dir, 'relative')]) await demandAnswer(path);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
