/**
 * The life of a pod as Kata's Go runtime and its agent live it (kata-contract 1.6–1.13), with a real VMM and guest:
 * start, three containers on images of different formats, writes, plugged memory, a volume that comes and goes (A13,
 * A14), removal with late FORGETs, stop. Each container's snapshot lies on a file system of its own, and the host's plain
 * umount of it says whether the daemon still holds anything there.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { assertSame, expectedTree, IMAGE_FIELDS } from './compare.ts';
import { Daemon, rafsConfig } from './daemon.ts';
import { type FixtureCase, fixtureCases } from './fixture-cases.ts';
import { DEFAULT_TAG, guestTest, runGuest } from './guest.ts';
import { type GuestCase, MOUNT_SHARE, script } from './in-guest.ts';
import { guestManifest } from './manifest.ts';

const IMAGES = ['v6-zstd-blake3', 'v5-lz4-blake3', 'zran-v6'];
const BOOT_MIB = 192;
const PLUGGED_MIB = 256;
const CASE_TIMEOUT_MS = 120_000;

const scratch = mkdtempSync(join(tmpdir(), 'nydus-pod-'));
const cases = fixtureCases();
const imageOf = (name: string): FixtureCase => cases.find((entry) => entry.name === name)!;

/** The runtime's side: `mounts` is where it binds, `shared` what the daemon serves; mounts propagate from one to the other. */
class Host {
  readonly mounts = join(scratch, 'share/mounts');
  readonly shared = join(scratch, 'share/shared');
  readonly volume = join(scratch, 'volume');
  private readonly made: string[] = [];

  constructor() {
    for (const dir of [this.mounts, this.shared, this.volume]) mkdirSync(dir, { recursive: true });
    writeFileSync(join(this.volume, 'secret'), 'of the pod');
    const share = join(scratch, 'share');
    this.mount(share, '--bind', share);
    execFileSync('mount', ['--make-shared', share]);
    this.mount(this.shared, '--bind', this.mounts);
    execFileSync('mount', ['--make-slave', this.shared]);
    execFileSync('mount', ['-o', 'remount,bind,ro', this.shared]);
  }

  snapshot(cid: string): string {
    return join(scratch, 'snapshots', cid);
  }

  /** Section 1.7, steps 2 to 4. */
  async create(daemon: Daemon, cid: string): Promise<void> {
    const snapshot = this.snapshot(cid);
    mkdirSync(snapshot, { recursive: true });
    this.mount(snapshot, '-t', 'tmpfs', 'snapshot');
    for (const name of ['fs', 'work']) mkdirSync(join(snapshot, name));
    const { bootstrap, backend } = imageOf(cid);
    await daemon.mountImage(`/rafs/${cid}/lowerdir`, bootstrap, rafsConfig(backend, join(scratch, 'cache'), false));
    for (const name of ['rootfs', 'snapshotdir']) mkdirSync(join(this.mounts, cid, name), { recursive: true });
    const bound = join(this.mounts, cid, 'snapshotdir');
    this.mount(bound, '--bind', snapshot);
    execFileSync('mount', ['--make-slave', bound]);
    execFileSync('mount', ['-o', 'remount,bind,ro', bound]);
  }

  /** Section 1.8. */
  async remove(daemon: Daemon, cid: string): Promise<void> {
    await daemon.umount(`/rafs/${cid}/lowerdir`);
    this.umount(join(this.mounts, cid, 'snapshotdir'), '--lazy');
    for (const name of ['snapshotdir', 'rootfs', '']) rmdirSync(join(this.mounts, cid, name));
  }

  /** What its writes left in the upper directory; then nobody holds the snapshot, which goes. */
  async removed(daemon: Daemon, cid: string): Promise<void> {
    const upper = join(this.snapshot(cid), 'fs');
    assert.equal(readFileSync(join(upper, 'written'), 'utf8'), `by ${cid}\n`);
    assert.ok(lstatSync(join(upper, 'big')).isCharacterDevice(), 'what was deleted is a whiteout');
    assert.equal(statSync(join(upper, 'plugged')).size, 30_000_000);
    await released(daemon, cid);
    this.umount(this.snapshot(cid));
    rmdirSync(this.snapshot(cid));
  }

  bind(): number {
    const at = join(this.mounts, 'volume');
    mkdirSync(at);
    this.mount(at, '--bind', this.volume);
    return statSync(join(this.volume, 'secret')).ino;
  }

  unbind(): void {
    this.umount(join(this.mounts, 'volume'), '--lazy');
    rmdirSync(join(this.mounts, 'volume'));
  }

  /** Plain umounts, in reverse: each fails while something is held. */
  end(): void {
    for (const at of [...this.made].reverse()) this.umount(at);
    rmSync(scratch, { recursive: true });
  }

  clear(): void {
    for (const at of [...this.made].reverse()) this.umount(at, '--lazy');
    rmSync(scratch, { recursive: true, force: true });
  }

  private mount(at: string, ...how: string[]): void {
    execFileSync('mount', [...how, at]);
    this.made.push(at);
  }

  private umount(at: string, ...how: string[]): void {
    execFileSync('umount', [...how, at]);
    this.made.splice(this.made.lastIndexOf(at), 1);
  }
}

