import assert from 'node:assert/strict';
import { test } from 'node:test';
import { demandAnswer, inTime } from './source.ts';

test('what answers is waited for, what it throws is thrown', async () => {
  assert.equal(await inTime('/a', async () => 5), 5);
  await assert.rejects(
    inTime('/a', () => Promise.reject(new Error('no'))),
    /^Error: no$/,
  );
});

test('of those that hang two are waited for, the third is refused at once, until one answers', async () => {
  const answers: (() => void)[] = [];
  const hang = () =>
    inTime(
      '/dead',
      () =>
        new Promise<void>((resolve) => {
          answers.push(resolve);
        }),
      20,
    );
  await assert.rejects(hang(), /SOURCE_HANGS: \/dead does not answer within 0\.02 s/);
  await assert.rejects(hang(), /does not answer/);
  await assert.rejects(hang(), /SOURCE_HANGS: \/dead is not looked at/);
  assert.equal(answers.length, 2);
  answers[0]!();
  await new Promise(setImmediate);
  assert.equal(await inTime('/a', async () => 'well'), 'well');
  answers[1]!();
});

test('a source that is missing, a directory or a device is somebody else’s matter', async () => {
  for (const path of ['/nonexistent', '/', '/dev/null', 'a\0b']) await demandAnswer(path);
});
