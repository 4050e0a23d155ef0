/**
 * Bootstraps with one flipped byte in a file's chunk entries, on a cache that has every chunk: reads give right bytes or
 * an error, never another chunk's. What the cache has is found by addresses out of the bootstrap.
 */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { SILENT } from '../../src/common/log.ts';
import { CHUNK_ENTRY_BYTES } from '../../src/rafs/chunk-entry.ts';
import { Rafs } from '../../src/rafs/file-system.ts';
import { Guest } from '../../src/rafs/guest.testing.ts';
import { ROOT_LOCAL } from '../../src/rafs/nodes.ts';
import { openImage } from '../../src/rafs/open-image.ts';
import { CHUNK_INDEX_BYTES, chunkIndexOffset } from '../../src/rafs/v6/inode-layout.ts';
import { parseConfig } from '../../src/storage/config/config.ts';
import { DEMAND_POLICY } from '../../src/storage/retry.ts';
import { BlobStore } from '../../src/storage/store.ts';
import { Damaged } from './damage.ts';

const dir = mkdtempSync(join(tmpdir(), 'flipped-chunks-'));
after(() => rmSync(dir, { recursive: true }));

/** Three files with the same three chunks, and others around them. */
const FLIPPED = '/dup/copy-0';
const FILES = [
  FLIPPED,
  '/dup/copy-1',
  '/big/multi-chunk',
  '/many/000-ec',
  '/many/052-d63e5e1e3da6447997fb342637ab4c27',
];
const FILE_BYTES_MAX = 256 * 1024;
/** Wrong digests need no second try here. */
const POLICY = { ...DEMAND_POLICY, attempts: 1 };

type Contents = Map<string, Buffer | number>;

/** Reads `files` in their order; what fails is its errno. */
async function readFiles(boot: string, config: object, files: readonly string[]): Promise<[Contents, string[]]> {
  const parsed = parseConfig(JSON.stringify(config));
  const lines: string[] = [];
  const log = { ...SILENT, error: (line: string) => void lines.push(line) };
  const store = new BlobStore(SILENT, POLICY);
  const image = openImage(boot);
  const guest = new Guest(() => rafs);
  const blobs = image.blobs.map((blob) => store.openBlob(blob, image.digests(blob.index), parsed));
  const { validate } = parsed;
  const rafs = new Rafs({ bootstrapFd: image.fd, label: boot, blobs, validate, fetch: guest.fetch, log });
  const contents: Contents = new Map();
  try {
    for (const path of files) {
      let node = ROOT_LOCAL;
      for (const part of path.split('/').slice(1)) {
        const entry = guest.lookup(node, part);
        if (typeof entry === 'number') {
          contents.set(path, entry);
          break;
        }
        node = entry.node;
      }
      if (contents.has(path)) continue;
      try {
        const data = await guest.readLazily(node, 0, FILE_BYTES_MAX, ({ handle, chunks }) =>
          store.fetch(handle, chunks),
        );
        contents.set(path, typeof data === 'number' ? data : Buffer.from(data));
      } catch (error) {
        lines.push(String(error));
        contents.set(path, -5);
      }
    }
  } finally {
    rafs.destroy();
    await store.close();
    image.close();
  }
  return [contents, lines];
}

interface Case {
  name: string;
  validate: boolean;
  /** File offset and length of the entries of the flipped file. */
  entries: (image: Damaged) => { at: number; bytes: number };
}

const v6Entries = (image: Damaged) => {
  const { offset, bytes, xattrBytes, size } = image.inode(FLIPPED);
  const chunks = Math.ceil(size / image.info.chunkSize);
  return { at: chunkIndexOffset(offset, bytes, xattrBytes), bytes: chunks * CHUNK_INDEX_BYTES };
};
/** The second of three. */
const v5Entries = (image: Damaged) => ({
  at: image.record(FLIPPED).chunksAt + CHUNK_ENTRY_BYTES,
  bytes: CHUNK_ENTRY_BYTES,
});

