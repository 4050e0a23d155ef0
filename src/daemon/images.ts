/**
 * Images as the daemon handles them. Everything below is imported at the first RAFS mount: a daemon that serves only
 * host directories, and one that has just been started, never load storage, codecs or HTTP clients.
 */
import type { Logger } from '../common/log.ts';
import type { WantedChunk } from '../storage/types.ts';
import { daemonError } from './errors.ts';
import type { Images, OpenedImage } from './mounts.ts';

export class LazyImages implements Images {
  constructor(readonly log: Logger) {}

  async open(_path: string, _bootstrap: string, _config: string): Promise<OpenedImage> {
    throw daemonError('UNSUPPORTED', { what: 'rafs' });
  }

  abandon(_image: OpenedImage): void {}

  release(_blobs: readonly number[]): void {}

  async fetch(_blob: number, _chunks: readonly WantedChunk[]): Promise<void> {
    throw daemonError('UNSUPPORTED', { what: 'rafs' });
  }

  settings(_id: string | null): Record<string, string> {
    return {};
  }

  change(_id: string | null, _settings: Record<string, unknown>): void {}

  backendMetrics(_image: OpenedImage): object {
    return {};
  }

  cacheMetrics(_image: OpenedImage): object {
    return {};
  }
}
