/** An image on the host over /dev/fuse, by our built daemon or by nydusd, as a user mounts it. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { findProgram } from './programs.ts';
import { callApi } from './subjects.ts';
import { REPOSITORY } from './tree.ts';
import { cpuUs, rssKiB } from './usage.ts';

const READY_MS_MAX = 30_000;
const LOG_CHARS_KEPT = 4000;

export const DAEMONS = ['ours', 'nydusd'] as const;
export type DaemonName = (typeof DAEMONS)[number];

export interface MountOptions {
  validate: boolean;
  /** `amplify_io`; null leaves it to the daemon. */
  amplifyBytes: number | null;
  /** `fs_prefetch`; null: none. `all`: the whole image, else its table and what `--prefetch-files` gets, if anything. */
  prefetch: { all: boolean; list: string | null } | null;
}

/** Path of the daemon's program; null where it is not installed. */
export function daemonProgram(name: DaemonName): string | null {
  return name === 'ours' ? join(REPOSITORY, 'bin', 'nydusd') : findProgram('nydusd', 'NYDUSD');
}

export class Mounted {
  private constructor(
    private readonly folder: string,
    private readonly child: ChildProcess,
    /** From the start of the program until the mounted root shows the image. */
    readonly readyMs: number,
  ) {}

  /**
   * @param backend as the configuration names it: type and config
   * @param folder an empty one, on the disk where caches are to lie; removed by `stop`
   * @throws Error with the daemon's words when the image does not appear
   */
  static async start(
    name: DaemonName,
    bootstrap: string,
    backend: object,
    options: MountOptions,
    folder: string,
  ): Promise<Mounted> {
    const program = daemonProgram(name);
    if (program === null) throw new Error(`${name} is not installed: npm run bench:peers`);
    mkdirSync(join(folder, 'cache'), { recursive: true });
    mkdirSync(join(folder, 'root'), { recursive: true });
    const config = join(folder, 'config.json');
    writeFileSync(config, JSON.stringify(configOf(backend, join(folder, 'cache'), options)));
    const args = ['fuse', '--mountpoint', join(folder, 'root'), '--bootstrap', bootstrap, '--config', config];
    args.push('--apisock', join(folder, 'api.sock'), '--log-level', 'warn');
    if (name === 'nydusd') args.push('--rlimit-nofile', '0');
    const list = options.prefetch?.list ?? null;
    if (list !== null) {
      writeFileSync(join(folder, 'files'), list);
      args.push('--prefetch-files', join(folder, 'files'));
    }
    const from = performance.now();
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        said = (said + text).slice(-LOG_CHARS_KEPT);
      });
    }
    while (!existsSync(join(folder, 'root', 'usr'))) {
      if (child.exitCode !== null || performance.now() - from > READY_MS_MAX) {
        child.kill('SIGKILL');
        throw new Error(`${name} does not show ${bootstrap}, exit code ${child.exitCode}: ${said}`);
      }
      await sleep(1);
    }
    return new Mounted(folder, child, performance.now() - from);
  }

  get mountpoint(): string {
    return join(this.folder, 'root');
  }

  /** Answer of its API. */
  ask(path: string): Promise<string> {
    return callApi(join(this.folder, 'api.sock'), 'GET', path);
  }

  get cpuMs(): number {
    return cpuUs(this.child.pid as number) / 1000;
  }

  /** Resident memory now, or the most it ever was. */
  rssMB(what: 'now' | 'peak'): number {
    return rssKiB(this.child.pid as number, what) / 1024;
  }

  /** Every chunk of every blob is in the cache: the maps say so (rafs-format 6.2). */
  isComplete(chunkCount: number): boolean {
    let ready = 0;
    for (const name of readdirSync(join(this.folder, 'cache'))) {
      if (!name.endsWith('chunk_map')) continue;
      for (const byte of readFileSync(join(this.folder, 'cache', name)).subarray(CHUNK_MAP_HEADER_BYTES))
        for (let bits = byte; bits !== 0; bits &= bits - 1) ready++;
    }
    return ready >= chunkCount;
  }

  /** Ends the daemon, unmounts, removes the folder. */
  async stop(): Promise<void> {
    await this.end();
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** Ends the daemon and unmounts; the cache stays. */
  async end(): Promise<void> {
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.kill('SIGTERM');
    const forced = setTimeout(() => this.child.kill('SIGKILL'), STOP_MS_MAX);
    if (this.child.exitCode === null && this.child.signalCode === null) await ended;
    clearTimeout(forced);
    if (readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${this.mountpoint} `))
      execFileSync('umount', ['-l', this.mountpoint]);
  }
}

const CHUNK_MAP_HEADER_BYTES = 4096;
const STOP_MS_MAX = 5000;

function configOf(backend: object, workDir: string, { validate, amplifyBytes, prefetch }: MountOptions): object {
  return {
    device: { id: 'bench', backend, cache: { type: 'blobcache', config: { work_dir: workDir } } },
    mode: 'direct',
    digest_validate: validate,
    iostats_files: false,
    enable_xattr: true,
    ...(amplifyBytes === null ? {} : { amplify_io: amplifyBytes }),
    fs_prefetch: {
      enable: prefetch !== null,
      threads_count: 4,
      merging_size: 1 << 20,
      prefetch_all: prefetch?.all === true,
    },
  };
}
