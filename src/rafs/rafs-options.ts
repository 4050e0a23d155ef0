/** What mounting an image on the device thread takes, and the mount itself: one page read, nothing walked. */
import type { Logger } from '../common/log.ts';
import { S } from '../fuse/flags.ts';
import type { BlobHandle, WantedChunk } from '../storage/types.ts';
import { lseek, pread, SEEK } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { atByte } from './broken.ts';
import { rafsError } from './errors.ts';
import { newMetadata } from './formats.ts';
import { HEAD_BYTES, readGeometry } from './geometry.ts';
import { InodeRecord, type Metadata } from './metadata.ts';
import { type PageCache, threadPageCache } from './page-cache.ts';

export interface RafsOptions {
  /** Owned from now on: closed by `destroy`. */
  bootstrapFd: number;
  /** Path of the bootstrap, for messages. */
  label: string;
  /** In blob-table order. */
  blobs: readonly BlobHandle[];
  /**
   * Asks for chunks of one blob; the ticket is completed with 0 or -errno, and the read runs again. `isPartial`: a part of
   * what the read wants was there.
   */
  fetch: (ticket: number, blobHandle: number, chunks: WantedChunk[], isPartial: boolean) => void;
  /** Check the digest tree of v5 metadata as it is walked; digests of data are storage's. */
  validate?: boolean;
  log: Logger;
  /** Where first reads of chunks are written down (`access-log.ts`); nowhere without it. */
  trace?: SharedArrayBuffer;
  /** The thread's own unless a test wants a small one. */
  cache?: PageCache;
}

/** The first block of the image being mounted; one for all mounts of the thread. */
let head: NativeMemory | null = null;

/** Reads and checks the superblocks again on this thread: the file is the same, the trust is not. @throws BROKEN */
export function mountMetadata(options: RafsOptions): Metadata {
  const { bootstrapFd, label } = options;
  const refuse = (rule: string) => rafsError('BROKEN', { path: label, rule });
  head ??= new NativeMemory(HEAD_BYTES);
  const n = pread(bootstrapFd, head.address, HEAD_BYTES, 0);
  if (n !== HEAD_BYTES) throw refuse('the first block cannot be read');
  const geometry = readGeometry(head.view, lseek(bootstrapFd, 0, SEEK.END));
  if (typeof geometry === 'string') throw refuse(geometry);
  const opened = options.blobs.length;
  const known = geometry.version === 6 ? geometry.blobCount : geometry.extendedEntries || opened;
  if (known !== opened) throw refuse(`${known} blobs, opened ${opened}`);
  const metadata = newMetadata(
    options.cache ?? threadPageCache(),
    bootstrapFd,
    geometry,
    opened,
    options.validate ?? false,
  );
  const root = new InodeRecord();
  const isLoaded = metadata.load(metadata.root, root) === 0;
  if (isLoaded && (root.mode & S.IFMT) === S.IFDIR) return metadata;
  metadata.close();
  const rule = isLoaded ? 'it is no directory' : metadata.broken || 'it is outside the file';
  throw refuse(`root inode, ${atByte(metadata.lastOffset, rule)}`);
}
