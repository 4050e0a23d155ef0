/**
 * Cuts files into chunks, finds those that are there already, and passes new ones on to be compressed and written
 * (rafs-format 3.2). Chunk k of a file is bytes k * chunkSize up to the next multiple or the end; its number in the blob
 * is the order of first appearance.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { alignUp } from '../common/u64.ts';
import { crc32c, DIGESTS } from '../storage/codecs/digests.ts';
import { BLOCK_BYTES, UNCOMPRESSED_BLOB_BYTES_MAX } from '../storage/tables/blob-layout.ts';
import type { Digester } from '../storage/types.ts';
import { ChunkRefs, ChunkStore } from './chunk-store.ts';
import type { CompressPipe } from './compress-pipe.ts';
import { imageError } from './errors.ts';
import { type FileContent, shown } from './source.ts';
import type { TreeNode } from './tree.ts';

/** Data between two turns of the event loop; a chunk also counts for what its handling leaves behind. */
const TURN_BYTES = 8 << 20;
const CHUNK_COST_BYTES = 4096;

export class Chunker {
  readonly store = new ChunkStore();
  readonly refs = new ChunkRefs();
  /** End of the last chunk, rounded up to blocks: the blob's uncompressed size. */
  uncompressedBytes = 0;
  readonly #digest: (bytes: Uint8Array) => Uint8Array;
  /** Chunk number of an all-zero chunk by size, so that holes are neither read nor digested again. */
  readonly #zeros = new Map<number, number>();
  #sinceTurn = 0;

  constructor(
    readonly chunkSize: number,
    digester: Digester,
    readonly pipe: CompressPipe,
  ) {
    this.#digest = DIGESTS[digester].digest;
  }

  /** Adds the whole content of a regular file; sets the node's chunk list. */
  async addFile(node: TreeNode, content: FileContent): Promise<void> {
    node.firstRef = this.refs.count;
    node.chunkCount = Math.ceil(node.sizeBytes / this.chunkSize);
    for (let at = 0; at < node.sizeBytes; at += this.chunkSize) {
      const bytes = Math.min(this.chunkSize, node.sizeBytes - at);
      if (this.#turnDue(bytes)) await nextTurn();
      this.refs.push(content.isHole(at, bytes) ? this.#zeroChunk(bytes) : this.#dataChunk(node, content, at, bytes));
    }
  }

  /**
   * True now and then, when the event loop should turn: native packages free the buffers they handed out (digests, compressed
   * chunks) only there, so a build without a turn would hold all of them to its end.
   */
  #turnDue(bytes: number): boolean {
    this.#sinceTurn += bytes + CHUNK_COST_BYTES;
    if (this.#sinceTurn < TURN_BYTES) return false;
    this.#sinceTurn = 0;
    return true;
  }

  #dataChunk(node: TreeNode, content: FileContent, at: number, bytes: number): number {
    const room = this.pipe.room(bytes);
    const got = content.read(room, at);
    if (got < bytes) {
      throw imageError('SOURCE_CHANGED', { path: shown(node.path), wantedBytes: node.sizeBytes, gotBytes: at + got });
    }
    return this.#chunk(room);
  }

  #zeroChunk(bytes: number): number {
    const known = this.#zeros.get(bytes);
    if (known !== undefined) return known;
    const chunk = this.#chunk(this.pipe.room(bytes).fill(0));
    this.#zeros.set(bytes, chunk);
    return chunk;
  }

  /** `room` holds the chunk's bytes; they stay there only when the chunk is new. */
  #chunk(room: Uint8Array): number {
    const digest = this.#digest(room);
    const known = this.store.find(digest, room.length);
    if (known >= 0) return known;
    const end = this.uncompressedBytes + alignUp(room.length, BLOCK_BYTES);
    if (end > UNCOMPRESSED_BLOB_BYTES_MAX) throw imageError('BLOB_LIMIT', { rule: `${end} bytes of data` });
    const chunk = this.store.add(digest, room.length, this.uncompressedBytes, crc32c(room));
    this.uncompressedBytes = end;
    this.pipe.keep(chunk, room.length);
    return chunk;
  }
}
