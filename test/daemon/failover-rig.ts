/**
 * Daemons of one mount point that follow each other, with a supervisor between them, and a reader that must not notice:
 * the snapshotter's calls in its order (kata-contract 4.6, section 11).
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { localfsConfig, NYDUSD, Nydusd, REPOSITORY } from './nydusd.ts';
import { Supervisor } from './supervisor.ts';

const run = promisify(execFile);

/** The bar for anybody who waits while a daemon is replaced; a loaded machine alone can take longer to start one. */
const STALL_MS_MAX = 5000;
/** Beyond this it is a hang, however loaded the machine is. */
export const HANG_MS_MAX = 30_000;
const FILES = 12;
const FILE_BYTES = 400_000;
/** More names than one getdents call takes, so that an open directory goes back to the daemon. */
const NAMES = 2000;

/** FUSE_NOTIFY_RESEND came with Linux 6.9. */
export function kernelCanResend(): boolean {
  const [major = 0, minor = 0] = readFileSync('/proc/sys/kernel/osrelease', 'utf8').split('.').map(Number);
  return major > 6 || (major === 6 && minor >= 9);
}

export interface TestImage {
  bootstrap: string;
  blobs: string;
  /** Path in the image → SHA-256. */
  sums: Record<string, string>;
}

let built: TestImage | null = null;

/** The image of all rigs of this process; it goes with the process. */
function testImage(): TestImage {
  if (built === null) {
    const dir = mkdtempSync(join(tmpdir(), 'failover-image-'));
    process.once('exit', () => rmSync(dir, { recursive: true, force: true }));
    built = buildImage(dir);
  }
  return built;
}

/** An image with big files that have an xattr each, and with many names in its root. */
function buildImage(dir: string): TestImage {
  const [source, blobs, bootstrap] = [join(dir, 'source'), join(dir, 'blobs'), join(dir, 'image.boot')];
  for (const path of [join(source, 'data'), blobs]) mkdirSync(path, { recursive: true });
  const sums: Record<string, string> = {};
  for (let i = 0; i < FILES; i++) {
    const bytes = randomBytes(FILE_BYTES + i);
    sums[`data/${i}`] = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(join(source, `data/${i}`), bytes);
    execFileSync('setfattr', ['-n', 'user.mark', '-v', `file ${i}`, join(source, `data/${i}`)]);
  }
  for (let i = 0; i < NAMES; i++) writeFileSync(join(source, `a name that is rather long ${i}`), '');
  const builder = join(dirname(NYDUSD), 'nydus-image');
  execFileSync(builder, ['create', '-B', bootstrap, '-D', blobs, '--compressor', 'zstd', source], { stdio: 'ignore' });
  return { bootstrap, blobs, sums };
}

export type Mode = 'dedicated' | 'shared';

export class FailoverRig {
  readonly dir = mkdtempSync(join(tmpdir(), 'failover-'));
  readonly mountpoint = join(this.dir, 'mnt');
  readonly supervisor = new Supervisor(join(this.dir, 'supervisor.sock'));
  readonly image = testImage();
  readonly configFile = join(this.dir, 'config.json');
  daemon: Nydusd | null = null;
  private upgrades = 0;
  private longestReplacementMs = 0;

  constructor(
    private readonly mode: Mode,
    private readonly policy = 'resend',
  ) {
    mkdirSync(this.mountpoint);
    mkdirSync(join(this.dir, 'cache'));
    this.configure('localfs', { dir: this.image.blobs });
  }

  /** Where images mounted from now on have their data, and what else the daemon's configuration says from now on. */
  configure(type: 'localfs' | 'registry', config: object): void {
    const base = localfsConfig(this.image.blobs, join(this.dir, 'cache'));
    const device = { ...(base['device'] as object), id: '/5', backend: { type, config } };
    writeFileSync(this.configFile, JSON.stringify({ ...base, device }));
  }

  /** Starts a daemon as the snapshotter does, in the words of kata-contract 11. */
  launch(apisock: string = join(this.dir, 'api.sock'), upgrade = false): Nydusd {
    const at = ['--mountpoint', this.mountpoint, '--apisock', apisock];
    const log = ['--log-level', 'debug', '--log-rotation-size', '100'];
    const failover = ['--failover-policy', this.policy];
    const named = ['--id', 'd1'];
    const supervised = ['--supervisor', this.supervisor.path];
    const image = ['--config', this.configFile, '--bootstrap', this.image.bootstrap];
    const argv: Record<Mode, string[]> = {
      dedicated: ['fuse', '--thread-num', '4', ...image, ...at, ...log, ...failover, ...named, ...supervised],
      shared: ['fuse', '--thread-num', '4', ...named, ...at, ...log, ...supervised, ...failover],
    };
    const all = [...(upgrade ? ['--upgrade'] : []), ...argv[this.mode]];
    return new Nydusd(() => all, this.dir, [NYDUSD], apisock);
  }

  /** The first one, RUNNING, its state with the supervisor. */
  async start(): Promise<Nydusd> {
    this.daemon = this.launch();
    await this.daemon.running();
    await this.save();
    return this.daemon;
  }

  /** `PUT sendfd`, as after every mount and umount. */
  async save(daemon: Nydusd = this.daemon!): Promise<void> {
    await this.supervisor.fetchStates(() => put(daemon, '/api/v1/daemon/fuse/sendfd'));
  }

  async mount(at: string): Promise<void> {
    const config = readFileSync(this.configFile, 'utf8');
    const body = { fs_type: 'rafs', source: this.image.bootstrap, config };
    const answer = await this.daemon!.mount(encodeURIComponent(at), body);
    assert.equal(answer.status, 204, answer.text);
    await this.save();
  }

