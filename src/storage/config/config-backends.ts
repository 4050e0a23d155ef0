/** Backends as configuration describes them, one type and one parser per kind (kata-contract 3.6). */
import { type HttpConfig, isHttpUrl, loginOf, parseCredential, parseHttp } from './config-http.ts';
import type { Members } from './config-members.ts';
import { Secret } from './secret.ts';

export type BackendKind = 'localfs' | 'registry' | 'http-proxy' | 'oss' | 's3' | 'localdisk';

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
  /** `http://…`, `https://…` without credentials, or the absolute path of a UNIX socket. */
  addr: string;
  /** base64 of the `user:password` of the address, empty for none. */
  auth: Secret;
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

/** A disk, or an image of one, with a blob in every GPT partition. */
export interface LocaldiskConfig {
  kind: 'localdisk';
  devicePath: string;
}

export type BackendConfig = LocalfsConfig | LocaldiskConfig | RegistryConfig | HttpProxyConfig | ObjectStoreConfig;

/** Parser of each kind's own members. */
export const BACKENDS: Record<BackendKind, (config: Members) => BackendConfig> = {
  localfs: parseLocalfs,
  registry: parseRegistry,
  'http-proxy': parseHttpProxy,
  oss: (config) => parseObjectStore(config, 'oss'),
  s3: (config) => parseObjectStore(config, 's3'),
  localdisk: parseLocaldisk,
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

function parseLocaldisk(config: Members): LocaldiskConfig {
  if (config.flag('disable_gpt', false)) {
    throw config.wrong('disable_gpt', 'without a partition table nothing says where blobs lie; leave it out');
  }
  return { kind: 'localdisk', devicePath: config.required('device_path') };
}

const isHost = (text: string): boolean => /^[A-Za-z0-9.\-_[\]:]+$/.test(text) && URL.canParse(`http://${text}`);

/** Somebody may have put a login before it. */
function refusedHost(config: Members, name: string): Error {
  const reason = 'not a host name with optional port';
  return config.text(name, '').includes('@') ? config.wrongSecret(name, reason) : config.wrong(name, reason);
}

const credential = (config: Members, name: string): Secret =>
  parseCredential(config.secret(name), (reason) => config.wrongSecret(name, reason));

function parseRegistry(config: Members): RegistryConfig {
  const host = config.required('host');
  if (!isHost(host)) throw refusedHost(config, 'host');
  const repo = config.required('repo');
  if (!/^[A-Za-z0-9._\-/]+$/.test(repo) || repo.split('/').includes('..')) {
    throw config.wrong('repo', 'not a repository name');
  }
  const blobRedirectedHost = config.text('blob_redirected_host', '');
  if (blobRedirectedHost !== '' && !isHost(blobRedirectedHost)) {
    throw refusedHost(config, 'blob_redirected_host');
  }
  return {
    kind: 'registry',
    // Anything but exactly "http" means https (kata-contract 3.6).
    scheme: config.text('scheme', 'https') === 'http' ? 'http' : 'https',
    host,
    repo,
    auth: credential(config, 'auth'),
    registryToken: credential(config, 'registry_token'),
    blobUrlScheme: config.choice('blob_url_scheme', ['', 'http', 'https'], ''),
    blobRedirectedHost,
    ...parseHttp(config),
  };
}

const S3_ENDPOINT = 's3.amazonaws.com';

function parseObjectStore(config: Members, kind: 'oss' | 's3'): ObjectStoreConfig {
  if (kind === 's3' && !config.has('endpoint')) throw config.wrong('endpoint', 'is required, possibly empty');
  const endpoint = (kind === 's3' ? config.text('endpoint', '') : config.required('endpoint')) || S3_ENDPOINT;
  if (!isHost(endpoint)) throw refusedHost(config, 'endpoint');
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
    accessKeyId: config.secret('access_key_id'),
    accessKeySecret: new Secret(config.secret('access_key_secret')),
    region: kind === 's3' ? config.required('region') : '',
    ...parseHttp(config),
  };
}

function parseHttpProxy(config: Members): HttpProxyConfig {
  const addr = config.secret('addr');
  const isSocket = addr.startsWith('/');
  if (!isSocket && !isHttpUrl(addr)) {
    throw config.wrongSecret('addr', 'neither an http(s) URL nor the absolute path of a socket');
  }
  const url = isSocket ? null : new URL(addr);
  const http = parseHttp(config);
  if (isSocket && (http.proxy.url !== '' || http.mirrors.length > 0)) {
    throw config.wrong('addr', 'a socket has neither proxy nor mirrors');
  }
  return {
    kind: 'http-proxy',
    addr: url === null ? addr : `${url.origin}${url.pathname.replace(/\/+$/, '')}`,
    auth: url === null ? new Secret('') : loginOf(url),
    path: config.text('path', ''),
    ...http,
  };
}
