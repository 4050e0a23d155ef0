/** Every key of kata-contract 3.3 to 3.8, one row each: read from v1 JSON, v2 JSON and TOML, or refused by name. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import toml from 'smol-toml';
import { parseConfig, type StorageConfig } from './config.ts';
import { Secret } from './secret.ts';

type Kind = 'localfs' | 'localdisk' | 'oss' | 's3' | 'registry' | 'http-proxy';

/** The least each kind needs. */
const LEAST: Record<Kind, object> = {
  localfs: { dir: '/blobs' },
  localdisk: { device_path: '/dev/disk' },
  oss: { endpoint: 'oss.example', bucket_name: 'bucket' },
  s3: { endpoint: '', region: 'eu-1', bucket_name: 'bucket' },
  registry: { host: 'registry.example', repo: 'team/app' },
  'http-proxy': { addr: 'http://proxy.example' },
};

interface Row {
  /** Path of the key; null where the version has not got it. */
  v1: string | null;
  v2: string | null;
  kind: Kind;
  /** A value that is read, and what becomes of it. */
  good?: { value: unknown; seen: (config: StorageConfig) => unknown; is?: unknown };
  /** Values that are refused by name. */
  bad: unknown[];
  isRequired?: boolean;
  isSecret?: boolean;
}

type Backend = StorageConfig['backend'];
const of = (name: string) => (config: StorageConfig) => (config.backend as Backend & Record<string, unknown>)[name];
const cached = (name: string) => (config: StorageConfig) => (config.cache as unknown as Record<string, unknown>)[name];
const prefetched = (name: string) => (config: StorageConfig) =>
  (config.prefetch as unknown as Record<string, unknown>)[name];

/** A key of backends. */
function backend(kinds: readonly Kind[], key: string, row: Omit<Row, 'v1' | 'v2' | 'kind'>): Row[] {
  return kinds.map((kind) => ({ ...row, kind, v1: `device.backend.config.${key}`, v2: `backend.${kind}.${key}` }));
}
/** A key with the same meaning in both versions. */
const both = (v1: string | null, v2: string | null, row: Omit<Row, 'v1' | 'v2' | 'kind'>): Row => ({
  kind: 'localfs',
  v1,
  v2,
  ...row,
});

const HTTP: Kind[] = ['oss', 's3', 'registry', 'http-proxy'];
const HOSTS: Kind[] = ['oss', 's3', 'registry'];
const STORES: Kind[] = ['oss', 's3'];
const flag = (seen: (config: StorageConfig) => unknown) => ({ good: { value: true, seen }, bad: ['true', 1] });
const secret = (seen: (config: StorageConfig) => unknown, ...bad: string[]) => ({
  good: { value: 'hunter2', seen, is: new Secret('hunter2') },
  bad: [['hunter2'], 3, ...bad],
  isSecret: true,
});
const seconds = (name: string) => ({ good: { value: 7, seen: of(name), is: 7000 }, bad: ['7', 1.5, -1, 90_000] });
const mirror = (key: string, value: unknown, name: string, is: unknown, bad: unknown[]) =>
  backend(HTTP, 'mirrors', {
    good: {
      value: [{ host: 'http://m', [key]: value }],
      seen: (config) => (of('mirrors')(config) as Record<string, unknown>[])[0]?.[name],
      is,
    },
    bad: bad.map((wrong) => [{ host: 'http://m', [key]: wrong }]),
  });
const proxy = (key: string, value: unknown, name: string, is: unknown, bad: unknown[]) =>
  backend(HTTP, `proxy.${key}`, {
    good: { value, seen: (config) => (of('proxy')(config) as Record<string, unknown>)[name], is },
    bad,
  });

