/**
 * The daemon under attack and its surroundings.
 *
 *     DIR/share     what the guest may see as /share (a tmpfs without devices where we may mount one)
 *     DIR/model     /model: the share that is compared with a model, nothing else touches it
 *     DIR/outside   the canary: nothing a guest does may change it
 *     /image        a RAFS image, cache filled on demand, digests checked; /bad: one with flipped bits in its blob
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { FIXTURES, localfsConfig, Nydusd } from '../daemon/nydusd.ts';
import { expect, Finding } from './finding.ts';

export const IMAGE = 'v6-zstd-blake3';
export const BOOTSTRAP = path.join(FIXTURES, `images/boot/${IMAGE}.boot`);
export const BLOBS = path.join(FIXTURES, 'images/blobs');
/** Three chunks. */
export const BIG_FILE = '/big/multi-chunk';
/** An image whose chunks are stored raw: only digests can tell that they are wrong. */
const RAW_BOOTSTRAP = path.join(FIXTURES, 'images/boot/v6-none-blake3-4k.boot');
const RAW_BLOB_ID = '636ee6396f4386c396a99f3fca047ac5d1f3112581c67ba620f88a7c1cfb9c7e';
/** Of the share; names that no random request has. */
export const NESTED_DIR = 'nested';
export const NESTED_FILE = 'inner';
export const FLIPPED_FILE = 'flipped';
const SETTLE_MS = 5000;
const RECENT_ROUNDS = 10;
/** With mutants of every image mounted one after another. */
const RSS_BYTES_MAX = 160 * 2 ** 20;
const CACHES_KEPT = 20;
/** Chunk data end before this part of the raw blob. */
const RAW_DATA_PART = 0.5;

export class Rig {
  /** Content of BIG_FILE. */
  readonly content: Buffer;
  private readonly canary: string;
  private baseline: { fds: number; rssBytes: number } | null = null;
  private recentRss: number[] = [];
  private caches = 0;

  private constructor(
    readonly dir: string,
    readonly daemon: Nydusd,
    private readonly isMounted: boolean,
    content: Buffer,
  ) {
    this.content = content;
    this.canary = describeTree(path.join(dir, 'outside'));
  }

  static async start(): Promise<Rig> {
    const dir = fs.mkdtempSync(path.join(tmpdir(), 'fuzz-'));
    const isMounted = makeShare(dir);
    let daemon: Nydusd | null = null;
    try {
      const bad = badBlobs(dir);
      daemon = await Nydusd.start();
      return new Rig(dir, daemon, isMounted, await setUp(dir, daemon, bad));
    } catch (error) {
      remove(dir, daemon, isMounted);
      throw error;
    }
  }

  /** Cache directory of /image, with the chunks of BIG_FILE. */
  get filledCache(): string {
    return path.join(this.dir, 'cache');
  }

  /** The blobs under another name: a backend of the mutants alone, whose descriptors go with the last of them. */
  get mutantBlobs(): string {
    return path.join(this.dir, 'mutant-blobs');
  }

  /** Mounts the image anew at `where` with an empty cache; its directory. */
  async mountCold(where: string): Promise<string> {
    const cache = path.join(this.dir, `cold-${this.caches++}`);
    await mountImage(this.daemon, where, BOOTSTRAP, BLOBS, cache);
    return cache;
  }

  async umount(where: string): Promise<void> {
    const answer = await this.daemon.request('DELETE', `/api/v1/mount?mountpoint=${where}`);
    expect(answer.status === 204, () => `umount of ${where}: ${answer.status} ${answer.text}`);
    // The daemon may still be closing the last ones.
    const old = path.join(this.dir, `cold-${this.caches - CACHES_KEPT}`);
    fs.rmSync(old, { recursive: true, force: true });
  }

  assertCanary(): void {
    const now = describeTree(path.join(this.dir, 'outside'));
    expect(now === this.canary, () => `the tree outside the share changed:\n${now}\ninstead of\n${this.canary}`);
  }

