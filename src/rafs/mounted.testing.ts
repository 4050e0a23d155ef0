/** A bootstrap mounted for a test: handlers, a guest to call them, and blob caches that fetch from the fixtures. */
import assert from 'node:assert/strict';
import { SILENT } from '../common/log.ts';
import { Rafs } from './file-system.ts';
import { FixtureBlobs } from './fixture-blobs.testing.ts';
import { Guest } from './guest.testing.ts';
import { ROOT_LOCAL } from './nodes.ts';
import { type OpenedImage, openImage } from './open-image.ts';
import { PageCache } from './page-cache.ts';

export class Mounted {
  readonly image: OpenedImage;
  readonly blobs: FixtureBlobs;
  readonly rafs: Rafs;
  readonly guest: Guest;
  /** Error lines logged so far. */
  readonly lines: string[] = [];

  /** The cache holds two pages unless told: pages are pushed out at every step, as they are in big images. */
  constructor(path: string, cacheBytes = 8192, validate = true) {
    this.image = openImage(path);
    this.blobs = new FixtureBlobs(this.image.blobs, this.image.digests);
    this.guest = new Guest(() => this.rafs);
    this.rafs = new Rafs({
      bootstrapFd: this.image.fd,
      label: path,
      blobs: this.blobs.handles,
      validate,
      fetch: this.guest.fetch,
      log: { ...SILENT, error: (line) => this.lines.push(line) },
      cache: new PageCache(cacheBytes),
    });
  }

  /** Data of a whole file in reads of `step` bytes, missing chunks fetched. */
  readAll(node: number, size: number, step: number): Buffer {
    const pieces: Buffer[] = [];
    for (let offset = 0; offset < size; offset += step) {
      const piece = this.guest.read(node, offset, step, ({ handle, chunks }) => this.blobs.fetch(handle, chunks));
      assert.ok(typeof piece !== 'number', `read: ${piece}`);
      pieces.push(piece);
    }
    return Buffer.concat(pieces);
  }

  /** Nodeid of an absolute path. */
  node(path: string): number {
    let node = ROOT_LOCAL;
    for (const part of path.split('/').slice(1)) {
      const entry = this.guest.lookup(node, part);
      assert.ok(typeof entry !== 'number' && entry.node !== 0, `${path}: ${part}`);
      node = entry.node;
    }
    return node;
  }

  close(): void {
    this.rafs.destroy();
    this.image.close();
    this.blobs.close();
  }
}
