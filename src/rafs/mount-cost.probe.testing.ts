/**
 * Child of `mount-cost.test.ts`: mounts the images named on its command line one after the other, looks names up and
 * lists a directory, and prints for each how long that took at best and what it added to RSS, as JSON. First mounts warm
 * the code up and are not counted.
 */
import { SILENT } from '../common/log.ts';
import { newSpillHandle } from '../storage/cache/spill-bits.ts';
import { newPlaces } from '../storage/chunk-places.ts';
import { Rafs } from './file-system.ts';
import { Guest } from './guest.testing.ts';
import { ROOT_LOCAL } from './nodes.ts';
import { openImage } from './open-image.ts';
import { PageCache } from './page-cache.ts';

const gc = globalThis.gc as () => void;

/**
 * Names below two directories, spread over the whole image; and one directory, listed. Each pair touches some 24 KiB of
 * a large bootstrap: what keeps on doing that fills the page cache, which ends at 16 MiB.
 */
const LOOKUPS = 100;
const LISTED = 3;
const FILES = 1000;
/** Of which the fastest counts: others run on this machine, too. */
const MOUNTS = 5;

interface Cost {
  ms: number;
  rssBytes: number;
  names: number;
}

function cost(path: string): Cost {
  const mounts = Array.from({ length: MOUNTS }, () => mount(path));
  return { ...mounts[0], ms: Math.min(...mounts.map(({ ms }) => ms)) };
}

function mount(path: string): Cost {
  gc();
  const before = process.memoryUsage.rss();
  const start = performance.now();
  const image = openImage(path);
  const blobs = image.blobs.map((blob) => ({
    handle: 1,
    dataFd: -1,
    ready: new SharedArrayBuffer(Math.ceil(blob.chunkCount / 8)),
    spill: newSpillHandle(blob.chunkCount),
    places: newPlaces(blob.chunkCount),
    chunkCount: blob.chunkCount,
    uncompressedSize: blob.uncompressedSize,
  }));
  const rafs = new Rafs({ bootstrapFd: image.fd, label: path, blobs, fetch: () => {}, log: SILENT, cache });
  guests.push(new Guest(() => rafs));
  const guest = guests[guests.length - 1];
  const found = guest.getattr(ROOT_LOCAL);
  use(guest, Math.floor(image.inodes / (FILES + 1)));
  const ms = performance.now() - start;
  gc();
  if (typeof found === 'number') throw new Error(`root: ${found}`);
  return { ms, rssBytes: process.memoryUsage.rss() - before, names: image.inodes };
}

/** Looks up and lists in an image of `dirs` directories of 1000 files; names end in digits of equal number. */
function use(guest: Guest, dirs: number): void {
  const first = guest.list(ROOT_LOCAL, false, 512, 0, 2);
  if (typeof first === 'number') throw new Error(`list: ${first}`);
  const digits = first.find(({ name }) => name[0] === 0x64)!.name.length - 1;
  const node = (dir: number, name: string) => {
    const entry = guest.lookup(dir, name);
    if (typeof entry === 'number' || entry.node === 0) throw new Error(`no ${name}`);
    return entry.node;
  };
  const named = (letter: string, i: number) => `${letter}${String(i).padStart(digits, '0')}`;
  for (let i = 0; i < LOOKUPS; i++) {
    node(node(ROOT_LOCAL, named('d', (i * 7919) % dirs)), named('f', (i * 31) % FILES));
  }
  const listed = guest.list(node(ROOT_LOCAL, named('d', LISTED)), true);
  if (typeof listed === 'number' || listed.length !== FILES + 2) throw new Error(`listed ${listed}`);
}

const cache = new PageCache();
const guests: Guest[] = [];
const [warm, ...paths] = process.argv.slice(2);
for (let i = 0; i < 3; i++) mount(warm);
console.log(JSON.stringify(paths.map(cost)));
