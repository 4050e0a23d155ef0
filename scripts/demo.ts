/**
 * `npm run demo`: the main job on real input, from nothing to numbers.
 *
 * A root file system of Debian packages becomes an image; its blob is served over HTTP; a guest boots with one device
 * of ours that shows the image and a host directory; a container root (overlayfs) is mounted on both; Python from the
 * image runs in it and writes to the shared directory. Only what is read is fetched: the server counts.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assetsOf, REPOSITORY } from '../test/vm/assets.ts';
import { type Daemon, rafsConfig, withDaemon } from '../test/vm/daemon.ts';
import { run } from '../test/vm/debian.ts';
import { runGuest } from '../test/vm/guest.ts';
import { BlobServer, buildImage, type Image, REPO } from '../test/vm/image.ts';
import { type GuestCase, MOUNT_SHARE, script } from '../test/vm/in-guest.ts';
import { makeRootfs, SERVICE_PACKAGES } from './rootfs.ts';

const CACHE_DIR = join(REPOSITORY, '.cache', 'demo');
/** The promise of the demo; below it the numbers say little. */
const ROOTFS_BYTES_MIN = 100 * 1024 ** 2;
const PROGRAM_TIMEOUT_MS = 120_000;

const PROGRAM = [
  'import sys, ssl, json, asyncio, sqlite3, platform',
  'print("Python", platform.python_version(), "in the guest, kernel", platform.release(), flush=True)',
  'rows = sqlite3.connect(":memory:").execute("select 6 * 7").fetchall()',
  'json.dump({"answer": rows[0][0], "openssl": ssl.OPENSSL_VERSION}, open("/shared/from-guest.json", "w"))',
].join('\n');

/** The container root as Kata mounts it, plus a directory of the share inside. */
const CONTAINER: GuestCase = {
  name: 'container root',
  run: `
app=/share/containers/app
mount -t overlay -o upperdir=$app/fs,workdir=$app/work,lowerdir=/share/rafs/app/lowerdir,index=off overlay $app/rootfs
cd $app/rootfs
mkdir shared
mount --bind $app/shared shared
mount -t proc proc proc
mount -t devtmpfs dev dev`,
};

const RUN_PROGRAM: GuestCase = {
  name: 'program',
  run: `
ask start
chroot /share/containers/app/rootfs /usr/bin/python3 -c '${PROGRAM}' >/tmp/first &
program=$!
while [ ! -s /tmp/first ] && kill -0 $program 2>/dev/null; do usleep 5000; done
ask first-output
wait $program
cat /tmp/first`,
};

interface Figures {
  bootMs: number;
  output: string;
  firstOutputMs: number;
  /** Requests and bytes at the server up to the first output. */
  requests: number;
  fetchedBytes: number;
}

async function runProgram(daemon: Daemon, image: Image, blobs: BlobServer, scratch: string): Promise<Figures> {
  const share = join(scratch, 'share');
  for (const folder of ['rootfs', 'fs', 'work', 'shared']) mkdirSync(join(share, 'app', folder), { recursive: true });
  await daemon.mountShare('/containers', share);
  const config = rafsConfig({ type: 'registry', host: blobs.host, repo: REPO }, join(scratch, 'cache'), true);
  await daemon.mountImage('/rafs/app/lowerdir', image.bootstrap, config);
  let startedAt = 0;
  const figures = { firstOutputMs: 0, requests: 0, fetchedBytes: 0 };
  const { bootMs, cases } = await runGuest({
    kind: 'qemu',
    socket: daemon.sock,
    caseTimeoutMs: PROGRAM_TIMEOUT_MS,
    answer: (name) => {
      if (name === 'start') startedAt = performance.now();
      else {
        figures.firstOutputMs = performance.now() - startedAt;
        figures.requests = blobs.requests;
        figures.fetchedBytes = blobs.sentBytes;
      }
      return 'ok';
    },
    script: script(MOUNT_SHARE, CONTAINER, RUN_PROGRAM),
  });
  return { ...figures, bootMs, output: cases.at(-1)!.output.replaceAll(/^ok\n/gm, '') };
}

function step(text: string): void {
  process.stdout.write(`demo: ${text}\n`);
}

const mebibytes = (bytes: number): string => `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
const seconds = (ms: number): string => `${(ms / 1000).toFixed(2)} s`;

async function main(): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'nydus-demo-'));
  let blobs: BlobServer | null = null;
  try {
    step('root file system from Debian packages');
    const rootfs = makeRootfs(CACHE_DIR, SERVICE_PACKAGES);
    const rootfsBytes = Number(run('du', ['-s', '-B1', rootfs]).split('\t')[0]);
    if (rootfsBytes < ROOTFS_BYTES_MIN) throw new Error(`${rootfs} holds only ${mebibytes(rootfsBytes)}`);
    step(`building an image of ${mebibytes(rootfsBytes)}`);
    const builtAt = performance.now();
    const image = buildImage(rootfs, join(scratch, 'image'), 'zstd');
    const buildMs = performance.now() - builtAt;
    const blobBytes = readdirSync(image.blobDir).reduce((sum, id) => sum + statSync(join(image.blobDir, id)).size, 0);
    blobs = await BlobServer.start(image.blobDir);
    const server = blobs;
    step(`serving its blob on http://${server.host}/${REPO}; booting the guest (${assetsOf('qemu').accel})`);
    await withDaemon(async (daemon) => {
      const figures = await runProgram(daemon, image, server, scratch);
      process.stdout.write(figures.output);
      const written = readFileSync(join(scratch, 'share/app/shared/from-guest.json'), 'utf8');
      step(`the guest wrote to the shared directory: ${written}`);
      const { size } = statSync(image.bootstrap);
      process.stdout.write(
        [
          '',
          `root file system       ${mebibytes(rootfsBytes)}`,
          `image size             ${mebibytes(blobBytes)} data + ${mebibytes(size)} metadata, built in ${seconds(buildMs)}`,
          `bytes fetched          ${mebibytes(figures.fetchedBytes)} (${((100 * figures.fetchedBytes) / blobBytes).toFixed(1)} %)`,
          `requests               ${figures.requests}`,
          `time to first output   ${seconds(figures.firstOutputMs)} (guest booted in ${seconds(figures.bootMs)})`,
          '',
        ].join('\n'),
      );
    });
  } finally {
    blobs?.stop();
    rmSync(scratch, { recursive: true, force: true });
  }
}

await main();
