/**
 * Where blobs come from, one entry per kind of kata-contract 3.6. A backend answers byte ranges of whole objects; it
 * knows nothing of chunks, caches or files. One attempt per call: trying again is `retry.ts`.
 */
import { X509Certificate } from 'node:crypto';
import { accessSync, constants, readFileSync } from 'node:fs';
import { codeOf } from '../common/app-error.ts';
import type { Logger } from '../common/log.ts';
import { openHttpProxy } from './backends/http-proxy.ts';
import { openLocaldisk } from './backends/localdisk.ts';
import { openLocalfs } from './backends/localfs.ts';
import { openObjectStore } from './backends/object-store.ts';
import { openRegistry } from './backends/registry.ts';
import type { BackendConfig, BackendKind, HttpConfig, ObjectStoreConfig } from './config/config.ts';
import { storageError } from './errors.ts';
import { BODY_TIMEOUT_MS, type HttpClient, openHttpClient } from './http/http.ts';
import { openRoutedClient } from './http/http-route.ts';

/** Where the bytes of a read go while they arrive, for readers that begin before the last one is there. */
export interface Sink {
  /** As long as the read. */
  readonly buffer: Buffer;
  /** The first `count` bytes are in the buffer. A promise holds the source up until it settles; never rejects. */
  arrived(count: number): Promise<void> | undefined;
}

export interface Backend {
  readonly kind: BackendKind;
  /** For messages: kind and place, no credentials. */
  readonly where: string;
  /**
   * Exactly `bytes` bytes at `offset` of the blob, in the sink's buffer where there is one. A read that fails may have
   * told its sink of bytes before.
   * @throws an AppError whose `retryable` says whether another attempt makes sense; the signal's reason when aborted
   */
  read(blobId: string, offset: number, bytes: number, signal: AbortSignal, sink?: Sink): Promise<Buffer>;
  /** What it gave was wrong: for a while the server itself is asked, not those who may stand in for it. */
  doubt?(): void;
  /** Length of the blob in bytes. */
  size(blobId: string, signal: AbortSignal): Promise<number>;
  close(): void;
}

type ConfigOf<K extends BackendKind> = K extends 'oss' | 's3' ? ObjectStoreConfig : Extract<BackendConfig, { kind: K }>;

type Open<C extends BackendConfig> = (config: C, log: Logger) => Promise<Backend>;

const OPENERS: { [K in BackendKind]: Open<ConfigOf<K>> } = {
  localfs: async (config) => openLocalfs(config),
  registry: async (config, log) => openRegistry(config, await httpClient(config, null, log), log),
  'http-proxy': async (config, log) =>
    openHttpProxy(config, await httpClient(config, config.addr.startsWith('/') ? config.addr : null, log)),
  oss: async (config, log) => openObjectStore(config, await httpClient(config, null, log)),
  s3: async (config, log) => openObjectStore(config, await httpClient(config, null, log)),
  localdisk: async (config) => openLocaldisk(config),
};

/** Opens the backend of a configuration. No network yet. @throws CONFIG as `checkBackend` does */
export function openBackend(config: BackendConfig, log: Logger): Promise<Backend> {
  const open = OPENERS[config.kind] as Open<BackendConfig>;
  return open(config, log);
}

/** What a budget of requests is counted by: the server with its port, or the place on this machine. */
export function hostOf(config: BackendConfig): string {
  switch (config.kind) {
    case 'registry':
      return config.host;
    case 'oss':
    case 's3':
      return config.endpoint;
    case 'http-proxy':
      return config.addr.startsWith('/') ? config.addr : new URL(config.addr).host;
    case 'localfs':
      return config.blobFile || config.dir;
    case 'localdisk':
      return config.devicePath;
  }
}

/** @throws CONFIG at mount time for what would fail at the first read: files of this machine that are not there. */
export function checkBackend(config: BackendConfig): void {
  if (config.kind === 'localdisk') checkReadable('backend.device_path', config.devicePath);
  if (config.kind === 'http-proxy' && config.addr.startsWith('/')) checkReadable('backend.addr', config.addr);
  if ('caCertFiles' in config) config.caCertFiles.forEach(readAuthorities);
}

function checkReadable(path: string, file: string): void {
  try {
    accessSync(file, constants.R_OK);
  } catch (error) {
    throw storageError('CONFIG', { path, value: file, reason: `cannot be read: ${codeOf(error)}` }, error);
  }
}

/** The certificates of a file of `ca_cert_files`, in PEM. @throws CONFIG */
function readAuthorities(file: string): string {
  checkReadable('ca_cert_files', file);
  const text = readFileSync(file, 'utf8');
  const certificates = text.match(/-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----/gs) ?? [];
  try {
    if (certificates.length === 0) throw new Error('no certificate in it');
    for (const certificate of certificates) new X509Certificate(certificate);
  } catch (error) {
    const reason = 'is no PEM file of certificates';
    throw storageError('CONFIG', { path: 'ca_cert_files', value: file, reason }, error);
  }
  return certificates.join('\n');
}

async function httpClient(config: HttpConfig, socketPath: string | null, log: Logger): Promise<HttpClient> {
  const options = {
    skipVerify: config.skipVerify,
    ca: config.caCertFiles.map(readAuthorities),
    connectTimeoutMs: config.connectTimeoutMs,
    headersTimeoutMs: config.timeoutMs,
    // The reference counts `timeout` over the whole request; a pause inside a body gets the same limit here.
    bodyTimeoutMs: config.timeoutMs === 0 ? 0 : Math.max(config.timeoutMs, BODY_TIMEOUT_MS),
    socketPath,
  };
  return openRoutedClient(config, (proxy) => openHttpClient({ ...options, proxy }), log);
}

/** Blob ids become file names and URL paths: 1..255 bytes, no separator, no dot name, no control character. */
export function checkBlobId(blobId: string): void {
  const isName = /^[^/\\?#%\s\p{Cc}]+$/u.test(blobId) && blobId !== '.' && blobId !== '..';
  if (!isName || Buffer.byteLength(blobId) > 200) {
    throw storageError('CONFIG', { path: 'blob id', value: blobId, reason: 'not usable as a file name' });
  }
}
