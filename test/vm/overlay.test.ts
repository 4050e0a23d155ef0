/**
 * A container root as Kata mounts it (kata-contract 1.7, 1.12): overlayfs in the guest, lower on an image, upper and
 * work on the shared directory, both in one virtiofs mount. Checked from inside, and on the host afterwards.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { GUEST_KINDS } from './assets.ts';
import { rafsConfig, withDaemon } from './daemon.ts';
import { guestTest, runGuest } from './guest.ts';
import { buildImage, type Image } from './image.ts';
import { type GuestCase, MOUNT_SHARE, script } from './in-guest.ts';
import { hostManifest } from './manifest.ts';
import { sampleBytes } from './sample-tree.ts';

const scratch = mkdtempSync(join(tmpdir(), 'nydus-overlay-'));
/** A small root file system with things to change, replace and delete. */
function makeImage(workDir: string): Image {
  const source = join(workDir, 'source');
  mkdirSync(join(source, 'etc/conf.d'), { recursive: true });
  mkdirSync(join(source, 'usr/share/doc'), { recursive: true });
  writeFileSync(join(source, 'etc/hosts'), '127.0.0.1 localhost\n');
  for (const name of ['passwd', 'gone', 'replaced', 'attributes', 'conf.d/a', 'conf.d/b']) {
    writeFileSync(join(source, 'etc', name), `lower ${name}\n`);
  }
  writeFileSync(join(source, 'usr/big'), sampleBytes(1, 3_000_000));
  symlinkSync('../etc/hosts', join(source, 'usr/hosts'));
  return buildImage(source, join(workDir, 'image'), 'lz4_block');
}

after(() => rmSync(scratch, { recursive: true, force: true }));

/** Options and their order as sent by Kata. */
const MOUNT_ROOT = `
shared=/share/containers/app
mount -t overlay -o upperdir=$shared/snapshotdir/fs,workdir=$shared/snapshotdir/work,lowerdir=/share/rafs/app/lowerdir,index=off overlay $shared/rootfs`;

/** Each case runs in the container's root; the mount outlives the case. */
const inRoot = (name: string, run: string): GuestCase => ({ name, run: `cd /share/containers/app/rootfs\n${run}` });

/** busybox's log daemon binds the socket behind /dev/log and its client connects to it. */
const SOCKET = `
ln -s "$PWD/run.sock" /dev/log
syslogd -n -O /tmp/messages &
server=$!
for round in 1 2 3 4 5 6 7 8 9 10; do [ -S run.sock ] && break; sleep 0.2; done
logger 'through a socket'
for round in 1 2 3 4 5 6 7 8 9 10; do grep -q 'through a socket' /tmp/messages && break; sleep 0.2; done
kill -9 $server
grep -q 'through a socket' /tmp/messages
[ -S run.sock ]`;

const CASES: readonly GuestCase[] = [
  MOUNT_SHARE,
  { name: 'overlay mounts', run: MOUNT_ROOT },
  inRoot('lower is seen', 'same "lower passwd" "$(cat etc/passwd)"; same "127.0.0.1 localhost" "$(cat usr/hosts)"'),
  inRoot('create', 'echo new >etc/new; same new "$(cat etc/new)"; mkdir -p var/log; echo x >var/log/x'),
  inRoot('copy up on write', 'echo more >>etc/passwd; same 2 "$(wc -l <etc/passwd)"'),
  inRoot('copy up of 3 MB', 'echo tail >>usr/big; same 3000005 "$(stat -c %s usr/big)"'),
  inRoot(
    'copy up of attributes',
    'chown 55:66 etc/attributes; chmod 4750 etc/attributes; touch -d @1000000000 etc/attributes',
  ),
  inRoot(
    'rename a lower file',
    'mv etc/replaced etc/renamed; [ ! -e etc/replaced ]; same "lower replaced" "$(cat etc/renamed)"',
  ),
  inRoot('rename over a lower file', 'echo upper >etc/t; mv etc/t etc/hosts; same upper "$(cat usr/hosts)"'),
  inRoot('rename an upper directory', 'mkdir one; echo x >one/f; mv one two; same x "$(cat two/f)"; [ ! -e one ]'),
  inRoot('delete', 'rm etc/gone; [ ! -e etc/gone ]; ! ls etc | grep -q gone'),
  inRoot(
    'delete a lower directory and make it anew',
    'rm -r etc/conf.d; mkdir etc/conf.d; same "" "$(ls etc/conf.d)"; echo n >etc/conf.d/n',
  ),
  inRoot(
    'xattrs',
    'setfattr -n trusted.note -v t etc/new; setfattr -n user.note -v u etc/new; same t "$(getfattr --only-values -n trusted.note etc/new)"; setfattr -x user.note etc/new; ! getfattr -n user.note etc/new 2>/dev/null',
  ),
  inRoot(
    'xattr on a lower file',
    'setfattr -n user.up -v 1 etc/passwd; same 1 "$(getfattr --only-values -n user.up etc/passwd)"',
  ),
  inRoot('mknod', 'mknod dev-null c 1 3; same "character special file 1:3" "$(stat -c "%F %t:%T" dev-null)"'),
  inRoot('fifo', 'mkfifo pipe; (echo through >pipe &); same through "$(cat pipe)"'),
  inRoot('socket', SOCKET),
  inRoot(
    'hard link',
    'echo l >link-1; ln link-1 link-2; same 2 "$(stat -c %h link-1)"; same "$(stat -c %i link-1)" "$(stat -c %i link-2)"; ln etc/renamed link-3',
  ),
  inRoot('symlink', 'ln -s etc/new shortcut; same new "$(cat shortcut)"; same etc/new "$(readlink shortcut)"'),
  inRoot(
    'truncate, append, sparse',
    'echo 12345 >t; truncate -s 3 t; same 123 "$(cat t)"; truncate -s 1000000 t; same 1000000 "$(stat -c %s t)"',
  ),
  inRoot('open file outlives its name', 'echo still >o; exec 4<o; rm o; same still "$(cat <&4)"; exec 4<&-'),
  inRoot(
    'many files',
    'mkdir many; i=0; while [ $i -lt 200 ]; do : >many/$i; i=$((i+1)); done; same 200 "$(ls many | wc -l)"; rm -r many',
  ),
  inRoot('space', 'df . | grep -q overlay; sync'),
];