  /** How long a reader may wait: as the issue says, unless the machine took longer to replace a daemon. */
  get stallMsMax(): number {
    return Math.max(STALL_MS_MAX, 2 * this.longestReplacementMs);
  }

  /** kill -9 and what the snapshotter does then: the same argv again. */
  async crash(): Promise<void> {
    const from = performance.now();
    const dead = this.daemon!;
    await dead.stop('SIGKILL');
    this.supervisor.sendStates();
    this.daemon = this.launch(dead.apisock);
    await inState(this.daemon, 'INIT');
    await put(this.daemon, '/api/v1/daemon/fuse/takeover');
    await put(this.daemon, '/api/v1/daemon/start');
    await inState(this.daemon, 'RUNNING');
    this.longestReplacementMs = Math.max(this.longestReplacementMs, performance.now() - from);
    await this.save();
  }

  /** A new daemon beside the old one, which leaves when the new one is READY. */
  async upgrade(): Promise<void> {
    const old = this.daemon!;
    this.supervisor.sendStates();
    this.daemon = this.launch(join(this.dir, `api${++this.upgrades}.sock`), true);
    await inState(this.daemon, 'INIT');
    await put(this.daemon, '/api/v1/daemon/fuse/takeover');
    await inState(this.daemon, 'READY');
    await put(old, '/api/v1/daemon/exit');
    await put(this.daemon, '/api/v1/daemon/start');
    await inState(this.daemon, 'RUNNING');
    assert.equal((await old.ended).code, 0, old.output);
    await this.save();
  }

  /** What must work at once, asked of the daemon and not of the kernel's caches. @param root of the image */
  async check(root: string, round: number): Promise<void> {
    const options = { timeout: HANG_MS_MAX, encoding: 'utf8' } as const;
    const listed = await run('ls', ['-1', root], options);
    assert.equal(listed.stdout.trim().split('\n').length, NAMES + 1);
    await run('stat', [join(root, `a name that is rather long ${round}`)], options);
    const file = join(root, `data/${round % FILES}`);
    const mark = await run('getfattr', ['--only-values', '-n', 'user.mark', file], options);
    assert.equal(mark.stdout, `file ${round % FILES}`);
  }

  reader(root: string): Reader {
    return new Reader(root, this.image);
  }

  async stop(): Promise<void> {
    if (this.daemon?.child.exitCode === null) await this.daemon.stop('SIGKILL');
    this.supervisor.close();
    while (isMounted(this.mountpoint)) execFileSync('umount', ['-l', this.mountpoint]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** What `failover-reader.ts` has to say of a round over all files. */
export interface Round {
  /** Longest a single call took. */
  stallMs: number;
  /** What went wrong; empty when all sums are right. */
  wrong: string[];
}

/** A process that reads and hashes all files past the page cache, again and again. */
export class Reader {
  readonly rounds: Round[] = [];
  private readonly child: ChildProcess;
  private readonly ended: Promise<unknown>;

  constructor(root: string, { sums }: TestImage) {
    const script = fileURLToPath(new URL('./failover-reader.ts', import.meta.url));
    const args = ['--import', 'tsx', script, root, JSON.stringify(sums)];
    this.child = spawn(process.execPath, args, { cwd: REPOSITORY, stdio: ['pipe', 'pipe', 'inherit'] });
    const lines = createInterface({ input: this.child.stdout! });
    lines.on('line', (line) => this.rounds.push(JSON.parse(line) as Round));
    this.ended = new Promise((resolve) => this.child.once('close', resolve));
  }

  /** Waits for `more` rounds that begin from now on. */
  async further(more: number): Promise<void> {
    const until = this.rounds.length + more + 1;
    while (this.rounds.length < until && this.child.exitCode === null) await sleep(10);
    assert.equal(this.child.exitCode, null, `the reader ended: ${this.rounds.at(-1)?.wrong.join(', ')}`);
  }

  /** Ends it. @throws AssertionError for the first round that noticed anything, or when a call took longer than that */
  async finish(stallMsMax: number): Promise<void> {
    this.child.stdin!.end();
    await Promise.race([this.ended, sleep(HANG_MS_MAX)]);
    const hangs = this.child.exitCode === null;
    this.child.kill('SIGKILL');
    assert.equal(hangs, false, 'the reader hangs');
    assert.equal(this.child.exitCode, 0);
    for (const { wrong } of this.rounds) assert.deepEqual(wrong, []);
    const stallMs = Math.max(...this.rounds.map((round) => round.stallMs));
    assert.ok(stallMs < stallMsMax, `a reader waited ${stallMs} ms, more than ${stallMsMax}`);
  }
}

/** @throws AssertionError unless the answer is 204 */
export async function put(daemon: Nydusd, path: string): Promise<void> {
  const { status, text } = await daemon.request('PUT', path);
  assert.equal(status, 204, `${path}: ${text}\n${daemon.output}`);
}

export async function inState(daemon: Nydusd, wanted: string): Promise<void> {
  const until = performance.now() + 20_000;
  for (;;) {
    const info = existsSync(daemon.apisock) ? await daemon.info().catch(() => null) : null;
    if (info?.state === wanted) return;
    const isOver = performance.now() > until || daemon.child.exitCode !== null;
    assert.ok(!isOver, `${info?.state ?? 'silent'}, not ${wanted}:\n${daemon.output}`);
    await sleep(5);
  }
}

export function isMounted(mountpoint: string): boolean {
  return mountsOn(mountpoint) > 0;
}

/** How many file systems lie on each other there. */
export function mountsOn(mountpoint: string): number {
  const field = ` ${mountpoint.replaceAll(' ', '\\040')} `;
  return readFileSync('/proc/self/mountinfo', 'utf8').split(field).length - 1;
}
