import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf } from '../common/app-error.ts';
import type { MemberSpec } from '../virtiofs/control.ts';
import type { DeviceAnswer } from './device.ts';
import { mountPath } from './mount-path.ts';
import { type Images, type MountDevice, type MountRequest, Mounts, type OpenedImage } from './mounts.ts';

describe('mountPath', () => {
  const good: [string, string][] = [
    ['/', '/'],
    ['/containers', '/containers'],
    ['//rafs///x/lowerdir/', '/rafs/x/lowerdir'],
    ['/a b/…', '/a b/…'],
  ];
  for (const [text, path] of good) test(`${text} is ${path}`, () => assert.equal(mountPath(text), path));
  for (const text of ['', 'relative', '/a/../b', '/./a', '/nul\0', `/${'n'.repeat(256)}`, `/${'long/'.repeat(1000)}`]) {
    test(`${JSON.stringify(text.slice(0, 20))} is refused`, () => assert.throws(() => mountPath(text), /MOUNT_PATH/));
  }
});

/** Answers after a moment, so that requests which were not serialised would be seen to overlap. */
class FakeDevice implements MountDevice {
  readonly calls: string[] = [];
  busy = 0;
  mostBusy = 0;
  fail = false;
  /** A thread that is stuck answers when this settles. */
  stuck: Promise<void> | null = null;

  mount(path: string, _member: MemberSpec): Promise<DeviceAnswer> {
    return this.answer(`mount ${path}`);
  }
  remount(path: string, _member: MemberSpec): Promise<DeviceAnswer> {
    return this.answer(`remount ${path}`);
  }
  umount(path: string): Promise<DeviceAnswer> {
    return this.answer(`umount ${path}`);
  }
  private async answer(call: string): Promise<DeviceAnswer> {
    this.calls.push(call);
    this.mostBusy = Math.max(this.mostBusy, ++this.busy);
    await (this.stuck ?? sleep(2));
    this.busy--;
    if (this.fail) throw new Error('the device said no');
    return { blobs: [7], member: 1 };
  }
}

class FakeImages implements Images {
  opened = 0;
  abandoned = 0;
  released: number[] = [];
  mountedCount = 0;
  endingCount = 0;

  async demandAnswers(): Promise<void> {}
  mounted(): void {
    this.mountedCount++;
  }
  ending(): void {
    this.endingCount++;
  }
  async open(_path: string, bootstrap: string, config: string): Promise<OpenedImage> {
    if (config === 'bad') throw new Error('bad config');
    this.opened++;
    const member = { kind: 'rafs', bootstrapFd: -1, bootstrapPath: bootstrap, blobs: [], validate: false } as const;
    const shown = { shownConfig: { version: 2 }, configId: '/17', accounting: null, superblock: {} };
    return { member: { ...member, blobs: [] }, identity: '', ...shown };
  }
  abandon(): void {
    this.abandoned++;
  }
  release(blobs: readonly number[]): void {
    this.released.push(...blobs);
  }
}

