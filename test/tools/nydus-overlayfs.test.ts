/** `bin/nydus-overlayfs` as mount.fuse and containerd run it: acceptance vectors A17 and A18 of the contract. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { mount, umount } from '../../src/sys/mount.ts';
import { NYDUSD, slowdown } from '../daemon/nydusd.ts';

const HELPER = join(NYDUSD, '../nydus-overlayfs');
const MOUNT_FUSE = ['/usr/sbin/mount.fuse', '/sbin/mount.fuse', '/usr/sbin/mount.fuse3', '/sbin/mount.fuse3'].find(
  existsSync,
);
/** What the helper costs beyond a bare Node: containerd waits for it at every container. */
const EXTRA_MS_MAX = 20;

const run = (...args: string[]) => spawnSync(HELPER, args, { encoding: 'utf8', timeout: 30_000 });

describe('A17: mounts', { skip: process.getuid?.() === 0 ? false : 'mount(2) needs root' }, () => {
  let dir: string;
  const at = (...names: string[]) => join(dir, ...names);

  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'overlayfs-'));
    // An upper directory may not lie on an overlay, which is what /tmp is on in containers.
    assert.equal(mount('tmpfs', dir, 'tmpfs', 0, 'mode=700'), 0);
    for (const name of ['target', 'upper', 'work', 'lower1', 'lower2']) mkdirSync(at(name));
    writeFileSync(at('lower1', 'one'), '1');
    writeFileSync(at('lower2', 'two'), '2');
    writeFileSync(at('lower2', 'setuid'), '');
    chmodSync(at('lower2', 'setuid'), 0o4755);
  });
  after(() => {
    umount(dir, 2);
    rmSync(dir, { recursive: true });
  });

  /** Mount options of the target as the kernel shows them. */
  const flagsAtTarget = (): string[] | undefined =>
    readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .map((line) => line.split(' '))
      .find((fields) => fields[4] === at('target'))?.[5]
      ?.split(',');
  const secret = `extraoption=${Buffer.from('{"config":"secret"}').toString('base64')}`;
  const options = () => `workdir=${at('work')},upperdir=${at('upper')},lowerdir=${at('lower1')}:${at('lower2')}`;

  const check = (result: ReturnType<typeof run>) => {
    try {
      assert.deepEqual([result.status, result.stderr, result.stdout], [0, '', '']);
      const flags = flagsAtTarget();
      assert.ok(flags !== undefined, 'nothing is mounted at the target');
      assert.ok(!flags.includes('nosuid') && !flags.includes('nodev'), flags.join());
      assert.deepEqual(readdirSync(at('target')).sort(), ['one', 'setuid', 'two']);
      writeFileSync(at('target', 'new'), 'n');
      assert.equal(readFileSync(at('upper', 'new'), 'utf8'), 'n');
      rmSync(at('target', 'new'));
    } finally {
      umount(at('target'), 0);
    }
  };

  test('A17: as in the example of 2.1', () => {
    check(run('overlay', at('target'), '-o', `${options()},${secret},dev,suid`));
  });

  test('A17: through mount.fuse, one -o an option, as containerd calls it', {
    skip: MOUNT_FUSE === undefined ? 'mount.fuse is not installed' : false,
  }, () => {
    const each = `${options()},${secret}`.split(',').flatMap((option) => ['-o', option]);
    check(
      spawnSync(MOUNT_FUSE!, ['overlay', at('target'), ...each, '-t', HELPER], { encoding: 'utf8', timeout: 30_000 }),
    );
  });

  test('read-only and noexec reach the kernel', () => {
    const result = run('overlay', at('target'), '-o', `lowerdir=${at('lower1')}:${at('lower2')},ro,noexec,nosuid`);
    assert.equal(result.status, 0, result.stderr);
    const flags = flagsAtTarget()!;
    umount(at('target'), 0);
    assert.deepEqual(
      ['ro', 'noexec', 'nosuid', 'nodev'].map((name) => flags.includes(name)),
      [true, true, true, false],
    );
  });

  test('100 layers whose paths exceed a page as they are', () => {
    const deep = at('a-directory-with-a-long-name', 'that-makes-every-path-longer', 'snapshots');
    const lowers = Array.from({ length: 100 }, (_, i) => join(deep, String(i), 'fs'));
    for (const [i, lower] of lowers.entries()) {
      mkdirSync(lower, { recursive: true });
      writeFileSync(join(lower, `file${i}`), '');
    }
    const data = `lowerdir=${lowers.join(':')}`;
    assert.ok(data.length > 4096);
    const result = run('overlay', at('target'), '-o', `${data},${secret}`);
    assert.deepEqual([result.status, result.stderr], [0, '']);
    const files = readdirSync(at('target')).length;
    umount(at('target'), 0);
    assert.equal(files, 100);
  });

  test('what the kernel refuses names the target, the reason and the missing directory, and no secret', () => {
    const result = run('overlay', at('target'), '-o', `lowerdir=${at('gone')}:${at('lower1')},${secret}`);
    assert.equal(result.status, 1);
    assert.match(
      result.stderr,
      /^\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d nydus-overlayfs: cannot mount .*\/target: ENOENT: .*\/gone does not exist\n$/,
    );
    assert.doesNotMatch(result.stderr, /extraoption|c2VjcmV0/);
  });
});

