/**
 * Containers of a real containerd and runc, on snapshots of a real nydus-snapshotter that starts our daemon and mounts
 * with our `nydus-overlayfs` (issue "Drop-in", A17). The image lies in a real registry and is pulled through CRI.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { type PublishedImage, publishImage } from './image.ts';
import { ContainerdRig, containerdMissing, type DaemonMode, mountsBelow } from './rig.ts';

const skip = containerdMissing() ?? false;

const CASES: readonly { mode: DaemonMode; fsVersion: '5' | '6' }[] = [{ mode: 'dedicated', fsVersion: '6' }];

for (const { mode, fsVersion } of CASES) {
  describe(`containerd, ${mode} daemon, v${fsVersion} image`, { skip }, () => {
    const dir = mkdtempSync(join(tmpdir(), 'containerd-image-'));
    let rig: ContainerdRig;
    let image: PublishedImage;

    after(async () => {
      await rig?.stop();
      await image?.registry.close();
      rmSync(dir, { recursive: true, force: true });
    });

    test('a container reads what the image holds, and writes beside it', async () => {
      image = await publishImage(dir, fsVersion);
      rig = await ContainerdRig.start(mode);
      await rig.pull(image.reference);
      const script = 'sha256sum -c /sums && echo new > /data/0 && cat /data/0 && ls /data | wc -l';
      const said = (await rig.runToEnd(image.reference, 'reads', ['/bin/sh', '-c', script])).trim().split('\n');
      assert.deepEqual(said.slice(-2), ['new', '24'], rig.logs());
      assert.equal(said.filter((line) => line.endsWith(': OK')).length, 24, said.join('\n'));
      assert.equal((await rig.daemons()).length, 1);
    });

    test('A17: set-uid bits and devices of the image work in its root', async () => {
      const who = await rig.runToEnd(image.reference, 'who', ['/bin/who', 'as 1000']);
      assert.equal(who.trim(), '1000 0');
      const gone = await rig.runToEnd(image.reference, 'device', ['/bin/sh', '-c', 'echo x > /null && cat /null']);
      assert.equal(gone, '');
    });

    test('with the image its daemon and its mounts go', async () => {
      await rig.ctr('images', 'rm', '--sync', image.reference);
      const [, ...left] = (await rig.ctr('images', 'ls', '-q')).split('\n').reverse();
      for (const name of left) await rig.ctr('images', 'rm', '--sync', name);
      await rig.until('no image mount', async () => mountsBelow(rig.dir).every((path) => !path.endsWith('/2/mnt')));
    });
  });
}
