/** The built daemon among real servers: settings changed while it runs, bad configurations, and nothing secret printed. */
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { freshDir } from '../../src/storage/cache/cache.testing.ts';
import { registryMissing, startRegistry, type TestRegistry } from '../../src/storage/registry.testing.ts';
import { errno } from '../../src/sys/errno.ts';
import { FuseClient } from '../../src/virtiofs/testing/fuse-client.ts';
import { FIXTURES, NYDUSD, Nydusd } from '../daemon/nydusd.ts';
import { missing, RealServer } from './servers.ts';

const SOURCE = join(FIXTURES, 'images/boot/v6-zstd-blake3.boot');
const BLOBS_DIR = join(FIXTURES, 'images/blobs');
const REPO = 'team/app';
const FILES = (
  JSON.parse(readFileSync(join(FIXTURES, 'images/expect/full.json'), 'utf8')) as {
    path: string;
    size: number;
    type: string;
  }[]
).filter(({ type, size }) => type === 'file' && size > 3000);

let mounts = 0;

/** A daemon and a guest of it. */
class Rig {
  readonly client: FuseClient;
  private nextFile = 0;

  constructor(readonly daemon: Nydusd) {
    this.client = new FuseClient(daemon.sock, { timeoutMs: 25_000 });
    this.client.init();
  }

  static async start(): Promise<Rig> {
    const argv = ['virtiofs', '--log-level', 'trace'];
    return new Rig(await Nydusd.start((sock, apisock) => [...argv, '--apisock', apisock, '--sock', sock]));
  }

  /** Mounts the image with a cache of its own; its name, or what the daemon said instead. */
  async mount(type: string, backend: object, cache: object = {}): Promise<string> {
    const name = `image-${mounts++}`;
    const config = JSON.stringify({
      device: {
        id: name,
        backend: { type, config: { timeout: 2, connect_timeout: 2, ...backend } },
        cache: { type: 'blobcache', config: { work_dir: freshDir(), ...cache } },
      },
      mode: 'direct',
    });
    const answer = await this.daemon.mount(`/${name}`, { fs_type: 'rafs', source: SOURCE, config });
    return answer.status === 204 ? name : answer.text;
  }

  /** 0 or -errno of reading the beginning of a file nobody has read before. */
  read(mount: string): number {
    const node = this.client.walk(`${mount === '' ? '' : `/${mount}`}${FILES[this.nextFile++ % FILES.length]!.path}`);
    const fh = this.client.open(node);
    assert.equal(typeof fh, 'bigint');
    return this.client.read(node, fh as bigint, 0, 2048).error;
  }

  change(id: string, settings: object): Promise<{ status: number; text: string }> {
    return this.daemon.request('PUT', `/api/v1/config?id=/${id}`, JSON.stringify(settings));
  }

  end(): void {
    this.client.close();
    this.daemon.kill();
  }
}

const blobs = () => new Map(readdirSync(BLOBS_DIR).map((id) => [id, readFileSync(join(BLOBS_DIR, id))]));