  assertAlive(): void {
    const { exitCode, signalCode } = this.daemon.child;
    expect(
      exitCode === null && signalCode === null,
      () => `the daemon died: ${exitCode ?? signalCode}\n${this.tail()}`,
    );
    const isThere = fs.existsSync(`/proc/${this.daemon.pid}/fd`) && !/^State:\s+Z/m.test(this.status());
    expect(isThere, () => `the daemon died\n${this.tail()}`);
  }

  tail(): string {
    return this.daemon.output.slice(-1500);
  }

  fds(): number {
    return fs.readdirSync(`/proc/${this.daemon.pid}/fd`).length;
  }

  private status(): string {
    return fs.readFileSync(`/proc/${this.daemon.pid}/status`, 'utf8');
  }

  private rssBytes(): number {
    return Number(/VmRSS:\s+(\d+)/.exec(this.status())?.[1] ?? 0) * 1024;
  }

  /** Without a session: what is held now, or was held before, is the measure for later. */
  async takeBaseline(): Promise<void> {
    await sleep(SETTLE_MS / 10);
    const { fds, rssBytes } = this.baseline ?? { fds: this.fds(), rssBytes: 0 };
    this.baseline = { fds, rssBytes: Math.max(rssBytes, this.rssBytes()) };
  }

  /**
   * Without a session: nothing has piled up since the baseline. Garbage that waits for its collector comes and goes
   * (40 MB of it were seen), so the lowest RSS of the last rounds is what may not grow. @throws Finding
   */
  async assertBaseline(growthBytesMax: number): Promise<string> {
    const { fds, rssBytes } = this.baseline!;
    const deadline = performance.now() + SETTLE_MS;
    this.recentRss = [...this.recentRss.slice(1 - RECENT_ROUNDS), this.rssBytes()];
    for (;;) {
      const now = { fds: this.fds(), rssBytes: this.rssBytes() };
      const lowestRss = Math.min(...this.recentRss, now.rssBytes);
      const isGood = now.fds <= fds && lowestRss <= rssBytes + growthBytesMax;
      const text = `descriptors ${now.fds} (${fds}), RSS ${mib(now.rssBytes)} MB (${mib(rssBytes)})`;
      if (now.rssBytes > RSS_BYTES_MAX) throw new Finding(`too big: ${text}`);
      if (isGood) return text;
      if (performance.now() > deadline)
        throw new Finding(`not back at the baseline: ${text}\n${this.links().join(' ')}`);
      await sleep(100);
    }
  }

  /** What the daemon has open. */
  links(): string[] {
    const dir = `/proc/${this.daemon.pid}/fd`;
    return fs.readdirSync(dir).map((fd) => {
      try {
        return fs.readlinkSync(path.join(dir, fd));
      } catch {
        return 'gone';
      }
    });
  }

  end(): void {
    remove(this.dir, this.daemon, this.isMounted);
  }
}

function remove(dir: string, daemon: Nydusd | null, isMounted: boolean): void {
  daemon?.kill();
  if (isMounted) execFileSync('umount', ['-l', path.join(dir, 'share')]);
  fs.rmSync(dir, { recursive: true, force: true });
}

function mib(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}

/** Share and canary; true when the share is a mount of its own. */
function makeShare(dir: string): boolean {
  const share = path.join(dir, 'share');
  const outside = path.join(dir, 'outside');
  fs.mkdirSync(share);
  fs.mkdirSync(path.join(outside, 'sub'), { recursive: true });
  for (const name of ['secret', 'a', 'sub/b']) fs.writeFileSync(path.join(outside, name), `canary ${name}\n`);
  fs.symlinkSync('secret', path.join(outside, 'link'));
  let isMounted = true;
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=32m,nodev,nosuid,mode=755', 'fuzz', share], { stdio: 'ignore' });
  } catch {
    isMounted = false;
  }
  fs.mkdirSync(path.join(share, 'dir'));
  fs.writeFileSync(path.join(share, 'file'), 'x'.repeat(10_000));
  fs.writeFileSync(path.join(share, 'big'), Buffer.alloc(300_000, 'y'));
  fs.mkdirSync(path.join(share, NESTED_DIR));
  fs.writeFileSync(path.join(share, NESTED_DIR, NESTED_FILE), 'nested\n');
  fs.writeFileSync(path.join(share, FLIPPED_FILE), '');
  fs.symlinkSync('../outside', path.join(share, 'escape'));
  fs.symlinkSync('/etc', path.join(share, 'link'));
  if (isMounted) execFileSync('mkfifo', [path.join(share, 'fifo')]);
  return isMounted;
}

