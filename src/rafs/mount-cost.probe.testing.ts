/**
 * Child of `mount-cost.test.ts`: mounts the images named on its command line one after the other and prints for each
 * how long that took and what it added to RSS, as JSON. A first mount warms the code up and is not counted.
 */
import { SILENT } from '../common/log.ts';
import { newSpillHandle } from '../storage/spill-bits.ts';
import { Rafs } from './file-system.ts';
import { Guest } from './guest.testing.ts';
import { ROOT_LOCAL } from './nodes.ts';
import { openImage } from './open-image.ts';
import { PageCache } from './page-cache.ts';

const gc = globalThis.gc as () => void;

function mount(path: string): { ms: number; rssBytes: number; names: number } {
  gc();
  const before = process.memoryUsage.rss();
  const start = performance.now();
  const image = openImage(path);
  const blobs = image.blobs.map((blob) => ({
    handle: 1,
    dataFd: -1,
    ready: new SharedArrayBuffer(Math.ceil(blob.chunkCount / 8)),
    spill: newSpillHandle(blob.chunkCount),
    chunkCount: blob.chunkCount,
    uncompressedSize: blob.uncompressedSize,
  }));
  const rafs = new Rafs({ bootstrapFd: image.fd, label: path, blobs, fetch: () => {}, log: SILENT, cache });
  guests.push(new Guest(() => rafs));
  const found = guests[guests.length - 1].getattr(ROOT_LOCAL);
  const ms = performance.now() - start;
  gc();
  if (typeof found === 'number') throw new Error(`root: ${found}`);
  return { ms, rssBytes: process.memoryUsage.rss() - before, names: image.inodes };
}

const cache = new PageCache();
const guests: Guest[] = [];
const [warm, ...paths] = process.argv.slice(2);
for (let i = 0; i < 3; i++) mount(warm);
console.log(JSON.stringify(paths.map(mount)));
