/** VMMs that come, go and are killed, and the daemon's own end while one is attached. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { GUEST_KINDS } from './assets.ts';
import { assertSame, SHARE_FIELDS } from './compare.ts';
import { Daemon, rafsConfig, withDaemon } from './daemon.ts';
import { DEFAULT_TAG, Guest, guestTest, runGuest } from './guest.ts';
import { BlobServer, buildImage, REPO } from './image.ts';
import { MOUNT_SHARE, script } from './in-guest.ts';
import { guestManifest, hostManifest } from './manifest.ts';
import { makeSampleTree } from './sample-tree.ts';

/** Issue: SIGTERM ends the daemon within this time with a VMM attached and reads parked. */
const TERM_MS_MAX = 1000;
const PARKED_READS = 8;

const scratch = mkdtempSync(join(tmpdir(), 'nydus-life-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

guestTest('a killed VMM leaves a daemon that serves the next one', GUEST_KINDS, async (kind) => {
  const share = join(scratch, `share-${kind}`);
  makeSampleTree(share, 200);
  const expected = await hostManifest(share);
  await withDaemon(async (daemon) => {
    await daemon.mountShare('/containers', share);
    const busy = 'while true; do sha256sum /share/containers/contents/* >/dev/null; done & ask kill; wait';
    const killed = new Guest({
      kind,
      socket: daemon.sock,
      script: script(MOUNT_SHARE, { name: 'busy', run: busy }),
      answer: (_, guest) => {
        guest.stop();
        return 'gone';
      },
    });
    await assert.rejects(killed.finished(), { code: 'VM_EXIT' });
    const { data } = await runGuest({
      kind,
      socket: daemon.sock,
      script: script(MOUNT_SHARE, { name: 'list', run: 'manifest share /share/containers' }),
    });
    assertSame(expected, guestManifest(data, 'share'), SHARE_FIELDS, 'second VMM');
  });
});

guestTest(
  'SIGTERM ends the daemon with a VMM attached and reads parked on a dead registry',
  GUEST_KINDS,
  async (kind, context) => {
    const source = join(scratch, `source-${kind}`);
    makeSampleTree(source, 100);
    const image = buildImage(source, join(scratch, `image-${kind}`), 'none');
    mkdirSync(join(scratch, `cache-${kind}`));
    const blobs = await BlobServer.start(image.blobDir);
    context.after(() => blobs.stop());
    const daemon = await Daemon.start({ tag: DEFAULT_TAG });
    const config = rafsConfig({ type: 'registry', host: blobs.host, repo: REPO }, join(scratch, `cache-${kind}`), true);
    await daemon.mountImage('/rafs/app/lowerdir', image.bootstrap, config);
    let elapsedMs = -1;
    const guest = new Guest({
      kind,
      socket: daemon.sock,
      script: script(MOUNT_SHARE, {
        name: 'parked',
        run: `
ask dead
for index in $(seq ${PARKED_READS}); do cat /share/rafs/app/lowerdir/many/0/file-$index >/dev/null 2>&1 & done
sleep 0.5
same contents "$(ls /share/rafs/app/lowerdir | head -1)"
ask term; sleep 30`,
      }),
      answer: async (name, self) => {
        if (name === 'dead') blobs.isDead = true;
        else {
          const startedAt = performance.now();
          await daemon.stop();
          elapsedMs = performance.now() - startedAt;
          self.stop();
        }
        return 'done';
      },
    });
    try {
      await assert.rejects(guest.finished(), { code: 'VM_EXIT' });
    } finally {
      daemon.kill();
    }
    assert.ok(elapsedMs >= 0, 'the guest got as far as its reads');
    assert.ok(elapsedMs <= TERM_MS_MAX, `it took ${Math.round(elapsedMs)} ms`);
    context.diagnostic(`ended ${Math.round(elapsedMs)} ms after SIGTERM`);
  },
);
