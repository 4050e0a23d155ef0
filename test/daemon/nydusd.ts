/** Starts the built `bin/nydusd` the way kata-runtime does and talks to its API; used by every test of this folder. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

export const REPOSITORY = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
export const FIXTURES = process.env['NYDUS_FIXTURES'] ?? join(REPOSITORY, '..', 'shared', 'fixtures');
export const NYDUSD = join(process.env['NYDUS_BIN_DIR'] ?? join(REPOSITORY, 'bin'), 'nydusd');

/** A loaded test machine is slower than Kata's 10 s, never than this. */
const READY_MS_MAX = 20_000;

export interface ApiAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

/** argv with S and A in place of the two socket paths. */
export type Argv = (sock: string, apisock: string) => string[];

export const KATA_ARGV: Argv = (sock, apisock) => [
  'virtiofs',
  '--log-level',
  'info',
  '--apisock',
  apisock,
  '--sock',
  sock,
];

export class Nydusd {
  readonly sock: string;
  readonly apisock: string;
  readonly child: ChildProcess;
  /** Everything it printed. */
  output = '';
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;

  constructor(
    argv: Argv = KATA_ARGV,
    readonly dir: string = mkdtempSync(join(tmpdir(), 'nydusd-test-')),
    command: readonly string[] = [NYDUSD],
    apisock: string = join(dir, 'api.sock'),
    sock: string = join(dir, 'vhost-fs.sock'),
  ) {
    assert.ok(existsSync(NYDUSD), `${NYDUSD} is missing: run npm run build`);
    this.sock = sock;
    this.apisock = apisock;
    const [program, ...rest] = [...command, ...argv(this.sock, this.apisock)];
    this.child = spawn(program!, rest, { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
      });
    }
    this.ended = new Promise((resolve) => this.child.on('close', (code, signal) => resolve({ code, signal })));
  }

  /** Starts one and waits until it says RUNNING. */
  static async start(argv: Argv = KATA_ARGV, command: readonly string[] = [NYDUSD]): Promise<Nydusd> {
    const daemon = new Nydusd(argv, undefined, command);
    await daemon.running();
    return daemon;
  }

  get pid(): number {
    return this.child.pid!;
  }

  /** Waits for what it prints: an answer of its API may be here before the line that was written earlier. */
  async printed(what: RegExp): Promise<void> {
    for (let i = 0; i < 1000 && !what.test(this.output) && this.child.exitCode === null; i++) await sleep(10);
    assert.match(this.output, what);
  }

  /** Polls the API until RUNNING. */
  async running(): Promise<void> {
    const deadline = performance.now() + READY_MS_MAX;
    for (;;) {
      const state = await this.state();
      if (state === 'RUNNING') return;
      const over = this.child.exitCode !== null || performance.now() > deadline;
      if (over) {
        this.kill();
        assert.fail(`nydusd is ${state ?? 'silent'}, exit code ${this.child.exitCode}; it printed:\n${this.output}`);
      }
      await sleep(5);
    }
  }

  private async state(): Promise<string | null> {
    try {
      return (JSON.parse((await this.get('/api/v1/daemon')).text) as { state: string }).state;
    } catch {
      return null;
    }
  }

  request(
    method: string,
    path: string,
    body?: string | Buffer,
    headers: Record<string, string> = {},
  ): Promise<ApiAnswer> {
    return new Promise((resolve, reject) => {
      const call = httpRequest(
        {
          socketPath: this.apisock,
          method,
          path,
          agent: false,
          headers: { ...headers, ...(body === undefined ? {} : { 'content-length': Buffer.byteLength(body) }) },
        },
        (response) => {
          let text = '';
          response.setEncoding('utf8').on('data', (part: string) => {
            text += part;
          });
          response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }));
        },
      );
      call.on('error', reject);
      call.end(body);
    });
  }

  get(path: string): Promise<ApiAnswer> {
    return this.request('GET', path);
  }

  mount(mountpoint: string, body: object): Promise<ApiAnswer> {
    return this.request('POST', `/api/v1/mount?mountpoint=${mountpoint}`, JSON.stringify(body), {
      'content-type': 'application/json',
    });
  }

  async info(): Promise<{ state: string; backend_collection: Record<string, unknown> }> {
    return JSON.parse((await this.get('/api/v1/daemon')).text);
  }

  /** A raw connection to the API. */
  connectApi(): Promise<Socket> {
    return connected(this.apisock);
  }

  connectVmm(): Promise<Socket> {
    return connected(this.sock);
  }

  /** Sends `signal` and waits for the end; milliseconds and how it ended. */
  async stop(
    signal: NodeJS.Signals = 'SIGTERM',
  ): Promise<{ ms: number; code: number | null; signal: NodeJS.Signals | null }> {
    const startedAt = performance.now();
    this.child.kill(signal);
    const end = await this.ended;
    return { ms: performance.now() - startedAt, ...end };
  }

  /** For `after` hooks: nothing of it is left, whatever state it was in. */
  kill(): void {
    if (this.child.exitCode === null) this.child.kill('SIGKILL');
    rmSync(this.dir, { recursive: true, force: true });
  }
}

function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path, allowHalfOpen: true });
    socket.once('connect', () => resolve(socket));
    socket.once('error', reject);
  });
}

/**
 * How many times longer than its CPU time a bare node takes now: 1 on an idle machine. Limits that are differences of
 * times are multiplied by it, so that they mean the same beside other tests.
 */
export function slowdown(): number {
  const ratios = Array.from({ length: 9 }, () => {
    const from = performance.now();
    const { stdout } = spawnSync('sh', ['-c', `"$1" -e 0; times`, 'sh', process.execPath], { encoding: 'utf8' });
    const ms = performance.now() - from;
    // The shell's own times, then those of its children: user and system, as 0m0.061s.
    const [user, system] = (stdout.trim().split('\n')[1] ?? '').split(' ').map((text) => {
      const [, minutes, seconds] = /^(\d+)m([\d.]+)s$/.exec(text) ?? [];
      return (Number(minutes) * 60 + Number(seconds)) * 1000;
    });
    return ms / ((user as number) + (system as number));
  });
  return Math.max(1, ratios.sort((a, b) => a - b)[ratios.length >> 1] as number);
}

/** v1 configuration of an image whose blobs lie in a directory. */
export function localfsConfig(blobDir: string, workDir: string): Record<string, unknown> {
  return {
    device: {
      id: '/17',
      backend: { type: 'localfs', config: { dir: blobDir } },
      cache: { type: 'blobcache', config: { work_dir: workDir } },
    },
    mode: 'direct',
    digest_validate: false,
    enable_xattr: true,
  };
}
