/**
 * One sandbox as Kata drives it (kata-contract 1.6–1.9, 11), against a real daemon; the guest is a VMM's or our frontend.
 *
 *   start:   share tree, spawn, GET until RUNNING, POST /containers, VMM connects, guest mounts
 *   create:  POST /rafs/CID/lowerdir and the snapshot's bind mount, in the runtime's order; the guest reads and writes
 *   stop:    DELETE, unbind, late FORGETs;   end: VMM gone, SIGTERM (Go) or SIGKILL (runtime-rs)
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errno, errnoText } from '../../src/sys/errno.ts';
import { MNT_DETACH, MS, mount, umount } from '../../src/sys/mount.ts';
import type { SandboxGuest } from './guest.ts';
import type { Image } from './image.ts';
import { type Answer, KataClient, type Runtime } from './requests.ts';

/** The Go shim kills after this; so long runtime-rs waits for RUNNING. */
const STOP_MS_MAX = 5000;
const READY_MS_MAX = 10_000;
/** Requests of a guest under software emulation take this long at most. */
const RELEASE_MS_MAX = 10_000;
/** Attempts of the Go runtime are 20 ms · 2ⁿ apart; shorter pauses ask more often. */
const READY_PAUSE_MS = 20;

export interface SandboxOptions {
  runtime: Runtime;
  nydusd: string;
  guest: SandboxGuest;
  /** An empty directory: everything happens below it. */
  dir: string;
  /** Bind mounts as Kata makes them; needs root. */
  binds: boolean;
  say: (line: string) => void;
}

export class Sandbox {
  private readonly client: KataClient;
  private readonly sock: string;
  private readonly apisock: string;
  /** Where the runtime makes its bind mounts, and the directory that the daemon serves: two views of one tree in Go. */
  private readonly mounts: string;
  private served: string;
  private child!: ChildProcess;
  private ended!: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  private log = '';
  private readonly bound: string[] = [];

  constructor(private readonly options: SandboxOptions) {
    const { dir, runtime } = options;
    this.sock = join(dir, runtime === 'go' ? 'vhost-fs.sock' : 'virtiofsd.sock');
    this.apisock = join(dir, 'nydusd-api.sock');
    this.mounts = join(dir, 'share', runtime === 'go' ? 'mounts' : 'rw');
    this.served = join(dir, 'share', runtime === 'go' ? 'shared' : 'rw');
    this.client = new KataClient(runtime, this.apisock);
  }

