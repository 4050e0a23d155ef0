import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import {
  checkInode,
  chunkFormat,
  chunkIndexOffset,
  ciIndexAt,
  decodeInode,
  direntType,
  encodeChunkIndex,
  encodeDirent,
  encodeInode,
  type Inode,
  newInode,
  packDevice,
  xattrAreaBytes,
  xattrIcount,
} from './inode-layout.ts';

function view(hex: string): DataView {
  const bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex');
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function hexOf(size: number, write: (out: DataView) => void): string {
  const bytes = Buffer.alloc(size);
  write(new DataView(bytes.buffer, bytes.byteOffset, size));
  return bytes.toString('hex');
}

/** The file of rafs-format 12: extended, chunk-based. */
const FILE =
  '0900 0000 a481 0000 2342000000000000 28000000 02000000 00000000 00000000 1d00000000000000 00000000 01000000 00000000000000000000000000000000';

test('the worked example decodes and encodes', () => {
  const inode = newInode();
  decodeInode(view(FILE), 0, inode);
  assert.deepEqual(
    { ...inode },
    {
      bytes: 64,
      layout: 4,
      xattrBytes: 0,
      mode: 0o100644,
      size: 16931,
      u: 0x28,
      ino: 2,
      uid: 0,
      gid: 0,
      mtime: 29,
      mtimeNs: 0,
      nlink: 1,
    },
  );
  assert.equal(
    hexOf(64, (out) => encodeInode(out, 0, inode)),
    FILE.replaceAll(' ', ''),
  );
  assert.equal(checkInode(inode, 9), null);
});

test('a compact inode', () => {
  const inode = newInode();
  decodeInode(view('0800 0000 a481 0300 10000000 00000000 28000000 07000000 e803 e903 00000000'), 0, inode);
  assert.deepEqual(
    { ...inode },
    {
      bytes: 32,
      layout: 4,
      xattrBytes: 0,
      mode: 0o100644,
      size: 16,
      u: 0x28,
      ino: 7,
      uid: 1000,
      gid: 1001,
      mtime: 0,
      mtimeNs: 0,
      nlink: 3,
    },
  );
});

test('times before 1970', () => {
  const inode = { ...newInode(), nlink: 1, mode: 0o100644, layout: 4, mtime: -86401, mtimeNs: 5 };
  const back = newInode();
  const bytes = Buffer.from(
    hexOf(64, (out) => encodeInode(out, 0, inode)),
    'hex',
  );
  assert.equal(bytes.readBigInt64LE(32), -86401n);
  decodeInode(new DataView(bytes.buffer, bytes.byteOffset, 64), 0, back);
  assert.equal(back.mtime, -86401);
});

describe('inodes that are refused', () => {
  const good: Inode = { ...newInode(), bytes: 64, layout: 4, mode: 0o100644, size: 5, nlink: 1 };
  const cases: [rule: RegExp, change: Partial<Inode>, format?: number][] = [
    [/format/, {}, 0x19],
    [/nlink/, { nlink: 0 }],
    [/size/, { size: -1 }],
    [/layout 1/, { layout: 1 }],
    [/no file/, { mode: 0o040755 }],
    [/without chunks/, { layout: 2 }],
    [/symlink size/, { mode: 0o120777, layout: 2, size: 0 }],
    [/symlink size/, { mode: 0o120777, layout: 2, size: 4097 }],
    [/empty directory/, { mode: 0o040755, layout: 0, size: 0 }],
    [/special file/, { mode: 0o020600, layout: 0, size: 1 }],
    [/mode/, { mode: 0o070000, layout: 0, size: 0 }],
  ];
  for (const [rule, change, format] of cases) {
    test(`${rule} ${JSON.stringify(change)}`, () => {
      assert.match(checkInode({ ...good, ...change }, format ?? 9) ?? 'accepted', rule);
    });
  }
});

test('chunk indexes', () => {
  const hex = hexOf(8, (out) => encodeChunkIndex(out, 0, 3, 0x12_3456, 0xfffe));
  assert.equal(hex, '56340312feff0000');
  assert.equal(ciIndexAt(view(hex), 0), 0x12_3456);
  assert.equal(chunkFormat(20, 12), 0x28);
  assert.equal(chunkFormat(20, 9), 0x2b);
  assert.equal(chunkIndexOffset(12288, 64, 20), 12376);
});

test('directory entries', () => {
  assert.equal(
    hexOf(12, (out) => encodeDirent(out, 0, 128, 48, 2)),
    '800000000000000030000200',
  );
  assert.equal(
    hexOf(12, (out) => encodeDirent(out, 0, 2 ** 33 + 1, 0, 0)),
    '010000000200000000000000',
  );
  assert.deepEqual(
    [0o100000, 0o040000, 0o020000, 0o060000, 0o010000, 0o140000, 0o120000, 0].map(direntType),
    [1, 2, 3, 4, 5, 6, 7, 0],
  );
});

test('device numbers', () => {
  assert.equal(packDevice(259, 70000), ((70000 & 0xff) | (259 << 8) | ((70000 & ~0xff) << 12)) >>> 0);
  assert.equal(packDevice(1, 3), 0x103);
});

test('xattr area sizes and counts are inverse', () => {
  for (const bytes of [0, 12, 16, 4096, 262_148]) assert.equal(xattrAreaBytes(xattrIcount(bytes)), bytes);
});