describe('settings of a running image', { skip: registryMissing() ?? missing('tinyproxy') }, () => {
  const dir = freshDir();
  let registry: TestRegistry;
  let proxy: RealServer;
  let rig: Rig;
  before(async () => {
    registry = await startRegistry(dir, 'basic', REPO, blobs());
    proxy = await RealServer.tinyproxy(join(dir, 'proxy'), 'me hunter2');
    rig = await Rig.start();
  });
  after(async () => {
    rig.end();
    await proxy.kill();
    await registry.close();
  });
  const config = (more: object) => ({ scheme: 'http', host: registry.host, repo: REPO, ...more });

  test('registry_auth: wrong credentials fail reads, right ones count from the next one on, wrong ones again too', async () => {
    const wrong = Buffer.from('reader:wrong').toString('base64');
    const image = await rig.mount('registry', config({ auth: wrong }));
    const twin = await rig.mount('registry', config({ auth: wrong }));
    assert.equal(rig.read(image), -errno.EIO);
    assert.equal((await rig.change(image, { registry_auth: registry.auth })).status, 204);
    assert.equal(rig.read(image), 0);
    assert.equal(rig.read(image), 0);
    assert.equal((await rig.change(twin, { registry_auth: wrong })).status, 204);
    assert.equal(rig.read(twin), -errno.EIO);
    assert.equal((await rig.change(twin, { registry_auth: `${registry.auth}\n` })).status, 204);
    assert.equal(rig.read(twin), 0);
  });
  test('IMAGE_PULL_AUTH takes the place of the credentials in the file', async () => {
    const file = join(dir, 'config.json');
    const auth = Buffer.from('reader:wrong').toString('base64');
    const device = {
      backend: { type: 'registry', config: config({ auth }) },
      cache: { type: 'blobcache', config: { work_dir: freshDir() } },
    };
    writeFileSync(file, JSON.stringify({ device, mode: 'direct' }));
    const daemon = new Nydusd(
      (sock, apisock) => ['virtiofs', '-B', SOURCE, '-C', file, '--apisock', apisock, '--sock', sock],
      freshDir(),
      ['env', `IMAGE_PULL_AUTH=${registry.auth}`, NYDUSD],
    );
    await daemon.running();
    const own = new Rig(daemon);
    assert.equal(own.read(''), 0);
    assert.ok(!daemon.output.includes(registry.auth));
    own.end();
  });
  test('proxy_url: another address counts from the next read on, a bad one is refused', async () => {
    const dead = { url: 'http://127.0.0.1:1', fallback: false };
    const image = await rig.mount('registry', config({ auth: registry.auth, proxy: dead }));
    assert.equal(rig.read(image), -errno.EIO);
    const refused = await rig.change(image, { proxy_url: 'ftp://me:hunter2@x' });
    assert.equal(refused.status, 500);
    assert.match(refused.text, /proxy_url: must be/);
    assert.equal((await rig.change(image, { dragonfly_scheduler_endpoint: 'http://x' })).status, 500);
    assert.equal((await rig.change(image, { proxy_url: `http://me:hunter2@${proxy.host}` })).status, 204);
    assert.equal(rig.read(image), 0);
    assert.ok(proxy.log().includes(registry.host));
    const shown = JSON.parse((await rig.daemon.get(`/api/v1/config?id=${image}`)).text);
    assert.deepEqual(shown, { registry_auth: '***', proxy_url: `http://${proxy.host}` });
    assert.equal((await rig.change(image, { proxy_url: '' })).status, 204);
    assert.equal(rig.read(image), 0);
    assert.ok(!rig.daemon.output.includes('hunter2'));
  });
});

