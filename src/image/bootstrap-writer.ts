/**
 * Writes a v6 bootstrap (rafs-format 2.1) for a tree whose chunks are known. One pass over the nodes in numbering order;
 * where each goes was settled by `layout-v6.ts`.
 */
import { alignUp } from '../common/u64.ts';
import { CHUNK_ENTRY, CHUNK_ENTRY_BYTES, CHUNK_FLAG, encodeChunkEntry } from '../rafs/chunk-entry.ts';
import { BOOTSTRAP_BYTES_MAX, COMPRESSOR_FLAG, DIGESTER_FLAG, FLAG } from '../rafs/flags.ts';
import { encodeBlobEntry, encodeDeviceSlot, MAPPED_ALIGN_BYTES } from '../rafs/v6/blob-table-layout.ts';
import { NID_UNIT_BYTES } from '../rafs/v6/inode-layout.ts';
import {
  BLOB_ENTRY_BYTES,
  BLOCK_BITS,
  BLOCK_BYTES,
  DEVICE_SLOT_BYTES,
  DEVICE_SLOT_OFFSET,
  EXT_SUPERBLOCK_OFFSET,
  encodeExtSuperblock,
  encodeSuperblock,
  PREFETCH_ENTRY_BYTES,
  ROOT_NID,
  SUPERBLOCK_OFFSET,
} from '../rafs/v6/layout.ts';
import { FEATURE } from '../storage/tables/blob-layout.ts';
import type { BlobInfo, Compressor, Digester } from '../storage/types.ts';
import type { ChunkRefs, ChunkStore } from './chunk-store.ts';
import { imageError } from './errors.ts';
import { writeNode } from './inode-writer.ts';
import { placeNodes } from './layout-v6.ts';
import type { Tree, TreeNode } from './tree.ts';

export interface BootstrapInput {
  tree: Tree;
  /** All chunks; where they lie compressed is only asked for by `finish`. */
  store: ChunkStore;
  refs: ChunkRefs;
  chunkSize: number;
  compressor: Compressor;
  digester: Digester;
  /** False: readers replace uid and gid by their own (`--repeatable`). */
  explicitIds: boolean;
  /** Nodes of the prefetch table, in pattern order. */
  prefetch: readonly TreeNode[];
}

export class BootstrapWriter {
  readonly #input: BootstrapInput;
  readonly #out: Buffer;
  readonly #view: DataView;
  /** Offsets of blob table, prefetch table, metadata area and chunk table. */
  readonly #blobTable: number;
  readonly #prefetchTable: number;
  readonly #meta: number;
  readonly #chunkTable: number;
  readonly #order: Uint32Array;

