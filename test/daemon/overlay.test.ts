/** `overlay` of a configuration: a FUSE mount of an image that can be written to (kata-contract 3.5). */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { FIXTURES, Nydusd } from './nydusd.ts';

const IMAGE = join(FIXTURES, 'images/boot/v6-zstd-blake3-4k.boot');
const ROOT = mkdtempSync(join(tmpdir(), 'overlay-'));
const [MOUNTPOINT, UPPER, WORK, CACHE] = ['mnt', 'upper', 'work', 'cache'].map((name) => {
  mkdirSync(join(ROOT, name));
  return join(ROOT, name);
}) as [string, string, string, string];
after(() => rmSync(ROOT, { recursive: true }));

const CONFIG = join(ROOT, 'config.json');
const configOf = (upper: string) =>
  JSON.stringify({
    version: 2,
    backend: { type: 'localfs', localfs: { dir: join(FIXTURES, 'images/blobs') } },
    cache: { type: 'blobcache', filecache: { work_dir: CACHE } },
    rafs: { mode: 'direct', enable_xattr: true },
    overlay: { upper_dir: upper, work_dir: WORK },
  });

const launch = (...options: string[]): Nydusd => {
  const words = ['--bootstrap', IMAGE, '--config', CONFIG, '--mountpoint', MOUNTPOINT, ...options];
  return new Nydusd((_, apisock) => ['fuse', '--apisock', apisock, ...words]);
};
async function serving(options: string[], use: (daemon: Nydusd) => Promise<void>): Promise<void> {
  const daemon = launch(...options);
  try {
    await daemon.running();
    await use(daemon);
  } finally {
    daemon.kill();
  }
}
const hiddenOnes = (): string[] => readdirSync(tmpdir()).filter((name) => name.startsWith('nydusd-lower-'));
const isMounted = (): boolean => readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${MOUNTPOINT} `);

describe('a writable overlay', { skip: existsSync('/dev/fuse') ? false : 'no /dev/fuse' }, () => {
  test('what is written lands in the upper directory, the image shines through; SIGTERM leaves nothing', async () => {
    writeFileSync(CONFIG, configOf(UPPER));
    const before = hiddenOnes();
    await serving(['--writable'], async (daemon) => {
      const names = readdirSync(MOUNTPOINT);
      assert.ok(names.includes('dirs') && names.length > 3, names.join(' '));
      writeFileSync(join(MOUNTPOINT, 'test.txt'), 'hello world');
      assert.equal(readFileSync(join(UPPER, 'test.txt'), 'utf8'), 'hello world');
      rmSync(join(MOUNTPOINT, 'dirs'), { recursive: true });
      assert.ok(statSync(join(UPPER, 'dirs')).isCharacterDevice());
      assert.deepEqual(hiddenOnes(), before);
      assert.deepEqual((await daemon.info()).backend_collection['/'] !== undefined, true);
      const { code } = await daemon.stop();
      assert.equal(code, 0, daemon.output);
      assert.equal(isMounted(), false);
      assert.doesNotMatch(daemon.output, /WARN|ERROR/);
    });
  });

  test('who unmounts it ends the daemon', async () => {
    await serving(['--writable'], async (daemon) => {
      execFileSync('umount', ['-l', MOUNTPOINT]);
      assert.equal((await daemon.ended).code, 0, daemon.output);
    });
  });

  test('after kill -9 the dead one is detached, and what was written is there', async () => {
    await serving(['--writable'], async (dead) => {
      writeFileSync(join(MOUNTPOINT, 'kept'), 'yes');
      await dead.stop('SIGKILL');
    });
    await serving(['--writable'], async (daemon) => {
      assert.equal(readFileSync(join(MOUNTPOINT, 'kept'), 'utf8'), 'yes');
      await daemon.stop();
      assert.equal(isMounted(), false);
    });
  });

  test('without --writable it is read-only; what cannot be is said, and nothing is left', async () => {
    const readOnly = launch();
    try {
      await readOnly.running();
      assert.throws(() => writeFileSync(join(MOUNTPOINT, 'x'), ''), /EROFS/);
    } finally {
      await readOnly.stop();
      readOnly.kill();
    }
    const before = hiddenOnes();
    for (const [upper, options, message] of [
      [join(ROOT, 'nowhere'), [], /OVERLAY: cannot mount the writable overlay on .*ENOENT.*nowhere/],
      [UPPER, ['--supervisor', join(ROOT, 's.sock'), '--id', 'x'], /cannot be handed over/],
      [UPPER, ['--virtual-mountpoint', '/x'], /OVERLAY_HERE: a writable overlay is for .* not for \/x/],
    ] as const) {
      writeFileSync(CONFIG, configOf(upper));
      const daemon = launch('--writable', ...options);
      assert.equal((await daemon.ended).code, 1);
      assert.match(daemon.output, message);
      assert.equal(isMounted(), false);
      daemon.kill();
    }
    assert.deepEqual(hiddenOnes(), before);
  });
});
