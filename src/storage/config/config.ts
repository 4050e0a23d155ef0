/**
 * The configuration of an image's storage as a typed model, read from the v1 JSON text that Kata and the snapshotter
 * hand over, or from v2 as JSON or TOML (kata-contract 3.3 to 3.7). Unknown members are ignored everywhere; a wrong type
 * or value names its path, value and reason. Secrets are kept in `Secret`, which prints as `***`.
 */
import { resolve } from 'node:path';
import toml from 'smol-toml';
import { type JsonFault, jsonFault } from '../../common/json-fault.ts';
import type { CacheLimits } from '../cache/cache-limits.ts';
import { storageError } from '../errors.ts';
import { BACKENDS, type BackendConfig, type BackendKind } from './config-backends.ts';
import { parseLimits } from './config-limits.ts';
import { Members } from './config-members.ts';

export type {
  BackendConfig,
  BackendKind,
  HttpProxyConfig,
  LocaldiskConfig,
  LocalfsConfig,
  ObjectStoreConfig,
  RegistryConfig,
} from './config-backends.ts';
export type { HttpConfig, MirrorConfig, ProxyConfig } from './config-http.ts';

export interface CacheConfig {
  workDir: string;
  /** Keep what the backend sends and decode it with every use: less disk, more work. */
  isCompressed: boolean;
  /** Its chunk map is in memory, so that it serves one daemon and goes with its mount (`disable_indexed_map`). */
  isUnindexed: boolean;
  /** null = it may take what there is. */
  limits: CacheLimits | null;
}

export interface StorageConfig {
  /** `device.id`, the name of the cache metrics. */
  id: string;
  backend: BackendConfig;
  /** null = no cache, or none that has a directory: what is read is fetched and not kept. */
  cache: CacheConfig | null;
  /** A cache is asked for, but no directory for it. */
  lacksWorkDir: boolean;
  /** Verify digests of chunks: `digest_validate` or `device.cache.validate`. */
  validate: boolean;
  /** Window of neighbouring missing chunks fetched with a wanted one, in bytes; 0 = only what is wanted. */
  amplifyIoBytes: number;
  mode: 'direct' | 'cached';
  enableXattr: boolean;
  iostatsFiles: boolean;
  accessPattern: boolean;
  latestReadFiles: boolean;
  prefetch: PrefetchConfig;
  /** Makes a FUSE mount writable. */
  overlay: OverlayConfig | null;
}

export interface OverlayConfig {
  upperDir: string;
  workDir: string;
}

export interface PrefetchConfig {
  enable: boolean;
  threads: number;
  mergingBytes: number;
  bandwidthBytesPerSecond: number;
  prefetchAll: boolean;
  /** Whole blobs in one stream each, which is what is done anyway. */
  streamPrefetch: boolean;
}

/** Longest text that is parsed as TOML, which costs half a second a megabyte at worst. JSON has the limit of its bearer. */
const TOML_CHARS_MAX = 1 << 20;
const AMPLIFY_BYTES_DEFAULT = 1 << 20;
const AMPLIFY_BYTES_MAX = 0x1000_0000;
const PREFETCH_THREADS_DEFAULT = 8;
const PREFETCH_THREADS_MAX = 1024;
/** PATH_MAX without its NUL. */
const PATH_BYTES_MAX = 4095;
/** Any number is refused; a list beyond this is not looked at. */
const EXTERNAL_BACKENDS_MAX = 1024;

/**
 * Parses a configuration text. JSON with `version` and without `device` is v2, other JSON v1; what is no JSON is v2 TOML.
 * @throws CONFIG with the path of the member, its value and the reason
 */
export function parseConfig(text: string): StorageConfig {
  // Nothing at all would be TOML without a version.
  if (text.trim() === '') throw storageError('CONFIG', { path: '(whole text)', value: text.length, reason: 'empty' });
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch (error) {
    return parseV2(Members.of(parseToml(text, jsonFault(text, error)), ''));
  }
  const root = Members.of(parsed, '');
  return root.has('version') && !root.has('device') ? parseV2(root) : parseV1(root);
}

/** The parser's message quotes the text around the fault, which may be a password. @param fault why it is no JSON */
function parseToml(text: string, { reason, line, column }: JsonFault): unknown {
  const refuse = (why: string) => {
    const value = `${text.length} characters`;
    const json = `neither JSON (${reason} in line ${line}, column ${column})`;
    return storageError('CONFIG', { path: '(whole text)', value, reason: `${json} nor TOML${why}` });
  };
  if (text.length > TOML_CHARS_MAX) throw refuse(' of at most 1 MiB');
  try {
    return toml.parse(text);
  } catch (error) {
    throw refuse(error instanceof toml.TomlError ? ` (line ${error.line}, column ${error.column})` : '');
  }
}

function parseV1(root: Members): StorageConfig {
  const device = root.object('device');
  refuseExternalBackends(device);
  const cache = device.optionalObject('cache');
  return {
    id: device.text('id', ''),
    backend: parseBackend(device.object('backend')),
    ...parseCache(cache, 'config'),
    validate: root.flag('digest_validate', false) || (cache?.flag('validate', false) ?? false),
    amplifyIoBytes: root.whole('amplify_io', AMPLIFY_BYTES_DEFAULT, AMPLIFY_BYTES_MAX),
    mode: root.choice('mode', ['direct', 'cached']),
    enableXattr: root.flag('enable_xattr', false),
    iostatsFiles: root.flag('iostats_files', false),
    accessPattern: root.flag('access_pattern', false),
    latestReadFiles: root.flag('latest_read_files', false),
    prefetch: parsePrefetch(root.optionalObject('fs_prefetch')),
    overlay: null,
  };
}

