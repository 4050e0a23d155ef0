/** Every image of the fixtures, made by upstream's builder, shows exactly its expected tree. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { GUEST_KINDS } from './assets.ts';
import { assertSame, expectedTree, IMAGE_FIELDS } from './compare.ts';
import { rafsConfig, withDaemon } from './daemon.ts';
import { type FixtureCase, fixtureCases } from './fixture-cases.ts';
import { guestTest, runGuest } from './guest.ts';
import { MOUNT_SHARE, script } from './in-guest.ts';
import { guestManifest } from './manifest.ts';

const CASE_TIMEOUT_MS = 120_000;

/** Chunk digests are checked on one kind of guest (and over /dev/fuse, `host.test.ts`), taken on trust on the other. */
const VALIDATES = { qemu: true, uml: false } as const;
/** QEMU's default; the other tests use Kata's 1024. Long requests then need most of a ring. */
const QUEUE_SIZE = 128;

const scratch = mkdtempSync(join(tmpdir(), 'nydus-fixtures-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

const cases = fixtureCases();

const configFor = (entry: FixtureCase, run: string, validate: boolean): object =>
  rafsConfig(entry.backend, join(scratch, run, entry.name), validate);

test('the fixtures cover what they should', () => {
  assert.ok(cases.length >= 30, `only ${cases.map((entry) => entry.name).join()} are checked`);
});

guestTest('images equal their trees', GUEST_KINDS, async (kind) => {
  const validate = VALIDATES[kind];
  await withDaemon(async (daemon) => {
    for (const entry of cases) {
      await daemon.mountImage(`/rafs/${entry.name}/lowerdir`, entry.bootstrap, configFor(entry, kind, validate));
    }
    const { data } = await runGuest({
      kind,
      socket: daemon.sock,
      queueSize: QUEUE_SIZE,
      caseTimeoutMs: CASE_TIMEOUT_MS,
      script: script(
        MOUNT_SHARE,
        ...cases.map(({ name }) => ({ name, run: `manifest ${name} /share/rafs/${name}/lowerdir` })),
      ),
    });
    for (const { name, expect } of cases) {
      assertSame(expectedTree(expect), guestManifest(data, name), IMAGE_FIELDS, `${name}, validation ${validate}`);
    }
  });
});