  /**
   * Writes all nodes, which need not know how well chunks compress: it can be done while helpers still do that.
   * @throws AppError BOOTSTRAP_LIMIT, XATTR, SOURCE_LIMIT
   */
  constructor(input: BootstrapInput) {
    const { tree, store, prefetch } = input;
    const blobs = store.count === 0 ? 0 : 1;
    const metaEnd = placeNodes(tree);
    this.#input = input;
    this.#blobTable = alignUp(DEVICE_SLOT_OFFSET + DEVICE_SLOT_BYTES * blobs, BLOCK_BYTES);
    this.#prefetchTable = this.#blobTable + BLOB_ENTRY_BYTES * blobs;
    // Without a blob nothing is moved: the tables are empty and the first inode stays at 4096 (2.1).
    this.#meta = blobs === 0 ? 0 : alignUp(this.#prefetchTable + PREFETCH_ENTRY_BYTES * prefetch.length, BLOCK_BYTES);
    this.#chunkTable = alignUp(this.#meta + metaEnd, BLOCK_BYTES);
    const bytes = alignUp(this.#chunkTable + CHUNK_ENTRY_BYTES * store.count, BLOCK_BYTES);
    if (bytes > BOOTSTRAP_BYTES_MAX) throw imageError('BOOTSTRAP_LIMIT', { bytes, limitBytes: BOOTSTRAP_BYTES_MAX });
    this.#out = Buffer.alloc(bytes);
    this.#view = new DataView(this.#out.buffer, this.#out.byteOffset, bytes);
    const files = { chunkSize: input.chunkSize, store, refs: input.refs };
    for (const node of tree.nodes) writeNode(this.#out, this.#meta, node, files);
    this.#order = sortedByDigest(store);
  }

  /** The whole bootstrap. @param blob null when no file has content */
  finish(blob: BlobInfo | null): Buffer {
    const { tree, prefetch, store, chunkSize } = this.#input;
    const view = this.#view;
    const blobs = blob === null ? 0 : 1;
    encodeSuperblock(view, SUPERBLOCK_OFFSET, {
      blockBits: BLOCK_BITS,
      rootNid: ROOT_NID,
      inos: tree.nodes.length,
      blocks: blob === null ? 0 : blob.uncompressedSize / BLOCK_BYTES,
      metaBlkaddr: this.#meta / BLOCK_BYTES,
      extraDevices: blobs,
    });
    const withTable = blob !== null && prefetch.length > 0;
    encodeExtSuperblock(view, EXT_SUPERBLOCK_OFFSET, {
      flags: flags(this.#input, blob),
      blobTableOffset: this.#blobTable,
      blobTableSize: BLOB_ENTRY_BYTES * blobs,
      chunkSize,
      chunkTableOffset: this.#chunkTable,
      chunkTableSize: CHUNK_ENTRY_BYTES * store.count,
      prefetchOffset: withTable ? this.#prefetchTable : 0,
      prefetchSize: withTable ? PREFETCH_ENTRY_BYTES * prefetch.length : 0,
    });
    if (blob !== null) {
      encodeDeviceSlot(this.#out, DEVICE_SLOT_OFFSET, {
        id: blob.id,
        blocks: blob.uncompressedSize / BLOCK_BYTES,
        mappedBlkaddr: alignUp(this.#out.length, MAPPED_ALIGN_BYTES) / BLOCK_BYTES,
      });
      encodeBlobEntry(this.#out, this.#blobTable, blob);
      prefetch.forEach((node, i) => {
        view.setUint32(this.#prefetchTable + i * PREFETCH_ENTRY_BYTES, nidOf(node), true);
      });
    }
    writeChunkTable(view, this.#out, this.#chunkTable, store, this.#order);
    return this.#out;
  }
}

/** Number by which everything names a node (2.6). */
export function nidOf(node: TreeNode): number {
  return node.offset / NID_UNIT_BYTES;
}

function flags(input: BootstrapInput, blob: BlobInfo | null): number {
  let bits = COMPRESSOR_FLAG[input.compressor] | DIGESTER_FLAG[input.digester] | FLAG.ENCRYPTION_NONE;
  if (input.explicitIds) bits |= FLAG.EXPLICIT_UID_GID;
  if (input.tree.nodes.some((node) => node.xattrs.length > 0)) bits |= FLAG.HAS_XATTR;
  // "All blobs have it" holds without any blob, too (2.3).
  if (blob === null || (blob.features & FEATURE.INLINED_CHUNK_DIGEST) !== 0) bits |= FLAG.INLINED_CHUNK_DIGEST;
  return bits;
}

/** 2.13: ordered by digest. A digest occurs once here: equal digests of unequal sizes would be a broken hash. */
function writeChunkTable(view: DataView, out: Buffer, at: number, store: ChunkStore, order: Uint32Array): void {
  for (let i = 0; i < order.length; i++) {
    const chunk = order[i];
    const entry = at + i * CHUNK_ENTRY_BYTES;
    const compressed = store.compressedSize[chunk] !== store.uncompressedSize[chunk];
    out.set(store.digest(chunk), entry + CHUNK_ENTRY.DIGEST);
    encodeChunkEntry(view, entry, {
      blobIndex: 0,
      flags: CHUNK_FLAG.HAS_CRC32 | (compressed ? CHUNK_FLAG.COMPRESSED : 0),
      compressedSize: store.compressedSize[chunk],
      uncompressedSize: store.uncompressedSize[chunk],
      compressedOffset: store.compressedOffset[chunk],
      uncompressedOffset: store.uncompressedOffset[chunk],
      fileOffset: store.fileOffset[chunk],
      index: chunk,
      crc32: store.crc32[chunk],
    });
  }
}

/** Sorts by the first four digest bytes as a number; only the rare equal ones look at the rest. */
function sortedByDigest(store: ChunkStore): Uint32Array {
  const { digests } = store;
  const view = new DataView(digests.buffer, digests.byteOffset, digests.byteLength);
  const order = Uint32Array.from({ length: store.count }, (_, chunk) => chunk);
  return order.sort((a, b) => {
    for (let word = 0; word < 32; word += 4) {
      const difference = view.getUint32(a * 32 + word) - view.getUint32(b * 32 + word);
      if (difference !== 0) return difference;
    }
    return a - b;
  });
}
