/** v5 images that break one rule each (rafs-format 9, items 4-12): refused at mount, or an errno and a line for the request. */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { explain } from '../../common/app-error.ts';
import { errno } from '../../sys/errno.ts';
import { bootPath, expectedTree } from '../fixture-blobs.testing.ts';
import { Mounted } from '../mounted.testing.ts';
import { openImage } from '../open-image.ts';
import { INODE, SB } from './layout.ts';
import { type Placed, placedRecords } from './synthetic.testing.ts';

const NAME = 'v5-zstd-blake3-4k';
const BOOT = readFileSync(bootPath(NAME));
const RECORDS = placedRecords(BOOT);
const EIO = -errno.EIO;
const dir = mkdtempSync(join(tmpdir(), 'v5-hostile-'));
after(() => rmSync(dir, { recursive: true }));

const tree = [...expectedTree('expect/small.json').values()];
const pathOf = (type: string, more: (path: string, size: number) => boolean = () => true) =>
  tree.find((entry) => entry.type === type && more(entry.path, entry.size ?? 0))!.path;
const FILE = pathOf('file', (path, size) => size > 20_000 && path.split('/').length > 2);
const DIR = FILE.slice(0, FILE.lastIndexOf('/'));
const LINK = pathOf('symlink');
const XATTR = tree.find(({ xattrs, type }) => type === 'file' && Object.keys(xattrs ?? {}).length > 0)!.path;
/** Untouched by every patch: it must be served all the same. */
const OTHER = pathOf(
  'dir',
  (path) => path !== '/' && !DIR.startsWith(path) && !XATTR.startsWith(path) && !LINK.startsWith(path),
);
/** A directory of many names. */
const MANY = pathOf(
  'dir',
  (path) => path !== '/' && BOOT.readUInt32LE(RECORDS.get(path)!.offset + INODE.CHILD_COUNT) > 10,
);
const record = (path: string): Placed => RECORDS.get(path) ?? assert.fail(`no ${path}`);
const table = (path: string) => BOOT.readUInt32LE(SB.INODE_TABLE) + (record(path).index - 1) * 4;

function saved(patch: (bytes: Buffer) => void): string {
  const bytes = Buffer.from(BOOT);
  patch(bytes);
  const path = join(dir, `${NAME}.boot`);
  writeFileSync(path, bytes);
  return path;
}

const AT_MOUNT: readonly (readonly [what: string, rule: RegExp, patch: (bytes: Buffer) => void])[] = [
  ['4 table entries', /inodes/, (b) => b.writeUInt32LE(0x10_0000, SB.INODE_ENTRIES)],
  ['4 more inodes than entries', /more inodes/, (b) => b.writeUInt32LE(100_000, SB.INODES)],
  ['4 chunk size', /chunk size/, (b) => b.writeUInt32LE(5000, SB.CHUNK_SIZE)],
  ['4 flags', /unknown flags/, (b) => b.writeUInt32LE(0x1000, SB.FLAGS)],
  ['4 inode table before the superblock ends', /outside/, (b) => b.writeUInt32LE(4096, SB.INODE_TABLE)],
  ['4 blob table outside', /outside/, (b) => b.writeUInt32LE(0x7fff_fff8, SB.BLOB_TABLE)],
  ['4 table offset above 2^53', /outside/, (b) => b.writeUInt32LE(0xffff_ffff, SB.BLOB_TABLE + 4)],
  ['4 tables overlap', /overlap/, (b) => b.writeUInt32LE(8192, SB.BLOB_TABLE)],
  ['4 unaligned table', /aligned/, (b) => b.writeUInt32LE(b.readUInt32LE(SB.BLOB_TABLE) + 4, SB.BLOB_TABLE)],
  ['11 path in a blob id', /blob 0: id/, (b) => b.write('../', b.readUInt32LE(SB.BLOB_TABLE) + 8)],
  ['11 empty blob id', /2 blobs, 1 extended/, (b) => b.writeUInt8(0, b.readUInt32LE(SB.BLOB_TABLE) + 8)],
  ['11 extended entries', /extended entries/, (b) => b.writeUInt32LE(2, SB.EXTENDED_ENTRIES)],
  ['11 blob size', /compressed size/, (b) => b.writeUInt32LE(0xffff, b.readUInt32LE(SB.EXTENDED_TABLE) + 20)],
];

