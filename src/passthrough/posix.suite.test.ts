/** The suite against the host's own file system: a case that fails here is wrong itself. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { POSIX_CASES, posixSuite } from './posix.suite.ts';

const place = mkdtempSync(join(tmpdir(), 'posix-suite-'));
after(() => rmSync(place, { recursive: true, force: true }));

posixSuite('host', () => place);

test('every case has a name of its own', () => {
  assert.equal(new Set(POSIX_CASES.map((c) => c.id)).size, POSIX_CASES.length);
  assert.ok(POSIX_CASES.length >= 60);
});
