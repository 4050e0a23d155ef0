/** A storage configuration as the API shows it: v2 shape, every member present, nothing secret (kata-contract 4.4). */
import type { BackendConfig, HttpConfig, StorageConfig } from '../storage/config/config.ts';
import { limitKeys } from '../storage/config/config-limits.ts';

/** `config` member of a RAFS mount in DaemonInfo. */
export function shownConfig(config: StorageConfig): object {
  const prefetch = {
    enable: config.prefetch.enable,
    threads: config.prefetch.threads,
    batch_size: config.prefetch.mergingBytes,
    bandwidth_limit: config.prefetch.bandwidthBytesPerSecond,
    prefetch_all: config.prefetch.prefetchAll,
    stream_prefetch: config.prefetch.streamPrefetch,
  };
  return {
    version: 2,
    id: config.id,
    backend: shownBackend(config.backend),
    external_backends: [],
    cache: {
      type: config.cache === null ? '' : 'blobcache',
      compressed: config.cache?.isCompressed ?? false,
      validate: config.validate,
      prefetch,
      filecache:
        config.cache === null
          ? null
          : {
              work_dir: config.cache.workDir,
              disable_indexed_map: config.cache.isUnindexed,
              enable_encryption: false,
              enable_convergent_encryption: false,
              encryption_key: '',
              // Ours.
              ...(config.cache.limits === null ? {} : limitKeys(config.cache.limits)),
            },
      fscache: null,
    },
    rafs: {
      mode: config.mode,
      batch_size: config.amplifyIoBytes,
      validate: config.validate,
      enable_xattr: config.enableXattr,
      iostats_files: config.iostatsFiles,
      access_pattern: config.accessPattern,
      latest_read_files: config.latestReadFiles,
      prefetch,
    },
    overlay: config.overlay === null ? null : { upper_dir: config.overlay.upperDir, work_dir: config.overlay.workDir },
  };
}

function shownBackend(backend: BackendConfig): object {
  const none = { localdisk: null, localfs: null, oss: null, s3: null, registry: null, 'http-proxy': null };
  return { type: backend.kind, ...none, [backend.kind]: members(backend) };
}

function members(backend: BackendConfig): object {
  switch (backend.kind) {
    case 'localfs':
      return { blob_file: backend.blobFile, dir: backend.dir, alt_dirs: backend.altDirs };
    case 'registry':
      return {
        scheme: backend.scheme,
        host: backend.host,
        repo: backend.repo,
        auth: null,
        registry_token: null,
        blob_url_scheme: backend.blobUrlScheme,
        blob_redirected_host: backend.blobRedirectedHost,
        ...http(backend),
      };
    case 'http-proxy':
      return { addr: backend.addr, path: backend.path, ...http(backend) };
    case 'oss':
    case 's3':
      return {
        scheme: backend.scheme,
        endpoint: backend.endpoint,
        ...(backend.kind === 's3' ? { region: backend.region } : {}),
        bucket_name: backend.bucket,
        object_prefix: backend.objectPrefix,
        access_key_id: '',
        access_key_secret: '',
        ...http(backend),
      };
    case 'localdisk':
      return { device_path: backend.devicePath, disable_gpt: false };
  }
}

function http(config: HttpConfig): object {
  return {
    skip_verify: config.skipVerify,
    ca_cert_files: config.caCertFiles,
    timeout: config.timeoutMs / 1000,
    connect_timeout: config.connectTimeoutMs / 1000,
    retry_limit: config.retryLimit,
    proxy: {
      url: config.proxy.url,
      ping_url: withoutSecrets(config.proxy.pingUrl),
      fallback: config.proxy.fallback,
      check_interval: config.proxy.checkIntervalMs / 1000,
      use_http: config.proxy.useHttp,
      check_pause_elapsed: config.proxy.checkPauseMs / 1000,
      dragonfly_scheduler_endpoint: '',
    },
    mirrors: config.mirrors.map((mirror) => ({
      host: mirror.host,
      ping_url: withoutSecrets(mirror.pingUrl),
      headers: Object.fromEntries(Object.keys(mirror.headers).map((name) => [name, '***'])),
      auth_through: mirror.authThrough,
      health_check_interval: mirror.checkIntervalMs / 1000,
      failure_limit: mirror.failureLimit,
    })),
  };
}

/** Queries and users of URLs are credentials. */
function withoutSecrets(url: string): string {
  if (url === '') return '';
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname}`;
}
