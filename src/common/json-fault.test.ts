import assert from 'node:assert/strict';
import { test } from 'node:test';
import { jsonFault } from './json-fault.ts';

function faultOf(text: string) {
  try {
    JSON.parse(text);
  } catch (error) {
    return jsonFault(text, error);
  }
  return assert.fail('it is JSON');
}

test('line and column of a fault', () => {
  const fault = faultOf('{\n  "a": 1\n  "b": 2\n}');
  assert.deepEqual({ line: fault.line, column: fault.column }, { line: 3, column: 3 });
  assert.match(fault.reason, /^Expected ',' or '}'/);
});

test('nothing of the text is quoted but one character', () => {
  const secret = 'c2VjcmV0';
  for (const text of [
    `{"auth":"${secret}"x`,
    `{"auth":"${secret}",}`,
    `${secret}`,
    `{"auth":${secret}}`,
    `"${secret}`,
  ]) {
    const { reason } = faultOf(text);
    assert.ok(!/[0-9A-Za-z+/]{5,}"|ecmV0/.test(reason), reason);
    assert.ok(reason.length > 0 && reason.length < 80, reason);
  }
});