describe('Mounts', () => {
  let device: FakeDevice;
  let images: FakeImages;
  let mounts: Mounts;
  beforeEach(() => {
    device = new FakeDevice();
    images = new FakeImages();
    mounts = new Mounts(device, images);
  });

  const share: MountRequest = {
    source: tmpdir(),
    fsType: 'passthrough_fs',
    config: '',
    prefetchFiles: null,
    prefetchTrace: null,
  };
  const image: MountRequest = {
    source: '/boot',
    fsType: 'rafs',
    config: '{}',
    prefetchFiles: null,
    prefetchTrace: null,
  };
  const code = async (promise: Promise<void>) => promise.then(() => 'none', codeOf);
  const paths = () => [...mounts.list()].map(({ path, kind }) => `${kind} ${path}`);
  const callsOf = (path: string) => device.calls.filter((call) => call.endsWith(` ${path}`));

  test('changes run one after another, those of one path in order', async () => {
    await Promise.all([
      mounts.mount('/a', share),
      mounts.mount('/b', image),
      mounts.umount('/a'),
      mounts.mount('/a', image),
    ]);
    assert.deepEqual(callsOf('/a'), ['mount /a', 'umount /a', 'mount /a']);
    assert.deepEqual(callsOf('/b'), ['mount /b']); // anywhere between: its source may answer sooner than the other's
    assert.equal(device.mostBusy, 1);
    assert.deepEqual(paths().sort(), ['Rafs /a', 'Rafs /b']);
  });

  test('the three names of passthrough', async () => {
    for (const fsType of ['passthrough_fs', 'passthroughfs', 'passthrough'])
      await mounts.mount(`/${fsType}`, { ...share, fsType });
    assert.equal(paths().length, 3);
  });

  test('a second mount at one path is refused before anything is opened', async () => {
    await mounts.mount('/a', image);
    assert.equal(await code(mounts.mount('/a/', image)), 'MOUNT_EXISTS');
    assert.equal(images.opened, 1);
  });

  test('refusals leave the table alone and name path and reason', async () => {
    assert.equal(await code(mounts.mount('/a', { ...share, fsType: 'ext4' })), 'FS_TYPE');
    assert.equal(await code(mounts.mount('/a', { ...image, prefetchFiles: ['/x', 'y'] })), 'PREFETCH_LIST');
    assert.equal(await code(mounts.umount('/a')), 'MOUNT_UNKNOWN');
    assert.equal(await code(mounts.remount('/a', image)), 'MOUNT_UNKNOWN');
    await assert.rejects(
      mounts.mount('/a', { ...image, config: 'bad' }),
      /MOUNT_FAILED: cannot mount \/boot at \/a: bad config/,
    );
    await assert.rejects(
      mounts.mount('/a', { ...share, source: '/etc/passwd' }),
      /\/etc\/passwd at \/a: not a directory/,
    );
    await assert.rejects(mounts.mount('/a', { ...share, source: '/nowhere' }), /ENOENT/);
    assert.deepEqual([paths(), device.calls], [[], []]);
  });

  test('an image that the device thread refuses is given back', async () => {
    device.fail = true;
    await assert.rejects(mounts.mount('/a', image), /the device said no/);
    assert.deepEqual([images.abandoned, paths()], [1, []]);
    device.fail = false;
    await mounts.mount('/a', image);
    assert.deepEqual(paths(), ['Rafs /a']);
  });

  test('remount swaps an image, not a share; blobs of the old one are released when the device thread says so', async () => {
    await mounts.mount('/a', image);
    await mounts.mount('/s', share);
    await mounts.remount('/a', { ...image, source: '/boot2' });
    assert.equal(mounts.get('/a')?.source, '/boot2');
    assert.equal(await code(mounts.remount('/s', image)), 'MOUNT_NOT_RAFS');
    assert.equal(await code(mounts.remount('/a', share)), 'MOUNT_NOT_RAFS');
    await mounts.umount('/a');
    assert.deepEqual(images.released, [7, 7]);
  });

  describe('a device thread that is stuck longer than clients wait', () => {
    let goOn = () => {};
    beforeEach(() => {
      mounts = new Mounts(device, images, null, 20);
    });
    const getStuck = () => {
      device.stuck = new Promise((resolve) => {
        goOn = resolve;
      });
    };
    const settled = async () => {
      device.stuck = null;
      goOn();
      await sleep(20);
    };

    test('what it mounts then is unmounted; what it refuses then is given back, and not before', async () => {
      for (const refuses of [false, true]) {
        getStuck();
        await assert.rejects(
          mounts.mount('/a', image),
          /cannot mount \/boot at \/a: .*no answer from the device thread/,
        );
        assert.equal(images.abandoned, 0, 'it may have the bootstrap open any moment');
        device.fail = refuses;
        await settled();
        assert.deepEqual([paths(), images.abandoned], [[], refuses ? 1 : 0]);
      }
      assert.deepEqual(device.calls, ['mount /a', 'umount /a', 'mount /a']);
    });

    test('what it replaces or unmounts then is entered', async () => {
      await mounts.mount('/a', image);
      getStuck();
      await assert.rejects(mounts.remount('/a', { ...image, source: '/boot2' }), /no answer from the device thread/);
      assert.equal(mounts.get('/a')?.source, '/boot');
      await settled();
      assert.deepEqual([mounts.get('/a')?.source, images.abandoned, images.endingCount], ['/boot2', 0, 1]);
      getStuck();
      assert.equal(await code(mounts.umount('/a')), 'DEVICE_GONE');
      await settled();
      assert.deepEqual(paths(), []);
    });
  });
});