for (const [what, rule, patch] of AT_MOUNT) {
  test(`a mount is refused: ${what}`, () => {
    const path = saved(patch);
    assert.throws(
      () => {
        const image = openImage(path);
        image.close();
        closeSync(image.fd);
      },
      (error) => rule.test(explain(error)) || assert.fail(explain(error)),
    );
  });
}

type Ask = (mounted: Mounted) => unknown;
const lookup =
  (path: string): Ask =>
  (mounted) => {
    const at = path.lastIndexOf('/');
    const parent = at === 0 ? 1 : mounted.node(path.slice(0, at));
    return mounted.guest.lookup(parent, Buffer.from(path.slice(at + 1), 'latin1'));
  };
const read: Ask = (mounted) => mounted.guest.read(mounted.node(FILE), 0, 4096, () => assert.fail('fetched'));
const u32 =
  (path: string, field: number, value: number) =>
  (bytes: Buffer): unknown =>
    bytes.writeUInt32LE(value, record(path).offset + field);
const chunk =
  (field: number, value: number) =>
  (bytes: Buffer): unknown =>
    bytes.writeUInt32LE(value, record(FILE).chunksAt + field);

const IN_USE: readonly (readonly [what: string, rule: RegExp, patch: (bytes: Buffer) => unknown, ask: Ask])[] = [
  ['5 record in the superblock', /inode table/, (b) => b.writeUInt32LE(100, table(FILE)), lookup(FILE)],
  ['5 record behind the file', /inode table/, (b) => b.writeUInt32LE(2 ** 28, table(FILE)), lookup(FILE)],
  [
    '5 record inside a table',
    /inside a table/,
    (b) => {
      // The prefetch table comes to lie over the record.
      b.writeUInt32LE(record(FILE).offset + 8, SB.PREFETCH_TABLE);
      b.writeUInt32LE(2, SB.PREFETCH_ENTRIES);
    },
    lookup(FILE),
  ],
  ['6 children before their directory', /children before/, u32(DIR, INODE.CHILD_INDEX, 1), lookup(DIR)],
  ['6 children outside the table', /children outside/, u32(DIR, INODE.CHILD_COUNT, 0x7fff_ffff), lookup(DIR)],
  ['6 child of another directory', /parent of entry/, u32(FILE, INODE.PARENT, 1), lookup(FILE)],
  ['6 parent behind its child', /inode: parent/, u32(FILE, INODE.PARENT, record(FILE).index), lookup(FILE)],
  ['6 second name of a directory', /second name of a directory/, u32(DIR, INODE.INO, 1), lookup(DIR)],
  ['6 inode number outside', /inode: number/, u32(FILE, INODE.INO, 0x7fff_ffff), lookup(FILE)],
  [
    '7 slash in a name',
    /name of entry/,
    (b) => b.writeUInt8(0x2f, record(FILE).offset + 128),
    (mounted) => mounted.guest.list(mounted.node(DIR), false, 64, record(FILE).index - firstChild() + 2),
  ],
  [
    '7 names out of order',
    /out of order/,
    (b) => b.writeUInt8(0x01, RECORDS.get(lastChild())!.offset + 128),
    (mounted) => {
      const listed = mounted.guest.list(mounted.node(MANY), false, 4096);
      return typeof listed === 'number' ? listed : 0;
    },
  ],
  ['7 name size', /name/, (b) => b.writeUInt16LE(256, record(FILE).offset + INODE.NAME_BYTES), lookup(FILE)],
  [
    '8 empty target',
    /symlink size/,
    (b) => b.writeUInt16LE(0, record(LINK).offset + INODE.SYMLINK_BYTES),
    lookup(LINK),
  ],
  ['8 symlink flag on a file', /symlink flag/, u32(FILE, INODE.FLAGS, 1), lookup(FILE)],
  ['9 xattrs larger than the file', /xattrs/, (b) => b.writeUInt32LE(0xfff0_0000, xattrsAt()), lookup(XATTR)],
  [
    '9 xattr pair longer than its area',
    /does not fit/,
    (b) => b.writeUInt32LE(0x7fff, xattrsAt() + 8),
    (mounted) => mounted.guest.listxattr(mounted.node(XATTR)),
  ],
  [
    '9 xattr without NUL',
    /does not fit/,
    (b) => b.fill(0x61, xattrsAt() + 12, xattrsAt() + 12 + b.readUInt32LE(xattrsAt() + 8)),
    (mounted) => mounted.guest.listxattr(mounted.node(XATTR)),
  ],
  ['10 chunk count', /chunk count/, u32(FILE, INODE.CHILD_COUNT, 1), lookup(FILE)],
  [
    '10 sparse file of 2^40 bytes',
    /chunk count/,
    (b) => {
      u32(FILE, INODE.FLAGS, 8)(b);
      u32(FILE, INODE.SIZE + 4, 256)(b);
    },
    lookup(FILE),
  ],
  ['10 size above 2^53', /inode: size/, u32(FILE, INODE.SIZE + 4, 0xffff_ffff), lookup(FILE)],
  ['10 no such blob', /no such blob/, chunk(32, 7), read],
  ['10 encrypted chunk', /chunk: flags/, chunk(36, 4), read],
  ['10 compressed size', /compressed size/, chunk(40, 0x0fff_ffff), read],
  ['10 uncompressed size', /uncompressed size/, chunk(44, 0x0fff_ffff), read],
  ['10 offset behind the blob', /outside its blob/, chunk(48, 0x7fff_ffff), read],
  ['10 offset above 2^53', /compressed offset/, chunk(52, 0xffff_ffff), read],
  ['10 place in the cache', /outside its blob/, chunk(56, 0x7fff_ffff), read],
  ['10 file offset', /file offset/, chunk(64, 4096), read],
  ['10 chunk index', /no such chunk/, chunk(72, 0x00ff_ffff), read],
  ['12 nlink', /nlink 0/, u32(FILE, INODE.NLINK, 0), lookup(FILE)],
  ['12 mode', /inode: mode/, u32(FILE, INODE.MODE, 0o170644), lookup(FILE)],
];

