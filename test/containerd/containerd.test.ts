/**
 * Containers of a real containerd and runc, on snapshots of a real nydus-snapshotter that starts our daemon and mounts
 * with our `nydus-overlayfs` (issue "Drop-in", A17). The image lies in a real registry and is pulled through CRI.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { release, tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { NYDUSD, slowdown } from '../daemon/nydusd.ts';
import { type PublishedImage, publishImage } from './image.ts';
import { ContainerdRig, containerdMissing, type DaemonMode, type DaemonRecord, mountsBelow } from './rig.ts';

const skip = containerdMissing() ?? false;

const KILLS = 10;
const UPGRADES = 2;
/** Without a pass; the snapshotter alone takes two seconds from a death to the next start. Other tests may run beside. */
const HANG_MS_MAX = 5000 * slowdown();

/** Without FUSE_NOTIFY_RESEND what is in flight when the daemon dies is lost, whatever the daemon does. */
function resendMissing(): string | false {
  const [major, minor] = release().split('.').map(Number);
  return major > 6 || (major === 6 && minor >= 9) ? false : `Linux ${release()} cannot resend requests (6.9 can)`;
}

/** Lines of the container: one a pass over all files. */
class Passes {
  longestMs = 0;
  readonly others: string[] = [];
  private count = 0;
  private lastAt = 0;

  add(line: string): void {
    if (line !== 'pass') this.others.push(line);
    const now = performance.now();
    if (this.count++ > 0) this.longestMs = Math.max(this.longestMs, now - this.lastAt);
    this.lastAt = now;
  }

  /** Waits for `wanted` more. @throws when they do not come */
  async more(wanted: number): Promise<void> {
    const until = performance.now() + 4 * HANG_MS_MAX;
    for (const goal = this.count + wanted; this.count < goal; await sleep(20)) {
      assert.ok(performance.now() < until, `no pass in ${4 * HANG_MS_MAX} ms; it said ${this.others.join(', ')}`);
    }
  }
}

/**
 * Kills a daemon and waits until its successor has left its state. Whoever asks the snapshotter for anything before that
 * meets its own race: one socket, on which it sends one state and receives the other.
 */
async function killed(rig: ContainerdRig, { pid }: DaemonRecord): Promise<void> {
  const kept = rig.statesKept();
  process.kill(pid, 'SIGKILL');
  await rig.until('the state of the next daemon', async () => rig.statesKept() > kept);
}

async function getfattr(path: string): Promise<string> {
  const args = ['-n', 'user.mark', '--only-values', '--absolute-names', path];
  return (await promisify(execFile)('getfattr', args, { timeout: 20_000 })).stdout;
}

const MODES: readonly DaemonMode[] = ['dedicated', 'shared'];

for (const mode of MODES) {
  describe(`containerd, ${mode} daemon`, { skip }, () => {
    const dir = mkdtempSync(join(tmpdir(), 'containerd-image-'));
    let rig: ContainerdRig;
    let image: PublishedImage;

    after(async () => {
      await rig?.stop();
      await image?.registry.close();
      rmSync(dir, { recursive: true, force: true });
    });

    test('a container reads what the image holds, and writes beside it', async () => {
      image = await publishImage(dir);
      rig = await ContainerdRig.start(mode);
      await rig.pull(image.reference);
      const script = 'sha256sum -c /sums && echo new > /data/0 && cat /data/0 && ls /data | wc -l';
      const said = await rig.runToEnd(image.reference, 'reads', script);
      assert.deepEqual(said.slice(-2), ['new', '24'], rig.logs());
      assert.equal(said.filter((line) => line.endsWith(': OK')).length, 24, said.join('\n'));
      assert.equal((await rig.daemons()).length, 1);
    });

    test('A17: set-uid bits and devices of the image work in its root', async () => {
      assert.deepEqual(await rig.runToEnd(image.reference, 'who', "/bin/who 'as 1000'"), ['1000 0']);
      assert.deepEqual(await rig.runToEnd(image.reference, 'device', 'echo x > /null && cat /null'), []);
    });

    test('a snapshotter that starts again finds its daemon, and brings it back when that dies', {
      skip: resendMissing(),
    }, async () => {
      const [daemon] = await rig.daemons();
      await rig.restartSnapshotter();
      assert.deepEqual(
        (await rig.daemons()).map(({ pid }) => pid),
        [daemon.pid],
      );
      await killed(rig, daemon);
      const count = await rig.runToEnd(image.reference, 'later', 'sha256sum -c /sums | wc -l');
      assert.deepEqual(count, ['24'], rig.logs());
    });

    test('it goes on when its daemon is killed ten times and upgraded twice', { skip: resendMissing() }, async () => {
      const passes = new Passes();
      const ofOpenFile = '$(busybox dd bs=64 count=1 2> /dev/null <&3 | busybox wc -c)';
      const pass = `sha256sum -c -s /sums && ls /data > /dev/null && [ ${ofOpenFile} = 64 ]`;
      const script = `exec 3< /data/1; while ${pass}; do echo pass; done; echo failed`;
      const container = rig.run(image.reference, 'hashes', ['/bin/sh', '-c', script], (line) => passes.add(line));
      await passes.more(2);
      for (let round = 0; round < KILLS + UPGRADES; round++) {
        const [daemon] = await rig.daemons();
        // What the kernel has cached would hide a daemon that serves nothing.
        writeFileSync('/proc/sys/vm/drop_caches', '3');
        await (round < KILLS ? killed(rig, daemon) : rig.upgrade(NYDUSD));
        await rig.until('the next daemon', async () => (await rig.daemons())[0]?.pid !== daemon.pid);
        await passes.more(2);
        const mark = await getfattr(join(daemon.mountpoint, mode === 'shared' ? '2/sums' : 'sums'));
        assert.equal(mark, 'kept');
      }
      assert.deepEqual(passes.others, [], rig.logs());
      assert.ok(passes.longestMs < HANG_MS_MAX, `${passes.longestMs} ms without a pass\n${rig.logs()}`);
      const gone = once(container, 'close');
      await rig.ctr('tasks', 'kill', '-s', 'SIGKILL', rig.idOf('hashes'));
      await gone;
    });

    test('with the image its daemon and its mounts go', async () => {
      await rig.ctr('images', 'rm', '--sync', image.reference);
      const [, ...left] = (await rig.ctr('images', 'ls', '-q')).split('\n').reverse();
      for (const name of left) await rig.ctr('images', 'rm', '--sync', name);
      await rig.until('no image mount', async () => mountsBelow(rig.dir).every((path) => !path.endsWith('/2/mnt')));
    });
  });
}
