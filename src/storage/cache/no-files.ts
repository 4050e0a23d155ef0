/** A blob without cache files (`dummycache`, or none configured): every chunk that is fetched goes to the spill. */
import { closeSync, constants, openSync } from 'node:fs';
import { ChunkMap, newReadyBits } from './chunk-map.ts';

export class NoFiles {
  readonly dataFd = openSync('/dev/null', constants.O_RDONLY);
  readonly ready: SharedArrayBuffer;
  readonly map: ChunkMap;
  readonly dataPath = '';
  readonly metaPath = '';
  readonly lockFd = -1;
  readonly isWritable = false;
  readonly isRaw = false;

  constructor(chunkCount: number) {
    this.ready = newReadyBits(chunkCount);
    this.map = new ChunkMap(-1, false, this.ready, chunkCount);
  }

  attach(): void {}

  renewIfCut(): void {}

  close(): void {
    closeSync(this.dataFd);
  }
}