function firstChild(): number {
  return BOOT.readUInt32LE(record(DIR).offset + INODE.CHILD_INDEX);
}

function lastChild(): string {
  const { offset } = record(MANY);
  const index = BOOT.readUInt32LE(offset + INODE.CHILD_INDEX) + BOOT.readUInt32LE(offset + INODE.CHILD_COUNT) - 1;
  return [...RECORDS.values()].find((placed) => placed.index === index)!.path;
}

function xattrsAt(): number {
  const { offset } = record(XATTR);
  return offset + 128 + Math.ceil(BOOT.readUInt16LE(offset + INODE.NAME_BYTES) / 8) * 8;
}

for (const [what, rule, patch, ask] of IN_USE) {
  test(`a request fails: ${what}`, () => {
    const mounted = new Mounted(saved(patch), 8192, false);
    assert.equal(ask(mounted), EIO);
    assert.match(mounted.lines.join('\n'), rule);
    assert.ok(typeof mounted.guest.getattr(mounted.node(OTHER)) !== 'number');
    mounted.close();
  });
}

test('numbers that no inode has are stale, those of further names of hard links too', () => {
  const mounted = new Mounted(bootPath(NAME));
  const second = [...RECORDS.values()].find(({ offset, index }) => BOOT.readUInt32LE(offset + INODE.INO) !== index)!;
  for (const node of [0, second.index, 0x7fff_ffff, 0xffff_ffff]) {
    assert.equal(mounted.guest.getattr(node), -errno.ESTALE);
  }
  mounted.close();
});

test('the prefetch table ends at its first zero', () => {
  const path = saved((bytes) => {
    // Over the record of a file nobody asks for here.
    const at = record(FILE).offset;
    for (const [i, node] of [7, 1, 0, 9].entries()) bytes.writeUInt32LE(node, at + 4 * i);
    bytes.writeUInt32LE(at, SB.PREFETCH_TABLE);
    bytes.writeUInt32LE(4, SB.PREFETCH_ENTRIES);
  });
  const image = openImage(path);
  assert.deepEqual(image.prefetchNodes(), [7, 1]);
  image.close();
  closeSync(image.fd);
});
