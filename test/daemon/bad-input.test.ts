/**
 * Bad input through the front door: blobs that are not what they should be, configurations that are none, odd cache
 * directories, odd prefetch lists. Each is an error for the mount or the read with a line that says what is wrong, and the
 * daemon goes on. Broken images are in `test/formats/rules.test.ts`, full and read-only caches in `reads.test.ts`.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { errno } from '../../src/sys/errno.ts';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { BLOBS, failure } from './fault-helpers.ts';
import { FIXTURES, localfsConfig, NYDUSD, Nydusd } from './nydusd.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'bad-input-'));
after(() => rmSync(ROOT, { recursive: true, force: true }));

const IMAGE = 'v6-zstd-blake3-4k';
const BOOTSTRAP = join(FIXTURES, `images/boot/${IMAGE}.boot`);
const BLOB_ID = '34b9be62e059c1af1c0de0ce3ca459c69da3179413173c53bf03097a5b5c874f';
const OTHER_ID = '299768cf69ae89a3f6acf5acc23dbf3a8e81b6bc0f40d7f32ba182823547ddb9';
const WHOLE = readFileSync(join(BLOBS, BLOB_ID));
const FILE = '/big/multi-chunk';
const SHA256 = (
  JSON.parse(readFileSync(join(FIXTURES, 'images/expect/small.json'), 'utf8')) as { path: string; sha256: string }[]
).find(({ path }) => path === FILE)!.sha256;

let daemon: Nydusd;
let client: FuseClient;
let runs = 0;
before(async () => {
  daemon = await Nydusd.start();
  client = new FuseClient(daemon.sock, { timeoutMs: 30_000 });
  client.init();
});
after(() => {
  client.close();
  daemon.kill();
});
afterEach(async () => {
  assert.equal((await daemon.info()).state, 'RUNNING');
  assert.equal(daemon.child.exitCode, null);
});

const freshDir = (name: string): string => mkdtempSync(join(ROOT, `${name}-`));
const mount = (at: string, config: unknown, more: object = {}) =>
  daemon.mount(at, {
    fs_type: 'rafs',
    source: BOOTSTRAP,
    config: typeof config === 'string' ? config : JSON.stringify(config),
    ...more,
  });
const umount = async (at: string): Promise<void> =>
  assert.equal((await daemon.request('DELETE', `/api/v1/mount?mountpoint=${at}`)).status, 204);

function assertContent(at: string): void {
  assert.equal(
    createHash('sha256')
      .update(client.readFile(`${at}${FILE}`))
      .digest('hex'),
    SHA256,
  );
}

function firstRead(at: string): number {
  const node = client.walk(`${at}${FILE}`);
  const fh = client.open(node) as bigint;
  return client.read(node, fh, 0, 4096).error;
}

describe('a blob that is', () => {
  const bad: [what: string, bytes: Buffer | null, say: RegExp][] = [
    ['missing', null, new RegExp(`blob ${BLOB_ID} does not exist`)],
    ['empty', Buffer.alloc(0), /ends early|BLOB_SHORT/],
    ['shorter', WHOLE.subarray(0, WHOLE.length >> 1), /ends early|BLOB_SHORT/],
    ["another image's", readFileSync(join(BLOBS, OTHER_ID)), /chunk table of blob|ends early/],
    ['zeros', Buffer.alloc(WHOLE.length), /chunk table of blob .* is invalid/],
    ['a directory', null, /EISDIR|not a regular file|does not exist|cannot be read/],
  ];
  for (const [what, bytes, say] of bad) {
    test(`${what}: EIO and a line, and right bytes once it is mended`, async () => {
      const blobs = freshDir('blobs');
      const path = join(blobs, BLOB_ID);
      if (bytes !== null) writeFileSync(path, bytes);
      else if (what === 'a directory') mkdirSync(path);
      const at = `/blob${runs++}`;
      const config = { ...localfsConfig(blobs, freshDir('cache')), digest_validate: true };
      assert.equal((await mount(at, config)).status, 204);
      assert.equal(firstRead(at), -errno.EIO);
      await daemon.printed(say);
      // As a download ends: another file takes the name.
      if (what === 'a directory') rmSync(path, { recursive: true });
      writeFileSync(`${path}.new`, WHOLE);
      renameSync(`${path}.new`, path);
      assertContent(at);
      await umount(at);
    });
  }
  test('longer: served', async () => {
    const blobs = freshDir('blobs');
    writeFileSync(join(blobs, BLOB_ID), Buffer.concat([WHOLE, Buffer.alloc(50_000, 1)]));
    assert.equal((await mount('/longer', localfsConfig(blobs, freshDir('cache')))).status, 204);
    assertContent('/longer');
    await umount('/longer');
  });
});

describe('a configuration that is', () => {
  const backend = (type: string, config: object) => ({ device: { backend: { type, config } }, mode: 'direct' });
  const texts: [what: string, text: unknown, say: RegExp][] = [
    ['empty', '', /configuration member \(whole text\): empty/],
    ['binary', Buffer.from([0, 1, 0x80, 0xff, 0xfe, 7]).toString('latin1'), /neither JSON.* nor TOML/s],
    ['2 MiB of TOML', `version = 2\n${'#'.repeat(2 << 20)}`, /nor TOML of at most 1 MiB/],
    ['without device', { mode: 'direct' }, /device: is required/],
    ['without mode', { device: { backend: { type: 'localfs', config: { dir: BLOBS } } } }, /mode: must be one of/],
    ['localfs without dir', backend('localfs', {}), /device\.backend\.config\.dir: this or blob_file must be given/],
    ['localdisk without device_path', backend('localdisk', {}), /device_path: is required/],
    ['registry without host', backend('registry', { repo: 'a/b' }), /host: is required/],
    ['registry without repo', backend('registry', { host: 'h' }), /repo: is required/],
    ['oss without endpoint', backend('oss', { bucket_name: 'b' }), /endpoint: is required/],
    ['oss without bucket', backend('oss', { endpoint: 'e' }), /bucket_name: is required/],
    ['s3 without region', backend('s3', { endpoint: '', bucket_name: 'b' }), /region: is required/],
    ['http-proxy without addr', backend('http-proxy', {}), /addr: neither an http/],
    [
      'a registry whose CA file is missing',
      backend('registry', { host: 'h', repo: 'a/b', ca_cert_files: ['/nowhere/ca.pem'] }),
      /ca_cert_files: cannot be read: ENOENT.*\/nowhere\/ca\.pem/,
    ],
  ];
  for (const [what, text, say] of texts) {
    test(`${what}: the mount is refused with key, value and reason`, async () => {
      const answer = await mount('/config', text);
      assert.equal(answer.status, 500);
      assert.match(failure(answer), say);
      assert.ok(failure(answer).length < 1000, 'the text is not repeated');
      assert.equal('/config' in (await daemon.info()).backend_collection, false);
    });
  }

  const files: [what: string, bytes: Buffer | null, say: RegExp][] = [
    ['a missing file', null, /ENOENT/],
    ['an empty file', Buffer.alloc(0), /configuration member \(whole text\): empty/],
    ['a binary file', Buffer.from([0, 1, 0x80, 0xff, 0xfe, 7]), /neither JSON.* nor TOML/s],
    ['a file of 2 MiB', Buffer.alloc(2 << 20, ' '), /config\.json: larger than 1048576 bytes/],
  ];
  for (const [what, bytes, say] of files) {
    test(`${what}, given with --config: exit code 1, and what is wrong with it`, () => {
      const dir = freshDir('file');
      const config = join(dir, 'config.json');
      if (bytes !== null) writeFileSync(config, bytes);
      const sock = join(dir, 'fs.sock');
      const argv = ['virtiofs', '--sock', sock, '--bootstrap', BOOTSTRAP, '--config', config];
      const { status, stderr } = spawnSync(NYDUSD, argv, { encoding: 'utf8', timeout: 20_000, cwd: dir });
      assert.equal(status, 1, stderr);
      assert.match(stderr, say);
    });
  }
});

describe('a work_dir that is', () => {
  const long = `/${'long/'.repeat(1000)}`;
  const odd: [what: string, path: unknown, say: RegExp][] = [
    ['empty', '', /work_dir: not a directory name/],
    ['with NUL', '/cache\0', /work_dir: not a directory name/],
    ['longer than a path', long, /work_dir: longer than a path may be/],
    ['with a name that is too long', `/${'n'.repeat(300)}/cache`, /work_dir .* is no directory/],
    ['below a file', join(BOOTSTRAP, 'cache'), /work_dir .* is no directory/],
    ['a file', BOOTSTRAP, /work_dir .* is no directory/],
    ['a number', 3, /work_dir: must be a string/],
  ];
  for (const [what, path, say] of odd) {
    test(`${what}: refused, and nothing appears where the daemon runs`, async () => {
      const before = readdirSync(daemon.dir);
      const answer = await mount('/odd', localfsConfig(BLOBS, path as string));
      assert.equal(answer.status, 500);
      assert.match(failure(answer), say);
      assert.ok(failure(answer).length < 1000);
      assert.deepEqual(readdirSync(daemon.dir), before);
    });
  }

  test('not there at all: reads go on uncached, a line says so, nothing appears where the daemon runs', async () => {
    const before = readdirSync(daemon.dir);
    const config = localfsConfig(BLOBS, '/unused') as { device: { cache: object } };
    config.device.cache = { type: 'blobcache', config: {} };
    assert.equal((await mount('/homeless', config)).status, 204);
    await daemon.printed(/\/homeless: its cache has no work_dir; what is read is not kept/);
    assertContent('/homeless');
    await umount('/homeless');
    assert.deepEqual(readdirSync(daemon.dir), before);
  });

  test('relative: below where the daemon runs, as upstream', async () => {
    assert.equal((await mount('/relative', localfsConfig(BLOBS, './relative/cache'))).status, 204);
    assertContent('/relative');
    await umount('/relative');
    assert.ok(readdirSync(join(daemon.dir, 'relative/cache')).some((name) => name.endsWith('.blob.data')));
  });

  test('missing: made with its parents, when the first blob is opened', async () => {
    const dir = join(freshDir('deep'), 'a/b/c');
    assert.equal((await mount('/deep', localfsConfig(BLOBS, dir))).status, 204);
    assertContent('/deep');
    await umount('/deep');
    assert.ok(readdirSync(dir).some((name) => name.endsWith('.blob.data')));
  });
});

describe('a prefetch list with', () => {
  const config = () => localfsConfig(BLOBS, freshDir('cache'));
  test('100,000 paths, most of them not in the image: the mount waits for none, and they are counted', async () => {
    const paths = Array.from({ length: 100_000 }, (_, i) => (i === 50_000 ? FILE : `/not/there/${i}`));
    assert.equal((await mount('/many', config(), { prefetch_files: paths })).status, 204);
    assertContent('/many');
    await daemon.printed(/99999 listed paths are not in the image/);
    await umount('/many');
  });
  test('a relative path, a number, or no list at all: refused', async () => {
    for (const prefetch_files of [['big/multi-chunk'], ['/a', 3], 'all', { 0: '/a' }]) {
      const answer = await mount('/list', config(), { prefetch_files });
      assert.ok(answer.status >= 400, JSON.stringify(prefetch_files));
      assert.match(answer.text, /prefetch/);
    }
  });
  test('paths that go round in circles, are endless, or no UTF-8: hints, and no more', async () => {
    const prefetch_files = ['/..', '/big/../big/multi-chunk', `/${'x/'.repeat(50_000)}`, '//', '/\ufffd', '/big/'];
    assert.equal((await mount('/hints', config(), { prefetch_files })).status, 204);
    assertContent('/hints');
    await umount('/hints');
  });
});
