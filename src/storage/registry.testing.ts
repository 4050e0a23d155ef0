/**
 * A real registry (Debian's `docker-registry`) for tests: plain, with basic auth, or with tokens from a token server
 * of ours that signs JWTs with a key made for the run.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { createHash, generateKeyPairSync, type KeyObject, sign } from 'node:crypto';
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, createServer as createNetServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const REGISTRY = '/usr/bin/docker-registry';
const READY_TIMEOUT_MS = 10_000;
const USER = 'reader';
const PASSWORD = 'secret';
/** bcrypt of PASSWORD at its lowest cost; made with crypt(3). */
const PASSWORD_BCRYPT = '$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW';

export type AuthMode = 'none' | 'basic' | 'token';

/** Why the registry cannot be run here; null when it can. */
export function registryMissing(): string | null {
  return existsSync(REGISTRY) ? null : `${REGISTRY} is not installed (apt package docker-registry)`;
}

export interface TestRegistry {
  host: string;
  /** base64 of user:password for the configuration's `auth`; empty without authentication. */
  auth: string;
  /** Tokens handed out so far, and by which method they were asked for. */
  tokens: { method: string }[];
  /** Makes tokens given out from now on live this long, and say that they do, or something else. */
  setTokenSeconds(seconds: number, saidSeconds?: number): void;
  /** Makes the token server refuse all credentials. */
  refuseAll(isOn: boolean): void;
  close(): Promise<void>;
}

/** Starts a registry that holds `blobs` in repository `repo`. */
export async function startRegistry(
  dir: string,
  mode: AuthMode,
  repo: string,
  blobs: ReadonlyMap<string, Buffer>,
): Promise<TestRegistry> {
  const port = await freePort();
  const root = join(dir, 'registry');
  for (const [id, bytes] of blobs) putBlob(root, repo, id, bytes);
  const tokenServer = mode === 'token' ? await startTokenServer(dir) : null;
  const config = join(dir, 'registry.yml');
  writeFileSync(config, registryConfig(root, port, mode, dir, tokenServer?.url ?? ''));
  const child = spawn(REGISTRY, ['serve', config], { stdio: 'ignore' });
  await waitUntilUp(`http://127.0.0.1:${port}/v2/`, child);
  return {
    host: `127.0.0.1:${port}`,
    auth: mode === 'none' ? '' : Buffer.from(`${USER}:${PASSWORD}`).toString('base64'),
    tokens: tokenServer?.tokens ?? [],
    setTokenSeconds: (seconds, said) => tokenServer?.setSeconds(seconds, said),
    refuseAll: (isOn) => tokenServer?.refuseAll(isOn),
    async close() {
      child.kill('SIGKILL');
      await new Promise((resolve) => (child.exitCode === null ? child.once('exit', resolve) : resolve(null)));
      tokenServer?.server.closeAllConnections();
      tokenServer?.server.close();
    },
  };
}

/** The layout of the distribution's file system driver: the blob and its link in the repository. */
function putBlob(root: string, repo: string, id: string, bytes: Buffer): void {
  const v2 = join(root, 'docker/registry/v2');
  const blobDir = join(v2, 'blobs/sha256', id.slice(0, 2), id);
  mkdirSync(blobDir, { recursive: true });
  writeFileSync(join(blobDir, 'data'), bytes);
  const link = join(v2, 'repositories', repo, '_layers/sha256', id);
  mkdirSync(link, { recursive: true });
  writeFileSync(join(link, 'link'), `sha256:${id}`);
}

function registryConfig(root: string, port: number, mode: AuthMode, dir: string, realm: string): string {
  const auth: Record<AuthMode, string> = {
    none: '',
    basic: `auth:\n  htpasswd:\n    realm: test\n    path: ${mode === 'basic' ? htpasswd(dir) : ''}\n`,
    token: `auth:\n  token:\n    realm: ${realm}\n    service: test-registry\n    issuer: test-issuer\n    rootcertbundle: ${dir}/token.pem\n`,
  };
  return `version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: ${root} } }
http: { addr: "127.0.0.1:${port}", secret: test }
${auth[mode]}`;
}

function htpasswd(dir: string): string {
  const path = join(dir, 'htpasswd');
  writeFileSync(path, `${USER}:${PASSWORD_BCRYPT}\n`);
  return path;
}

interface TokenServer {
  server: Server;
  url: string;
  tokens: { method: string }[];
  setSeconds(seconds: number, said?: number): void;
  refuseAll(isOn: boolean): void;
}

/** Answers GET only, so that clients must fall back from POST; wants the user's password. */
async function startTokenServer(dir: string): Promise<TokenServer> {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const keyPath = join(dir, 'token.key');
  writeFileSync(keyPath, privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const args = ['req', '-x509', '-key', keyPath, '-out', join(dir, 'token.pem'), '-days', '2', '-subj', '/CN=test'];
  execFileSync('openssl', args, { stdio: 'ignore' });
  const certificate = execFileSync('openssl', ['x509', '-in', join(dir, 'token.pem'), '-outform', 'DER']);
  const tokens: { method: string }[] = [];
  let seconds = 600;
  let saidSeconds = seconds;
  let refusesAll = false;
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? '/', 'http://x');
    const password = Buffer.from(request.headers.authorization?.split(' ')[1] ?? '', 'base64').toString();
    if (request.method !== 'GET') return void response.writeHead(405).end();
    if (refusesAll || password !== `${USER}:${PASSWORD}`) return void response.writeHead(401).end();
    tokens.push({ method: request.method });
    const [type, name, actions] = (url.searchParams.get('scope') ?? '').split(':');
    const access = [{ type, name, actions: actions?.split(',') }];
    const token = signJwt(privateKey, certificate, url.searchParams.get('service') ?? '', seconds, access);
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ token, expires_in: saidSeconds }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/token`;
  return {
    server,
    url,
    tokens,
    setSeconds: (value, said = value) => {
      seconds = value;
      saidSeconds = said;
    },
    refuseAll: (isOn) => {
      refusesAll = isOn;
    },
  };
}

function signJwt(key: KeyObject, certificate: Buffer, audience: string, seconds: number, access: object[]): string {
  const part = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const now = Math.floor(Date.now() / 1000);
  const jti = createHash('sha256').update(`${now}${Math.random()}`).digest('hex');
  const claims = {
    iss: 'test-issuer',
    sub: USER,
    aud: audience,
    exp: now + seconds,
    nbf: now - 10,
    iat: now,
    jti,
    access,
  };
  const text = `${part({ typ: 'JWT', alg: 'ES256', x5c: [certificate.toString('base64')] })}.${part(claims)}`;
  return `${text}.${sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
}

/** A port nobody listened on a moment ago. */
export async function freePort(): Promise<number> {
  const probe = createNetServer();
  await new Promise<void>((resolve) => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as AddressInfo;
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

async function waitUntilUp(url: string, child: ChildProcess): Promise<void> {
  const until = Date.now() + READY_TIMEOUT_MS;
  while (Date.now() < until && child.exitCode === null) {
    const isUp = await fetch(url).then(
      () => true,
      () => false,
    );
    if (isUp) return;
    await sleep(50);
  }
  throw new Error(`registry did not come up (exit code ${child.exitCode})`);
}
