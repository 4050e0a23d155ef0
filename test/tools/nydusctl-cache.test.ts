/** `nydusctl cache` beside a daemon that uses the directory, and without one. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { FIXTURES, localfsConfig, NYDUSD, Nydusd } from '../daemon/nydusd.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'nydusctl-cache-'));
after(() => rmSync(ROOT, { recursive: true, force: true }));

const BLOBS = join(FIXTURES, 'images/blobs');
const bootstrap = (name: string) => join(FIXTURES, `images/boot/${name}.boot`);

function nydusctl(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(join(NYDUSD, '../nydusctl'), ['cache', ...args], { encoding: 'utf8', timeout: 30_000 });
}

interface Row {
  blob_id: string;
  in_use: boolean;
}
const blobsIn = (dir: string): Row[] =>
  (JSON.parse(nydusctl('ls', '--dir', dir, '--raw').stdout) as { blobs: Row[] }).blobs;

test('what a daemon has open is seen and stays; what it has left goes', async () => {
  const dir = join(ROOT, 'shared');
  const daemon = await Nydusd.start();
  try {
    for (const name of ['v6-zstd-blake3', 'v6-none-blake3-4k']) {
      const body = { fs_type: 'rafs', source: bootstrap(name), config: JSON.stringify(localfsConfig(BLOBS, dir)) };
      const answer = await daemon.mount(`/${name}`, body);
      assert.equal(answer.status, 204, answer.text);
    }
    const rows = blobsIn(dir);
    assert.equal(rows.length, 2);
    assert.ok(rows.every((row) => row.in_use));
    const refused = nydusctl('rm', '--dir', dir, rows[0]!.blob_id);
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, /in use, not removed/);
    const nothing = nydusctl('gc', '--dir', dir, '--quota', '1');
    assert.match(nothing.stdout, /removed 0 blobs/);
    assert.equal(blobsIn(dir).length, 2);
    assert.equal((await daemon.request('DELETE', '/api/v1/mount?mountpoint=/v6-zstd-blake3')).status, 204);
    for (let i = 0; i < 100 && blobsIn(dir).every((row) => row.in_use); i++)
      await new Promise((r) => setTimeout(r, 50));
    const idle = blobsIn(dir).find((row) => !row.in_use)!;
    const removed = nydusctl('rm', '--dir', dir, idle.blob_id);
    assert.deepEqual([removed.status, removed.stdout], [0, `removed blob ${idle.blob_id}\n`]);
    assert.deepEqual(
      blobsIn(dir).map((row) => row.in_use),
      [true],
    );
  } finally {
    daemon.kill();
  }
});

test('without a daemon: a quota takes the longest unused, a dry run nothing', () => {
  const dir = mkdtempSync(join(ROOT, 'alone-'));
  ['a', 'b', 'c'].forEach((id, i) => {
    const at = new Date(Date.UTC(2026, 0, 1 + i));
    for (const [ending, bytes] of [
      ['.blob.data', 1 << 20],
      ['.blob.data.chunk_map', 4097],
      ['.blob.meta', 8192],
    ] as const) {
      const path = join(dir, id + ending);
      writeFileSync(path, Buffer.alloc(bytes, 1));
      utimesSync(path, at, at);
    }
  });
  const old = new Date(Date.UTC(2026, 0, 1));
  for (const name of [`a.blob.meta.${2 ** 22 + 1}.0.tmp`, 'gone.blob.data.chunk_map', 'others.txt']) {
    writeFileSync(join(dir, name), 'x');
    utimesSync(join(dir, name), old, old);
  }
  const dry = nydusctl('gc', '--dir', dir, '--dry-run', '--quota', '2500K');
  assert.equal(dry.status, 0, dry.stderr);
  assert.match(dry.stdout, /would remove blob a\n/);
  assert.match(dry.stdout, /would remove leftover .*gone/);
  assert.doesNotMatch(dry.stdout, /blob b|others/);
  assert.equal(readdirSync(dir).length, 12);
  assert.equal(nydusctl('gc', '--dir', dir, '--quota', '2500K').status, 0);
  assert.deepEqual(
    blobsIn(dir).map(({ blob_id }) => blob_id),
    ['b', 'c'],
  );
  assert.ok(existsSync(join(dir, 'others.txt')));
  assert.equal(readdirSync(dir).length, 7);
  assert.match(nydusctl('ls', '--dir', dir).stdout, /^BLOB +ON DISK +LENGTH/);
  assert.equal(nydusctl('rm', '--dir', dir, '--all').status, 0);
  assert.deepEqual(readdirSync(dir), ['others.txt']);
  truncateSync(join(dir, 'others.txt'));
});

test('mistakes are named', () => {
  const cases: [string[], number, RegExp][] = [
    [['ls'], 2, /--dir is required/],
    [['--dir', ROOT], 2, /one of ls, gc, rm/],
    [['shrink', '--dir', ROOT], 2, /one of ls, gc, rm/],
    [['ls', '--dir', join(ROOT, 'nowhere')], 1, /nowhere cannot be looked into: ENOENT/],
    [['ls', '--dir', '/etc/passwd'], 1, /no directory/],
    [['ls', '--dir', ROOT, 'x'], 2, /takes no blobs/],
    [['rm', '--dir', ROOT], 2, /ids of blobs, or --all/],
    [['rm', '--dir', ROOT, 'x'], 1, /has no blob x/],
    [['gc', '--dir', ROOT, '--quota', 'much'], 2, /--quota is a size/],
    [['gc', '--dir', ROOT, '--quota', '0'], 2, /--quota 0 is none/],
    [['ls', '--dir', ROOT, '--dry-run'], 2, /--dry-run is for cache gc/],
    [['ls', '--dir', ROOT, '--sock', 'x'], 2, /--sock means nothing to cache/],
  ];
  for (const [args, status, text] of cases) {
    const result = nydusctl(...args);
    assert.match(result.stderr, text);
    assert.equal(result.status, status, args.join(' '));
  }
  assert.match(nydusctl('--help').stdout, /cache gc --dir DIR/);
});
