/** Real servers of Debian packages for the tests of this folder: nginx, tinyproxy, certificates made by openssl. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { freePort } from '../../src/storage/registry.testing.ts';

const NGINX = '/usr/sbin/nginx';
const TINYPROXY = '/usr/bin/tinyproxy';
/** A loaded machine starts a server slower than any other, never slower than this. */
const READY_MS_MAX = 15_000;

/** Why a test that needs `programs` cannot run here; false when it can. */
export function missing(...programs: ('nginx' | 'tinyproxy')[]): string | false {
  const paths = { nginx: NGINX, tinyproxy: TINYPROXY };
  const gone = programs.find((name) => !existsSync(paths[name]));
  return gone === undefined ? false : `${paths[gone]} is not installed: run scripts/setup.sh`;
}

/** A server of one port that can be killed and started again. */
export class RealServer {
  private child: ChildProcess | null = null;

  private constructor(
    readonly port: number,
    private readonly command: readonly string[],
    /** What it has written into its logs. */
    readonly log: () => string,
  ) {}

  get host(): string {
    return `127.0.0.1:${this.port}`;
  }

  /**
   * @param server the inside of nginx's `server {}` beside `listen`
   * @param listen options of `listen`, such as `ssl`
   */
  static async nginx(dir: string, server: string, listen = ''): Promise<RealServer> {
    mkdirSync(dir, { recursive: true });
    const port = await freePort();
    const file = join(dir, 'nginx.conf');
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (name) => `${name}_temp_path ${dir}/tmp;`,
    );
    writeFileSync(
      file,
      `daemon off; master_process off; pid ${dir}/pid; error_log ${dir}/error.log;
events {}
http {
  access_log ${dir}/access.log;
  ${temporary.join('\n  ')}
  server {
    listen 127.0.0.1:${port} ${listen};
    ${server}
  }
}
`,
    );
    const command = [NGINX, '-c', file, '-e', join(dir, 'error.log')];
    return new RealServer(port, command, logOf(dir, ['access.log', 'error.log'])).start();
  }

  /** A forward proxy; `login` is `user password` where it wants one. */
  static async tinyproxy(dir: string, login: string | null = null): Promise<RealServer> {
    mkdirSync(dir, { recursive: true });
    const port = await freePort();
    const file = join(dir, 'tinyproxy.conf');
    writeFileSync(
      file,
      `Port ${port}
Listen 127.0.0.1
Allow 127.0.0.1
MaxClients 100
Timeout 60
LogLevel Connect
LogFile "${dir}/tinyproxy.log"
${login === null ? '' : `BasicAuth ${login}\n`}`,
    );
    return new RealServer(port, [TINYPROXY, '-d', '-c', file], logOf(dir, ['tinyproxy.log'])).start();
  }

  async start(): Promise<this> {
    const [program, ...args] = this.command;
    const child = spawn(program!, args, { stdio: 'ignore' });
    this.child = child;
    for (const end = Date.now() + READY_MS_MAX; !(await answers(this.port)); await sleep(20)) {
      assert.ok(Date.now() < end && child.exitCode === null, `${program} did not come up: ${this.log()}`);
    }
    return this;
  }

  async kill(): Promise<void> {
    const { child } = this;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await ended;
  }
}

const logOf = (dir: string, names: string[]) => () =>
  names.map((name) => (existsSync(join(dir, name)) ? readFileSync(join(dir, name), 'utf8') : '')).join('');

function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

export interface Certificates {
  /** Of the authority. */
  ca: string;
  /** Of a server on 127.0.0.1, signed by it, and its key. */
  certificate: string;
  key: string;
}

/** A private authority and a certificate of it. */
export function makeCertificates(dir: string): Certificates {
  mkdirSync(dir, { recursive: true });
  const at = (name: string) => join(dir, name);
  const openssl = (...args: string[]) => execFileSync('openssl', args, { stdio: ['ignore', 'ignore', 'pipe'] });
  const ec = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
  openssl(
    'req',
    '-x509',
    ...ec,
    '-days',
    '2',
    '-subj',
    '/CN=test authority',
    '-keyout',
    at('ca.key'),
    '-out',
    at('ca.pem'),
  );
  openssl('req', ...ec, '-subj', '/CN=127.0.0.1', '-keyout', at('server.key'), '-out', at('server.csr'));
  writeFileSync(at('san'), 'subjectAltName=IP:127.0.0.1');
  const signing = ['-CA', at('ca.pem'), '-CAkey', at('ca.key'), '-CAcreateserial', '-days', '2', '-extfile', at('san')];
  openssl('x509', '-req', '-in', at('server.csr'), ...signing, '-out', at('server.pem'));
  return { ca: at('ca.pem'), certificate: at('server.pem'), key: at('server.key') };
}
