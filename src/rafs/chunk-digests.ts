/**
 * Digests of chunks out of the bootstrap's chunk table (rafs-format 2.13).
 *
 * The table is ordered by digest, a read asks by (blob, chunk index): an index is built on first use. It is an
 * open-addressing table of entry numbers alone, 4 to 8 bytes a chunk; keys and digests stay in the file and are read
 * back, so that 80 bytes times a million chunks never sit in memory.
 *
 *     hash(blob, chunk) → slot → entry number → pread 80 bytes → key equal? digest
 */
import { readSync } from 'node:fs';
import { CRC_BYTES } from '../storage/codecs/digests.ts';
import type { ChunkDigests } from '../storage/types.ts';
import { atByte } from './broken.ts';
import { CHUNK_ENTRY, CHUNK_ENTRY_BYTES, CHUNK_FLAG } from './chunk-entry.ts';
import { rafsError } from './errors.ts';

const DIGEST_BYTES = CHUNK_ENTRY.BLOB_INDEX - CHUNK_ENTRY.DIGEST;
/** Entries indexed in one turn of the main thread: about 2 ms. */
const TURN_ENTRIES = 16_384;
const READ_ENTRIES = 1024;
/**
 * Entries that may follow each other in the index. At a load of at most 1/2 an honest table of the largest size stays
 * below; one made of equal keys is refused instead of costing quadratic time.
 */
const PROBES_MAX = 256;

export class ChunkDigestTable {
  private slots: Uint32Array | null = null;
  private indexed = 0;
  private readonly entry = Buffer.alloc(CHUNK_ENTRY_BYTES);

  /**
   * @param fd the bootstrap, kept open by the caller
   * @param offset byte offset of the table, `entries` × 80 bytes, checked against the file's length
   */
  constructor(
    private readonly fd: number,
    private readonly path: string,
    private readonly offset: number,
    readonly entries: number,
  ) {}

  /** Digests of one blob. The function throws TRUNCATED or BROKEN when the table turns out to be bad. */
  ofBlob(blobIndex: number): ChunkDigests {
    return (chunkIndex) => this.find(blobIndex, chunkIndex);
  }

  /** Builds the index in slices that leave the event loop free; `ofBlob` builds what is missing at once. */
  async prepare(): Promise<void> {
    while (this.indexSome(TURN_ENTRIES)) await new Promise((resume) => setImmediate(resume));
  }

  private find(blobIndex: number, chunkIndex: number): Uint8Array | null {
    if (this.entries === 0) return null;
    while (this.indexSome(TURN_ENTRIES));
    const slots = this.slots as Uint32Array;
    const mask = slots.length - 1;
    for (let slot = hash(blobIndex, chunkIndex) & mask, probes = 0; probes <= PROBES_MAX; probes++) {
      const number = slots[slot];
      if (number === 0) return null;
      this.read(number - 1, this.entry, 1);
      if (
        this.entry.readUInt32LE(CHUNK_ENTRY.INDEX) === chunkIndex &&
        this.entry.readUInt32LE(CHUNK_ENTRY.BLOB_INDEX) === blobIndex
      ) {
        return this.proof();
      }
      slot = (slot + 1) & mask;
    }
    return null;
  }

  /** What vouches for the chunk of the entry just read: chunks of external blobs have a CRC at most (4.6). */
  private proof(): Uint8Array | null {
    const { entry } = this;
    const digest = entry.subarray(CHUNK_ENTRY.DIGEST, CHUNK_ENTRY.DIGEST + DIGEST_BYTES);
    if (!digest.every((byte) => byte === 0)) return Uint8Array.from(digest);
    if ((entry.readUInt32LE(CHUNK_ENTRY.FLAGS) & CHUNK_FLAG.HAS_CRC32) === 0) return null;
    return Uint8Array.from(entry.subarray(CHUNK_ENTRY.CRC32, CHUNK_ENTRY.CRC32 + CRC_BYTES));
  }

  /** Indexes up to `count` more entries; true while some are left. */
  private indexSome(count: number): boolean {
    if (this.indexed === this.entries) return false;
    this.slots ??= new Uint32Array(2 ** Math.ceil(Math.log2(this.entries * 2)));
    const end = Math.min(this.entries, this.indexed + count);
    const buffer = Buffer.allocUnsafe(Math.min(READ_ENTRIES, end - this.indexed) * CHUNK_ENTRY_BYTES);
    while (this.indexed < end) {
      const batch = Math.min(READ_ENTRIES, end - this.indexed);
      this.read(this.indexed, buffer, batch);
      for (let i = 0; i < batch; i++) {
        const at = i * CHUNK_ENTRY_BYTES;
        const blobIndex = buffer.readUInt32LE(at + CHUNK_ENTRY.BLOB_INDEX);
        this.insert(hash(blobIndex, buffer.readUInt32LE(at + CHUNK_ENTRY.INDEX)), this.indexed + i + 1);
      }
      this.indexed += batch;
    }
    return this.indexed < this.entries;
  }

  private insert(hashed: number, number: number): void {
    const slots = this.slots as Uint32Array;
    const mask = slots.length - 1;
    let slot = hashed & mask;
    for (let probes = 0; slots[slot] !== 0; probes++) {
      if (probes === PROBES_MAX) {
        const rule = atByte(this.offset, 'chunk table: too many entries for the same chunk');
        throw rafsError('BROKEN', { path: this.path, rule });
      }
      slot = (slot + 1) & mask;
    }
    slots[slot] = number;
  }

  private read(first: number, into: Buffer, count: number): void {
    const offset = this.offset + first * CHUNK_ENTRY_BYTES;
    const wantedBytes = count * CHUNK_ENTRY_BYTES;
    const gotBytes = readSync(this.fd, into, 0, wantedBytes, offset);
    if (gotBytes !== wantedBytes) throw rafsError('TRUNCATED', { path: this.path, offset, wantedBytes, gotBytes });
  }
}

function hash(blobIndex: number, chunkIndex: number): number {
  // A finalizer of the murmur kind: neighbours in a blob must not be neighbours here.
  let h = Math.imul(chunkIndex ^ Math.imul(blobIndex + 1, 0x9e37_79b1), 0x85eb_ca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35);
  return (h ^ (h >>> 16)) >>> 0;
}
