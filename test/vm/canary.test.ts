/**
 * The harness must be able to fail: every way a guest or its contents can be wrong is planted here and has to be seen.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { codeOf } from '../../src/common/app-error.ts';
import { GUEST_KINDS, skipUnless } from './assets.ts';
import { assertSame, type Field } from './compare.ts';
import { rafsConfig, withDaemon } from './daemon.ts';
import { guestTest, runGuest } from './guest.ts';
import { buildImage } from './image.ts';
import { MOUNT_SHARE, script } from './in-guest.ts';
import { guestManifest, hostManifest } from './manifest.ts';
import { makeSampleTree, sampleBytes } from './sample-tree.ts';

const FIELDS: readonly Field[] = ['type', 'size', 'sha256'];
const scratch = mkdtempSync(join(tmpdir(), 'nydus-canary-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

function plantedTree(): Record<string, string> {
  return { 'tree/same': 'same', 'tree/bytes': 'abcdefgh', 'tree/sub/gone': 'here', 'tree/sub/stays': 'x' };
}

guestTest('a wrong byte and a missing file are found, an equal tree passes', GUEST_KINDS, async (kind) => {
  const onHost = join(scratch, kind);
  for (const [path, content] of Object.entries(plantedTree())) {
    mkdirSync(join(onHost, path, '..'), { recursive: true });
    writeFileSync(join(onHost, path), content);
  }
  const expected = await hostManifest(join(onHost, 'tree'));
  const { data } = await runGuest({
    kind,
    socket: null,
    script: {
      boots: [
        [
          { name: 'equal', run: 'manifest equal /tree' },
          { name: 'wrong byte', run: 'printf abcdeFgh >/tree/bytes; manifest wrong /tree' },
          { name: 'missing', run: 'printf abcdefgh >/tree/bytes; rm /tree/sub/gone; manifest missing /tree' },
        ],
      ],
      files: plantedTree(),
    },
  });
  assertSame(expected, guestManifest(data, 'equal'), FIELDS, 'equal tree');
  assert.throws(() => assertSame(expected, guestManifest(data, 'wrong'), FIELDS, 'wrong'), /\/bytes: sha256 is/);
  assert.throws(() => assertSame(expected, guestManifest(data, 'missing'), FIELDS, 'missing'), /\/sub\/gone: missing/);
});

guestTest(
  'a wrong byte in the cache and a file gone from the share are found through the device',
  ['uml'],
  async (kind) => {
    const source = join(scratch, 'source');
    makeSampleTree(source, 20);
    const expected = await hostManifest(source);
    const image = buildImage(source, join(scratch, 'image'), 'lz4_block');
    const cache = join(scratch, 'cache');
    await withDaemon(async (daemon) => {
      await daemon.mountShare('/containers', source);
      const config = rafsConfig({ type: 'localfs', dir: image.blobDir }, cache, false);
      await daemon.mountImage('/rafs/app/lowerdir', image.bootstrap, config);
      const lists = { name: 'lists', run: 'manifest image /share/rafs/app/lowerdir; manifest share /share/containers' };
      const listed = async (): Promise<ReadonlyMap<string, Buffer>> =>
        (await runGuest({ kind, socket: daemon.sock, script: script(MOUNT_SHARE, lists) })).data;
      const before = await listed();
      assertSame(expected, guestManifest(before, 'image'), FIELDS, 'image as built');
      assertSame(expected, guestManifest(before, 'share'), FIELDS, 'share as made');
      flipByteOf(sampleBytes(4097, 4097), cache);
      rmSync(join(source, 'many/0/file-7'));
      const planted = await listed();
      const image2 = (): void => assertSame(expected, guestManifest(planted, 'image'), FIELDS, 'image');
      assert.throws(image2, /1 differences in .*\n\/contents\/size-4097: sha256 is/);
      const share2 = (): void => assertSame(expected, guestManifest(planted, 'share'), FIELDS, 'share');
      assert.throws(share2, /1 differences in .*\n\/many\/0\/file-7: missing/);
    });
  },
);

/** Changes one byte of `content` in the cache's data file. */
function flipByteOf(content: Buffer, cache: string): void {
  const path = join(cache, readdirSync(cache).find((name) => name.endsWith('.blob.data')) ?? assert.fail('no cache'));
  const bytes = readFileSync(path);
  const at = bytes.indexOf(content);
  assert.ok(at >= 0, 'the content is in the cache');
  bytes[at + 100]! ^= 1;
  writeFileSync(path, bytes);
}

