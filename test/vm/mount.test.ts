/**
 * The main job: one device of ours shows, under one root, an image fetched on demand over HTTP and a host directory.
 * Every file of a 10,000-file image and of the shared directory must equal its source, on both kinds of guest.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { GUEST_KINDS } from './assets.ts';
import { assertSame, IMAGE_FIELDS, SHARE_FIELDS } from './compare.ts';
import { type Daemon, rafsConfig, withDaemon } from './daemon.ts';
import { guestTest, runGuest } from './guest.ts';
import { BlobServer, buildImage, type Image, REPO } from './image.ts';
import { MOUNT_SHARE, script } from './in-guest.ts';
import { guestManifest, hostManifest, type Manifest } from './manifest.ts';
import { makeSampleTree } from './sample-tree.ts';

const FILES = 10_000;
/** Two passes over 10,000 files under software emulation on a busy machine. */
const CASE_TIMEOUT_MS = 180_000;

const scratch = mkdtempSync(join(tmpdir(), 'nydus-mount-'));
const source = join(scratch, 'source');

interface Prepared {
  image: Image;
  expected: Manifest;
}

let made: Promise<Prepared> | null = null;

/** The image all tests here share; made by the first that is not skipped. */
function prepared(): Promise<Prepared> {
  made ??= (async () => {
    makeSampleTree(source, FILES);
    return { expected: await hostManifest(source), image: buildImage(source, join(scratch, 'image'), 'zstd') };
  })();
  return made;
}

after(() => rmSync(scratch, { recursive: true, force: true }));

guestTest(
  'a 10,000-file image over HTTP and a host directory equal their sources',
  GUEST_KINDS,
  async (kind, context) => {
    const { image, expected } = await prepared();
    const share = join(scratch, `share-${kind}`);
    makeSampleTree(share, 200);
    const expectedShare = await hostManifest(share);
    const blobs = await BlobServer.start(image.blobDir);
    context.after(() => blobs.stop());
    await withDaemon(async (daemon) => {
      await daemon.mountShare('/containers', share);
      const config = rafsConfig(
        { type: 'registry', host: blobs.host, repo: REPO },
        join(scratch, `cache-${kind}`),
        true,
      );
      await daemon.mountImage('/rafs/app/lowerdir', image.bootstrap, config);
      assert.ok(blobs.sentBytes < statSync(image.bootstrap).size + 1024 ** 2, 'a mount fetches no data');
      const { data } = await runGuest({
        kind,
        socket: daemon.sock,
        caseTimeoutMs: CASE_TIMEOUT_MS,
        script: script(
          MOUNT_SHARE,
          { name: 'root', run: 'same "containers rafs" "$(echo $(ls /share))"; same lowerdir "$(ls /share/rafs/app)"' },
          { name: 'image cold', run: 'manifest image /share/rafs/app/lowerdir' },
          { name: 'share', run: 'manifest share /share/containers' },
          { name: 'image is read-only', run: READ_ONLY },
          { name: 'write', run: WRITE },
        ),
      });
      assertSame(expected, guestManifest(data, 'image'), [...IMAGE_FIELDS, 'mtimeNsec'], 'image');
      assertSame(expectedShare, guestManifest(data, 'share'), SHARE_FIELDS, 'shared directory');
      const written = readFileSync(join(share, 'from-guest'));
      assert.equal(written.length, 3_000_000 + 6);
      assert.equal(written.subarray(-6).toString(), 'hello\n');
      assert.equal(statSync(join(share, 'owned')).uid, 4321);
      assert.ok(blobs.requests > 0 && blobs.sentBytes > 0, 'the blob came over HTTP');
    });
  },
);

guestTest('mounts, umounts and bind mounts on the host appear in a running guest', GUEST_KINDS, async (kind) => {
  const { image, expected } = await prepared();
  const sameSize = sameSum(expected);
  const share = join(scratch, `bound-${kind}`);
  const bound = join(scratch, `bind-source-${kind}`);
  for (const folder of [share, bound, join(share, 'volume')]) mkdirSync(folder);
  writeFileSync(join(bound, 'inside'), 'seen through a bind mount');
  const config = (name: string): object =>
    rafsConfig({ type: 'localfs', dir: image.blobDir }, join(scratch, `cache-${kind}-${name}`), false);
  const steps = (daemon: Daemon): Record<string, () => Promise<void>> => ({
    mount: () => daemon.mountImage('/rafs/late/lowerdir', image.bootstrap, config('late')),
    umount: () => daemon.umount('/rafs/late/lowerdir'),
    bind: async () => void execFileSync('mount', ['--bind', bound, join(share, 'volume')]),
    unbind: async () => void execFileSync('umount', ['--lazy', join(share, 'volume')]),
  });
  await withDaemon(async (daemon) => {
    await daemon.mountShare('/containers', share);
    await runGuest({
      kind,
      socket: daemon.sock,
      answer: async (name) => {
        await steps(daemon)[name]!();
        return 'done';
      },
      script: script(
        MOUNT_SHARE,
        {
          name: 'nothing yet',
          run: '[ ! -e /share/rafs/late/lowerdir/contents ]; [ ! -e /share/containers/volume/inside ]',
        },
        { name: 'mount', run: `ask mount; sleep 1.1; ${sameSize}` },
        { name: 'umount', run: 'ask umount; sleep 1.1; [ ! -e /share/rafs/late/lowerdir/contents ]' },
        { name: 'again', run: `ask mount; sleep 1.1; ${sameSize}` },
        {
          name: 'bind',
          run: 'ask bind; sleep 1.1; same "seen through a bind mount" "$(cat /share/containers/volume/inside)"',
        },
        {
          name: 'unbind',
          run: 'ask unbind; sleep 6; [ ! -e /share/containers/volume/inside ]; ls /share/containers/volume',
        },
      ),
    });
  });
});

const READ_ONLY = `
at=/share/rafs/app/lowerdir
for command in "touch $at/new" "rm $at/specials/hard-1" "mkdir $at/d" "ln -s x $at/s" "chmod 700 $at/contents"; do
  if message=$($command 2>&1); then fail "$command worked"; fi
  case $message in *"Read-only file system"*) ;; *) fail "$command: $message" ;; esac
done`;

const WRITE = `
dd if=/dev/zero of=/share/containers/from-guest bs=100000 count=30 2>/dev/null
echo hello >>/share/containers/from-guest
sync
same 3000006 "$(stat -c %s /share/containers/from-guest)"
touch /share/containers/owned
chown 4321:4321 /share/containers/owned`;

/** Compares one file of several chunks with the list. */
function sameSum(expected: Manifest): string {
  const name = '/contents/size-2500000';
  return `same "${expected.get(name)!.sha256}" "$(sha256sum </share/rafs/late/lowerdir${name} | cut -c1-64)"`;
}