/** A directory with a damaged copy of the raw blob. */
function badBlobs(dir: string): string {
  const bad = path.join(dir, 'bad-blobs');
  fs.mkdirSync(bad);
  const blob = fs.readFileSync(path.join(BLOBS, RAW_BLOB_ID));
  // Chunk data only: the chunk table lies at the end.
  for (let at = 100; at < blob.length * RAW_DATA_PART; at += 1000) blob[at]! ^= 1;
  fs.writeFileSync(path.join(bad, RAW_BLOB_ID), blob);
  return bad;
}

async function setUp(dir: string, daemon: Nydusd, bad: string): Promise<Buffer> {
  const share = await daemon.mount('/share', {
    fs_type: 'passthrough_fs',
    source: path.join(dir, 'share'),
    config: '',
  });
  expect(share.status === 204, () => `mount of the share: ${share.text}`);
  fs.symlinkSync(BLOBS, path.join(dir, 'mutant-blobs'));
  fs.mkdirSync(path.join(dir, 'model'));
  const model = { fs_type: 'passthrough_fs', source: path.join(dir, 'model'), config: '' };
  const mounted = await daemon.mount('/model', model);
  expect(mounted.status === 204, () => `mount of the model's share: ${mounted.text}`);
  await mountImage(daemon, '/image', BOOTSTRAP, BLOBS, path.join(dir, 'cache'));
  await mountImage(daemon, '/bad', RAW_BOOTSTRAP, bad, path.join(dir, 'bad-cache'));
  const client = new FuseClient(daemon.sock);
  client.init();
  const content = client.readFile(`/image${BIG_FILE}`);
  client.close();
  const tree = JSON.parse(fs.readFileSync(path.join(FIXTURES, 'images/expect/full.json'), 'utf8')) as {
    path: string;
    sha256?: string;
  }[];
  const sha256 = createHash('sha256').update(content).digest('hex');
  expect(
    tree.find((e) => e.path === BIG_FILE)?.sha256 === sha256,
    () => `${BIG_FILE} reads wrong before anything began`,
  );
  return content;
}

export async function mountImage(
  daemon: Nydusd,
  where: string,
  bootstrap: string,
  blobs: string,
  cache: string,
): Promise<void> {
  fs.mkdirSync(cache, { recursive: true });
  const config = JSON.stringify({ ...localfsConfig(blobs, cache), digest_validate: true });
  const answer = await daemon.mount(where, { fs_type: 'rafs', source: bootstrap, config });
  expect(answer.status === 204, () => `mount of ${where}: ${answer.status} ${answer.text}`);
}

/** Names, types, owners, sizes, times of change and contents. */
function describeTree(dir: string): string {
  const lines: string[] = [];
  for (const name of fs.readdirSync(dir, { recursive: true }).map(String).sort()) {
    const at = path.join(dir, name);
    const stat = fs.lstatSync(at);
    const content = stat.isFile() ? fs.readFileSync(at, 'utf8') : stat.isSymbolicLink() ? fs.readlinkSync(at) : '';
    lines.push([name, stat.mode.toString(8), stat.uid, stat.gid, stat.nlink, stat.ctimeMs, content.trim()].join(' '));
  }
  return lines.join('\n');
}
