/** What is measured: our built daemon as users start it, its peers, each on core 1. */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { BenchClient, type Node } from './client.ts';
import { findProgram, versionOf } from './programs.ts';
import { REPOSITORY, type Tree } from './tree.ts';

export const BACKEND_CORE = '1';
const START_MS_MAX = 20_000;

/** `ours-quiet`: our daemon where one CPU is online, as it sees it, so that it does not poll. */
export const SUBJECTS = ['ours', 'ours-quiet', 'nydusd', 'virtiofsd', 'virtiofsd-c', 'null'] as const;
export type SubjectName = (typeof SUBJECTS)[number];

export interface Subject {
  name: SubjectName;
  version: string;
  pids: number[];
  client: BenchClient;
  /** Roots of what it serves. */
  share: Node | null;
  image: Node | null;
  /** Where its cache of the image lies, if it has one. */
  cacheDir: string;
  stop(): void;
}

const C_VIRTIOFSD = '/usr/lib/qemu/virtiofsd';

/** Program of each subject, null where it is missing. */
export function programOf(name: SubjectName): string | null {
  if (name === 'ours' || name === 'ours-quiet') return join(REPOSITORY, 'bin', 'nydusd');
  if (name === 'nydusd') return findProgram('nydusd', 'NYDUSD');
  if (name === 'virtiofsd') return findProgram('virtiofsd', 'VIRTIOFSD');
  if (name === 'virtiofsd-c') return existsSync(C_VIRTIOFSD) ? C_VIRTIOFSD : null;
  return process.execPath;
}

/** Hides the second CPU from what follows, in a mount namespace: $1 is a file that says `0`. */
const ONE_CPU = 'mount --bind "$1" /sys/devices/system/cpu/online && shift && exec "$@"';

function pinned(name: SubjectName, dir: string, program: string, args: readonly string[]): ChildProcess {
  const command = ['taskset', '-c', BACKEND_CORE, program, ...args];
  if (name === 'ours-quiet') {
    writeFileSync(join(dir, 'online'), '0\n');
    command.unshift('unshare', '--mount', 'sh', '-c', ONE_CPU, 'sh', join(dir, 'online'));
  }
  return spawn(command[0] as string, command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
}

/** Starts `name` on the tree and connects to it. @throws when it does not come up; its messages are part of the text */
export async function startSubject(name: SubjectName, program: string, tree: Tree): Promise<Subject> {
  const dir = mkdtempSync(join(tmpdir(), 'bench-'));
  const sock = join(dir, 'fs.sock');
  const api = join(dir, 'api.sock');
  const child = pinned(name, dir, program, argvOf(name, sock, api, tree));
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said = (said + text).slice(-4000);
  });
  const stop = (): void => {
    child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  };
  try {
    const daemon = name === 'ours' || name === 'ours-quiet' || name === 'nydusd';
    await until(() => existsSync(sock) && (!daemon || existsSync(api)), child);
    if (daemon) await mountBoth(api, dir, tree);
    const client = new BenchClient(sock);
    client.trusting = name === 'null';
    const root = { low: 1, high: 0 };
    return {
      name,
      version: name === 'null' ? '' : versionOf(program),
      pids: [child.pid as number],
      client,
      share: daemon ? client.walk(root, 'share') : root,
      image: daemon ? client.walk(root, 'image') : name === 'null' ? root : null,
      cacheDir: join(dir, 'cache'),
      stop: () => {
        client.close();
        stop();
      },
    };
  } catch (error) {
    stop();
    throw new Error(`${name} does not start: ${error instanceof Error ? error.message : error}\n${said}`);
  }
}

function argvOf(name: SubjectName, sock: string, api: string, tree: Tree): string[] {
  switch (name) {
    case 'ours':
    case 'ours-quiet':
      return ['virtiofs', '--sock', sock, '--apisock', api];
    case 'nydusd':
      return ['virtiofs', '--rlimit-nofile', '0', '--log-level', 'warn', '--sock', sock, '--apisock', api];
    case 'virtiofsd':
      return [
        '--socket-path',
        sock,
        '--shared-dir',
        tree.share,
        '--sandbox',
        'none',
        '--cache',
        'auto',
        '--log-level',
        'warn',
      ];
    case 'virtiofsd-c':
      return ['-f', `--socket-path=${sock}`, '-o', `source=${tree.share}`, '-o', 'sandbox=chroot', '-o', 'cache=auto'];
    case 'null':
      return [join(REPOSITORY, 'dist', 'bench', 'null-device.cjs'), sock];
  }
}

async function until(good: () => boolean, child: ChildProcess): Promise<void> {
  const deadline = performance.now() + START_MS_MAX;
  while (!good()) {
    if (child.exitCode !== null) throw new Error(`exit code ${child.exitCode}`);
    if (performance.now() > deadline) throw new Error(`no socket after ${START_MS_MAX} ms`);
    await sleep(2);
  }
}

/** The share at /share, the image at /image, in a cache of its own. */
async function mountBoth(api: string, dir: string, tree: Tree): Promise<void> {
  await settled(() => state(api));
  const work = join(dir, 'cache');
  mkdirSync(work);
  await post(api, 'share', { fs_type: 'passthrough_fs', source: tree.share, config: '' });
  await mountAt(api, 'image', tree.bootstrap, tree.blobs, work);
}

/** Mounts an image at /`at` of a running daemon, its blobs in a directory. @throws Error with the daemon's answer */
export async function mountAt(api: string, at: string, bootstrap: string, blobs: string, work: string): Promise<void> {
  const config = {
    device: {
      id: 'bench',
      backend: { type: 'localfs', config: { dir: blobs } },
      cache: { type: 'blobcache', config: { work_dir: work } },
    },
    mode: 'direct',
    digest_validate: false,
    enable_xattr: true,
    fs_prefetch: { enable: false },
  };
  await post(api, at, { fs_type: 'rafs', source: bootstrap, config: JSON.stringify(config) });
}

async function settled(running: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + START_MS_MAX;
  while (!(await running())) {
    if (performance.now() > deadline) throw new Error('not RUNNING');
    await sleep(2);
  }
}

/** True when the daemon says RUNNING (nydusd says so before a VMM is there, too). */
export async function state(api: string): Promise<boolean> {
  try {
    return (await callApi(api, 'GET', '/api/v1/daemon')).includes('RUNNING');
  } catch {
    return false;
  }
}

async function post(api: string, at: string, body: object): Promise<void> {
  await callApi(api, 'POST', `/api/v1/mount?mountpoint=/${at}`, JSON.stringify(body));
}

/** Body of the API's answer. @throws Error when it is no success */
export function callApi(api: string, method: string, path: string, body = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const headers =
      body === '' ? {} : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    const sent = request({ socketPath: api, method, path, agent: false, headers }, (answer) => {
      let text = '';
      answer.setEncoding('utf8').on('data', (part: string) => {
        text += part;
      });
      answer.on('end', () => {
        if ((answer.statusCode ?? 500) < 300) resolve(text);
        else reject(new Error(`${method} ${path}: ${answer.statusCode} ${text}`));
      });
    });
    sent.on('error', reject).end(body);
  });
}
