import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { inspect } from 'node:util';
import { parseConfig } from './config.ts';
import { Secret } from './secret.ts';

const KATA = {
  device: {
    backend: {
      type: 'registry',
      config: {
        readahead: false,
        host: 'registry.example:5000',
        repo: 'team/app',
        auth: 'dXNlcjpwYXNz',
        scheme: 'http',
        skip_verify: true,
        timeout: 7,
        connect_timeout: 0,
        retry_limit: 2,
        mirrors: [{ host: 'http://mirror' }],
        blob_url_scheme: 'https',
        proxy: { fallback: false },
      },
    },
    cache: { type: 'blobcache', config: { work_dir: '/var/cache', disable_indexed_map: false } },
    id: '/17',
  },
  mode: 'direct',
  digest_validate: true,
  iostats_files: true,
  enable_xattr: true,
  amplify_io: 65536,
  fs_prefetch: { enable: false, threads_count: 0, merging_size: 0 },
  warmup: 3,
  domain_id: 'x',
};

const NO_PROXY = {
  url: '',
  auth: new Secret(''),
  pingUrl: '',
  fallback: true,
  checkIntervalMs: 5000,
  checkPauseMs: 300_000,
  useHttp: false,
};

/** A copy of KATA with the member at `path` replaced; undefined removes it. */
function altered(path: string, value: unknown): string {
  const copy = structuredClone(KATA) as unknown as Record<string, unknown>;
  const names = path.split('.');
  const last = names.pop() as string;
  const owner = names.reduce((at, name) => at[name] as Record<string, unknown>, copy);
  if (value === undefined) delete owner[last];
  else owner[last] = value;
  return JSON.stringify(copy);
}

test('what Kata hands over', () => {
  const config = parseConfig(JSON.stringify(KATA));
  assert.equal(config.id, '/17');
  assert.deepEqual(config.cache, { workDir: '/var/cache', isCompressed: false, isUnindexed: false, limits: null });
  assert.equal(config.validate, true);
  assert.equal(config.amplifyIoBytes, 65536);
  assert.deepEqual(config.prefetch, {
    enable: false,
    threads: 8,
    mergingBytes: 1 << 20,
    bandwidthBytesPerSecond: 0,
    prefetchAll: true,
    streamPrefetch: false,
  });
  assert.ok(config.backend.kind === 'registry');
  const { auth, registryToken, ...backend } = config.backend;
  assert.equal(auth.reveal(), 'dXNlcjpwYXNz');
  assert.equal(registryToken.isEmpty, true);
  assert.deepEqual(backend, {
    kind: 'registry',
    scheme: 'http',
    host: 'registry.example:5000',
    repo: 'team/app',
    blobUrlScheme: 'https',
    blobRedirectedHost: '',
    skipVerify: true,
    caCertFiles: [],
    timeoutMs: 7000,
    connectTimeoutMs: 0,
    retryLimit: 2,
    proxy: { ...NO_PROXY, fallback: false },
    mirrors: [
      {
        host: 'http://mirror',
        pingUrl: '',
        headers: {},
        authThrough: false,
        checkIntervalMs: 5000,
        failureLimit: 5,
      },
    ],
  });
});

test('the shortest texts get the defaults', () => {
  const localfs = { device: { backend: { type: 'localfs', config: { dir: '/b' } } }, mode: 'cached' };
  const config = parseConfig(JSON.stringify(localfs));
  assert.deepEqual(config.backend, { kind: 'localfs', blobFile: '', dir: '/b', altDirs: [] });
  assert.equal(config.cache, null);
  assert.equal(config.amplifyIoBytes, 1 << 20);
  assert.equal(config.validate, false);
});