const ROWS: Row[] = [
  both(null, 'version', { good: { value: 2, seen: () => 2 }, bad: ['2', 3] }),
  both('device.id', 'id', { good: { value: '/17', seen: (config) => config.id }, bad: [17] }),
  both('device.backend.type', 'backend.type', { bad: ['nfs', 3, ''], isRequired: true }),
  both('device.external_backends', 'external_backends', { bad: [[{ type: 'x' }], 'x', [3]] }),
  both(null, 'overlay', {
    good: {
      value: { upper_dir: '/u', work_dir: '/w' },
      seen: (config) => config.overlay,
      is: { upperDir: '/u', workDir: '/w' },
    },
    bad: [3],
  }),
  both('device.cache.type', 'cache.type', {
    good: { value: 'dummycache', seen: (config) => config.cache, is: null },
    bad: ['fscache', 'ramdisk', 3],
  }),
  both(
    'device.cache.validate',
    'cache.validate',
    flag((config) => config.validate),
  ),
  both('device.cache.config', 'cache.filecache', { bad: [3, 'x', []], isRequired: true }),
  both(
    'device.cache.config.disable_indexed_map',
    'cache.filecache.disable_indexed_map',
    flag((config) => config.cache?.isUnindexed),
  ),
  both(
    'device.cache.compressed',
    'cache.compressed',
    flag((config) => config.cache?.isCompressed),
  ),
  both('device.cache.config.quota_bytes', 'cache.filecache.quota_bytes', {
    good: { value: 1 << 30, seen: (config) => config.cache?.limits?.quotaBytes },
    bad: ['1', -1, 1.5],
  }),
  ...(['brun', 'bcull', 'bstop', 'frun', 'fcull', 'fstop'] as const).map((key) =>
    both(`device.cache.config.${key}`, `cache.filecache.${key}`, { bad: ['7', 101, -1] }),
  ),
  ...(['work_dir', 'enable_encryption', 'enable_convergent_encryption'] as const).map((key) =>
    both(`device.cache.config.${key}`, `cache.filecache.${key}`, {
      ...(key === 'work_dir' ? { good: { value: '/w', seen: cached('workDir') } } : {}),
      bad: key === 'work_dir' ? ['', '/a\0b', `/${'a'.repeat(4095)}`, 3] : [true, 'false', 1],
    }),
  ),
  both('device.cache.config.encryption_key', 'cache.filecache.encryption_key', {
    good: { value: 'hunter2', seen: (config) => JSON.stringify(config).includes('hunter2'), is: false },
    bad: [['hunter2'], 3],
    isSecret: true,
  }),
  both('mode', 'rafs.mode', { good: { value: 'cached', seen: (config) => config.mode }, bad: ['fast', 3] }),
  both(
    'digest_validate',
    'rafs.validate',
    flag((config) => config.validate),
  ),
  both(
    'iostats_files',
    'rafs.iostats_files',
    flag((config) => config.iostatsFiles),
  ),
  both(
    'enable_xattr',
    'rafs.enable_xattr',
    flag((config) => config.enableXattr),
  ),
  both(
    'access_pattern',
    'rafs.access_pattern',
    flag((config) => config.accessPattern),
  ),
  both(
    'latest_read_files',
    'rafs.latest_read_files',
    flag((config) => config.latestReadFiles),
  ),
  both('amplify_io', 'rafs.batch_size', {
    good: { value: 4096, seen: (config) => config.amplifyIoBytes },
    bad: ['4096', 0x1000_0001, -1, 1.5],
  }),
  ...prefetchRows('fs_prefetch', 'rafs.prefetch'),
  ...prefetchRows(null, 'cache.prefetch'),

  ...backend(['localfs'], 'blob_file', { good: { value: '/f', seen: of('blobFile') }, bad: [3] }),
  ...backend(['localfs'], 'dir', { good: { value: '/d', seen: of('dir') }, bad: [3, ''], isRequired: true }),
  ...backend(['localfs'], 'alt_dirs', { good: { value: ['/a', '/b'], seen: of('altDirs') }, bad: ['/a', [3]] }),
  ...backend(['localdisk'], 'device_path', {
    good: { value: '/dev/x', seen: of('devicePath') },
    bad: [3, ''],
    isRequired: true,
  }),
  ...backend(['localdisk'], 'disable_gpt', { bad: [true, 'false'] }),
  ...backend(['oss'], 'endpoint', {
    good: { value: 'e:1', seen: of('endpoint') },
    bad: [3, '', 'http://e', 'me:hunter2@e'],
    isRequired: true,
    isSecret: true,
  }),
  ...backend(['s3'], 'endpoint', {
    good: { value: '', seen: of('endpoint'), is: 's3.amazonaws.com' },
    bad: [3, 'http://e'],
    isRequired: true,
  }),
  ...backend(['s3'], 'region', { good: { value: 'eu-2', seen: of('region') }, bad: [3, ''], isRequired: true }),
  ...backend(STORES, 'bucket_name', {
    good: { value: 'b', seen: of('bucket') },
    bad: [3, '', 'a/b'],
    isRequired: true,
  }),
  ...backend(STORES, 'object_prefix', { good: { value: 'p/', seen: of('objectPrefix') }, bad: [3, '../'] }),
  ...backend(STORES, 'access_key_id', {
    good: { value: 'k', seen: of('accessKeyId') },
    bad: [3, ['hunter2']],
    isSecret: true,
  }),
  ...backend(STORES, 'access_key_secret', secret(of('accessKeySecret'))),
  ...backend(HOSTS, 'scheme', { good: { value: 'http', seen: of('scheme') }, bad: [3] }),
  ...backend(['registry'], 'host', {
    good: { value: 'h:5000', seen: of('host') },
    bad: [3, '', 'http://h', 'a:b:c', 'me:hunter2@h'],
    isRequired: true,
    isSecret: true,
  }),
  ...backend(['registry'], 'repo', {
    good: { value: 'a/b', seen: of('repo') },
    bad: [3, '', '../a'],
    isRequired: true,
  }),
  ...backend(['registry'], 'auth', secret(of('auth'), 'hunter2\nx: y')),
  ...backend(['registry'], 'registry_token', secret(of('registryToken'), 'hunter2\nx: y')),
  ...backend(['registry'], 'blob_url_scheme', { good: { value: 'http', seen: of('blobUrlScheme') }, bad: [3, 'ftp'] }),
  ...backend(['registry'], 'blob_redirected_host', {
    good: { value: 'cdn.example', seen: of('blobRedirectedHost') },
    bad: [3, 'http://cdn/', 'a b'],
  }),
  ...backend(['http-proxy'], 'addr', {
    good: { value: 'https://h:1', seen: of('addr') },
    bad: [3, '', 'ftp://h', 'x.sock'],
    isRequired: true,
  }),
  ...backend(['http-proxy'], 'path', { good: { value: '/p', seen: of('path') }, bad: [3] }),
  ...backend(HTTP, 'skip_verify', flag(of('skipVerify'))),
  ...backend(HTTP, 'ca_cert_files', { good: { value: ['/ca'], seen: of('caCertFiles') }, bad: ['/ca', [3]] }),
  ...backend(HTTP, 'timeout', seconds('timeoutMs')),
  ...backend(HTTP, 'connect_timeout', seconds('connectTimeoutMs')),
  ...backend(HTTP, 'retry_limit', { good: { value: 3, seen: of('retryLimit') }, bad: ['3', 256, -1] }),
  ...backend(HTTP, 'proxy', { bad: [3, 'http://p', []] }),
  ...proxy('url', 'http://me:hunter2@p:3128', 'url', 'http://p:3128', [3, 'ftp://p', 'http://']),
  ...proxy('ping_url', 'http://p/ping', 'pingUrl', 'http://p/ping', [3, 'ping']),
  ...proxy('fallback', false, 'fallback', false, ['false', 0]),
  ...proxy('check_interval', 9, 'checkIntervalMs', 9000, ['9', -1]),
  ...proxy('use_http', true, 'useHttp', true, ['true']),
  ...proxy('check_pause_elapsed', 60, 'checkPauseMs', 60_000, ['60', -1]),
  ...backend(HTTP, 'proxy.dragonfly_scheduler_endpoint', { bad: ['http://scheduler:8002', 3] }),
  ...backend(HTTP, 'mirrors', { bad: [3, {}, ['http://m'], [{}], [{ host: '' }]] }),
  ...mirror('host', 'http://m:65001', 'host', 'http://m:65001', [3, 'ftp://m', 'http://m/path', 'http://u:p@m']),
  ...mirror('ping_url', 'http://m/ping', 'pingUrl', 'http://m/ping', [3, 'ping']),
  ...mirror('headers', { 'X-A': 'hunter2' }, 'headers', { 'x-a': new Secret('hunter2') }, [
    3,
    { a: 1 },
    { 'a b': 'c' },
    { a: 'b\nc: d' },
  ]),
  ...mirror('auth_through', true, 'authThrough', true, ['true']),
  ...mirror('health_check_interval', 3, 'checkIntervalMs', 3000, ['3', -1]),
  ...mirror('failure_limit', 2, 'failureLimit', 2, ['2', 256]),
];

