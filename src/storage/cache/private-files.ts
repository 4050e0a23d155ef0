/**
 * The cache file of one mount alone: for blobs whose chunks have no numbers that a shared chunk map could speak of
 * (`isUnnumbered`). It has no name, so it goes with the mount, and its bits are in memory.
 */
import { closeSync, constants, mkdirSync, openSync, unlinkSync } from 'node:fs';
import { join } from 'node:path';
import { errnoName } from '../../sys/errno.ts';
import { dupOver } from '../../sys/lock.ts';
import { storageError } from '../errors.ts';
import { cacheError } from './cache-io.ts';
import { DIR_MODE, temporaryName } from './cache-names.ts';
import { ChunkMap, newReadyBits } from './chunk-map.ts';

const { O_RDWR, O_RDONLY, O_CREAT, O_EXCL } = constants;

export class PrivateFiles {
  /** Never changes its number; names /dev/null until something is to be written. */
  readonly dataFd = openSync('/dev/null', O_RDONLY);
  readonly ready: SharedArrayBuffer;
  readonly map: ChunkMap;
  readonly dataPath: string;
  /** Of the blob, and so shared with everybody. */
  readonly metaPath: string;
  readonly lockFd = -1;
  isWritable = false;
  readonly isRaw = false;

  constructor(
    private readonly workDir: string,
    blobId: string,
    chunkCount: number,
  ) {
    this.dataPath = join(workDir, `${blobId}.blob.private`);
    this.metaPath = join(workDir, `${blobId}.blob.meta`);
    this.ready = newReadyBits(chunkCount);
    this.map = new ChunkMap(-1, false, this.ready, chunkCount);
  }

  /** Makes the file, once. @throws NO_SPACE, READ_ONLY or CACHE_IO */
  attach(): void {
    if (this.isWritable) return;
    let fd = -1;
    try {
      mkdirSync(this.workDir, { recursive: true, mode: DIR_MODE });
      const path = temporaryName(this.dataPath);
      fd = openSync(path, O_RDWR | O_CREAT | O_EXCL, 0o600);
      unlinkSync(path);
      const result = dupOver(fd, this.dataFd);
      if (result < 0) throw storageError('CACHE_IO', { path, call: 'dup3', errno: errnoName(-result) });
      this.isWritable = true;
    } catch (error) {
      throw cacheError(this.dataPath, error);
    } finally {
      if (fd >= 0) closeSync(fd);
    }
  }

  /** Nobody else can reach the file, so nobody can have cut it. */
  renewIfCut(): void {}

  close(): void {
    closeSync(this.dataFd);
  }
}
