/**
 * Reads an image back through `src/rafs` and looks at everything a reader could trip over: every inode, name, xattr,
 * target and chunk index, and what they say about each other.
 */
import { compressorOf } from '../rafs/flags.ts';
import { S_IFDIR, S_IFMT, S_IFREG } from '../rafs/v6/inode-layout.ts';
import { ImageWalker, type WalkEntry } from '../rafs/walk.ts';
import type { BlobInfo, Compressor } from '../storage/types.ts';
import { imageError } from './errors.ts';
import { shown } from './source.ts';

export interface CheckResult {
  blobs: readonly BlobInfo[];
  /** Names found; equals what the superblock says. */
  names: number;
  fsVersion: 5 | 6;
  /** As the superblock says, blobs or none. */
  compressor: Compressor;
}

/**
 * Walks the whole image.
 * @param each is told every path, in the order of the walk
 * @throws AppError of `src/rafs` (not an image, not built, broken; of v5 images a wrong digest, too) or CHECK
 */
export function checkImage(bootstrapPath: string, each: (entry: WalkEntry) => void = () => {}): CheckResult {
  const image = new ImageWalker(bootstrapPath, true);
  try {
    const linksLeft = new Map<number, number>();
    let names = 0;
    for (const entry of image.walk()) {
      names++;
      each(entry);
      checkLinks(linksLeft, entry);
      checkChunks(image.blobs, entry);
    }
    if (names !== image.metadata.names) {
      throw broken('/', `the superblock counts ${image.metadata.names} names, the tree has ${names}`);
    }
    const { version, flags } = image.geometry;
    return { blobs: image.blobs, names, fsVersion: version, compressor: compressorOf(flags) };
  } finally {
    image.close();
  }
}

/** A file has no more names than its nlink. It may have fewer: builders of 2.0 gave every name an inode of its own. */
function checkLinks(linksLeft: Map<number, number>, entry: WalkEntry): void {
  const { inode } = entry;
  if ((inode.mode & S_IFMT) === S_IFDIR || (inode.nlink === 1 && !linksLeft.has(inode.node))) return;
  const left = linksLeft.get(inode.node) ?? inode.nlink;
  if (left === 0) throw broken(text(entry), `more names than its ${inode.nlink} links`);
  linksLeft.set(inode.node, left - 1);
}

function checkChunks(blobs: readonly BlobInfo[], entry: WalkEntry): void {
  if ((entry.inode.mode & S_IFMT) !== S_IFREG) return;
  entry.chunks().forEach((chunk, k) => {
    if (chunk.uncompressedOffset < 0) return;
    const blob = blobs[chunk.blob];
    const refuse = (rule: string) => broken(text(entry), `chunk ${k}: ${rule}`);
    if (blob === undefined) throw refuse(`blob ${chunk.blob} does not exist`);
    if (chunk.index >= blob.chunkCount) throw refuse(`index ${chunk.index}, its blob has ${blob.chunkCount}`);
    // 0: old images do not know how long their blobs are.
    const blobBytes = blob.uncompressedSize || Number.POSITIVE_INFINITY;
    if (chunk.uncompressedOffset + chunk.bytes > blobBytes) throw refuse('behind the end of its blob');
  });
}

function text(entry: WalkEntry): string {
  return shown(entry.path.toString('latin1'));
}

function broken(path: string, rule: string) {
  return imageError('CHECK', { path, rule });
}
