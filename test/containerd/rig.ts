/**
 * A containerd of Debian with runc, and a nydus-snapshotter built from its Go module, in a folder of their own: images
 * are pulled through CRI, containers run by `ctr`, and their root is what containerd itself mounts through `mount.fuse`
 * and our `nydus-overlayfs`, on a FUSE mount of our `nydusd`.
 */
import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import { homedir, tmpdir } from 'node:os';
import { basename, delimiter, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { REPOSITORY } from '../daemon/nydusd.ts';
import { pullImage } from './cri.ts';

const READY_MS_MAX = 30_000;
/** Lines of each log shown with a failure. */
const LINES_MAX = 60;
const NAMESPACE = 'k8s.io';
/** Where `install.sh` puts what it builds. */
const KEPT = join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'nydusd-ts');
const SNAPSHOTTER = process.env['NYDUS_SNAPSHOTTER'] ?? join(KEPT, 'containerd-nydus-grpc-v0.15.15');

export type DaemonMode = 'dedicated' | 'shared';

/** Why this cannot run here; null when it can. */
export function containerdMissing(): string | null {
  for (const program of ['/usr/bin/containerd', '/usr/sbin/runc', '/usr/bin/docker-registry', '/dev/fuse']) {
    if (!existsSync(program)) return `${program} is missing (Debian packages containerd, runc, docker-registry, fuse3)`;
  }
  if (!existsSync(SNAPSHOTTER)) return `${SNAPSHOTTER} is missing: npm run setup:containerd builds it`;
  return null;
}

export interface DaemonRecord {
  id: string;
  pid: number;
  api_socket: string;
  mountpoint: string;
}

export class ContainerdRig {
  readonly dir = mkdtempSync(join(tmpdir(), 'ctd-'));
  private readonly socket = join(this.dir, 'containerd.sock');
  private readonly controller = join(this.dir, 'system.sock');
  /** `mount.fuse` finds `nydus-overlayfs` on the PATH of whoever mounts: containerd, and `ctr` for a look at /etc. */
  private readonly env = { ...process.env, PATH: `${join(this.dir, 'bin')}${delimiter}${process.env['PATH']}` };
  private readonly processes: ChildProcess[] = [];
  private snapshotter: ChildProcess | null = null;
  private readonly containers = new Set<ChildProcess>();

  /** Starts both; the snapshotter's daemons are ours, in `mode`, with `recover_policy = "failover"`. */
  static async start(mode: DaemonMode): Promise<ContainerdRig> {
    const rig = new ContainerdRig();
    try {
      await rig.up(mode);
    } catch (error) {
      await rig.stop();
      throw error;
    }
    return rig;
  }

  private async up(mode: DaemonMode): Promise<void> {
    const { dir } = this;
    mkdirSync(join(dir, 'bin'));
    for (const name of ['nydusd', 'nydus-image', 'nydus-overlayfs']) {
      symlinkSync(join(REPOSITORY, 'bin', name), join(dir, 'bin', name));
    }
    writeFileSync(join(dir, 'snapshotter.toml'), snapshotterToml(dir, mode));
    writeFileSync(join(dir, 'nydusd.json'), JSON.stringify(NYDUSD_CONFIG));
    writeFileSync(join(dir, 'containerd.toml'), containerdToml(dir));
    await this.startSnapshotter();
    this.launch('containerd', '/usr/bin/containerd', ['-c', join(dir, 'containerd.toml')]);
    await this.until('containerd', async () => (await this.ctr('version').catch(() => null)) !== null);
  }

  private async startSnapshotter(): Promise<void> {
    this.snapshotter = this.launch('snapshotter', SNAPSHOTTER, ['--config', join(this.dir, 'snapshotter.toml')]);
    await this.until('the snapshotter', async () => (await this.daemons().catch(() => null)) !== null);
  }

  /** Kills the snapshotter and starts it again; its daemons are left alone. */
  async restartSnapshotter(): Promise<void> {
    const gone = once(this.snapshotter!, 'exit');
    this.snapshotter!.kill('SIGKILL');
    await gone;
    await this.startSnapshotter();
  }

  private launch(name: string, program: string, args: readonly string[]): ChildProcess {
    const log = openSync(join(this.dir, `${name}.log`), 'a');
    const child = spawn(program, args, { env: this.env, stdio: ['ignore', log, log] });
    this.processes.push(child);
    return child;
  }

  /** Waits until `isTrue`. @throws with both logs when that takes longer than 30 s */
  async until(what: string, isTrue: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + READY_MS_MAX;
    while (!(await isTrue())) {
      if (performance.now() > deadline) throw new Error(`${what} is not there in ${READY_MS_MAX} ms\n${this.logs()}`);
      await sleep(50);
    }
  }

  /** The ends of what both wrote, for a failing test. */
  logs(): string {
    const tail = (name: string) => {
      const path = join(this.dir, `${name}.log`);
      if (!existsSync(path)) return '';
      const lines = readFileSync(path, 'utf8').split('\n');
      // Each look at the list of daemons makes two lines.
      return `--- ${name}\n${lines
        .filter((line) => !line.includes('Failed to get'))
        .slice(-LINES_MAX)
        .join('\n')}`;
    };
    return `${tail('containerd')}\n${tail('snapshotter')}`;
  }

  /** How often a daemon has left its state with the snapshotter. */
  statesKept(): number {
    return readFileSync(join(this.dir, 'snapshotter.log'), 'utf8').split(' receives states').length - 1;
  }

  /** Runs `ctr`; what it printed. */
  async ctr(...args: string[]): Promise<string> {
    const full = ['-a', this.socket, '-n', NAMESPACE, ...args];
    const { stdout } = await promisify(execFile)('/usr/bin/ctr', full, { env: this.env, timeout: 60_000 });
    return stdout;
  }