const WRONG: { path: string; value: unknown; reason: RegExp }[] = [
  { path: 'device', value: undefined, reason: /required/ },
  { path: 'device', value: 3, reason: /object/ },
  { path: 'device.backend', value: undefined, reason: /required/ },
  { path: 'device.backend.type', value: 'nfs', reason: /"registry"/ },
  { path: 'device.backend.type', value: undefined, reason: /must be one of/ },
  { path: 'device.backend.config', value: null, reason: /object/ },
  { path: 'device.backend.config.host', value: '', reason: /empty/ },
  { path: 'device.backend.config.host', value: 'a/b', reason: /host name/ },
  { path: 'device.backend.config.repo', value: '../x', reason: /repository/ },
  { path: 'device.backend.config.timeout', value: '5', reason: /number/ },
  { path: 'device.backend.config.timeout', value: -1, reason: /whole number/ },
  { path: 'device.backend.config.skip_verify', value: 'yes', reason: /boolean/ },
  { path: 'device.backend.config.ca_cert_files', value: [1], reason: /strings/ },
  { path: 'device.backend.config.retry_limit', value: 256, reason: /whole number/ },
  { path: 'device.cache.type', value: 'fscache', reason: /blobcache/ },
  { path: 'device.cache.type', value: 'ramdisk', reason: /"blobcache"/ },
  { path: 'device.cache.compressed', value: 'yes', reason: /boolean/ },
  { path: 'device.cache.config', value: undefined, reason: /required/ },
  { path: 'device.cache.config.work_dir', value: '', reason: /directory/ },
  { path: 'device.cache.config.enable_encryption', value: true, reason: /encrypted/ },
  { path: 'mode', value: undefined, reason: /"direct"/ },
  { path: 'amplify_io', value: 0x1000_0001, reason: /whole number/ },
  { path: 'amplify_io', value: 1.5, reason: /whole number/ },
  { path: 'digest_validate', value: 1, reason: /boolean/ },
];

describe('wrong members are named', () => {
  for (const { path, value, reason } of WRONG) {
    test(`${path} = ${JSON.stringify(value)}`, () => {
      assert.throws(
        () => parseConfig(altered(path, value)),
        (error: Error & { code: string; facts: { path: string } }) => {
          assert.equal(error.code, 'CONFIG');
          assert.equal(error.facts.path, path);
          assert.match(error.message, reason);
          return true;
        },
      );
    });
  }
});

test('credentials are never printed', () => {
  const config = parseConfig(JSON.stringify(KATA));
  for (const text of [JSON.stringify(config), inspect(config, { depth: 9 }), String(new Secret('dXNlcjpwYXNz'))]) {
    assert.ok(!text.includes('dXNlcjpwYXNz'));
    assert.ok(text.includes('***'));
  }
  for (const text of [altered('device.backend.config.auth', ['dXNlcjpwYXNz']), '{"auth": "dXNlcjpwYXNz", }']) {
    assert.throws(
      () => parseConfig(text),
      (error: Error) => !error.message.includes('dXNlcjpwYXNz'),
    );
  }
});

test('texts that are none', () => {
  for (const text of ['', '[]', 'null', '"x"', 'version = 2', '{"device": ', '\0\x01\x02', '='.repeat(1 << 20)]) {
    assert.throws(() => parseConfig(text), { code: 'CONFIG' }, text);
  }
  assert.throws(() => parseConfig(' '.repeat(2 << 20)), { code: 'CONFIG' });
  assert.throws(() => parseConfig('{"version": 2, "backend": {}}'), { code: 'CONFIG' });
  assert.throws(() => parseConfig('{"__proto__": {"device": {}}, "mode": "direct"}'), { code: 'CONFIG' });
});

test('cache types', () => {
  for (const type of ['dummycache', '', undefined]) {
    assert.equal(parseConfig(altered('device.cache.type', type)).cache, null);
  }
  assert.deepEqual(parseConfig(altered('device.cache.type', 'filecache')).cache, {
    workDir: '/var/cache',
    isCompressed: false,
    isUnindexed: false,
    limits: null,
  });
  const homeless = parseConfig(altered('device.cache.config', {}));
  assert.deepEqual([homeless.cache, homeless.lacksWorkDir], [null, true]);
  assert.equal(parseConfig(altered('device.cache', null)).cache, null);
  assert.equal(parseConfig(altered('device.cache.validate', true)).validate, true);
});

test('http-proxy addresses', () => {
  const withAddr = (addr: string) =>
    JSON.stringify({ device: { backend: { type: 'http-proxy', config: { addr } } }, mode: 'direct' });
  for (const addr of ['http://h:1', 'https://h', '/run/x.sock']) parseConfig(withAddr(addr));
  for (const addr of ['', 'ftp://h', 'x.sock', 'http://']) {
    assert.throws(() => parseConfig(withAddr(addr)), { code: 'CONFIG' }, addr);
  }
});

