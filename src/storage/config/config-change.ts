/** Settings of a backend that `PUT /api/v1/config` changes while images are mounted (kata-contract 4.3). */

import { storageError } from '../errors.ts';
import type { BackendConfig } from './config.ts';
import { parseCredential, parseProxyUrl } from './config-http.ts';
import type { Secret } from './secret.ts';

/** What to change; null = leave as it is. */
export interface BackendChange {
  registryAuth: Secret | null;
  proxy: { url: string; auth: Secret } | null;
}

type Key = 'registry_auth' | 'proxy_url' | 'dragonfly_scheduler_endpoint';

const PARSERS: Record<Key, (change: BackendChange, value: string) => void> = {
  registry_auth: (change, value) => {
    change.registryAuth = parseCredential(value, (reason) => wrong('registry_auth', reason));
  },
  proxy_url: (change, value) => {
    change.proxy = parseProxyUrl(value, (reason) => wrong('proxy_url', reason));
  },
  dragonfly_scheduler_endpoint: (_, value) => {
    const reason = 'is not supported; set proxy_url to the proxy address of dfdaemon';
    if (value !== '') throw wrong('dragonfly_scheduler_endpoint', reason);
  },
};

export function isSetting(key: string): key is Key {
  return Object.hasOwn(PARSERS, key);
}

/** Reads settings whose keys `isSetting` knows. @throws CONFIG without the value, which may be a credential */
export function parseChange(settings: Record<string, unknown>): BackendChange {
  const change: BackendChange = { registryAuth: null, proxy: null };
  for (const [key, value] of Object.entries(settings)) {
    if (typeof value !== 'string') throw wrong(key, 'must be a string');
    if (isSetting(key)) PARSERS[key](change, value);
  }
  return change;
}

/** Puts a change into a configuration in use; backends look at it with every request. */
export function applyChange(config: BackendConfig, { registryAuth, proxy }: BackendChange): void {
  if (registryAuth !== null && config.kind === 'registry') config.auth = registryAuth;
  if (proxy !== null && 'proxy' in config) config.proxy = { ...config.proxy, ...proxy };
}

/** The settings a configuration has, without secrets. */
export function shownSettings(config: BackendConfig): Record<string, string> {
  const settings: Record<string, string> = {};
  if (config.kind === 'registry') settings['registry_auth'] = config.auth.toString();
  if ('proxy' in config && config.proxy.url !== '') settings['proxy_url'] = config.proxy.url;
  return settings;
}

function wrong(path: string, reason: string): Error {
  return storageError('CONFIG', { path, value: '***', reason });
}