  async pull(image: string): Promise<void> {
    await pullImage(this.socket, image);
  }

  /** Starts a container that goes on; its output comes line by line to `onLine`. */
  run(image: string, id: string, command: readonly string[], onLine: (line: string) => void): ChildProcess {
    const child = spawn('/usr/bin/ctr', this.runArgs(image, id, command), {
      env: this.env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.containers.add(child);
    for (const stream of [child.stdout, child.stderr]) {
      let rest = '';
      stream.setEncoding('utf8').on('data', (text: string) => {
        const lines = (rest + text).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines) onLine(line);
      });
    }
    child.once('close', () => this.containers.delete(child));
    return child;
  }

  /**
   * Runs `script` in a container; the lines it printed. `ctr` drops what is still under way when a container ends, so the
   * container says that it is done, and is killed then.
   * @throws when the script exits with another code than 0
   */
  async runToEnd(image: string, id: string, script: string): Promise<string[]> {
    const lines: string[] = [];
    let code: string | undefined;
    const child = this.run(image, id, ['/bin/sh', '-c', `(${script}); echo "end $?"; exec sleep 60`], (line) => {
      code ??= /^end (\d+)$/.exec(line)?.[1];
      if (code === undefined) lines.push(line);
      else void this.ctr('tasks', 'kill', '-s', 'SIGKILL', this.idOf(id)).catch(() => {});
    });
    await once(child, 'close');
    if (code !== '0') throw new Error(`container ${id} ended with ${code ?? 'nothing'}: ${lines.join('\n')}`);
    return lines;
  }

  private runArgs(image: string, id: string, command: readonly string[]): string[] {
    // Without --allow-new-privs `ctr` has set-uid bits ignored, whatever the mounts allow.
    const flags = ['--rm', '--allow-new-privs', '--snapshotter', 'nydus'];
    return ['-a', this.socket, '-n', NAMESPACE, 'run', ...flags, image, this.idOf(id), ...command];
  }

  /** runc's own folder is the machine's: what an aborted run left there must not be in the way. */
  idOf(id: string): string {
    return `${id}-${basename(this.dir)}`;
  }

  /** The snapshotter's daemons that serve something. */
  async daemons(): Promise<DaemonRecord[]> {
    return JSON.parse(await this.control('GET', '/api/v1/daemons')) as DaemonRecord[];
  }

  /** Replaces all daemons by new ones of `program`, mounts going on. */
  async upgrade(program: string): Promise<void> {
    await this.control('PUT', '/api/v1/daemons/upgrade', { nydusd_path: program, version: 'next', policy: 'rolling' });
  }

  private control(method: string, path: string, body?: object): Promise<string> {
    return new Promise((resolve, reject) => {
      const call = request({ socketPath: this.controller, method, path }, (response) => {
        let text = '';
        response.setEncoding('utf8').on('data', (part: string) => {
          text += part;
        });
        response.on('end', () => {
          if ((response.statusCode ?? 500) < 300) resolve(text);
          else reject(new Error(`${method} ${path}: ${response.statusCode} ${text}`));
        });
      });
      call.on('error', reject);
      call.end(body === undefined ? undefined : JSON.stringify(body));
    });
  }

  /** Ends everything, takes all mounts below the folder away and removes it. */
  async stop(): Promise<void> {
    for (const id of (await this.ctr('tasks', 'ls', '-q').catch(() => '')).split('\n').filter((line) => line !== '')) {
      await this.ctr('tasks', 'kill', '-s', 'SIGKILL', id).catch(() => {});
    }
    const until = performance.now() + 5000;
    while (this.containers.size > 0 && performance.now() < until) await sleep(50);
    const daemons = await this.daemons().catch(() => []);
    for (const child of [...this.containers, ...this.processes]) child.kill('SIGKILL');
    for (const { pid } of daemons) killQuietly(pid);
    for (const mountpoint of mountsBelow(this.dir)) execFileSync('umount', ['-l', mountpoint]);
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // Gone already.
  }
}

/** Mount points below `dir`, the deepest first. */
export function mountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${dir}/`))
    .reverse();
}

/** Template the snapshotter completes for each image (kata-contract 5.4). */
const NYDUSD_CONFIG = {
  device: {
    backend: { type: 'registry', config: { scheme: 'http', timeout: 5, connect_timeout: 5, retry_limit: 2 } },
    cache: { type: 'blobcache', config: { work_dir: 'cache' } },
  },
  mode: 'direct',
  digest_validate: false,
  enable_xattr: true,
  fs_prefetch: { enable: false },
};

function snapshotterToml(dir: string, mode: DaemonMode): string {
  return `version = 1
root = "${dir}/snapshots"
address = "${dir}/snapshotter.sock"
daemon_mode = "${mode}"
[system]
enable = true
address = "${dir}/system.sock"
[daemon]
nydusd_path = "${dir}/bin/nydusd"
nydusimage_path = "${dir}/bin/nydus-image"
nydusd_config = "${dir}/nydusd.json"
fs_driver = "fusedev"
recover_policy = "failover"
failover_policy = "resend"
threads_number = 4
[cgroup]
enable = false
[log]
log_to_stdout = true
level = "debug"
[metrics]
address = ""
[snapshot]
enable_nydus_overlayfs = true
nydus_overlayfs_path = "nydus-overlayfs"
[cache_manager]
cache_dir = "${dir}/cache"
`;
}

function containerdToml(dir: string): string {
  return `version = 2
root = "${dir}/containerd"
state = "${dir}/state"
[grpc]
  address = "${dir}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "nydus"
  disable_snapshot_annotations = false
[proxy_plugins.nydus]
  type = "snapshot"
  address = "${dir}/snapshotter.sock"
`;
}
