/** Images that break one rule of rafs-format 9 each; see `rules.test.ts`. */
import { CHUNK_ENTRY } from '../../src/rafs/chunk-entry.ts';
import { EXTENDED, INODE, SB } from '../../src/rafs/v5/layout.ts';
import { BLOB } from '../../src/rafs/v6/blob-table-layout.ts';
import { chunkIndexOffset } from '../../src/rafs/v6/inode-layout.ts';
import { CODECS } from '../../src/storage/codecs/codecs.ts';
import type { Damaged } from './damage.ts';
import { repack } from './repack-v6.ts';

export const V5 = 'v5-zstd-blake3-4k';
export const V6 = 'v6-zstd-blake3-4k';
const FILE = '/sizes/text-65537';
/** Shares no chunk with a file that is read before it. */
const BIG = '/big/multi-chunk';
const XATTR = '/xattr/user';
const LINK = '/links/soft';
/** Entries of a zran table begin behind this many bytes of chunk infos. */
const V2_BYTES = 24;

type Patch = (image: Damaged) => unknown;
/** Where it shows; `never` for what must be served all the same. */
export type When = 'mount' | 'read' | 'never';
type Case = readonly [rule: number, name: string, when: When, say: RegExp, patch: Patch];

const u32 =
  (at: number, value: number): Patch =>
  ({ boot }) =>
    boot.writeUInt32LE(value, at);
const u8 =
  (at: number, value: number): Patch =>
  ({ boot }) =>
    boot.writeUInt8(value, at);
/** A field of the first blob entry of a v6 image. */
const entry =
  (field: number, value: number): Patch =>
  (i) =>
    i.boot.writeUInt32LE(value, i.entryAt + field);
/** A field of an inode of either version. */
const inode6 =
  (path: string, field: number, value: number): Patch =>
  (i) => {
    i.boot.writeUInt32LE(value, i.inode(path).offset + field);
  };
const inode5 =
  (path: string, field: number, value: number): Patch =>
  (i) => {
    i.boot.writeUInt32LE(value, i.record(path).offset + field);
  };
const chunk5 =
  (field: number, value: number): Patch =>
  (i) => {
    i.boot.writeUInt32LE(value, i.record(FILE).chunksAt + field);
  };
/** A byte of the first chunk index of a v6 file. */
const index6 =
  (at: number, value: number): Patch =>
  (i) => {
    const { offset, bytes, xattrBytes } = i.inode(BIG);
    i.boot.writeUInt8(value, chunkIndexOffset(offset, bytes, xattrBytes) + at);
  };
const table =
  (patch: (table: Buffer, header: Buffer) => void): Patch =>
  (i) =>
    i.table(patch);
const contexts = (i: Damaged) => i.info.chunkCount * V2_BYTES;
const context =
  (at: number, value: number): Patch =>
  (i) =>
    i.table((t) => t.writeUInt32LE(value, contexts(i) + at));

