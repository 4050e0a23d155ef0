/** Starts the built daemon as Kata does (kata-contract 1.2–1.5), steers it over its API, and checks how it ends. */
import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readlinkSync, rmSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf } from '../../src/common/app-error.ts';
import { REPOSITORY } from './assets.ts';
import { vmError } from './errors.ts';
import { DEFAULT_TAG } from './guest.ts';
import { ended, spawnServer, Tail } from './process.ts';

export interface ApiAnswer {
  status: number;
  body: string;
}

/** `tag` makes it offer the config space, which UML needs; `mountpoint` serves the host's kernel over /dev/fuse. */
export type Mode = { tag: string } | { mountpoint: string };

/** Kata gives up after 10 s; a loaded test machine may need a good part of that. */
const READY_TIMEOUT_MS = 8000;
const REQUEST_TIMEOUT_MS = 10_000;
/** Issue: SIGTERM ends the daemon within 1 s with a VMM attached; the rest is the load of a test machine. */
const EXIT_TIMEOUT_MS = 2500;

/**
 * Path of a program of ours; `NYDUS_BIN_DIR` puts another build (or a peer) under test.
 * @throws VM_PART_MISSING when it was not built.
 */
export function built(program: string): string {
  const path = join(process.env['NYDUS_BIN_DIR'] ?? join(REPOSITORY, 'bin'), program);
  if (!existsSync(path)) throw vmError('VM_PART_MISSING', { part: path, hint: 'run `npm run build`' });
  return path;
}

export class Daemon {
  readonly sock: string;
  readonly #api: string;
  readonly #child: ChildProcess;
  readonly #tail: Tail;
  readonly #ended: Promise<string>;
  #endedWith: string | null = null;

