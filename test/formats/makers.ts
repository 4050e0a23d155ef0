/** Images of the matrix: upstream's builder where it makes the kind, ours for plain v6, a writer of the tests otherwise. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { buildImage } from '../../src/image/build.ts';
import { DirectorySource } from '../../src/image/directory.ts';
import { defaults } from '../../src/image/image-source.testing.ts';
import { parseBlobTable } from '../../src/storage/fixtures.testing.ts';
import type { Cell, Kind } from './cells.ts';
import { externalizeV5, gzipV5 } from './repack-v5.ts';
import { externalize, type Packed, repack } from './repack-v6.ts';
import { writeTarfs } from './tarfs-writer.ts';

export interface Image {
  boot: string;
  /** Where its blobs lie. */
  blobDir: string;
}

/** Upstream's tool: named, or where cargo installs it. Not looked for on PATH: ours has the same name. */
const UPSTREAM = [process.env['NYDUS_IMAGE'] ?? '', join(homedir(), '.cargo/bin/nydus-image')].find(
  (path) => path !== '' && existsSync(path),
);

/** Why a cell cannot be made on this machine; null when it can. */
export function missingTool({ version, kind }: Cell): string | null {
  const needsUpstream = version === 5 || kind === 'dictionary' || kind.startsWith('zran');
  if (UPSTREAM !== undefined || !needsUpstream) return null;
  return "nydus-image of crate nydus-rs is not installed (set NYDUS_IMAGE, or 'cargo install nydus-rs')";
}

type Maker = (cell: Cell, source: string, dir: string) => Promise<Image[]> | Image[];

const MAKERS: Record<Kind, Maker> = {
  plain: async (cell, source, dir) => {
    if (cell.compressor === 'gzip') return [await packed(cell, source, dir)];
    if (cell.version === 5) return [upstream(cell, source, dir)];
    const own = await ours(cell, source, join(dir, 'ours'));
    return UPSTREAM === undefined ? [own] : [own, upstream(cell, source, join(dir, 'upstream'))];
  },
  batch: async (cell, source, dir) => [await packed(cell, source, dir)],
  encrypted: async (cell, source, dir) => [await packed(cell, source, dir)],
  'batch-encrypted': async (cell, source, dir) => [await packed(cell, source, dir)],
  external: async (cell, source, dir) => [await packed(cell, source, dir)],
  'zran-one-member': (cell, source, dir) => [reference(cell, source, dir, (tar) => gzipSync(tar))],
  'zran-many-members': (cell, source, dir) => [reference(cell, source, dir, manyMembers)],
  tarfs: ({ chunkBytes }, source, dir) => [saved(writeTarfs(source, dir, chunkBytes), dir)],
  dictionary: (cell, source, dir) => {
    // Of a part of the tree: the image itself takes chunks from both blobs.
    const dictionary = upstream(cell, join(source, 'boundaries'), dir, [], 'dictionary.boot');
    return [upstream(cell, source, dir, ['--chunk-dict', `bootstrap=${dictionary.boot}`])];
  },
};

/** Every image of a cell: more than one where several builders make it. */
export async function makeImages(cell: Cell, source: string, scratch: string): Promise<Image[]> {
  return await MAKERS[cell.kind](cell, source, mkdtempSync(join(scratch, 'image-')));
}

async function ours(cell: Pick<Cell, 'compressor' | 'digester' | 'chunkBytes'>, source: string, dir: string) {
  mkdirSync(dir, { recursive: true });
  const { compressor, digester, chunkBytes: chunkSize } = cell;
  const options = { ...defaults(dir), compressor, digester, chunkSize, whiteouts: 'none' as const };
  await buildImage(new DirectorySource(source), options);
  return { boot: join(dir, 'boot'), blobDir: dir };
}

function upstream(cell: Cell, source: string, dir: string, more: string[] = [], name = 'image.boot'): Image {
  mkdirSync(dir, { recursive: true });
  const { version, compressor, digester, chunkBytes } = cell;
  const codec = compressor === 'gzip' ? [] : ['--compressor', compressor];
  const settings = ['--fs-version', `${version}`, ...codec, '--digester', digester];
  const boot = join(dir, name);
  const output = ['--chunk-size', `0x${chunkBytes.toString(16)}`, '-D', dir, '-B', boot, '--log-level', 'error'];
  run(['create', ...settings, ...output, ...more, source]);
  return { boot, blobDir: dir };
}

/** An image without compression, its chunks stored another way. */
async function packed(cell: Cell, source: string, dir: string): Promise<Image> {
  const { version, compressor, chunkBytes, kind } = cell;
  const plain = { ...cell, compressor: 'none' as const };
  const made =
    version === 5 ? upstream(plain, source, join(dir, 'plain')) : await ours(plain, source, join(dir, 'plain'));
  const boot = readFileSync(made.boot);
  const blob = readFileSync(join(made.blobDir, readdirSync(made.blobDir).find((name) => name.length === 64)!));
  if (version === 5) return saved(kind === 'external' ? externalizeV5(boot, blob) : gzipV5(boot, blob), dir);
  if (kind === 'external') return saved(externalize(boot, blob), dir);
  const batchBytes = kind.startsWith('batch') ? chunkBytes : 0;
  return saved(repack(boot, blob, { compressor, batchBytes, encrypted: kind.endsWith('encrypted') }), dir);
}

function saved({ boot, blobs }: Packed, dir: string): Image {
  const blobDir = join(dir, 'blobs');
  mkdirSync(blobDir, { recursive: true });
  for (const [id, bytes] of blobs) writeFileSync(join(blobDir, id), bytes);
  writeFileSync(join(dir, 'image.boot'), boot);
  return { boot: join(dir, 'image.boot'), blobDir };
}

/** The image refers to the .tar.gz itself, which is its data blob. */
function reference(cell: Cell, source: string, dir: string, gzip: (tar: Buffer) => Buffer): Image {
  const path = join(dir, 'layer.tar');
  const format = ['--format=pax', '--xattrs', '--xattrs-include=*', '--pax-option=delete=atime,delete=ctime'];
  execFileSync('tar', [...format, '--sort=name', '-C', source, '-cf', path, '.']);
  const layer = gzip(readFileSync(path));
  writeFileSync(`${path}.gz`, layer);
  const boot = join(dir, 'image.boot');
  const settings = ['--type', 'targz-ref', '--chunk-size', `0x${cell.chunkBytes.toString(16)}`, '--log-level', 'error'];
  run(['create', ...settings, '-D', dir, '-B', boot, `${path}.gz`]);
  copyFileSync(`${path}.gz`, join(dir, createHash('sha256').update(layer).digest('hex')));
  const [info] = parseBlobTable(readFileSync(boot));
  if (!existsSync(join(dir, info.id))) throw new Error(`the image refers to ${info.id}, which is not the layer`);
  return { boot, blobDir: dir };
}

const MEMBER_BYTES = 100_000;

function manyMembers(tar: Buffer): Buffer {
  const members: Buffer[] = [];
  for (let at = 0; at < tar.length; at += MEMBER_BYTES) members.push(gzipSync(tar.subarray(at, at + MEMBER_BYTES)));
  return Buffer.concat(members);
}

function run(args: string[]): void {
  execFileSync(UPSTREAM!, args, { stdio: ['ignore', 'pipe', 'pipe'] });
}
