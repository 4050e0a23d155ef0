/** One blob of an image, read through a store from whatever server a test names. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { SILENT } from '../../src/common/log.ts';
import { assertCached, freshDir } from '../../src/storage/cache/cache.testing.ts';
import { parseConfig } from '../../src/storage/config/config.ts';
import { blobBytes, blobTable, chunkDigests, expectedChunks, wantAll } from '../../src/storage/fixtures.testing.ts';
import { BlobStore } from '../../src/storage/store.ts';

const NAME = 'v6-zstd-blake3';
const [INFO] = blobTable(NAME);
const CHUNKS = expectedChunks(INFO);

export const REPO = 'team/app';
export const BLOBS: ReadonlyMap<string, Buffer> = new Map([[INFO!.id, blobBytes(INFO!.id)]]);

/** The blob as a file of `dir`, named as a registry's path ends. */
export function putBlob(dir: string, blobs = BLOBS): void {
  mkdirSync(dir, { recursive: true });
  for (const [id, bytes] of blobs) writeFileSync(join(dir, `sha256:${id}`), bytes);
}

/** A reader of that blob with a cold cache of its own. */
export class Reader {
  readonly store = new BlobStore(SILENT);
  private readonly handle;
  private next = 0;

  constructor(type: string, config: object) {
    const device = {
      backend: { type, config: { timeout: 3, connect_timeout: 3, ...config } },
      cache: { type: 'blobcache', config: { work_dir: freshDir() } },
    };
    const text = JSON.stringify({ device, mode: 'direct', digest_validate: true, amplify_io: 0 });
    this.handle = this.store.openBlob(INFO!, chunkDigests(NAME, 0), parseConfig(text));
  }

  /** Reads the next `count` chunks, all at once; checks what came. */
  async read(count: number): Promise<void> {
    // Every other one: neighbours would be merged into one request.
    const chunks = Array.from({ length: count }, (_, i) => CHUNKS[(this.next + 2 * i) % CHUNKS.length]!);
    this.next += 2 * count;
    await Promise.all(chunks.map((chunk) => this.store.fetch(this.handle.handle, wantAll([chunk]))));
    for (const chunk of chunks) assertCached(this.handle, chunk);
  }

  close(): Promise<void> {
    return this.store.close();
  }
}
