/**
 * Which chunk of one open blob a reader means, and where it lies: what its image says, compared with the blob's own table,
 * or, where the image describes its chunks (RAFS v5, tarfs), with what was said of the chunk first.
 */
import { ChunkExtents, ChunkPlaces, newPlaces } from './chunk-places.ts';
import { describedChunk, EqualChunks, isUnnumbered } from './described-chunks.ts';
import { storageError } from './errors.ts';
import type { PlannedChunk } from './fetch-plan.ts';
import { FEATURE } from './tables/blob-layout.ts';
import type { BlobMeta } from './tables/blob-meta.ts';
import type { BlobInfo, WantedChunk } from './types.ts';

export class PlacedChunks {
  /** What is known of them, for the device thread too. */
  readonly places: ChunkPlaces;
  /** The image's numbers of chunks are not those of the blob's table. */
  readonly isRenumbered: boolean;
  /** Null where the blob's own table says where chunks lie, and where they lie in the cache as in the blob. */
  private readonly extents: ChunkExtents | null;
  private readonly equal: EqualChunks | null;

  constructor(private readonly info: BlobInfo) {
    this.places = new ChunkPlaces(newPlaces(info.chunkCount));
    const isInPlace = (info.features & (FEATURE.TARFS | FEATURE.EXTERNAL)) !== 0;
    this.extents = info.described === true && !isInPlace ? new ChunkExtents(info.chunkSize) : null;
    this.equal = isUnnumbered(info) ? new EqualChunks() : null;
    this.isRenumbered = info.described !== true && isUnnumbered(info);
  }

  /** It is known where the chunk lies, from the blob's table: `find` has nothing new to say. */
  isKnown({ chunkIndex }: WantedChunk): boolean {
    return this.info.described !== true && this.places.bytes(chunkIndex) !== 0;
  }

  /**
   * The chunk as the blob stores it, under the number that storage knows it by; its place is known from then on.
   * @param meta the blob's table; null when the image describes its chunks
   * @throws CHUNK when the image says otherwise
   */
  find(meta: BlobMeta | null, wanted: WantedChunk): PlannedChunk {
    return meta === null ? this.described(wanted) : this.inTable(meta, wanted);
  }

  private inTable(meta: BlobMeta, wanted: WantedChunk): PlannedChunk {
    const { chunkIndex } = wanted;
    const info = meta.chunk(this.isRenumbered ? this.numberAt(meta, wanted) : chunkIndex);
    const { uncompressedOffset: offset, uncompressedSize: bytes } = info;
    if (this.isRenumbered) this.places.set(chunkIndex, offset, bytes);
    else if (this.places.bytes(chunkIndex) === 0) this.places.learn(meta, chunkIndex);
    if (offset !== wanted.uncompressedOffset) {
      throw this.wrong(chunkIndex, `lies at byte ${offset}, the image says ${wanted.uncompressedOffset}`);
    }
    if (bytes < wanted.bytes) {
      throw this.wrong(
        chunkIndex,
        `byte ${info.compressedOffset}: has ${bytes} bytes, the image needs ${wanted.bytes}`,
      );
    }
    return { index: chunkIndex, info };
  }

  /**
   * What an image said first of a number binds it: nothing else could tell which of two descriptions is the right one.
   * @throws CHUNK when it is senseless, or contradicts an earlier one
   */
  private described(wanted: WantedChunk): PlannedChunk {
    const { chunkIndex } = wanted;
    const { info } = describedChunk(this.info, wanted);
    const { uncompressedOffset: offset, uncompressedSize: bytes } = info;
    const index = this.equal?.first(wanted) ?? chunkIndex;
    if (this.places.bytes(chunkIndex) !== 0 && this.places.offset(chunkIndex) !== offset) {
      throw this.wrong(chunkIndex, `lies at byte ${this.places.offset(chunkIndex)}, the image says ${offset}`);
    }
    const other = this.extents?.claim(index, offset, bytes) ?? -1;
    if (other >= 0) throw this.wrong(chunkIndex, `byte ${offset}: lies over chunk ${other}`);
    this.places.set(chunkIndex, offset, bytes);
    return { index, info };
  }

  /** Number of the chunk in the blob's own table, of one that the image counts otherwise: places it does not change. */
  private numberAt(meta: BlobMeta, wanted: WantedChunk): number {
    const found = meta.chunkAt(wanted.uncompressedOffset);
    if (found < 0) throw this.wrong(wanted.chunkIndex, `lies at ${wanted.uncompressedOffset}, where the blob has none`);
    return found;
  }

  private wrong(chunk: number, rule: string) {
    return storageError('CHUNK', { blobId: this.info.id, chunk, rule });
  }
}