/** The table named like the type holds what v1 has in `config`. */
function parseV2(root: Members): StorageConfig {
  if (root.whole('version', 0, Number.MAX_SAFE_INTEGER) !== 2) throw root.wrong('version', 'must be 2');
  refuseExternalBackends(root);
  const backend = root.object('backend');
  const kind = backend.choice('type', Object.keys(BACKENDS) as BackendKind[]);
  const cache = root.optionalObject('cache');
  const rafs = root.optionalObject('rafs') ?? Members.of({}, 'rafs');
  const cachePrefetch = parsePrefetchV2(cache?.optionalObject('prefetch') ?? null);
  return {
    id: root.text('id', ''),
    backend: BACKENDS[kind](backend.object(kind)),
    ...parseCache(cache, 'filecache'),
    validate: rafs.flag('validate', false) || (cache?.flag('validate', false) ?? false),
    amplifyIoBytes: rafs.whole('batch_size', AMPLIFY_BYTES_DEFAULT, AMPLIFY_BYTES_MAX),
    mode: rafs.choice('mode', ['direct', 'cached'], 'direct'),
    enableXattr: rafs.flag('enable_xattr', false),
    iostatsFiles: rafs.flag('iostats_files', false),
    accessPattern: rafs.flag('access_pattern', false),
    latestReadFiles: rafs.flag('latest_read_files', false),
    prefetch: rafs.has('prefetch') ? parsePrefetchV2(rafs.optionalObject('prefetch')) : cachePrefetch,
    overlay: parseOverlay(root.optionalObject('overlay')),
  };
}

function parseOverlay(overlay: Members | null): OverlayConfig | null {
  return overlay === null ? null : { upperDir: overlay.required('upper_dir'), workDir: overlay.required('work_dir') };
}

/** Blobs of other owners are read from the one backend there is. */
function refuseExternalBackends(table: Members): void {
  if (table.objects('external_backends', EXTERNAL_BACKENDS_MAX).length > 0) {
    throw table.wrongSecret('external_backends', 'are not supported; put external blobs where the others are');
  }
}

function parsePrefetchV2(table: Members | null): PrefetchConfig {
  if (table !== null && !table.has('enable')) throw table.wrong('enable', 'is required');
  return {
    enable: table?.flag('enable', false) ?? false,
    threads: table?.whole('threads', 0, PREFETCH_THREADS_MAX) || PREFETCH_THREADS_DEFAULT,
    mergingBytes: table?.whole('batch_size', 0, AMPLIFY_BYTES_MAX) || AMPLIFY_BYTES_DEFAULT,
    bandwidthBytesPerSecond: table?.whole('bandwidth_limit', 0, Number.MAX_SAFE_INTEGER) ?? 0,
    prefetchAll: table?.flag('prefetch_all', false) ?? false,
    streamPrefetch: table?.flag('stream_prefetch', false) ?? false,
  };
}

/** Zeros mean the defaults: old snapshotters write them into disabled tables (kata-contract 3.4). */
function parsePrefetch(table: Members | null): PrefetchConfig {
  return {
    enable: table?.flag('enable', false) ?? false,
    threads: table?.whole('threads_count', 0, PREFETCH_THREADS_MAX) || PREFETCH_THREADS_DEFAULT,
    mergingBytes: table?.whole('merging_size', 0, AMPLIFY_BYTES_MAX) || AMPLIFY_BYTES_DEFAULT,
    bandwidthBytesPerSecond: table?.whole('bandwidth_rate', 0, Number.MAX_SAFE_INTEGER) ?? 0,
    prefetchAll: table?.flag('prefetch_all', true) ?? true,
    streamPrefetch: table?.flag('stream_prefetch', false) ?? false,
  };
}

function parseBackend(backend: Members): BackendConfig {
  const kind = backend.choice('type', Object.keys(BACKENDS) as BackendKind[]);
  return BACKENDS[kind](backend.object('config'));
}

/** @param table holds the settings of a file cache: `config` in v1 */
function parseCache(
  cache: Members | null,
  table: 'config' | 'filecache',
): Pick<StorageConfig, 'cache' | 'lacksWorkDir'> {
  const kind = cache?.choice('type', ['blobcache', 'filecache', 'fscache', 'dummycache', ''], '') ?? '';
  if (cache === null || kind === 'dummycache' || kind === '') return { cache: null, lacksWorkDir: false };
  if (kind === 'fscache') throw cache.wrong('type', 'fscache needs a daemon of its own; use blobcache');
  const config = cache.object(table);
  for (const name of ['enable_encryption', 'enable_convergent_encryption']) {
    if (config.flag(name, false)) throw config.wrong(name, 'an encrypted cache is not supported; leave it out');
  }
  // Means nothing without the flags above, but is a text all the same.
  config.secret('encryption_key');
  const isCompressed = cache.flag('compressed', false);
  const isUnindexed = config.flag('disable_indexed_map', false);
  if (isUnindexed && isCompressed) {
    throw config.wrong('disable_indexed_map', 'a compressed cache needs its map; leave one of the two out');
  }
  const limits = parseLimits(config);
  // The default is the daemon's own directory, a container's bundle under Kata: no place for a cache that others share.
  if (!config.has('work_dir')) return { cache: null, lacksWorkDir: true };
  return { cache: { workDir: parseWorkDir(config), isCompressed, isUnindexed, limits }, lacksWorkDir: false };
}

function parseWorkDir(config: Members): string {
  const workDir = config.text('work_dir', '');
  if (workDir === '' || workDir.includes('\0')) throw config.wrong('work_dir', 'not a directory name');
  if (Buffer.byteLength(workDir) > PATH_BYTES_MAX) throw config.wrong('work_dir', 'longer than a path may be');
  return workDir.startsWith('/') ? workDir : resolve(workDir);
}