  /** Section 1.6. */
  async start(): Promise<void> {
    this.shareTree();
    const hybrid = this.options.runtime === 'rs' ? ['--hybrid-mode'] : [];
    const argv = ['virtiofs', ...hybrid, '--log-level', 'info', '--apisock', this.apisock, '--sock', this.sock];
    this.child = spawn(this.options.nydusd, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout!, this.child.stderr!])
      stream.on('data', (part: Buffer) => {
        this.log += part.toString();
      });
    this.ended = new Promise((resolve) => this.child.on('close', (code, signal) => resolve({ code, signal })));
    this.step(`spawned nydusd ${argv.slice(0, -4).join(' ')}`);
    await this.running();
    await this.post('/containers', { fs_type: 'passthrough_fs', source: this.served, config: '' });
    // The VMM connects once, at once, and the guest mounts.
    await this.options.guest.attach(this.sock);
    this.step('VMM attached, guest sees /containers');
  }

  /** Section 1.7. */
  async create(cid: string, image: Image): Promise<void> {
    const snapshot = join(this.options.dir, 'snapshots', cid);
    mkdirSync(snapshot, { recursive: true });
    if (this.options.binds) {
      // Of its own, so that it can be asked whether anybody uses it.
      demand(mount('snapshot', snapshot, 'tmpfs', 0, ''), `tmpfs on ${snapshot}`);
      this.bound.push(snapshot);
    }
    mkdirSync(join(snapshot, 'fs'));
    mkdirSync(join(snapshot, 'work'));
    const config = JSON.stringify({
      device: {
        id: `/${cid}`,
        backend: { type: 'localfs', config: { dir: image.blobs, readahead: false, proxy: { fallback: false } } },
        cache: { type: 'blobcache', config: { work_dir: join(this.options.dir, 'cache'), disable_indexed_map: false } },
      },
      mode: 'direct',
      digest_validate: false,
      enable_xattr: true,
    });
    const where = rafsPoint(cid);
    const body = { fs_type: 'rafs', source: image.bootstrap, config };
    if (this.options.runtime === 'go') await this.post(where, body);
    mkdirSync(join(this.mounts, cid, 'rootfs'), { recursive: true });
    this.bindSnapshot(cid, snapshot);
    if (this.options.runtime === 'rs') await this.post(where, body);
    await this.options.guest.runs(cid, image);
    const upper = this.options.binds ? join(snapshot, 'fs') : join(this.mounts, cid, 'snapshotdir/fs');
    assert.equal(readFileSync(join(upper, 'written'), 'utf8'), cid, 'the host does not see what the guest wrote');
    this.step(`guest reads ${image.file} of container ${cid}, and writes to its snapshot`);
  }

  /** Section 1.8. */
  async stop(cid: string): Promise<void> {
    const { guest } = this.options;
    await guest.leaves(cid);
    await this.delete(rafsPoint(cid));
    const dir = join(this.mounts, cid, 'snapshotdir');
    if (this.options.binds) this.unbind(dir, MNT_DETACH);
    rmSync(join(this.mounts, cid), { recursive: true });
    await guest.forgets(cid);
    // A plain umount fails while the daemon holds a descriptor there.
    if (this.options.binds) await this.released(join(this.options.dir, 'snapshots', cid));
    // Clean-up that is repeated is no error.
    await this.delete(rafsPoint(cid));
    this.step(`container ${cid} removed, nothing of it is busy`);
  }

  /** Section 1.9. */
  async end(): Promise<void> {
    this.options.guest.end();
    const signal = this.options.runtime === 'go' ? 'SIGTERM' : 'SIGKILL';
    const startedAt = performance.now();
    this.child.kill(signal);
    const end = await this.ended;
    const ms = performance.now() - startedAt;
    if (signal === 'SIGTERM') {
      assert.deepEqual(end, { code: 0, signal: null }, this.log);
      assert.ok(ms < STOP_MS_MAX, `it took ${ms} ms to stop`);
      assert.ok(!existsSync(this.sock) && !existsSync(this.apisock), 'a socket is left');
    }
    for (const path of [this.sock, this.apisock]) rmSync(path, { force: true });
    this.step(`ended by ${signal} within ${ms.toFixed(0)} ms`);
    this.clear(0);
  }

  /** Whatever state it is in: nothing is left but the directory. */
  clear(flags: number = MNT_DETACH): void {
    this.client.close();
    this.options.guest.end();
    if (this.child !== undefined && this.child.exitCode === null) this.child.kill('SIGKILL');
    for (const path of this.bound.splice(0).toReversed()) {
      const done = umount(path, flags);
      if (flags === 0) demand(done, `umount of ${path}`);
    }
  }

  private shareTree(): void {
    const { dir, runtime, binds } = this.options;
    for (const path of [this.mounts, this.served, join(dir, 'cache')]) mkdirSync(path, { recursive: true });
    if (!binds) {
      if (runtime === 'go') {
        // Without bind mounts there is one tree only.
        rmdirSync(this.served);
        this.served = this.mounts;
      }
      return;
    }
    const share = join(dir, 'share');
    this.bind(share, share);
    demand(mount('none', share, '', MS.SHARED, ''), 'make-shared');
    if (runtime === 'go') {
      this.bind(this.mounts, this.served);
      demand(mount('none', this.served, '', MS.SLAVE, ''), 'make-slave');
      demand(mount('none', this.served, '', MS.REMOUNT | MS.BIND | MS.RDONLY, ''), 'read-only');
    }
  }

  private bindSnapshot(cid: string, snapshot: string): void {
    const dir = join(this.mounts, cid, 'snapshotdir');
    mkdirSync(dir);
    if (!this.options.binds) {
      for (const name of ['fs', 'work']) mkdirSync(join(dir, name));
      return;
    }
    this.bind(snapshot, dir);
    demand(mount('none', dir, '', MS.SLAVE, ''), 'make-slave');
    // The copy that the daemon serves has propagated before, and stays writable.
    if (this.options.runtime === 'go')
      demand(mount('none', dir, '', MS.REMOUNT | MS.BIND | MS.RDONLY, ''), 'read-only');
  }

  /** A guest's kernel sends FORGETs when it likes. */
  private async released(path: string): Promise<void> {
    const until = performance.now() + RELEASE_MS_MAX;
    while (!this.unbind(path, 0)) {
      assert.ok(performance.now() < until, `${path} is busy: the daemon still holds something there`);
      await sleep(50);
    }
  }

  /** False: busy. */
  private unbind(path: string, flags: number): boolean {
    const done = umount(path, flags);
    if (done === -errno.EBUSY) return false;
    demand(done, `umount of ${path}`);
    this.bound.splice(this.bound.indexOf(path), 1);
    return true;
  }

  private bind(source: string, target: string): void {
    demand(mount(source, target, '', MS.BIND, ''), `bind of ${source} on ${target}`);
    this.bound.push(target);
  }

  private async running(): Promise<void> {
    const startedAt = performance.now();
    for (;;) {
      const answer = await this.client.send('GET', null, null).catch(() => null);
      const ms = performance.now() - startedAt;
      if (answer?.status === 200) {
        const info = JSON.parse(answer.body) as { state: string; version: Record<string, unknown> };
        for (const member of ['package_ver', 'git_commit', 'build_time', 'profile', 'rustc'])
          assert.equal(typeof info.version[member], 'string', `version.${member}`);
        if (info.state === 'RUNNING') return this.step(`GET daemon: RUNNING after ${ms.toFixed(0)} ms`);
      }
      assert.ok(ms < READY_MS_MAX && this.child.exitCode === null, `not RUNNING: ${this.log}`);
      await sleep(READY_PAUSE_MS);
    }
  }

  private async post(query: string, body: object): Promise<void> {
    this.took(`POST ${query}`, await this.client.send('POST', query, body));
  }

  private async delete(query: string): Promise<void> {
    this.took(`DELETE ${query}`, await this.client.send('DELETE', query, null));
  }

  private took(what: string, answer: Answer): void {
    assert.deepEqual(answer, { status: 204, body: '' }, `${what}: ${answer.body}\n${this.log}`);
    this.step(`${what}: 204`);
  }

  private step(text: string): void {
    this.options.say(`${this.options.runtime.padEnd(2)}  ${text}`);
  }
}

const rafsPoint = (cid: string): string => `/rafs/${cid}/lowerdir`;

function demand(result: number, what: string): void {
  assert.ok(result >= 0, `${what}: ${errnoText(result)}`);
}