export const CASES: readonly Case[] = [
  [1, V5, 'mount', /multiple of 8/, (i) => void (i.boot = i.boot.subarray(0, -4))],
  [1, V5, 'mount', /too few/, (i) => void (i.boot = i.boot.subarray(0, 8192))],
  [1, V6, 'mount', /whole blocks/, (i) => void (i.boot = i.boot.subarray(0, -512))],
  [1, V6, 'mount', /too few|outside the file/, (i) => void (i.boot = i.boot.subarray(0, 4096))],
  [2, V5, 'mount', /unknown flags/, u32(SB.FLAGS, 0x1004)],
  [2, V5, 'never', /./, (i) => i.boot.writeUInt32LE((i.boot.readUInt32LE(SB.FLAGS) | 0x0400_0000) >>> 0, SB.FLAGS)],
  [2, V6, 'mount', /unknown flags/, u32(1152 + 4, 1)],
  [2, V6, 'mount', /features/, entry(BLOB.FEATURES, 0x4000_2001)],
  [2, V6, 'never', /./, (i) => entry(BLOB.FEATURES, (i.info.features | 0x0002_0000) >>> 0)(i)],
  [3, V5, 'mount', /outside/, u32(SB.BLOB_TABLE + 4, 0xffff_ffff)],
  [3, V5, 'read', /inode: size/, inode5(FILE, INODE.SIZE + 4, 0xffff_ffff)],
  [3, V6, 'mount', /outside/, u32(1152 + 12, 0xffff_ffff)],
  [3, V6, 'mount', /compressed size/, entry(BLOB.COMPRESSED_SIZE + 4, 0xffff_ffff)],
  [3, V6, 'read', /inode: size/, inode6(FILE, 12, 0xffff_ffff)],
  [4, V5, 'mount', /inodes/, u32(SB.INODE_ENTRIES, 0x10_0000)],
  [4, V5, 'mount', /overlap/, u32(SB.BLOB_TABLE, 8192)],
  [5, V5, 'read', /inode table/, (i) => i.boot.writeUInt32LE(100, 8192 + (i.record(FILE).index - 1) * 4)],
  [5, V5, 'read', /inode table/, (i) => i.boot.writeUInt32LE(2 ** 28, 8192 + (i.record(FILE).index - 1) * 4)],
  [6, V5, 'read', /children before/, inode5('/sizes', INODE.CHILD_INDEX, 1)],
  [6, V5, 'read', /children outside/, inode5('/sizes', INODE.CHILD_COUNT, 0x7fff_ffff)],
  [6, V5, 'read', /parent of entry/, inode5(FILE, INODE.PARENT, 1)],
  [7, V5, 'read', /name of entry/, (i) => i.boot.writeUInt8(0x2f, i.record(FILE).offset + 129)],
  [7, V5, 'read', /out of order/, (i) => i.boot.writeUInt8(0x01, i.record(FILE).offset + 128)],
  [8, V5, 'read', /symlink size/, (i) => i.boot.writeUInt16LE(0, i.record(LINK).offset + INODE.SYMLINK_BYTES)],
  [8, V5, 'read', /symlink flag/, inode5(FILE, INODE.FLAGS, 1)],
  [9, V5, 'read', /xattrs/, (i) => i.boot.writeUInt32LE(0xfff_0000, i.record(XATTR).offset + 128 + 8)],
  [9, V5, 'read', /does not fit/, (i) => i.boot.writeUInt32LE(0x7fff, i.record(XATTR).offset + 128 + 16)],
  [10, V5, 'read', /no such blob/, chunk5(CHUNK_ENTRY.BLOB_INDEX, 7)],
  [10, V5, 'read', /uncompressed size/, chunk5(CHUNK_ENTRY.UNCOMPRESSED_SIZE, 0xfff_ffff)],
  [10, V5, 'read', /outside its blob/, chunk5(CHUNK_ENTRY.COMPRESSED_OFFSET, 0x7fff_ffff)],
  [10, V5, 'read', /chunk count/, inode5(FILE, INODE.CHILD_COUNT, 1)],
  [11, V5, 'mount', /blob 0: id/, (i) => i.boot.write('../', i.boot.readUInt32LE(SB.BLOB_TABLE) + 8)],
  [11, V5, 'mount', /UTF-8/, (i) => i.boot.writeUInt8(0xff, i.boot.readUInt32LE(SB.BLOB_TABLE) + 8)],
  [
    11,
    V5,
    'mount',
    /compressed size/,
    (i) => {
      i.boot.writeUInt32LE(0xffff, i.boot.readUInt32LE(SB.EXTENDED_TABLE) + EXTENDED.COMPRESSED_SIZE + 4);
    },
  ],
  [12, V5, 'read', /nlink 0/, inode5(FILE, INODE.NLINK, 0)],
  [12, V5, 'read', /inode: mode/, inode5(FILE, INODE.MODE, 0o170644)],
  [13, V6, 'mount', /block bits/, u8(1024 + 12, 11)],
  [13, V6, 'mount', /checksum/, u32(1024 + 4, 5)],
  [13, V6, 'mount', /extslots/, u8(1024 + 13, 1)],
  [13, V6, 'mount', /incompatible/, u32(1024 + 80, 0x1c)],
  [13, V6, 'mount', /shared xattrs/, u32(1024 + 44, 2)],
  [13, V6, 'mount', /device slot/, u8(1024 + 88, 12)],
  [13, V6, 'mount', /root inode outside/, u32(1024 + 40, 0xffff)],
  [13, V6, 'mount', /tarfs/, u8(1024 + 12, 9)],
  [14, V6, 'mount', /blob table size/, u8(1024 + 86, 2)],
  [14, V6, 'mount', /id differs/, u8(1408, 0x7a)],
  [14, V6, 'mount', /no blocks/, u32(1408 + 64, 0)],
  [14, V6, 'mount', /larger than its blob/, u32(1408 + 64, 0xffff)],
  [15, V6, 'mount', /exactly one compressor/, (i) => u32(1152, i.boot.readUInt32LE(1152) | 3)(i)],
  [15, V6, 'mount', /chunk size/, u32(1152 + 20, 12_345)],
  [15, V6, 'mount', /overlap/, (i) => u32(1152 + 24, i.entryAt)(i)],
  [15, V6, 'mount', /outside the file/, u32(1152 + 24, 0x7000_0000)],
  [16, V6, 'mount', /index 7/, entry(BLOB.INDEX, 7)],
  [16, V6, 'mount', /chunk size/, entry(BLOB.CHUNK_SIZE, 0x2000)],
  [16, V6, 'mount', /unknown algorithm/, entry(BLOB.COMPRESSOR, 9)],
  [16, V6, 'mount', /CI size against count/, (i) => entry(BLOB.CHUNK_COUNT, i.info.chunkCount + 1)(i)],
  [16, V6, 'mount', /cipher/, entry(BLOB.CIPHER, 1)],
  [16, V6, 'mount', /CI table outside/, entry(BLOB.CI_OFFSET, 0x7fff_ffff)],
  [16, 'v6-encrypt', 'mount', /halves/, (i) => i.boot.copy(i.boot, i.entryAt + 184, i.entryAt + 168, i.entryAt + 184)],
  [17, V6, 'read', /outside the file/, (i) => i.boot.writeUInt32LE(0x7fff_ffff, i.dirent('/dirs', 'empty'))],
  [17, V6, 'read', /outside the file/, (i) => i.boot.writeUInt32LE(1, i.dirent('/dirs', 'empty') + 4)],
  [18, V6, 'read', /format 0x/, (i) => i.boot.writeUInt16LE(0x4009, i.inode(FILE).offset)],
  [18, V6, 'read', /file without chunks/, (i) => i.boot.writeUInt16LE(1, i.inode(FILE).offset)],
  [18, V6, 'read', /chunk layout/, (i) => i.boot.writeUInt16LE(9, i.inode(LINK).offset)],
  [19, V6, 'read', /nlink 0/, inode6(FILE, 44, 0)],
  [19, V6, 'read', /symlink size/, inode6(LINK, 8, 5000)],
  [19, V6, 'read', /special file with a size/, inode6('/special/fifo', 8, 1)],
  [19, V6, 'read', /inode: mode/, (i) => i.boot.writeUInt16LE(0o170644, i.inode('/special/fifo').offset + 4)],
  [20, V6, 'read', /inline data crosses|data outside/, inode6('/dirs', 8, 4095)],
  [
    20,
    V6,
    'read',
    /data outside/,
    (i) => {
      i.boot.writeUInt16LE(1, i.inode('/dirs').offset);
      inode6('/dirs', 16, 0xffff_fff0)(i);
    },
  ],
  [21, V6, 'read', /first name offset/, (i) => i.boot.writeUInt16LE(5, i.dirent('/dirs', '.') + 8)],
  [21, V6, 'read', /name offset/, (i) => i.boot.writeUInt16LE(0xfff0, i.dirent('/dirs', '..') + 8)],
  [21, V6, 'read', /"\." is another inode/, (i) => i.boot.writeUInt32LE(i.inode('/').node, i.dirent('/dirs', '.'))],
  [
    21,
    V6,
    'read',
    /out of order/,
    (i) => {
      const at = i.dirent('/dirs', 'empty');
      i.boot.write('z', i.dirent('/dirs', '.') + i.boot.readUInt16LE(at + 8));
    },
  ],
  [21, V6, 'read', /type of inode/, (i) => i.boot.writeUInt8(1, i.dirent('/dirs', 'empty') + 10)],
  [22, V6, 'read', /the root is below it/, (i) => i.boot.writeUInt32LE(i.inode('/').node, i.dirent('/dirs', 'empty'))],
  [22, V6, 'read', /".." is not inode/, (i) => i.boot.writeUInt32LE(i.inode('/deep').node, i.dirent('/dirs', 'empty'))],
  [23, V6, 'never', /./, inode6(FILE, 44, 9)],
  [24, V6, 'read', /shared/, (i) => i.boot.writeUInt8(1, i.inode(XATTR).offset + 64 + 4)],
  [24, V6, 'read', /does not fit/, (i) => i.boot.writeUInt16LE(0xfff0, i.inode(XATTR).offset + 64 + 12 + 2)],
  [
    24,
    V6,
    'read',
    /xattrs outside/,
    (i) => {
      i.boot.writeUInt16LE(0xffff, i.inode(XATTR).offset + 2);
    },
  ],
  [25, V6, 'read', /no such blob/, index6(2, 0)],
  [25, V6, 'read', /no such blob/, index6(2, 9)],
  [25, V6, 'read', /no such chunk/, index6(3, 0xff)],
  [25, V6, 'read', /outside its blob/, index6(7, 0x7f)],
  [25, V6, 'read', /the image says/, index6(4, 0)],
  [25, V6, 'read', /chunk format/, (i) => inode6(FILE, 16, 0x8020)(i)],
  [
    26,
    V6,
    'never',
    /./,
    (i) => {
      // Between the device slot and the blob table there is room for it.
      i.boot.writeUInt32LE(0x7fff_ffff, 2048);
      i.boot.writeBigUInt64LE(2048n, 1152 + 40);
      i.boot.writeUInt32LE(4, 1152 + 48);
    },
  ],
  [
    27,
    V6,
    'read',
    /wrong blake3/,
    (i) => i.boot.fill(1, Number(i.boot.readBigUInt64LE(1176)), Number(i.boot.readBigUInt64LE(1176)) + 32),
  ],
  [28, V6, 'read', /header without its magic/, table((_, h) => h.writeUInt32LE(1, 0))],
  [28, V6, 'read', /header counts/, table((_, h) => h.writeUInt32LE(9, 12))],
  [28, V6, 'read', /contexts in a blob without/, table((_, h) => h.writeUInt32LE(1, 56))],
  [28, 'zran-v6', 'read', /contexts at/, table((_, h) => h.writeBigUInt64LE(7n, 40))],
  [28, 'zran-v6', 'read', /dictionary of 32769/, context(32, 32_769)],
  [
    29,
    V6,
    'read',
    /does not decode/,
    (i) => i.table(() => {}, { compressor: 3, bytes: Buffer.from('no frame at all') }),
  ],
  [
    29,
    V6,
    'read',
    /does not decode/,
    (i) => {
      // A bomb: far more than the size that the entry promises.
      i.table(() => {}, {
        compressor: 3,
        bytes: CODECS.zstd
          .compress(Buffer.alloc(i.info.ciUncompressedSize * 999))
          .subarray(0, i.info.ciUncompressedSize),
      });
    },
  ],
  [30, V6, 'read', /overlaps/, table((t) => t.copy(t, 16, 0, 8))],
  [30, V6, 'read', /ends behind the chunk data/, table((t) => t.writeUInt32LE(0x7fff_ffff, 8))],
  [30, V6, 'read', /bytes long/, table((t) => t.writeUInt32LE((t.readUInt32LE(4) | 0xffff_f000) >>> 0, 4))],
  [31, 'zran-v6', 'read', /takes 1073741824/, context(24, 1 << 30)],
  [31, 'zran-v6', 'read', /gives 1073741824/, context(28, 1 << 30)],
  [31, 'zran-v6', 'read', /8 bits/, (i) => i.table((t) => t.writeUInt8(8, contexts(i) + 37))],
  [32, 'v6-batch', 'read', /behind the chunk data/, context(0, 1 << 30)],
  [32, 'v6-batch', 'read', /bytes long/, context(4, 1 << 25)],
  [32, 'v6-batch', 'read', /behind its context/, context(4, 1)],
  [33, V6, 'read', /wrong blake3|does not decode/, (i) => i.blobs.get(i.info.id)!.fill(0x55, 20, 40)],
  [33, V5, 'read', /wrong blake3|does not decode/, (i) => [...i.blobs.values()][0].fill(0x55, 20, 40)],
  [33, V6, 'read', /zstd.*does not decode to exactly/, bomb('zstd')],
  [33, 'v6-none-blake3-4k', 'read', /gzip.*does not decode to exactly|wrong blake3/, bomb('gzip')],
  [34, 'inline-v6', 'mount', /TOC|table of contents/, (i) => i.boot.writeUInt32LE(3, i.boot.length - 512 - 128)],
  [
    34,
    'inline-v6',
    'mount',
    /digest of the bootstrap/,
    (i) => i.boot.fill(1, i.boot.length - 512 - 128 + 24, i.boot.length - 512 - 128 + 56),
  ],
  [34, 'inline-v6', 'mount', /TOC of/, (i) => tarSize(i.boot, 0x20_0000)],
  [35, 'inline-v5', 'mount', /smaller blob/, (i) => tarSize(i.boot, 0x4000_0000)],
  [35, 'inline-v5', 'mount', /another format/, (i) => i.boot.writeUInt8(0x37, i.boot.length - 512 + 150)],
];

/** The first chunk's bytes give more than they may: stored behind the table's data, or as a gzip member of a bomb. */
function bomb(compressor: 'zstd' | 'gzip'): Patch {
  return (i) => {
    if (compressor === 'gzip') {
      const packed = repack(i.boot, i.blobs.get(i.info.id)!, { compressor, batchBytes: 0, encrypted: false });
      i.boot = packed.boot;
      i.blobs.clear();
      for (const [id, bytes] of packed.blobs) i.blobs.set(id, bytes);
    }
    const file = i.blobs.get(i.info.id)!;
    const bytes = CODECS[compressor].compress(Buffer.alloc(compressor === 'zstd' ? 1 << 20 : 1 << 16, 'bomb'));
    bytes.copy(file, 0, 0, Math.min(bytes.length, 200));
  };
}

/** Rewrites the size of the tar header at the end, with its checksum. */
function tarSize(file: Buffer, size: number): void {
  const header = file.subarray(file.length - 512);
  header.write(`${size.toString(8).padStart(11, '0')}\0`, 124, 'latin1');
  header.fill(0x20, 148, 156);
  const sum = header.reduce((total, byte) => total + byte, 0);
  header.write(`${sum.toString(8).padStart(7, '0')}\0`, 148, 'latin1');
}
