/**
 * Writer of the tests for v5 images that no builder here makes: gzip chunks and external data. Takes a plain image
 * without compression and stores its chunks another way (rafs-format 1.6, 1.8, 1.11, 3.2, 4.6).
 */
import { CHUNK_ENTRY, CHUNK_ENTRY_BYTES, CHUNK_FLAG } from '../../src/rafs/chunk-entry.ts';
import { COMPRESSOR_FLAG, digesterOf } from '../../src/rafs/flags.ts';
import { EXTENDED, INODE, SB } from '../../src/rafs/v5/layout.ts';
import { type Placed, placedRecords } from '../../src/rafs/v5/synthetic.testing.ts';
import { S_IFDIR, S_IFMT, S_IFREG } from '../../src/rafs/v6/inode-layout.ts';
import { CODECS } from '../../src/storage/codecs/codecs.ts';
import { crc32c, DIGESTS } from '../../src/storage/codecs/digests.ts';
import { FEATURE } from '../../src/storage/tables/blob-layout.ts';
import type { Packed } from './repack-v6.ts';

const ID_AT = 8;
const ID_CHARS = 64;

/** Every chunk a gzip member. */
export function gzipV5(plainBoot: Buffer, plainBlob: Buffer): Packed {
  const boot = Buffer.from(plainBoot);
  const places = new Map<number, { offset: number; bytes: number }>();
  const pieces: Buffer[] = [];
  let end = 0;
  for (const at of chunkEntries(boot)) {
    const index = boot.readUInt32LE(at + CHUNK_ENTRY.INDEX);
    let place = places.get(index);
    if (place === undefined) {
      const member = CODECS.gzip.compress(rawChunk(boot, at, plainBlob));
      place = { offset: end, bytes: member.length };
      places.set(index, place);
      pieces.push(member);
      end += member.length;
    }
    boot.writeUInt32LE(CHUNK_FLAG.COMPRESSED, at + CHUNK_ENTRY.FLAGS);
    boot.writeUInt32LE(place.bytes, at + CHUNK_ENTRY.COMPRESSED_SIZE);
    boot.writeBigUInt64LE(BigInt(place.offset), at + CHUNK_ENTRY.COMPRESSED_OFFSET);
  }
  const compressors = Object.values(COMPRESSOR_FLAG).reduce((all, bit) => all | bit, 0);
  boot.writeUInt32LE((boot.readUInt32LE(SB.FLAGS) & ~compressors) | COMPRESSOR_FLAG.gzip, SB.FLAGS);
  return named(boot, Buffer.concat(pieces), FEATURE.CAP_TAR_TOC);
}

/** Data of somebody else: no digests of chunks, so those of files and directories are made of zeros; a CRC each. */
export function externalizeV5(plainBoot: Buffer, plainBlob: Buffer): Packed {
  const boot = Buffer.from(plainBoot);
  for (const at of chunkEntries(boot)) {
    const crc = crc32c(rawChunk(boot, at, plainBlob));
    boot.fill(0, at, at + CHUNK_ENTRY.BLOB_INDEX);
    boot.writeUInt32LE(CHUNK_FLAG.HAS_CRC32, at + CHUNK_ENTRY.FLAGS);
    boot.writeUInt32LE(crc, at + CHUNK_ENTRY.CRC32);
  }
  digestAgain(boot);
  return named(boot, plainBlob, FEATURE.EXTERNAL | FEATURE.CAP_TAR_TOC);
}

function named(boot: Buffer, file: Buffer, features: number): Packed {
  const id = DIGESTS.sha256.digest(file).toString('hex');
  boot.write(id, boot.readUInt32LE(SB.BLOB_TABLE) + ID_AT, ID_CHARS, 'latin1');
  const extended = boot.readUInt32LE(SB.EXTENDED_TABLE);
  boot.writeUInt32LE(features, extended + EXTENDED.FEATURES);
  boot.writeBigUInt64LE(BigInt(file.length), extended + EXTENDED.COMPRESSED_SIZE);
  return { boot, blobs: new Map([[id, file]]) };
}

/** Offsets of all chunk entries of all files. */
function chunkEntries(boot: Buffer): number[] {
  const entries: number[] = [];
  for (const { offset, bytes, chunksAt } of placedRecords(boot).values()) {
    for (let at = chunksAt; at < offset + bytes; at += CHUNK_ENTRY_BYTES) entries.push(at);
  }
  return entries;
}

function rawChunk(boot: Buffer, at: number, blob: Buffer): Buffer {
  const offset = Number(boot.readBigUInt64LE(at + CHUNK_ENTRY.COMPRESSED_OFFSET));
  return blob.subarray(offset, offset + boot.readUInt32LE(at + CHUNK_ENTRY.COMPRESSED_SIZE));
}

/** Digests of files and directories, children before their directory. */
function digestAgain(boot: Buffer): void {
  const { digest } = DIGESTS[digesterOf(boot.readUInt32LE(SB.FLAGS))];
  const byIndex = new Map([...placedRecords(boot).values()].map((placed) => [placed.index, placed]));
  const digestAt = (at: number) => boot.subarray(at, at + CHUNK_ENTRY.BLOB_INDEX);
  const covered = ({ offset, bytes, chunksAt }: Placed): Buffer[] | null => {
    const type = boot.readUInt32LE(offset + INODE.MODE) & S_IFMT;
    const count = boot.readUInt32LE(offset + INODE.CHILD_COUNT);
    const first = boot.readUInt32LE(offset + INODE.CHILD_INDEX);
    if (type === S_IFDIR) {
      return Array.from({ length: count }, (_, i) => digestAt(byIndex.get(first + i)!.offset));
    }
    if (type !== S_IFREG) return null;
    const chunks = (offset + bytes - chunksAt) / CHUNK_ENTRY_BYTES;
    return Array.from({ length: chunks }, (_, i) => digestAt(chunksAt + i * CHUNK_ENTRY_BYTES));
  };
  // Indexes grow on the way down.
  for (const placed of [...byIndex.values()].sort((a, b) => b.index - a.index)) {
    const digests = covered(placed);
    if (digests !== null) digest(Buffer.concat(digests)).copy(boot, placed.offset + INODE.DIGEST);
  }
}
