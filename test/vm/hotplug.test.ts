/**
 * Memory plugged into a running guest: QEMU sends a new memory table while requests run; buffers then lie in the new
 * region. Then a reset: rings stop, the same daemon serves the second boot. Content is equal all the time.
 */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { assertSame, IMAGE_FIELDS, SHARE_FIELDS } from './compare.ts';
import { rafsConfig, withDaemon } from './daemon.ts';
import { guestTest, runGuest } from './guest.ts';
import { buildImage } from './image.ts';
import { MOUNT_SHARE } from './in-guest.ts';
import { guestManifest, hostManifest } from './manifest.ts';
import { makeSampleTree, sampleBytes } from './sample-tree.ts';

const BOOT_MIB = 192;
const PLUGGED_MIB = 256;
/** Held twice (page cache, tmpfs) this is more than the guest booted with: pages of the new region take part. */
const BIG_BYTES = 160 * 1024 ** 2;
const CASE_TIMEOUT_MS = 120_000;

const scratch = mkdtempSync(join(tmpdir(), 'nydus-hotplug-'));
after(() => rmSync(scratch, { recursive: true, force: true }));

/** Waits until the guest has the DIMM, less what the kernel takes of it for its page table of pages. */
const WAIT_FOR_MEMORY = `
total() { awk '/^MemTotal/ { print $2 }' /proc/meminfo; }
before=$(total)
ask plug
for round in $(seq 100); do
  [ "$(total)" -gt $((before + ${(PLUGGED_MIB - 32) * 1024})) ] && exit 0
  sleep 0.1
done
fail "$before KiB before, $(total) KiB after"`;

const COPY_BIG = `
mkdir /big
mount -t tmpfs -o size=600m big /big
cp /share/containers/big /big/big
cp /big/big /share/containers/copy
rm /big/big`;

guestTest('plugged memory and a reboot leave every file equal', ['qemu'], async (kind) => {
  const source = join(scratch, 'source');
  makeSampleTree(source, 300);
  const image = buildImage(source, join(scratch, 'image'), 'zstd');
  const expected = await hostManifest(source);
  const share = join(scratch, 'share');
  mkdirSync(share);
  const mebibyte = sampleBytes(9, 1024 ** 2);
  for (let at = 0; at < BIG_BYTES; at += mebibyte.length) {
    mebibyte.writeUInt32LE(at, 0);
    writeFileSync(join(share, 'big'), mebibyte, { flag: 'a' });
  }
  await withDaemon(async (daemon) => {
    await daemon.mountShare('/containers', share);
    const config = rafsConfig({ type: 'localfs', dir: image.blobDir }, join(scratch, 'cache'), true);
    await daemon.mountImage('/rafs/app/lowerdir', image.bootstrap, config);
    const { data } = await runGuest({
      kind,
      socket: daemon.sock,
      memoryMib: BOOT_MIB,
      maxMemoryMib: 4 * (BOOT_MIB + PLUGGED_MIB),
      caseTimeoutMs: CASE_TIMEOUT_MS,
      answer: async (_, guest) => {
        await guest.qmp.plugMemory('dimm0', PLUGGED_MIB);
        return 'plugged';
      },
      script: {
        boots: [
          [
            MOUNT_SHARE,
            { name: 'reader in the background', run: 'sha256sum /share/containers/big >/tmp/sum & true' },
            { name: 'plug', run: WAIT_FOR_MEMORY },
            { name: 'image', run: 'manifest first /share/rafs/app/lowerdir' },
            { name: 'big file', run: COPY_BIG },
          ],
          [
            { ...MOUNT_SHARE, name: 'mount after reset' },
            { name: 'image after reset', run: 'manifest second /share/rafs/app/lowerdir' },
            {
              name: 'share after reset',
              run: 'manifest share /share/containers',
            },
          ],
        ],
      },
    });
    assertSame(expected, guestManifest(data, 'first'), IMAGE_FIELDS, 'image with plugged memory');
    assertSame(expected, guestManifest(data, 'second'), IMAGE_FIELDS, 'image after the reset');
    const onHost = await hostManifest(share);
    assert.equal(onHost.get('/copy')?.sha256, onHost.get('/big')?.sha256, 'copied through plugged memory');
    assertSame(onHost, guestManifest(data, 'share'), SHARE_FIELDS, 'share after the reset');
  });
});
