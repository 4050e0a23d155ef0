/**
 * Bootstraps with flipped bytes: whatever they say, a mount is refused with an AppError or every request ends in time
 * with a result or an errno; nothing throws, hangs, or reads outside its buffers.
 *
 * A failure names its seed; `RAFS_SEED=n` runs that one alone.
 */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { AppError } from '../common/app-error.ts';
import { SILENT } from '../common/log.ts';
import { S } from '../fuse/flags.ts';
import { newSpillHandle } from '../storage/cache/spill-bits.ts';
import { newPlaces } from '../storage/chunk-places.ts';
import type { BlobHandle } from '../storage/types.ts';
import { FileChunks } from './file-chunks.ts';
import { Rafs } from './file-system.ts';
import { Guest } from './guest.testing.ts';
import { ROOT_LOCAL } from './nodes.ts';
import { openImage } from './open-image.ts';
import { PageCache } from './page-cache.ts';
import { ImageWalker } from './walk.ts';

/** Nodes and names one mutant is asked for: each costs a few µs, so the bound below has room for slow machines. */
const NODES_MAX = 300;
const ENTRIES_MAX = 3000;
const MUTANT_MS_MAX = 5000;

/** Ranges of a bootstrap worth flipping bytes in. */
export interface Mutation {
  what: string;
  from: number;
  to: number;
  flips: number;
}

/** Runs `seeds` mutants of each kind made from the valid bootstrap `bytes`. */
export function mutateSuite(name: string, bytes: Buffer, mutations: readonly Mutation[], seeds: number): void {
  const dir = mkdtempSync(join(tmpdir(), 'rafs-mutate-'));
  const path = join(dir, 'mutant.boot');
  const cache = new PageCache(64 * 1024);
  const only = process.env['RAFS_SEED'];
  describe(`mutants of ${name}`, () => {
    after(() => rmSync(dir, { recursive: true }));
    for (const mutation of mutations) {
      test(mutation.what, { timeout: 120_000 }, (t) => {
        const seen = { refused: 0, served: 0 };
        for (
          let seed = only === undefined ? 1 : Number(only);
          seed <= (only === undefined ? seeds : Number(only));
          seed++
        ) {
          writeFileSync(path, mutate(bytes, mutation, seed));
          const start = performance.now();
          try {
            seen[serve(path, cache, seed % 2 === 0)]++;
            walk(path);
            prefetch(path);
          } catch (error) {
            throw new Error(`seed ${seed}`, { cause: error });
          }
          assert.ok(performance.now() - start < MUTANT_MS_MAX, `seed ${seed} took ${performance.now() - start} ms`);
        }
        t.diagnostic(`${seen.served} mounted, ${seen.refused} refused`);
      });
    }
  });
}

function mutate(bytes: Buffer, { from, to, flips }: Mutation, seed: number): Buffer {
  const random = randomOf(seed);
  const mutant = Buffer.from(bytes);
  for (let i = 0; i < flips; i++) {
    const at = from + Math.floor(random() * (to - from));
    // Whole bytes half of the time: counts and offsets become wild, not only slightly wrong.
    mutant[at] = random() < 0.5 ? Math.floor(random() * 256) : mutant[at] ^ (1 << Math.floor(random() * 8));
  }
  return mutant;
}

/** xorshift: the same mutants on every machine. */
function randomOf(seed: number): () => number {
  let state = Math.imul(seed, 0x9e37_79b1) | 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 0x1_0000_0000;
  };
}

function serve(path: string, cache: PageCache, validate: boolean): 'refused' | 'served' {
  let image: ReturnType<typeof openImage>;
  try {
    image = openImage(path);
  } catch (error) {
    assert.ok(error instanceof AppError, `openImage threw ${error}`);
    return 'refused';
  }
  const blobs = image.blobs.map(
    (blob, i): BlobHandle => ({
      handle: i,
      dataFd: image.fd,
      ready: new SharedArrayBuffer(Math.ceil(blob.chunkCount / 8)),
      spill: newSpillHandle(blob.chunkCount),
      places: newPlaces(blob.chunkCount),
      chunkCount: blob.chunkCount,
      uncompressedSize: blob.uncompressedSize,
    }),
  );
  digests(image);
  let rafs: Rafs;
  const guest = new Guest(() => rafs);
  try {
    rafs = new Rafs({ bootstrapFd: image.fd, label: path, blobs, validate, fetch: guest.fetch, log: SILENT, cache });
  } catch (error) {
    assert.ok(error instanceof AppError, `Rafs threw ${error}`);
    closeSync(image.fd);
    image.close();
    return 'refused';
  }
  visit(guest, blobs);
  rafs.destroy();
  image.close();
  return 'served';
}

function digests(image: ReturnType<typeof openImage>): void {
  try {
    image.digests(0)(0);
    image.digests(1)(5);
  } catch (error) {
    assert.ok(error instanceof AppError, `digests threw ${error}`);
  }
}

function visit(guest: Guest, blobs: readonly BlobHandle[]): void {
  const queue = [ROOT_LOCAL];
  let entries = 0;
  for (let i = 0; i < queue.length && i < NODES_MAX; i++) {
    const node = queue[i];
    const attributes = guest.getattr(node);
    if (typeof attributes === 'number') continue;
    guest.listxattr(node);
    guest.getxattr(node, 'user.name');
    guest.readlink(node);
    const complete = ({ handle }: { handle: number }) => {
      new Uint8Array(blobs[handle].ready).fill(0xff);
    };
    guest.read(node, 0, 65536, complete);
    guest.read(node, Math.max(0, Math.min(attributes.size, 2 ** 50) - 10), 4096, complete);
    if ((attributes.mode & S.IFMT) !== S.IFDIR) continue;
    guest.lookup(node, 'absent');
    guest.list(node, false, 4096, 512);
    // Calls of one page, as guests make them, until the mutant has had its share.
    const listed = guest.list(node, true, 4096, 0, ENTRIES_MAX - entries);
    if (typeof listed === 'number') continue;
    entries += listed.length;
    for (const entry of listed) {
      guest.lookup(node, entry.name);
      if (entry.node !== 0) queue.push(entry.node);
    }
  }
}

function walk(path: string): void {
  let walker: ImageWalker | null = null;
  try {
    walker = new ImageWalker(path);
    let entries = 0;
    for (const entry of walker.walk()) {
      if (++entries > ENTRIES_MAX) break;
      if (entry.inode.size < 2 ** 30) entry.chunks();
    }
  } catch (error) {
    assert.ok(error instanceof AppError, `walk threw ${error}`);
  } finally {
    walker?.close();
  }
}

/** What a prefetch goes through: it ends by itself, and what cannot be read is no error. */
function prefetch(path: string): void {
  let image: ReturnType<typeof openImage>;
  try {
    image = openImage(path);
  } catch {
    return;
  }
  const files = FileChunks.open(image.fd, path, image.geometry, image.blobs);
  for (const node of [files.root, ...image.prefetchNodes().slice(0, 5)]) for (const _ of files.below(node));
  for (const _ of files.pathsOf(new Set([1, 130, 200, 2 ** 32 - 1])));
  files.close();
  closeSync(image.fd);
  image.close();
}