  private constructor(
    private readonly scratch: string,
    mode: Mode,
  ) {
    this.sock = join(scratch, 'vhost-fs.sock');
    this.#api = join(scratch, 'api.sock');
    const transport =
      'mountpoint' in mode ? ['fuse', '--mountpoint', mode.mountpoint] : ['virtiofs', '--sock', this.sock];
    const tag = 'tag' in mode ? ['--tag', mode.tag] : [];
    const args = [...transport, ...tag, '--log-level', 'info', '--apisock', this.#api];
    this.#child = spawnServer(built('nydusd'), args);
    this.#tail = new Tail().watch(this.#child.stdout!).watch(this.#child.stderr!);
    this.#ended = ended(this.#child).then((why) => (this.#endedWith = why));
  }

  /** Starts a daemon and waits until it says RUNNING. @throws VM_DAEMON with its log */
  static async start(mode: Mode): Promise<Daemon> {
    const daemon = new Daemon(mkdtempSync(join(tmpdir(), 'nydus-daemon-')), mode);
    const deadline = performance.now() + READY_TIMEOUT_MS;
    for (;;) {
      if (await daemon.#isRunning()) return daemon;
      if (daemon.#endedWith !== null || performance.now() > deadline) {
        const what = daemon.#endedWith ?? `not RUNNING after ${READY_TIMEOUT_MS} ms`;
        daemon.kill();
        throw vmError('VM_DAEMON', { what: `nydusd: ${what}`, log: daemon.log });
      }
      await sleep(20);
    }
  }

  /** The end of what it wrote to stdout and stderr. */
  get log(): string {
    return this.#tail.text;
  }

  get pid(): number {
    return this.#child.pid!;
  }

  /** Where its descriptors lead. */
  descriptors(): string[] {
    const folder = `/proc/${this.pid}/fd`;
    return readdirSync(folder).flatMap((fd) => {
      try {
        return [readlinkSync(join(folder, fd))];
      } catch {
        return []; // closed meanwhile
      }
    });
  }

  /** What is mounted where, as its API tells it. */
  async mounts(): Promise<Record<string, unknown>> {
    const { body } = await this.request('GET', '/api/v1/daemon');
    return (JSON.parse(body) as { backend_collection: Record<string, unknown> }).backend_collection;
  }

  async request(method: string, path: string, body?: object): Promise<ApiAnswer> {
    const text = body === undefined ? '' : JSON.stringify(body);
    const headers = body === undefined ? {} : { 'content-type': 'application/json', 'content-length': text.length };
    return await new Promise((resolve, reject) => {
      const socketPath = this.#api;
      const call = httpRequest({ socketPath, method, path, headers, timeout: REQUEST_TIMEOUT_MS }, (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString('utf8') });
        });
      });
      call.on('timeout', () => call.destroy(new Error(`no answer to ${method} ${path}`)));
      call.on('error', reject);
      call.end(Buffer.from(text));
    });
  }

  /** Mounts host directory `source` at `mountpoint` of the device. */
  async mountShare(mountpoint: string, source: string): Promise<void> {
    await this.#mount(mountpoint, { fs_type: 'passthrough_fs', source, config: '' });
  }

  /** Mounts the image of `bootstrap` with a v1 configuration (see `rafsConfig`). */
  async mountImage(mountpoint: string, bootstrap: string, config: object): Promise<void> {
    await this.#mount(mountpoint, { fs_type: 'rafs', source: bootstrap, config: JSON.stringify(config) });
  }

  async umount(mountpoint: string): Promise<void> {
    this.#must(await this.request('DELETE', `/api/v1/mount?mountpoint=${mountpoint}`), `umount ${mountpoint}`);
  }

  /** SIGTERM; it must end in time with status 0 and leave no socket behind. */
  async stop(): Promise<void> {
    const startedAt = performance.now();
    this.#signal('SIGTERM');
    const why = await Promise.race([this.#ended, sleep(EXIT_TIMEOUT_MS, 'still there')]);
    const elapsedMs = Math.round(performance.now() - startedAt);
    const left = [this.sock, this.#api].filter((path) => existsSync(path));
    this.kill();
    assert.equal(why, 'exit 0', `after SIGTERM and ${elapsedMs} ms; log:\n${this.log}`);
    assert.deepEqual(left, [], 'socket files left behind');
  }

  /** Ends it at once; harmless when it is gone. */
  kill(): void {
    this.#child.kill('SIGKILL');
    rmSync(this.scratch, { recursive: true, force: true });
  }

  async #mount(mountpoint: string, body: object): Promise<void> {
    this.#must(await this.request('POST', `/api/v1/mount?mountpoint=${mountpoint}`, body), `mount ${mountpoint}`);
  }

  #must(answer: ApiAnswer, what: string): void {
    if (answer.status === 204 && answer.body === '') return;
    throw vmError('VM_DAEMON', { what: `${what}: ${answer.status} ${answer.body}`, log: this.log });
  }

  async #isRunning(): Promise<boolean> {
    try {
      const { status, body } = await this.request('GET', '/api/v1/daemon');
      return status === 200 && (JSON.parse(body) as { state?: unknown }).state === 'RUNNING';
    } catch (error) {
      if (['ENOENT', 'ECONNREFUSED', 'ECONNRESET'].includes(codeOf(error))) return false;
      throw error;
    }
  }

  #signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }
}

/**
 * Runs `body` with a daemon, then ends that with SIGTERM and checks how it ends. When `body` throws, its error is the
 * one reported, with the daemon's log.
 */
export async function withDaemon(
  body: (daemon: Daemon) => Promise<void>,
  mode: Mode = { tag: DEFAULT_TAG },
): Promise<void> {
  const daemon = await Daemon.start(mode);
  try {
    await body(daemon);
  } catch (error) {
    daemon.kill();
    if (error instanceof Error) error.message += `\n--- end of the daemon's log ---\n${daemon.log}`;
    throw error;
  }
  await daemon.stop();
}

/** A directory of blobs, or the one blob. */
export type LocalfsBackend = { type: 'localfs'; dir: string } | { type: 'localfs'; blobFile: string };
export type Backend = LocalfsBackend | { type: 'registry'; host: string; repo: string };

function backendConfig(backend: Backend): object {
  if ('dir' in backend) return { dir: backend.dir };
  if ('blobFile' in backend) return { blob_file: backend.blobFile };
  const { host, repo } = backend;
  return { scheme: 'http', host, repo, timeout: 5, connect_timeout: 5, retry_limit: 2 };
}

/** A v1 configuration as nydus-snapshotter writes it (kata-contract 1.5, 3.4). */
export function rafsConfig(backend: Backend, cacheDir: string, validate: boolean): object {
  return {
    device: {
      backend: { type: backend.type, config: backendConfig(backend) },
      cache: { type: 'blobcache', config: { work_dir: cacheDir } },
    },
    mode: 'direct',
    digest_validate: validate,
    enable_xattr: true,
    fs_prefetch: { enable: false },
  };
}