guestTest('a panic fails the run', GUEST_KINDS, async (kind) => {
  const crash = script({ name: 'panic', run: 'echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 30' });
  await assert.rejects(runGuest({ kind, socket: null, script: crash }), (error: Error) => {
    assert.equal(codeOf(error), 'VM_PANIC');
    assert.match(error.message, /sysrq/i, 'the end of the console is shown');
    return true;
  });
});

guestTest('a guest that goes away before its last case fails the run', GUEST_KINDS, async (kind) => {
  const early = script({ name: 'off', run: 'poweroff -f' }, { name: 'never', run: 'true' });
  await assert.rejects(runGuest({ kind, socket: null, script: early }), { code: 'VM_EXIT' });
});

guestTest('a guest that claims to be done too early fails the run', GUEST_KINDS, async (kind) => {
  const liar = script({ name: 'lie', run: "printf 'done 2\\n' >&3; sleep 5" }, { name: 'never', run: 'true' });
  await assert.rejects(runGuest({ kind, socket: null, script: liar }), { code: 'VM_EXIT' });
});

guestTest('a case that hangs fails the run', GUEST_KINDS, async (kind) => {
  const hang = script({ name: 'hang', run: 'sleep 100' });
  await assert.rejects(runGuest({ kind, socket: null, script: hang, caseTimeoutMs: 1500 }), { code: 'VM_TIMEOUT' });
});

guestTest('a case that fails is named with its output', GUEST_KINDS, async (kind) => {
  const bad = script(
    { name: 'good', run: 'true' },
    { name: 'bad', run: 'echo why it failed; false; echo not reached' },
  );
  await assert.rejects(runGuest({ kind, socket: null, script: bad }), (error: Error) => {
    assert.equal(codeOf(error), 'VM_CASE');
    assert.match(error.message, /case "bad":\nexit status 1\nwhy it failed\n/);
    assert.doesNotMatch(error.message, /not reached/);
    return true;
  });
});

guestTest('a guest dies with its test process', GUEST_KINDS, async (kind) => {
  const source = fileURLToPath(new URL('./guest.ts', import.meta.url));
  const inGuest = fileURLToPath(new URL('./in-guest.ts', import.meta.url));
  const program = `
    const { runGuest } = await import(${JSON.stringify(source)});
    const { script } = await import(${JSON.stringify(inGuest)});
    await runGuest({ kind: ${JSON.stringify(kind)}, socket: null, tag: 'orphan-canary',
      script: script({ name: 'up', run: 'ask up; sleep 100' }), answer: () => { console.log('up'); return 'ok'; } });`;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program], {
    env: { ...process.env, TMPDIR: scratch },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await new Promise((resolve) => child.stdout.once('data', resolve));
  assert.notDeepEqual(processesNaming(scratch), [], 'the guest runs');
  child.kill('SIGKILL');
  for (let round = 0; processesNaming(scratch).length > 0 && round < 50; round++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.deepEqual(processesNaming(scratch), []);
});

test('a missing part skips with its reason, and fails in CI', async () => {
  const { PATH, CI, VM_FILTER } = process.env;
  try {
    process.env['PATH'] = scratch;
    delete process.env['CI'];
    delete process.env['VM_FILTER'];
    assert.match(String(skipUnless('uml', 'any')), /busybox|find|setpriv|unshare/);
    process.env['CI'] = 'true';
    assert.equal(skipUnless('uml', 'any'), false);
    const any = script({ name: 'any', run: 'true' });
    await assert.rejects(runGuest({ kind: 'uml', socket: null, script: any }), { code: 'VM_PART_MISSING' });
  } finally {
    for (const [name, value] of Object.entries({ PATH, CI, VM_FILTER })) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
});

/** Processes whose command line contains `text`. */
function processesNaming(text: string): string[] {
  return readdirSync('/proc').filter((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid) return false;
    try {
      return readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(text);
    } catch {
      return false;
    }
  });
}