describe('bad configurations', () => {
  let rig: Rig;
  before(async () => {
    rig = await Rig.start();
  });
  after(() => rig.end());

  const notPem = join(freshDir(), 'ca.pem');
  writeFileSync(notPem, 'no certificate');
  const cache = { type: 'blobcache', config: { work_dir: freshDir() } };
  const withBackend = (type: string, config: object) =>
    JSON.stringify({ device: { backend: { type, config }, cache }, mode: 'direct' });
  const registry = { host: '127.0.0.1:1', repo: 'r' };
  const texts: [string, string, RegExp][] = [
    ['empty', '', /CONFIG: configuration member .whole text.: empty/],
    ['binary', String.fromCharCode(...Array.from({ length: 400 }, (_, i) => i % 256)), /neither JSON .*nor TOML/s],
    ['2 MiB', 'x'.repeat(2 << 20), /nor TOML of at most 1 MiB/],
    ['2 MiB of blanks', ' '.repeat(2 << 20), /empty/],
    ['a list', '[1]', /must be an object/],
    ['half of JSON', '{"device":', /neither JSON .*nor TOML/s],
    ['registry without repo', withBackend('registry', { host: 'h' }), /device\.backend\.config\.repo: is required/],
    ['s3 without region', withBackend('s3', { endpoint: '', bucket_name: 'b' }), /region: is required/],
    ['localfs without directory', withBackend('localfs', {}), /dir: this or blob_file must be given/],
    ['localdisk without device', withBackend('localdisk', {}), /device_path: is required/],
    [
      'a disk that is not there',
      withBackend('localdisk', { device_path: '/dev/none' }),
      /device_path: cannot be read: ENOENT/,
    ],
    [
      'a CA file that is not there',
      withBackend('registry', { ...registry, ca_cert_files: ['/none.pem'] }),
      /ca_cert_files: cannot be read: ENOENT.*none\.pem/,
    ],
    [
      'a CA file without a certificate',
      withBackend('registry', { ...registry, ca_cert_files: [notPem] }),
      /ca_cert_files: is no PEM file/,
    ],
    ['a number in quotes', withBackend('registry', { ...registry, timeout: '5' }), /config\.timeout: must be a number/],
  ];
  for (const [id, config, reason] of texts) {
    test(`${id}: refused with its reason, the daemon goes on`, async () => {
      const answer = await rig.daemon.mount('/bad', { fs_type: 'rafs', source: SOURCE, config });
      assert.equal(answer.status, 500, answer.text);
      assert.match(answer.text, reason);
      const good = await rig.mount('localfs', { dir: BLOBS_DIR });
      assert.equal(rig.read(good), 0);
      assert.equal((await rig.daemon.request('DELETE', `/api/v1/mount?mountpoint=/${good}`)).status, 204);
    });
  }
});