describe('A18: refused with exit code 1, a line that says why, and no secret', () => {
  const rows: [string, string[], RegExp][] = [
    ['3 arguments', ['overlay', '/t', '-o'], /4 arguments are needed .*, not 3\n$/],
    ['5 arguments', ['overlay', '/t', '-o', 'ro', 'extraoption=eyJhIjoxfQ=='], /4 arguments are needed .*, not 5\n$/],
    ['type ext4', ['ext4', '/t', '-o', 'lowerdir=/a'], /invalid type "ext4"/],
    ['only extraoption', ['overlay', '/t', '-o', 'extraoption=eyJhIjoxfQ=='], /no mount option is left/],
    ['empty target', ['overlay', '', '-o', 'lowerdir=/a'], /the target is empty/],
    ['data beyond a page', ['overlay', '/t', '-o', `lowerdir=/${'a'.repeat(4090)}`], /the mount data has 4100 bytes/],
  ];
  for (const [name, argv, says] of rows) {
    test(`A18: ${name}`, () => {
      const result = run(...argv);
      assert.deepEqual([result.status, result.stdout], [1, '']);
      assert.match(result.stderr, says);
      assert.doesNotMatch(result.stderr, /extraoption|eyJhIjoxfQ/);
      assert.doesNotMatch(result.stderr, /^ {4}at /m);
    });
  }
  test('--help and --version go to stdout with exit code 0', () => {
    for (const option of ['--help', '-h', '--version', '-v']) {
      const result = run(option);
      assert.deepEqual([result.status, result.stderr], [0, '']);
      assert.match(result.stdout, /nydus-overlayfs/);
    }
  });
  test('it is found through a link', () => {
    const dir = mkdtempSync(join(tmpdir(), 'overlayfs-'));
    symlinkSync(HELPER, join(dir, 'nydus-overlayfs'));
    const result = spawnSync('nydus-overlayfs', ['--version'], { encoding: 'utf8', env: { PATH: dir } });
    rmSync(dir, { recursive: true });
    assert.deepEqual([result.status, result.stderr], [0, '']);
  });
});

test(`it costs at most ${EXTRA_MS_MAX} ms more than a bare node (medians of 20)`, (t) => {
  const time = (command: string, args: string[]): number => {
    const startedAt = performance.now();
    spawnSync(command, args, { stdio: 'ignore' });
    return performance.now() - startedAt;
  };
  const median = (values: number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;
  // Other tests may run beside this one: the best of three rounds counts, and the limit grows with what they take.
  let best = Number.POSITIVE_INFINITY;
  let limitMs = EXTRA_MS_MAX;
  for (let round = 0; round < 3 && best > limitMs; round++) {
    limitMs = EXTRA_MS_MAX * slowdown();
    const bare: number[] = [];
    const helper: number[] = [];
    for (let i = 0; i < 20; i++) {
      bare.push(time(process.execPath, ['-e', '0']));
      // Up to and with mount(2), which finds no target.
      helper.push(time(HELPER, ['overlay', '/nonexistent/target', '-o', 'lowerdir=/nonexistent/a:/nonexistent/b']));
    }
    t.diagnostic(
      `bare node ${median(bare).toFixed(1)} ms, nydus-overlayfs ${median(helper).toFixed(1)} ms, limit ${limitMs.toFixed(0)}`,
    );
    best = Math.min(best, median(helper) - median(bare));
  }
  assert.ok(best <= limitMs, `${best} ms more than a bare node`);
});