describe('version 2', () => {
  const TOML = `
version = 2
id = "app"
[backend]
type = "http-proxy"
[backend.http-proxy]
addr = "http://127.0.0.1:8000"
path = "/team/app/blobs"
[cache]
type = "filecache"
[cache.filecache]
work_dir = "/var/cache/nydus"
[rafs]
mode = "direct"
enable_xattr = true
validate = true
[rafs.prefetch]
enable = true
threads = 4
prefetch_all = true
`;
  const JSON2 = {
    version: 2,
    id: 'app',
    backend: {
      type: 'http-proxy',
      'http-proxy': { addr: 'http://127.0.0.1:8000', path: '/team/app/blobs' },
      registry: { unused: true },
    },
    cache: { type: 'filecache', filecache: { work_dir: '/var/cache/nydus' } },
    rafs: {
      mode: 'direct',
      enable_xattr: true,
      validate: true,
      prefetch: { enable: true, threads: 4, prefetch_all: true },
    },
  };
  test('TOML and JSON of one content are one configuration', () => {
    const config = parseConfig(TOML);
    assert.deepEqual(parseConfig(JSON.stringify(JSON2)), config);
    assert.deepEqual(config.backend, {
      kind: 'http-proxy',
      addr: 'http://127.0.0.1:8000',
      path: '/team/app/blobs',
      skipVerify: false,
      caCertFiles: [],
      timeoutMs: 5000,
      connectTimeoutMs: 5000,
      retryLimit: 0,
      auth: new Secret(''),
      proxy: NO_PROXY,
      mirrors: [],
    });
    assert.deepEqual(config.cache, {
      workDir: '/var/cache/nydus',
      isCompressed: false,
      isUnindexed: false,
      limits: null,
    });
    assert.deepEqual([config.id, config.validate, config.enableXattr, config.mode], ['app', true, true, 'direct']);
    const { enable, threads, prefetchAll, mergingBytes } = config.prefetch;
    assert.deepEqual([enable, threads, prefetchAll, mergingBytes], [true, 4, true, 1 << 20]);
  });
  test('the shortest text gets the defaults of version 2', () => {
    const config = parseConfig('version = 2\nbackend = { type = "localfs", localfs = { dir = "/b" } }');
    assert.deepEqual(config.backend, { kind: 'localfs', blobFile: '', dir: '/b', altDirs: [] });
    assert.deepEqual([config.mode, config.cache, config.prefetch.prefetchAll], ['direct', null, false]);
  });
  test('a version member beside "device" is nothing to version 1', () => {
    assert.equal(parseConfig(JSON.stringify({ ...KATA, version: 2 })).id, '/17');
  });
  const wrong: [string, object, string][] = [
    ['another version', { version: 3 }, 'version'],
    ['a version that is text', { version: '2' }, 'version'],
    ['no backend', { backend: undefined }, 'backend'],
    ['a backend without its table', { backend: { type: 'registry' } }, 'backend.registry'],
    [
      'a backend with half its table',
      { backend: { type: 'registry', registry: { host: 'h' } } },
      'backend.registry.repo',
    ],
    ['a cache without its table', { cache: { type: 'filecache' } }, 'cache.filecache'],
    ['a mode nobody knows', { rafs: { mode: 'fast' } }, 'rafs.mode'],
    ['prefetch that does not say whether', { rafs: { prefetch: { threads: 2 } } }, 'rafs.prefetch.enable'],
    ['an overlay with half its table', { overlay: { upper_dir: '/u' } }, 'overlay.work_dir'],
  ];
  for (const [id, change, path] of wrong) {
    test(`${id} is named`, () => {
      assert.throws(
        () => parseConfig(JSON.stringify({ ...JSON2, ...change })),
        (error: Error & { code: string; facts: { path: string } }) => {
          assert.equal(error.code, 'CONFIG');
          assert.equal(error.facts.path, path);
          return true;
        },
      );
    });
  }
  test('where TOML is broken is said, what the parser quotes of it is not', () => {
    const text = 'version = 2\n[backend.registry]\nauth = "dXNlcjpwYXNz';
    assert.throws(
      () => parseConfig(text),
      ({ message }: Error) => /nor TOML \(line 3, column \d+\)/.test(message) && !message.includes('dXNlcjpwYXNz'),
    );
  });
});