describe('secrets', { skip: registryMissing() ?? missing('nginx', 'tinyproxy') }, () => {
  test('never appear in what the daemon prints or answers', async () => {
    const dir = freshDir();
    mkdirSync(join(dir, 'blobs'), { recursive: true });
    for (const [id, bytes] of blobs()) writeFileSync(join(dir, 'blobs', `sha256:${id}`), bytes);
    const registry = await startRegistry(dir, 'basic', REPO, blobs());
    const proxy = await RealServer.tinyproxy(join(dir, 'proxy'), 'me pr0xyPass');
    const web = await RealServer.nginx(
      join(dir, 'web'),
      `location /v2/r/ { return 307 /signed$uri?signature=s1gnature; }
       location /signed/ { return 500; }
       location = /token { return 200 '{"token":"t0kenText"}'; }
       location /v2/tokens/blobs/ {
         if ($http_authorization != "Bearer t0kenText") {
           add_header WWW-Authenticate 'Bearer realm="http://$http_host/token",service="s"' always;
           return 401;
         }
         alias ${dir}/blobs/;
       }
       location / { return 401; }`,
    );
    const rig = await Rig.start();
    const seen: string[] = [];
    const secrets = [
      'pr0xyPass',
      's1gnature',
      'm1rrorKey',
      's3Secret',
      '0ssSecret',
      'b3arer',
      'p1ngKey',
      'addrPass',
      'c4cheKey',
      'oldPass',
      'newPass',
      'reader:secret',
      't0kenText',
    ];
    const login = (text: string) => Buffer.from(text).toString('base64');
    const hidden = () => [
      ...secrets,
      ...secrets.map(login),
      login('me:pr0xyPass'),
      login('u:addrPass'),
      login('u:oldPass'),
      login('u:newPass'),
      registry.auth,
    ];

    const http = { scheme: 'http', host: web.host };
    const object = { scheme: 'http', endpoint: web.host, bucket_name: 'b', access_key_id: 'id' };
    const backends: [string, object][] = [
      ['registry', { scheme: 'http', host: registry.host, repo: REPO, auth: registry.auth }],
      ['registry', { ...http, host: registry.host, repo: REPO, auth: login('u:oldPass') }],
      [
        'registry',
        {
          ...http,
          host: registry.host,
          repo: REPO,
          auth: registry.auth,
          proxy: { url: `http://me:pr0xyPass@${proxy.host}` },
        },
      ],
      ['registry', { ...http, repo: 'tokens', auth: registry.auth }],
      ['registry', { ...http, repo: 'r', registry_token: 'b3arer' }],
      [
        'registry',
        {
          ...http,
          repo: 'other',
          registry_token: 'b3arer',
          proxy: { url: 'http://me:pr0xyPass@127.0.0.1:1', ping_url: `http://${web.host}/?key=p1ngKey` },
        },
      ],
      [
        'registry',
        {
          ...http,
          repo: 'other',
          mirrors: [
            {
              host: 'http://127.0.0.1:1',
              headers: { 'x-key': 'm1rrorKey' },
              failure_limit: 1,
              ping_url: `http://${web.host}/?key=p1ngKey`,
            },
          ],
        },
      ],
      ['s3', { ...object, region: 'eu-1', access_key_secret: 's3Secret' }],
      ['oss', { ...object, access_key_secret: '0ssSecret' }],
      ['http-proxy', { addr: `http://u:addrPass@${web.host}`, path: '/x' }],
      // Refused, with a secret in what is wrong or beside it.
      ['registry', { ...http, repo: 'r', auth: ['oldPass'] }],
      ['registry', { ...http, repo: 'r', registry_token: 'b3arer\nx: y' }],
      ['registry', { ...http, repo: 'r', proxy: { url: 'socks5://me:pr0xyPass@h' } }],
      ['registry', { ...http, repo: 'r', proxy: 'http://me:pr0xyPass@h' }],
      ['registry', { ...http, repo: 'r', mirrors: [{ host: 'http://u:m1rrorKey@h' }] }],
      ['registry', { ...http, repo: 'r', mirrors: [{ host: 'http://h', headers: { a: ['m1rrorKey'] } }] }],
      ['registry', { ...http, repo: 'r', mirrors: 'm1rrorKey' }],
      ['s3', { ...object, region: 'eu-1', access_key_secret: { s3Secret: 's3Secret' } }],
      ['http-proxy', { addr: 'ftp://u:addrPass@h' }],
    ];
    let served = 0;
    for (const [type, config] of backends) {
      const name = await rig.mount(type, config, { encryption_key: 'c4cheKey' });
      seen.push(name);
      if (!name.startsWith('image-')) continue;
      if (rig.read(name) === 0) served++;
      for (const settings of [
        { registry_auth: login('u:newPass') },
        { proxy_url: 'ftp://u:newPass@h' },
        { registry_auth: ['newPass'] },
      ]) {
        seen.push((await rig.change(name, settings)).text);
      }
      rig.read(name);
      for (const path of [
        '/api/v1/daemon',
        '/api/v2/daemon',
        '/api/v1/config',
        `/api/v1/config?id=${name}`,
        '/api/v1/daemon/events',
        '/metrics',
        ...['', '/backend', '/blobcache', '/files', '/inflight'].map((kind) => `/api/v1/metrics${kind}?id=/${name}`),
      ]) {
        seen.push((await rig.daemon.get(path)).text);
      }
      seen.push((await rig.daemon.request('DELETE', `/api/v1/mount?mountpoint=/${name}`)).text);
    }
    seen.push(rig.daemon.output);
    assert.equal(served, 3, 'by password with and without proxy, by token');
    const everything = seen.join('\n');
    for (const secret of hidden()) {
      const at = everything.indexOf(secret);
      assert.equal(at, -1, `${secret} in: …${everything.slice(Math.max(0, at - 200), at + 100)}`);
    }
    // The places where they would stand were really passed.
    for (const part of ['***', '/signed/', 'proxy http://127.0.0.1:1 failed', 'mirror http://127.0.0.1:1 failed']) {
      assert.ok(everything.includes(part), part);
    }
    rig.end();
    for (const server of [proxy, web]) await server.kill();
    await registry.close();
  });
});