function prefetchRows(v1: string | null, v2: string): Row[] {
  const row = (old: string, name: string, good: Row['good'], bad: unknown[], isRequired = false) =>
    both(v1 === null ? null : `${v1}.${old}`, `${v2}.${name}`, { ...(good ? { good } : {}), bad, isRequired });
  const bytes = ['1', 0x1000_0001, -1];
  return [
    row('enable', 'enable', { value: true, seen: prefetched('enable') }, ['true', 1], true),
    row('threads_count', 'threads', { value: 3, seen: prefetched('threads') }, ['3', 1025, -1]),
    row('merging_size', 'batch_size', { value: 4096, seen: prefetched('mergingBytes') }, bytes),
    row('bandwidth_rate', 'bandwidth_limit', { value: 5, seen: prefetched('bandwidthBytesPerSecond') }, ['5', -1]),
    row('prefetch_all', 'prefetch_all', { value: false, seen: prefetched('prefetchAll') }, ['true', 1]),
    row('stream_prefetch', 'stream_prefetch', { value: true, seen: prefetched('streamPrefetch') }, ['true', 1]),
  ];
}

type Tree = Record<string, unknown>;

const base: Record<'v1' | 'v2', (kind: Kind) => Tree> = {
  v1: (kind) => ({
    device: { backend: { type: kind, config: LEAST[kind] }, cache: { type: 'blobcache', config: { work_dir: '/w' } } },
    mode: 'direct',
  }),
  v2: (kind) => ({
    version: 2,
    backend: { type: kind, [kind]: LEAST[kind] },
    cache: { type: 'filecache', filecache: { work_dir: '/w' } },
  }),
};

