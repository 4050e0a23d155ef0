/**
 * One sandbox as Kata drives it (kata-contract 1.6–1.9, 11), against a real daemon, with our vhost-user frontend in place
 * of the VMM and its guest.
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
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import type { Image } from './image.ts';
import { type Answer, KataClient, type Runtime } from './requests.ts';

/** The Go shim kills after this; so long runtime-rs waits for RUNNING. */
const STOP_MS_MAX = 5000;
const READY_MS_MAX = 10_000;
/** Attempts of the Go runtime are 20 ms · 2ⁿ apart; shorter pauses ask more often. */
const READY_PAUSE_MS = 20;

export interface SandboxOptions {
  runtime: Runtime;
  nydusd: string;
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
  private guest!: FuseClient;
  private log = '';
  private readonly bound: string[] = [];
  /** Nodes the guest has looked up below each container. */
  private readonly known = new Map<string, bigint[]>();

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
    this.guest = new FuseClient(this.sock);
    this.guest.init();
    assert.equal(typeof this.guest.lookup(1n, 'containers'), 'object', 'the guest does not see /containers');
    this.step('VMM attached, guest sees /containers');
  }

  /** Section 1.7. */
  async create(cid: string, image: Image): Promise<void> {
    const snapshot = join(this.options.dir, 'snapshots', cid);
    mkdirSync(join(snapshot, 'fs'), { recursive: true });
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
    this.guestReads(cid, image);
    this.guestWrites(cid, snapshot);
  }

  /** Section 1.8. */
  async stop(cid: string): Promise<void> {
    await this.delete(rafsPoint(cid));
    const lookup = this.guest.lookup(1n, 'rafs');
    const gone = typeof lookup === 'number' ? lookup : this.guest.lookup(lookup.nodeid, cid);
    assert.equal(gone, -errno.ENOENT, `the guest still sees ${rafsPoint(cid)}`);
    for (const node of this.known.get(cid) ?? []) this.guest.forget(node, 1n);
    // FORGETs have no answer: one request behind them says that they were taken.
    this.guest.getattr(1n);
    const dir = join(this.mounts, cid, 'snapshotdir');
    const bind = this.bound.indexOf(dir);
    if (bind >= 0) {
      // Go detaches lazily; a plain umount says more: it fails while the daemon holds a descriptor there.
      demand(umount(dir, 0), `umount of ${dir}`);
      this.bound.splice(bind, 1);
      rmdirSync(dir);
    } else rmSync(dir, { recursive: true });
    rmSync(join(this.mounts, cid, 'rootfs'), { recursive: true });
    rmdirSync(join(this.mounts, cid));
    // Clean-up that is repeated is no error.
    await this.delete(rafsPoint(cid));
    this.step(`container ${cid} removed, nothing of it is busy`);
  }

  /** Section 1.9. */
  async end(): Promise<void> {
    this.guest.close();
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
      mkdirSync(join(dir, 'fs'));
      return;
    }
    this.bind(snapshot, dir);
    demand(mount('none', dir, '', MS.SLAVE, ''), 'make-slave');
    // The copy that the daemon serves has propagated before, and stays writable.
    if (this.options.runtime === 'go')
      demand(mount('none', dir, '', MS.REMOUNT | MS.BIND | MS.RDONLY, ''), 'read-only');
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

  private visit(cid: string, path: string): bigint {
    let node = 1n;
    for (const part of path.split('/')) {
      const entry = this.guest.lookup(node, part);
      assert.ok(typeof entry === 'object', `${path}: ${part}: ${errnoText(entry as number)}`);
      node = entry.nodeid;
      this.known.set(cid, [...(this.known.get(cid) ?? []), node]);
    }
    return node;
  }

  private guestReads(cid: string, image: Image): void {
    const node = this.visit(cid, `rafs/${cid}/lowerdir/${image.file}`);
    const fh = this.guest.open(node);
    assert.ok(typeof fh === 'bigint', `open of ${image.file}`);
    const reply = this.guest.read(node, fh, 0, image.content.length + 1);
    assert.equal(reply.error, 0, errnoText(reply.error));
    assert.ok(image.content.equals(reply.body), `${image.file} has other bytes`);
    this.release(node, fh);
    this.step(`guest reads ${image.file} of container ${cid}`);
  }

  private guestWrites(cid: string, snapshot: string): void {
    const directory = this.visit(cid, `containers/${cid}/snapshotdir/fs`);
    const args = Buffer.alloc(16);
    args.writeUInt32LE(0o102, 0); // O_CREAT | O_RDWR
    args.writeUInt32LE(0o100644, 4);
    const created = this.guest.call('CREATE', Buffer.concat([args, Buffer.from('written\0')]), {
      nodeid: directory,
      replyBytes: 144,
    });
    assert.equal(created.error, 0, `create: ${errnoText(created.error)}`);
    const node = created.body.readBigUInt64LE(0);
    const fh = created.body.readBigUInt64LE(128);
    this.known.get(cid)!.push(node);
    assert.equal(this.guest.write(node, fh, 0, Buffer.from(cid)).error, 0);
    this.release(node, fh);
    const host = this.options.binds ? join(snapshot, 'fs/written') : join(this.mounts, cid, 'snapshotdir/fs/written');
    assert.equal(readFileSync(host, 'utf8'), cid, 'the host does not see what the guest wrote');
    this.step(`guest writes to the snapshot of container ${cid}`);
  }

  private release(node: bigint, fh: bigint): void {
    const args = Buffer.alloc(24);
    args.writeBigUInt64LE(fh, 0);
    assert.equal(this.guest.call('RELEASE', args, { nodeid: node }).error, 0);
  }

  private step(text: string): void {
    this.options.say(`${this.options.runtime.padEnd(2)}  ${text}`);
  }
}

const rafsPoint = (cid: string): string => `/rafs/${cid}/lowerdir`;

function demand(result: number, what: string): void {
  assert.ok(result >= 0, `${what}: ${errnoText(result)}`);
}
