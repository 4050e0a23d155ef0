/** What the API shows and changes of the configurations of open images (kata-contract 4.4). */

import type { BackendConfig, StorageConfig } from '../storage/config/config.ts';
import { applyChange, isSetting, parseChange, shownSettings } from '../storage/config/config-change.ts';
import { limitKeys } from '../storage/config/config-limits.ts';
import { daemonError } from './errors.ts';
import { isSameName } from './mount-path.ts';

/** Keys and values of `PUT /api/v1/config`. */
export type Settings = Record<string, unknown>;

/** Of one open image. */
export interface Configured {
  /** Mount point. */
  path: string;
  config: StorageConfig;
  /** As it is in use; null for an image without blobs. */
  backend: BackendConfig | null;
  /** What the API changed so far. */
  changed: Settings;
}

/**
 * `GET /api/v1/config`: what `PUT` changes, and the limits of the cache. Credentials show as `***`.
 * @param id mount point or `device.id` of the images shown; null shows all, each key after its mount point
 */
export function settingsOf(id: string | null, images: readonly Configured[]): Record<string, string> {
  const settings: Record<string, string> = {};
  for (const { path, config, backend } of named(id, images)) {
    if (backend === null) continue;
    const prefix = id === null ? `${path}:` : '';
    for (const [key, value] of Object.entries(shownSettings(backend))) settings[`${prefix}${key}`] = value;
    const limits = config.cache?.limits ?? null;
    if (limits === null) continue;
    for (const [key, value] of Object.entries(limitKeys(limits))) settings[`${prefix}${key}`] = String(value);
  }
  return settings;
}

/**
 * `PUT /api/v1/config`: changes the images that `id` names (all for null); counts from their next request.
 * @throws CONFIG_KEY for a key that cannot be changed, what `parseChange` throws; nothing is changed then
 */
export function changeSettings(id: string | null, settings: Settings, images: readonly Configured[]): void {
  const unknown = Object.keys(settings).find((key) => !isSetting(key));
  if (unknown !== undefined) throw daemonError('CONFIG_KEY', { key: unknown.slice(0, 60) });
  const change = parseChange(settings);
  for (const { backend, changed } of named(id, images)) {
    if (backend !== null) applyChange(backend, change);
    Object.assign(changed, settings);
  }
}

function named(id: string | null, images: readonly Configured[]): readonly Configured[] {
  if (id === null) return images;
  return images.filter(({ path, config }) => isSameName(id, path) || isSameName(id, config.id));
}