const CASES: readonly Case[] = [
  { name: 'v6-zstd-blake3-4k', validate: true, entries: v6Entries },
  { name: 'v6-zstd-blake3-4k', validate: false, entries: v6Entries },
  { name: 'v6-batch', validate: true, entries: v6Entries },
  { name: 'v6-encrypt', validate: false, entries: v6Entries },
  { name: 'v5-zstd-blake3-4k', validate: true, entries: v5Entries },
  { name: 'v5-none-sha256-4k', validate: true, entries: v5Entries },
];

for (const { name, validate, entries } of CASES) {
  describe(`${name}, validation ${validate ? 'on' : 'off'}`, async () => {
    const own = mkdtempSync(join(dir, 'image-'));
    const image = new Damaged(name);
    const { boot, blobDir } = image.save(own);
    const configOf = (cacheDir: string): object => ({
      device: {
        backend: { type: 'localfs', config: { dir: blobDir } },
        cache: { type: 'blobcache', config: { work_dir: cacheDir } },
      },
      mode: 'direct',
      digest_validate: validate,
    });
    const full = join(own, 'full');
    const expected = readFiles(boot, configOf(full), FILES);
    const { at, bytes } = entries(image);

    /** Reads all files of the image with byte `i` of the entries flipped. @returns how many were refused */
    async function refusedOf(i: number, pattern: number, order: readonly string[]): Promise<number> {
      const [right] = await expected;
      const what = `byte ${i} ^ ${pattern}`;
      const cache = mkdtempSync(join(own, 'cache-'));
      cpSync(full, cache, { recursive: true });
      const flipped = Buffer.from(image.boot);
      flipped[at + i] ^= pattern;
      const path = join(cache, 'flipped.boot');
      writeFileSync(path, flipped);
      const [contents, lines] = await readFiles(path, configOf(cache), order);
      rmSync(cache, { recursive: true });
      let refused = 0;
      for (const file of FILES) {
        const got = contents.get(file);
        if (got instanceof Buffer) {
          assert.ok(got.equals(right.get(file) as Buffer), `${what}: wrong bytes in ${file}`);
          continue;
        }
        refused++;
        assert.equal(got, -5, `${what}: ${file}`);
        assert.ok(lines.length > 0, `${what}: no line tells why ${file} is refused`);
      }
      return refused;
    }

    for (const [order, pattern] of [
      [FILES, 0x01],
      [FILES.toReversed(), 0xff],
    ] as const) {
      test(`no flip of ${bytes} bytes shows wrong bytes, ${order[0]} read first`, async () => {
        const [right] = await expected;
        for (const path of FILES) assert.ok(right.get(path) instanceof Buffer, path);
        let refused = 0;
        for (let i = 0; i < bytes; i++) refused += await refusedOf(i, pattern, order);
        assert.ok(refused > bytes / 2, `only ${refused} reads were refused`);
      });
    }
  });
}

test('an address that belongs to a cached chunk of another number is refused, with file, byte and rule in one line', async () => {
  const own = mkdtempSync(join(dir, 'told-'));
  mkdirSync(join(own, 'cache'));
  const image = new Damaged('v6-zstd-blake3-4k');
  const { at } = v6Entries(image);
  image.boot.copy(image.boot, at + 4, at + CHUNK_INDEX_BYTES + 4, at + CHUNK_INDEX_BYTES + 8);
  const { boot, blobDir } = image.save(own);
  const backend = { type: 'localfs', config: { dir: blobDir } };
  const cache = { type: 'blobcache', config: { work_dir: join(own, 'cache') } };
  const config = { device: { backend, cache }, mode: 'direct', digest_validate: true };
  const [contents, lines] = await readFiles(boot, config, ['/dup/copy-1', FLIPPED]);
  assert.ok(contents.get('/dup/copy-1') instanceof Buffer);
  assert.equal(contents.get(FLIPPED), -5);
  const told = lines.filter(
    (line) => line.includes(boot) && /byte \d+: chunk 0: chunk \d+ of its blob is .* the image says/.test(line),
  );
  assert.equal(told.length, 1, lines.join('\n'));
});