guestTest('A12: a container root works on image and shared directory', GUEST_KINDS, async (kind) => {
  const share = join(scratch, `share-${kind}`);
  const image = makeImage(join(scratch, kind));
  const snapshot = join(scratch, `snapshot-${kind}`);
  for (const folder of ['fs', 'work']) mkdirSync(join(snapshot, folder), { recursive: true });
  for (const folder of ['rootfs', 'snapshotdir']) mkdirSync(join(share, 'app', folder), { recursive: true });
  const bound = join(share, 'app/snapshotdir');
  await withDaemon(async (daemon) => {
    await daemon.mountShare('/containers', share);
    const config = rafsConfig({ type: 'localfs', dir: image.blobDir }, join(scratch, `cache-${kind}`), true);
    await daemon.mountImage('/rafs/app/lowerdir', image.bootstrap, config);
    // Kata binds the snapshotter's directory below the share after the daemon has started.
    execFileSync('mount', ['--bind', snapshot, bound]);
    try {
      await runGuest({ kind, socket: daemon.sock, script: script(...CASES) });
    } finally {
      execFileSync('umount', ['--lazy', bound]);
    }
  });
  await checkUpper(join(snapshot, 'fs'));
});

/** What overlayfs must have left on the host. */
async function checkUpper(upper: string): Promise<void> {
  const at = (path: string): string => join(upper, path);
  const upperTree = await hostManifest(upper);
  for (const path of ['etc/gone', 'etc/replaced']) {
    assert.ok(lstatSync(at(path)).isCharacterDevice(), `${path} is a whiteout`);
    assert.equal(upperTree.get(`/${path}`)?.rdev, '0:0');
  }
  assert.ok(upperTree.get('/etc/conf.d')?.xattrs.includes('trusted.overlay.opaque=eQ=='), 'made anew: opaque');
  assert.equal(readFileSync(at('etc/conf.d/n'), 'utf8'), 'n\n');
  assert.equal(readFileSync(at('etc/passwd'), 'utf8'), 'lower passwd\nmore\n');
  assert.deepEqual(readFileSync(at('usr/big')).subarray(0, 3_000_000), sampleBytes(1, 3_000_000));
  const attributes = statSync(at('etc/attributes'));
  const { uid, gid, mode, mtimeMs } = attributes;
  assert.deepEqual([uid, gid, mode & 0o7777, mtimeMs], [55, 66, 0o4750, 1_000_000_000_000]);
  assert.ok(upperTree.get('/etc/new')?.xattrs.includes('trusted.note=dA=='));
  assert.equal(upperTree.get('/dev-null')?.rdev, '1:3');
  assert.equal(upperTree.get('/pipe')?.type, 'fifo');
  assert.equal(upperTree.get('/run.sock')?.type, 'socket');
  assert.equal(statSync(at('link-1')).ino, statSync(at('link-2')).ino);
  assert.equal(lstatSync(at('shortcut')).isSymbolicLink(), true);
  assert.equal(existsSync(at('many')), false);
  assert.equal(execFileSync('cat', [at('two/f')], { encoding: 'utf8' }), 'x\n');
}