/** `tree` with `value` at `path`, the tables on the way made where they lack; undefined takes the key away. */
function put(tree: Tree, path: string, value: unknown): Tree {
  const copy = structuredClone(tree);
  const names = path.split('.');
  const last = names.pop() as string;
  const owner = names.reduce<Tree>((at, name) => {
    // Prefetch tables say whether they are meant.
    at[name] ??= name.endsWith('prefetch') ? { enable: true } : {};
    return at[name] as Tree;
  }, copy);
  if (value === undefined) delete owner[last];
  else owner[last] = value;
  return copy;
}

const FORMS: { id: string; version: 'v1' | 'v2'; write: (tree: Tree) => string }[] = [
  { id: 'v1 JSON', version: 'v1', write: JSON.stringify },
  { id: 'v2 JSON', version: 'v2', write: JSON.stringify },
  { id: 'v2 TOML', version: 'v2', write: (tree) => toml.stringify(tree) },
];

function assertRefused(text: string, path: string, isSecret: boolean): void {
  assert.throws(
    () => parseConfig(text),
    (error: Error & { code: string; facts: { path: string } }) => {
      assert.equal(error.code, 'CONFIG', error.message);
      const isNamed =
        error.facts.path === path || error.facts.path.startsWith(`${path}[`) || error.facts.path.startsWith(`${path}.`);
      assert.ok(isNamed, `${error.facts.path} is named, not ${path}`);
      assert.ok(error.message.includes(error.facts.path));
      if (isSecret) assert.ok(!error.message.includes('hunter2'), error.message);
      return true;
    },
    text,
  );
}

describe('every key of the contract', () => {
  for (const row of ROWS) {
    const name = row.v2 ?? row.v1;
    const { good, isSecret = false } = row;
    test(`${name}${good === undefined ? ', refused' : ''}`, () => {
      for (const { version, write } of FORMS) {
        const path = row[version];
        if (path === null) continue;
        const tree = base[version](row.kind);
        if (good !== undefined) {
          const config = parseConfig(write(put(tree, path, good.value)));
          assert.deepEqual(good.seen(config), 'is' in good ? good.is : good.value);
          assert.ok(!JSON.stringify(config).includes('hunter2'));
        }
        for (const value of row.bad) assertRefused(write(put(tree, path, value)), path, isSecret);
        // `enable` is required of prefetch tables of v2 alone.
        const isRequired = row.isRequired === true && !(version === 'v1' && path.endsWith('.enable'));
        if (isRequired) assertRefused(write(put(tree, path, undefined)), path, isSecret);
      }
    });
  }
});

/** What the tables of the reference name: in their first column, and in the second where that is version 2. */
function documentedKeys(): string[] {
  const keys = new Set<string>();
  let columns = 1;
  for (const line of readFileSync(new URL('README.md', import.meta.url), 'utf8').split('\n')) {
    const [, ...cells] = line.split('|').map((cell) => cell.trim());
    if (cells[0] === 'v1') columns = 2;
    else if (cells[0]?.startsWith('key') === true) columns = 1;
    for (const cell of cells.slice(0, columns)) {
      for (const [, key] of cell.matchAll(/`(.+?)`/g)) keys.add(key as string);
    }
  }
  return [...keys].sort();
}

const TABLES = [
  'device',
  'device.backend',
  'backend',
  'device.backend.config',
  'backend.TYPE',
  'device.cache',
  'cache',
];
/** Of a type that is refused. */
const FSCACHE = 'cache.fscache';

test('the reference names every key, and no other', () => {
  const keys = new Set([...TABLES, FSCACHE]);
  for (const { v1, v2, good } of ROWS) {
    if (v1?.startsWith('device.backend.config.') !== true) {
      for (const path of [v1, v2]) if (path !== null) keys.add(path);
      continue;
    }
    keys.add(v1.slice('device.backend.config.'.length));
    const items = v1.endsWith('.mirrors') && good !== undefined ? (good.value as object[]) : [];
    for (const item of items) for (const key of Object.keys(item)) keys.add(key);
  }
  assert.deepEqual(documentedKeys(), [...keys].sort());
});

test('unknown keys are nobody’s business, wherever they stand', () => {
  for (const { version, write } of FORMS) {
    for (const kind of Object.keys(LEAST) as Kind[]) {
      let tree = base[version](kind);
      const tables =
        version === 'v1'
          ? ['device.', 'device.backend.', 'device.backend.config.', 'device.cache.']
          : ['backend.', `backend.${kind}.`, 'cache.', 'rafs.'];
      for (const table of ['', ...tables]) tree = put(tree, `${table}readahead_sec`, 'x');
      parseConfig(write(tree));
    }
  }
});
