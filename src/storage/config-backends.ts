/** Backends as configuration describes them, one type and one parser per kind (kata-contract 3.6, 3.8). */
import type { Members } from './config-members.ts';
import { Secret } from './secret.ts';

export type BackendKind = 'localfs' | 'registry' | 'http-proxy' | 'oss' | 's3' | 'localdisk';

/** Common to the HTTP backends. Time-outs in ms, 0 = none. */
export interface HttpConfig {
  skipVerify: boolean;
  caCertFiles: string[];
  timeoutMs: number;
  connectTimeoutMs: number;
  /** Tries after the first that a read gets at least; 0 = our own policy. */
  retryLimit: number;
  /** A proxy was configured (kata-contract 3.8), whose building is still to come; null when none. */
  proxy: { url: string; fallback: boolean } | null;
}

export interface LocalfsConfig {
  kind: 'localfs';
  /** Path of the only blob, or empty. */
  blobFile: string;
  dir: string;
  altDirs: string[];
}

export interface RegistryConfig extends HttpConfig {
  kind: 'registry';
  scheme: 'http' | 'https';
  host: string;
  repo: string;
  /** base64 of `user:password`, empty for none. */
  auth: Secret;
  /** Bearer token used as it is, empty for none. */
  registryToken: Secret;
  /** Replace scheme and host of redirect targets, empty for no change. */
  blobUrlScheme: string;
  blobRedirectedHost: string;
}

export interface HttpProxyConfig extends HttpConfig {
  kind: 'http-proxy';
  /** `http://…`, `https://…`, or the absolute path of a UNIX socket. */
  addr: string;
  /** URL prefix that the blob id is appended to. */
  path: string;
}

export interface ObjectStoreConfig extends HttpConfig {
  kind: 'oss' | 's3';
  scheme: 'http' | 'https';
  /** Host with optional port. */
  endpoint: string;
  bucket: string;
  /** Put before blob ids as it is, slashes included. */
  objectPrefix: string;
  /** Empty for unsigned requests. */
  accessKeyId: string;
  accessKeySecret: Secret;
  /** S3 only. */
  region: string;
}

/** A kind with a name and no code yet: opening one is an error that says so. */
export interface SlotConfig {
  kind: 'localdisk';
}

export type BackendConfig = LocalfsConfig | RegistryConfig | HttpProxyConfig | ObjectStoreConfig | SlotConfig;

const TIMEOUT_SECONDS_DEFAULT = 5;
/** The reference reads a byte. */
const RETRY_LIMIT_MAX = 255;
/** A day: longer is a typing error. */
const TIMEOUT_SECONDS_MAX = 86_400;

/** Parser of each kind's own members. */
export const BACKENDS: Record<BackendKind, (config: Members) => BackendConfig> = {
  localfs: parseLocalfs,
  registry: parseRegistry,
  'http-proxy': parseHttpProxy,
  oss: (config) => parseObjectStore(config, 'oss'),
  s3: (config) => parseObjectStore(config, 's3'),
  localdisk: () => ({ kind: 'localdisk' }),
};

function parseLocalfs(config: Members): LocalfsConfig {
  const parsed: LocalfsConfig = {
    kind: 'localfs',
    blobFile: config.text('blob_file', ''),
    dir: config.text('dir', ''),
    altDirs: config.texts('alt_dirs'),
  };
  if (parsed.blobFile === '' && parsed.dir === '') throw config.wrong('dir', 'this or blob_file must be given');
  return parsed;
}

function parseRegistry(config: Members): RegistryConfig {
  const host = config.required('host');
  if (!/^[A-Za-z0-9.\-_[\]:]+$/.test(host)) throw config.wrong('host', 'not a host name with optional port');
  const repo = config.required('repo');
  if (!/^[A-Za-z0-9._\-/]+$/.test(repo) || repo.split('/').includes('..')) {
    throw config.wrong('repo', 'not a repository name');
  }
  return {
    kind: 'registry',
    // Anything but exactly "http" means https (kata-contract 3.6).
    scheme: config.text('scheme', 'https') === 'http' ? 'http' : 'https',
    host,
    repo,
    auth: new Secret(config.secret('auth')),
    registryToken: new Secret(config.secret('registry_token')),
    blobUrlScheme: config.text('blob_url_scheme', ''),
    blobRedirectedHost: config.text('blob_redirected_host', ''),
    ...parseHttp(config),
  };
}

const S3_ENDPOINT = 's3.amazonaws.com';

function parseObjectStore(config: Members, kind: 'oss' | 's3'): ObjectStoreConfig {
  if (kind === 's3' && !config.has('endpoint')) throw config.wrong('endpoint', 'is required, possibly empty');
  const endpoint = (kind === 's3' ? config.text('endpoint', '') : config.required('endpoint')) || S3_ENDPOINT;
  if (!/^[A-Za-z0-9.\-[\]:]+$/.test(endpoint)) throw config.wrong('endpoint', 'not a host name with optional port');
  const bucket = config.required('bucket_name');
  if (!/^[A-Za-z0-9._-]+$/.test(bucket)) throw config.wrong('bucket_name', 'not a bucket name');
  const objectPrefix = config.text('object_prefix', '');
  if (objectPrefix.split('/').some((part) => part === '.' || part === '..')) {
    throw config.wrong('object_prefix', 'must not contain . or .. as a part');
  }
  return {
    kind,
    scheme: config.text('scheme', 'https') === 'http' ? 'http' : 'https',
    endpoint,
    bucket,
    objectPrefix,
    accessKeyId: config.text('access_key_id', ''),
    accessKeySecret: new Secret(config.secret('access_key_secret')),
    region: kind === 's3' ? config.required('region') : '',
    ...parseHttp(config),
  };
}

function parseHttpProxy(config: Members): HttpProxyConfig {
  const addr = config.required('addr');
  if (!addr.startsWith('/') && !isHttpUrl(addr)) {
    throw config.wrong('addr', 'neither an http(s) URL nor the absolute path of a socket');
  }
  return { kind: 'http-proxy', addr, path: config.text('path', ''), ...parseHttp(config) };
}

function parseHttp(config: Members): HttpConfig {
  const seconds = (name: string) => config.whole(name, TIMEOUT_SECONDS_DEFAULT, TIMEOUT_SECONDS_MAX) * 1000;
  const proxy = config.optionalObject('proxy');
  const url = proxy?.text('url', '') ?? '';
  return {
    skipVerify: config.flag('skip_verify', false),
    caCertFiles: config.texts('ca_cert_files'),
    timeoutMs: seconds('timeout'),
    connectTimeoutMs: seconds('connect_timeout'),
    retryLimit: config.whole('retry_limit', 0, RETRY_LIMIT_MAX),
    proxy: proxy === null || url === '' ? null : { url, fallback: proxy.flag('fallback', true) },
  };
}

function isHttpUrl(text: string): boolean {
  return URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
}
