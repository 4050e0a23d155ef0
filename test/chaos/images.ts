/** The kinds of images that chaos is made of: what they contain, and where in their blobs chunks and metadata lie. */
import { execFileSync } from 'node:child_process';
import { createHash, randomFillSync } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { expectedChunks, parseBlobTable } from '../../src/storage/fixtures.testing.ts';
import type { BlobInfo } from '../../src/storage/types.ts';
import type { Window } from '../daemon/fault-server.ts';
import { FIXTURES, NYDUSD } from '../daemon/nydusd.ts';

const IMAGES = path.join(FIXTURES, 'images');
/** The largest ones: they have every size of chunk. */
const FILES_MAX = 40;

export interface Expected {
  path: string;
  size: number;
  sha256: string;
}

/** A chunk as its blob stores it. */
interface Stored {
  index: number;
  compressedOffset: number;
  compressedSize: number;
}

export interface Image {
  kind: string;
  bootstrap: string;
  blobs: string;
  files: readonly Expected[];
  blobId: string;
  /** Null where this harness cannot tell which range a chunk lies in: fetches of complete ones are not counted then. */
  chunks: readonly Stored[] | null;
  /** Where its chunk table, digests and contents lie; null when all of it is in the bootstrap. */
  metadata: Window | null;
  isV5: boolean;
}

const FIXTURE_OF = {
  v6: 'v6-zstd-blake3',
  v5: 'v5-lz4-blake3',
  batch: 'v6-batch',
  zran: 'zran-v6',
  encrypted: 'v6-encrypt',
  toc: 'v6-toc',
  raw: 'v6-none-blake3-4k',
} as const;
export type Kind = keyof typeof FIXTURE_OF;
/** `raw` is for the canary. */
export const KINDS = ['v6', 'v5', 'batch', 'zran', 'encrypted', 'toc'] as const satisfies readonly Kind[];

const loaded = new Map<Kind, Image>();

export function imageOf(kind: Kind): Image {
  const known = loaded.get(kind);
  if (known !== undefined) return known;
  const name = FIXTURE_OF[kind];
  const line = fs
    .readFileSync(path.join(IMAGES, 'cases.tsv'), 'utf8')
    .split('\n')
    .find((l) => l.startsWith(`${name}\t`));
  const [, tree, boot, blobId] = line!.split('\t') as [string, string, string, string];
  const bootstrap = path.join(IMAGES, boot);
  const image: Image = {
    kind,
    bootstrap,
    blobs: path.join(IMAGES, 'blobs'),
    files: largest(JSON.parse(fs.readFileSync(path.join(IMAGES, tree), 'utf8'))),
    blobId,
    ...layout(kind, bootstrap),
  };
  loaded.set(kind, image);
  return image;
}

function largest(tree: readonly (Expected & { type: string })[]): readonly Expected[] {
  return tree
    .filter((e) => e.type === 'file' && e.size > 0 && e.path !== undefined)
    .sort((a, b) => b.size - a.size)
    .slice(0, FILES_MAX);
}

function layout(kind: Kind, bootstrap: string): Pick<Image, 'chunks' | 'metadata' | 'isV5'> {
  if (kind === 'v5') return { chunks: null, metadata: null, isV5: true };
  const [info] = parseBlobTable(fs.readFileSync(bootstrap)) as [BlobInfo];
  if (kind === 'zran') {
    const blob = Buffer.from(info.extra.subarray(0, 32)).toString('hex');
    return { chunks: null, metadata: { blob }, isV5: false };
  }
  const isPlain = kind === 'v6' || kind === 'raw';
  return { chunks: isPlain ? expectedChunks(info) : null, metadata: { from: info.ciOffset }, isV5: false };
}

const BIG_FILES = 600;
const BIG_FILE_BYTES = 256 * 1024;

/** An image of 150 MB in `dir`, made by the built builder, for runs on demand. */
export function bigImage(dir: string): Image {
  const source = path.join(dir, 'big-source');
  const blobs = path.join(dir, 'big-blobs');
  fs.mkdirSync(blobs, { recursive: true });
  const files = Array.from({ length: BIG_FILES }, (_, i): Expected => {
    const name = `${i % 20}/file-${i}`;
    const bytes = Buffer.alloc(BIG_FILE_BYTES, `line of file ${i}\n`);
    randomFillSync(bytes, 0, BIG_FILE_BYTES / 2);
    fs.mkdirSync(path.dirname(path.join(source, name)), { recursive: true });
    fs.writeFileSync(path.join(source, name), bytes);
    return { path: name, size: bytes.length, sha256: createHash('sha256').update(bytes).digest('hex') };
  });
  const bootstrap = path.join(dir, 'big.boot');
  const builder = path.join(path.dirname(NYDUSD), 'nydus-image');
  execFileSync(builder, ['create', '-B', bootstrap, '-D', blobs, source], { stdio: 'ignore' });
  fs.rmSync(source, { recursive: true });
  const [info] = parseBlobTable(fs.readFileSync(bootstrap)) as [BlobInfo];
  const stored = expectedChunks(info, fs.readFileSync(path.join(blobs, info.id)));
  const chunks = stored.map(({ index, compressedOffset, compressedSize }) => ({
    index,
    compressedOffset,
    compressedSize,
  }));
  return { kind: 'big', bootstrap, blobs, files, blobId: info.id, chunks, metadata: null, isV5: false };
}

const MAP_HEADER_BYTES = 4096;

/** Chunks whose bit is set in the map file of `cache`. */
export function readyChunks({ chunks }: Image, cache: string): Set<number> {
  const file = mapFile(cache);
  if (file === null || chunks === null) return new Set();
  const map = fs.readFileSync(file);
  const isReady = ({ index }: Stored): boolean =>
    ((map[MAP_HEADER_BYTES + (index >> 3)] ?? 0) & (0x80 >> (index & 7))) !== 0;
  return new Set(chunks.filter(isReady).map(({ index }) => index));
}

/** How many of the chunks `ready` lie in the ranges fetched. */
export function refetchedOf(image: Image, ready: ReadonlySet<number>, ranges: readonly [number, number][]): number {
  return (image.chunks ?? []).filter(
    ({ index, compressedOffset, compressedSize }) =>
      ready.has(index) &&
      ranges.some(([from, to]) => from <= compressedOffset && compressedOffset + compressedSize - 1 <= to),
  ).length;
}

/** Data files and chunk maps of a cache; nydusd 2.2 names its maps otherwise than newer ones and we do. */
export function dataFile(cache: string): string | null {
  return fileOf(cache, '.blob.data');
}

export function mapFile(cache: string): string | null {
  return fileOf(cache, 'chunk_map');
}

function fileOf(cache: string, ending: string): string | null {
  const name = fs.readdirSync(cache).find((other) => other.endsWith(ending));
  return name === undefined ? null : path.join(cache, name);
}