/** Waits until no descriptor of the daemon leads to a path with `word`. FORGETs come when the guest likes. */
async function released(daemon: Daemon, word: string): Promise<void> {
  const held = (): string[] => daemon.descriptors().filter((path) => path.includes(`/${word}/`));
  for (let i = 0; i < 200 && held().length > 0; i++) await sleep(50);
  assert.deepEqual(held(), []);
}

const root = (cid: string): string => `/share/containers/${cid}/rootfs`;

/** Options and their order as sent by Kata (1.7). */
const created = (cid: string): GuestCase[] => [
  {
    name: `create ${cid}`,
    run: `
ask create-${cid}
sleep 1.1
shared=/share/containers/${cid}
mount -t overlay -o upperdir=$shared/snapshotdir/fs,workdir=$shared/snapshotdir/work,lowerdir=/share/rafs/${cid}/lowerdir,index=off overlay ${root(cid)}
manifest ${cid} /share/rafs/${cid}/lowerdir`,
  },
  {
    name: `work in ${cid}`,
    run: `
cd ${root(cid)}
echo "by ${cid}" >written
[ "$(sha256sum <big/multi-chunk)" = "$(sha256sum </share/rafs/${cid}/lowerdir/big/multi-chunk)" ]
rm -r big
[ ! -e big ]
setfattr -n trusted.note -v t written`,
  },
];

const PLUG = `
total() { awk '/^MemTotal/ { print $2 }' /proc/meminfo; }
before=$(total)
ask plug
for round in $(seq 100); do
  [ "$(total)" -gt $((before + ${(PLUGGED_MIB - 32) * 1024})) ] && break
  sleep 0.1
done
[ "$(total)" -gt $((before + ${(PLUGGED_MIB - 32) * 1024})) ] || fail "$(total) KiB"`;

/** The agent unmounts, the host takes away, the agent stats what it had (1.8), and the caches go some time later. */
const removed = (cid: string): GuestCase => ({
  name: `remove ${cid}`,
  run: `
umount ${root(cid)}
ask remove-${cid}
sleep 1.1
[ ! -e /share/containers/${cid} ]
[ ! -e /share/rafs/${cid} ]
echo 3 >/proc/sys/vm/drop_caches
ask removed-${cid}`,
});

after(() => rmSync(scratch, { recursive: true, force: true }));

guestTest('A12, A13, A14: a pod lives and leaves nothing behind', ['qemu'], async (kind) => {
  const host = new Host();
  const daemon = await Daemon.start({ tag: DEFAULT_TAG });
  try {
    await daemon.mountShare('/containers', host.shared);
    const { data } = await runGuest({
      kind,
      socket: daemon.sock,
      memoryMib: BOOT_MIB,
      maxMemoryMib: 4 * (BOOT_MIB + PLUGGED_MIB),
      caseTimeoutMs: CASE_TIMEOUT_MS,
      answer: async (name, guest) => {
        const [step, ...rest] = name.split('-');
        const cid = rest.join('-');
        if (step === 'create') await host.create(daemon, cid);
        else if (step === 'remove') await host.remove(daemon, cid);
        else if (step === 'removed') await host.removed(daemon, cid);
        else if (step === 'plug') await guest.qmp.plugMemory('dimm0', PLUGGED_MIB);
        else if (step === 'bind') return String(host.bind());
        else if (step === 'unbind') host.unbind();
        else await released(daemon, 'volume');
        return 'done';
      },
      script: script(
        MOUNT_SHARE,
        ...IMAGES.flatMap(created),
        { name: 'plug memory', run: PLUG },
        ...IMAGES.map((cid) => ({
          name: `write through plugged memory in ${cid}`,
          run: `cd ${root(cid)}; dd if=/dev/zero of=plugged bs=1000000 count=30 2>/dev/null; sync; manifest again-${cid} /share/rafs/${cid}/lowerdir`,
        })),
        {
          name: 'A13 a volume appears',
          run: 'inode=$(ask bind); sleep 1.1; cd /share/containers/volume; same "of the pod" "$(cat secret)"; same "$inode" "$(stat -c %i secret)"',
        },
        {
          name: 'A14 and vanishes',
          run: 'ask unbind; sleep 6; [ ! -e /share/containers/volume ]; echo 3 >/proc/sys/vm/drop_caches; ask unbound',
        },
        ...IMAGES.slice(1).map(removed),
        {
          name: 'the last one still works',
          run: `cd ${root(IMAGES[0]!)}; same "by ${IMAGES[0]}" "$(cat written)"; [ "$(ls many | wc -l)" -gt 0 ]`,
        },
        removed(IMAGES[0]!),
      ),
    });
    for (const cid of IMAGES) {
      for (const list of [cid, `again-${cid}`])
        assertSame(expectedTree(imageOf(cid).expect), guestManifest(data, list), IMAGE_FIELDS, list);
    }
    assert.deepEqual(Object.keys(await daemon.mounts()), ['/containers']);
    const { pid } = daemon;
    await daemon.stop();
    assert.ok(!existsSync(`/proc/${pid}`), 'the process is still there');
    host.end();
  } catch (error) {
    if (error instanceof Error) error.message += `\n--- end of the daemon's log ---\n${daemon.log}`;
    throw error;
  } finally {
    daemon.kill();
    host.clear();
  }
});
