/**
 * Every rule of rafs-format 9 by its number: an image that breaks it fails at mount or at a read, with its file, the
 * byte and the rule in one line, through our readers and through the built daemon, which goes on.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { explain } from '../../src/common/app-error.ts';
import { INODE } from '../../src/rafs/v5/layout.ts';
import { errno } from '../../src/sys/errno.ts';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { Nydusd } from '../daemon/nydusd.ts';
import { clientManifest, Refused } from './client-tree.ts';
import { Damaged } from './damage.ts';
import { readImage } from './read-image.ts';
import { CASES, V5, V6, type When } from './rule-cases.ts';

/** Rules without an image that could break them here. */
const ELSEWHERE: Record<number, string> = {
  36: 'cache files: the test of that name below',
  37: 'no program here unpacks OCI layers: bootstraps are given as files',
};

test('every number of section 9 has a case or a reason', () => {
  for (let rule = 1; rule <= 37; rule++) {
    assert.ok(CASES.some(([number]) => number === rule) !== rule in ELSEWHERE, `rule ${rule}`);
  }
});

const scratch = mkdtempSync(join(tmpdir(), 'format-rules-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

let daemon: Nydusd;
let client: FuseClient;
before(async () => {
  daemon = await Nydusd.start();
  client = new FuseClient(daemon.sock, { timeoutMs: 30_000, queueSize: 256 });
  client.init();
});
after(() => {
  client.close();
  daemon.kill();
});

let runs = 0;

function configOf(blobDir: string, dir: string): object {
  const backend = { type: 'localfs', config: { dir: blobDir } };
  const cache = { type: 'blobcache', config: { work_dir: mkdtempSync(join(dir, 'cache-')) } };
  return { device: { backend, cache }, mode: 'direct', digest_validate: true, enable_xattr: true, amplify_io: 0 };
}

for (const [rule, name, when, say, patch] of CASES) {
  test(`rule ${rule}, ${name}: ${when === 'never' ? 'served all the same' : `${say.source} at ${when}`}`, async () => {
    const image = new Damaged(name);
    patch(image);
    const dir = join(scratch, `${runs++}`);
    mkdirSync(dir);
    const { boot, blobDir } = image.save(dir);
    const names = [basename(boot), ...image.blobs.keys()];
    const inProcess = await inProcessAnswer(boot, configOf(blobDir, dir));
    const daemons = await daemonAnswer(boot, configOf(blobDir, dir), when);
    for (const answer of [inProcess, daemons]) {
      if (when === 'never') assert.equal(answer, 'served');
      else assertTold(answer, say, names);
    }
  });
}

/** One line names the file, the byte and the rule. */
function assertTold(answer: string, say: RegExp, names: readonly string[]): void {
  const lines = answer.split('\n').filter((line) => say.test(line));
  const isWhole = (line: string) => names.some((name) => line.includes(name)) && /byte \d+|NOT_AN_IMAGE/.test(line);
  assert.ok(lines.some(isWhole), `nothing tells file, byte and ${say}:\n${answer}`);
}

async function inProcessAnswer(boot: string, config: object): Promise<string> {
  try {
    await readImage(boot, config);
    return 'served';
  } catch (error) {
    return explain(error);
  }
}

/** What the daemon says of the mount, or logs for the request that fails. */
async function daemonAnswer(boot: string, config: object, when: When): Promise<string> {
  const from = daemon.output.length;
  const mounted = await daemon.mount('/damaged', { fs_type: 'rafs', source: boot, config: JSON.stringify(config) });
  if (mounted.status !== 204) {
    assert.equal(when, 'mount', mounted.text);
    return mounted.text;
  }
  try {
    clientManifest(client, '/damaged');
    return 'served';
  } catch (error) {
    assert.ok(error instanceof Refused && error.result === -errno.EIO, String(error));
    // The line comes through main, the answer does not.
    for (let tries = 0; tries < 500 && !daemon.output.slice(from).includes('byte '); tries++) await sleep(20);
    return daemon.output.slice(from);
  } finally {
    assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/damaged')).status, 204);
  }
}

describe('through the daemon', () => {
  const mount = async (path: string, image: Damaged): Promise<string> => {
    const dir = join(scratch, `${runs++}`);
    mkdirSync(dir);
    const { boot, blobDir } = image.save(dir);
    const config = JSON.stringify(configOf(blobDir, dir));
    const answer = await daemon.mount(path, { fs_type: 'rafs', source: boot, config });
    assert.equal(answer.status, 204, answer.text);
    return boot;
  };

  test('a bootstrap cut under its mount is EIO with a line, and heals', async () => {
    const image = new Damaged(V6);
    const boot = await mount('/cut', image);
    truncateSync(boot, 4096);
    const from = daemon.output.length;
    assert.throws(() => clientManifest(client, '/cut'), { result: -errno.EIO });
    for (let tries = 0; tries < 500 && !daemon.output.slice(from).includes('byte '); tries++) await sleep(20);
    assert.match(daemon.output.slice(from), /byte \d+: file shorter than at mount/);
    writeFileSync(boot, image.boot);
    assert.ok(clientManifest(client, '/cut').size > 200);
  });

  test('a bootstrap replaced under its mount changes nothing', async () => {
    const boot = await mount('/replaced', new Damaged(V5));
    writeFileSync(`${boot}.new`, 'something else');
    renameSync(`${boot}.new`, boot);
    assert.ok(clientManifest(client, '/replaced').size > 200);
  });

  test('files of other formats are named', async () => {
    const head = (version: number) => {
      const bytes = Buffer.alloc(16_384);
      bytes.writeUInt32LE(0x5241_4653, 0);
      bytes.writeUInt32LE(version, 4);
      bytes.writeUInt32LE(8192, 8);
      return bytes;
    };
    const erofs = new Damaged(V6).boot;
    erofs.writeUInt32LE(0, 1024 + 8);
    const early = new Damaged(V5);
    early.boot.writeUInt16LE(0x3000, early.record('/').offset + INODE.NAME_BYTES);
    const files: [string, Buffer, RegExp][] = [
      ['v4', head(0x400), /RAFS v4/],
      ['early', early.boot, /before 0\.1/],
      ['erofs', erofs, /plain EROFS image without the RAFS v6 mark/],
      ['empty', Buffer.alloc(0), /an empty file/],
      ['text', Buffer.from('hello'), /another format/],
    ];
    for (const [name, bytes, say] of files) {
      const source = join(scratch, `${name}.boot`);
      writeFileSync(source, bytes);
      const config = JSON.stringify(configOf(scratch, scratch));
      const { status, text } = await daemon.mount(`/${name}`, { fs_type: 'rafs', source, config });
      assert.ok(status >= 400, name);
      assert.match(text, say);
      assert.ok(text.includes(source), text);
    }
  });

  test('rule 36: cache files of somebody else are checked, and replaced', async () => {
    const image = new Damaged(V6);
    const dir = join(scratch, `${runs++}`);
    mkdirSync(join(dir, 'cache'), { recursive: true });
    const { boot, blobDir } = image.save(dir);
    const { id, chunkCount } = image.info;
    const map = Buffer.alloc(4096 + Math.ceil(chunkCount / 8), 0xff);
    for (const [i, word] of [0x424d_4150, 1, 0x434d_4150, 0x4d4d_4150].entries()) map.writeUInt32LE(word, i * 4);
    // Everything is ready, it says; the data file has ten bytes.
    writeFileSync(join(dir, `cache/${id}.blob.data.chunk_map`), map);
    writeFileSync(join(dir, `cache/${id}.blob.data`), 'too short!');
    writeFileSync(join(dir, `cache/${id}.blob.meta`), Buffer.alloc(8192, 7));
    const config = configOf(blobDir, dir) as { device: { cache: { config: { work_dir: string } } } };
    config.device.cache.config.work_dir = join(dir, 'cache');
    assert.ok((await readImage(boot, config)).manifest.size > 200);
  });

  test('the digest tree of v5 is checked as it is walked, not at mount', async () => {
    const image = new Damaged(V5);
    image.boot[image.record('/sizes/text-65537').offset] ^= 1;
    await mount('/tree', image);
    assert.equal(typeof client.walk('/tree/links/soft'), 'bigint');
    const from = daemon.output.length;
    assert.throws(() => client.walk('/tree/sizes/text-65537'), /-5/);
    for (let tries = 0; tries < 500 && !daemon.output.slice(from).includes('byte '); tries++) await sleep(20);
    assert.match(daemon.output.slice(from), /byte \d+: digest of what it holds/);
  });

  test('tarfs mounts with one warning, and says in its metrics that nothing vouches for it', async () => {
    const from = daemon.output.length;
    await mount('/tar', new Damaged('tarfs-v6'));
    await mount('/not-tar', new Damaged(V6));
    assert.ok(clientManifest(client, '/tar').size > 200);
    assert.equal(daemon.output.slice(from).match(/served unverified/g)?.length, 1);
    const unverified = async (id: string) =>
      (JSON.parse((await daemon.get(`/api/v1/metrics/blobcache?id=${id}`)).text) as { unverified: boolean }).unverified;
    assert.deepEqual([await unverified('/tar'), await unverified('/not-tar')], [true, false]);
  });

  test('the daemon served all this and goes on', async () => {
    await mount('/good', new Damaged(V6));
    assert.ok(clientManifest(client, '/good').size > 200);
    assert.equal(daemon.child.exitCode, null);
  });
});
