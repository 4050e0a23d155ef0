/** Images that break one rule each: an errno for the request that meets it, one line that says why, and service goes on. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { errno } from '../sys/errno.ts';
import { bootPath } from './fixture-blobs.testing.ts';
import { FLAG } from './flags.ts';
import type { InodeRecord } from './metadata.ts';
import { Mounted } from './mounted.testing.ts';
import { chunkIndexOffset } from './v6/inode-layout.ts';
import { ImageWalker } from './walk.ts';

const FIXTURE = bootPath('v6-zstd-blake3');
const EIO = -errno.EIO;
const dir = mkdtempSync(join(tmpdir(), 'hostile-'));
after(() => rmSync(dir, { recursive: true }));

const inodes = new Map<string, InodeRecord>();
{
  const walker = new ImageWalker(FIXTURE);
  for (const { path, inode } of walker.walk()) inodes.set(path.toString('latin1'), { ...inode });
  walker.close();
}

function inode(path: string): InodeRecord {
  return inodes.get(path) ?? assert.fail(`${path} is not in the fixture`);
}

/** File offset of the directory entry `name` of `path`, whose data is inline. */
function direntAt(bytes: Buffer, path: string, name: string): number {
  const { offset, bytes: head, xattrBytes, size } = inode(path);
  const data = bytes.subarray(offset + head + xattrBytes, offset + head + xattrBytes + size);
  const count = data.readUInt16LE(8) / 12;
  for (let i = 0; i < count; i++) {
    const end = i + 1 < count ? data.readUInt16LE(i * 12 + 20) : size;
    if (data.toString('latin1', data.readUInt16LE(i * 12 + 8), end) === name)
      return data.byteOffset - bytes.byteOffset + i * 12;
  }
  return assert.fail(`${path} has no inline ${name}`);
}

type Patch = (bytes: Buffer) => void;
type Ask = (mounted: Mounted) => unknown;

function check(what: string, rule: RegExp, patch: Patch, ask: Ask, answer: unknown = EIO): void {
  test(what, () => {
    const bytes = Buffer.from(readFileSync(FIXTURE));
    patch(bytes);
    const path = join(dir, 'image.boot');
    writeFileSync(path, bytes);
    const mounted = new Mounted(path);
    assert.deepEqual(ask(mounted), answer);
    assert.equal(mounted.lines.length, 1, mounted.lines.join('\n'));
    assert.match(mounted.lines[0], rule);
    // Service goes on.
    assert.ok(typeof mounted.guest.getattr(mounted.node('/special/chr')) !== 'number');
    mounted.close();
  });
}

const getattr =
  (path: string): Ask =>
  ({ guest }) =>
    guest.getattr(inode(path).node);
const lookup =
  (path: string, name: string): Ask =>
  ({ guest }) =>
    guest.lookup(inode(path).node, name);
const read =
  (path: string): Ask =>
  ({ guest }) =>
    guest.read(inode(path).node, 0, 4096, () => assert.fail('nothing to fetch'));

const DIR = '/dirs';
const CHILD = [...inodes.keys()].find((path) => path.startsWith(`${DIR}/`) && inode(path).mode >> 12 === 4)!.slice(6);

check(
  'a directory that contains the root',
  /the root is below it/,
  (bytes) => bytes.writeUInt32LE(inode('/').node, direntAt(bytes, DIR, CHILD)),
  lookup(DIR, CHILD),
);
check(
  'a directory that contains itself',
  /".." is not inode/,
  (bytes) => bytes.writeUInt32LE(inode(DIR).node, direntAt(bytes, DIR, CHILD)),
  lookup(DIR, CHILD),
);
check(
  'a directory met at a second place',
  /".." is not inode/,
  (bytes) => bytes.writeUInt32LE(inode('/special').node, direntAt(bytes, DIR, CHILD)),
  lookup(DIR, CHILD),
);
check(
  'an entry whose inode is outside the file',
  /outside the file/,
  (bytes) => bytes.writeUInt32LE(0x7fff_ffff, direntAt(bytes, DIR, CHILD)),
  lookup(DIR, CHILD),
);
check(
  'an entry whose inode number has 64 bits',
  /outside the file/,
  (bytes) => bytes.writeUInt32LE(1, direntAt(bytes, DIR, CHILD) + 4),
  lookup(DIR, CHILD),
);
check(
  'an entry of another type than its inode',
  /type of inode/,
  (bytes) => bytes.writeUInt8(1, direntAt(bytes, DIR, CHILD) + 10),
  lookup(DIR, CHILD),
);
check(
  'readdir of a block whose names overlap its entries',
  /first name offset/,
  (bytes) => bytes.writeUInt16LE(5, direntAt(bytes, DIR, '.') + 8),
  ({ guest }) => guest.list(inode(DIR).node, false),
);
check(
  'readdir of names in decreasing order of place',
  /name offset/,
  (bytes) => bytes.writeUInt16LE(0xfff0, direntAt(bytes, DIR, '..') + 8),
  ({ guest }) => guest.list(inode(DIR).node, true),
);
check(
  'a name with a slash',
  /NUL or \//,
  (bytes) => {
    const { offset, bytes: head } = inode(DIR);
    const at = offset + head + bytes.readUInt16LE(direntAt(bytes, DIR, CHILD) + 8);
    bytes.writeUInt8(0x2f, at);
  },
  ({ guest }) => guest.list(inode(DIR).node, false, 280, 2),
);
check(
  'an inode with unknown format bits',
  /format 0x/,
  (bytes) => bytes.writeUInt16LE(0x4009, inode('/xattr/cap').offset),
  getattr('/xattr/cap'),
);
check(
  'an inode without links',
  /nlink 0/,
  (bytes) => bytes.writeUInt32LE(0, inode('/xattr/cap').offset + 44),
  getattr('/xattr/cap'),
);
check(
  'a file larger than its chunk indexes can be',
  /chunk indexes outside/,
  (bytes) => bytes.writeUInt32LE(0x10_0000, inode('/xattr/cap').offset + 12),
  getattr('/xattr/cap'),
);
check(
  'a size above 2^53',
  /inode: size/,
  (bytes) => bytes.writeUInt32LE(0xffff_ffff, inode('/xattr/cap').offset + 12),
  getattr('/xattr/cap'),
);
check(
  'a directory whose data lies outside the file',
  /data outside the file/,
  (bytes) => bytes.writeUInt32LE(0xffff_fff0, inode('/many').offset + 16),
  getattr('/many'),
);
check(
  'inline data that crosses a block',
  /inline data crosses|data outside/,
  (bytes) => bytes.writeUInt32LE(4095, inode(DIR).offset + 8),
  getattr(DIR),
);
check(
  'shared xattrs',
  /shared/,
  (bytes) => bytes.writeUInt8(1, inode('/xattr/cap').offset + 64 + 4),
  ({ guest }) => guest.getxattr(inode('/xattr/cap').node, 'security.capability'),
);
check(
  'an xattr longer than its area',
  /does not fit/,
  (bytes) => bytes.writeUInt16LE(0xfff0, inode('/xattr/cap').offset + 64 + 12 + 2),
  ({ guest }) => guest.listxattr(inode('/xattr/cap').node),
);

const index = (path: string) => chunkIndexOffset(inode(path).offset, inode(path).bytes, inode(path).xattrBytes);
const LINES: readonly (readonly [what: string, rule: RegExp, at: number, value: number])[] = [
  ['device 0', /no such blob/, 2, 0],
  ['a device that is not there', /no such blob/, 2, 9],
  ['a chunk that the blob has not', /no such chunk/, 3, 0xff],
  ['a block behind the end of the blob', /outside its blob/, 7, 0x7f],
];
for (const [what, rule, at, value] of LINES) {
  check(
    `a chunk index that names ${what}`,
    rule,
    (bytes) => bytes.writeUInt8(value, index('/big/multi-chunk') + at),
    read('/big/multi-chunk'),
  );
}

test('a bootstrap cut while it is mounted gives EIO, says so, and recovers', () => {
  const bytes = readFileSync(FIXTURE);
  const path = join(dir, 'cut.boot');
  writeFileSync(path, bytes);
  const mounted = new Mounted(path);
  truncateSync(path, 4096);
  assert.equal(mounted.guest.getattr(inode('/xattr/cap').node), EIO);
  assert.match(mounted.lines[0], /shorter than at mount/);
  writeFileSync(path, bytes);
  assert.ok(typeof mounted.guest.getattr(inode('/xattr/cap').node) !== 'number');
  mounted.close();
});

test('an image that errs all the time does not fill the log', () => {
  const bytes = Buffer.from(readFileSync(FIXTURE));
  bytes.writeUInt32LE(0, inode('/xattr/cap').offset + 44);
  const path = join(dir, 'noisy.boot');
  writeFileSync(path, bytes);
  const mounted = new Mounted(path);
  for (let i = 0; i < 1000; i++) assert.equal(mounted.guest.getattr(inode('/xattr/cap').node), EIO);
  assert.equal(mounted.lines.length, 64);
  assert.match(mounted.lines[63], /not shown/);
  mounted.close();
});

test('a walk stops at a directory met twice', () => {
  const bytes = Buffer.from(readFileSync(FIXTURE));
  // Two names of one directory for the same child: ".." is right at both.
  const other = [...inodes.keys()].find(
    (p) => p.startsWith('/dirs/') && p.split('/').length === 3 && p !== `${DIR}/${CHILD}`,
  )!;
  bytes.writeUInt32LE(inode(`${DIR}/${CHILD}`).node, direntAt(bytes, DIR, other.slice(6)));
  bytes.writeUInt8(2, direntAt(bytes, DIR, other.slice(6)) + 10);
  const path = join(dir, 'twice.boot');
  writeFileSync(path, bytes);
  const walker = new ImageWalker(path);
  assert.throws(() => [...walker.walk()], /BROKEN.*met twice/);
  walker.close();
});

test("ids of images that do not vouch for them are the daemon's own", () => {
  const bytes = Buffer.from(readFileSync(FIXTURE));
  bytes.writeUInt32LE(1234, inode('/xattr/cap').offset + 24);
  const path = join(dir, 'ids.boot');
  const uidOf = () => {
    writeFileSync(path, bytes);
    const mounted = new Mounted(path);
    const attributes = mounted.guest.getattr(inode('/xattr/cap').node);
    mounted.close();
    return typeof attributes === 'number' ? attributes : attributes.uid;
  };
  assert.equal(uidOf(), 1234);
  bytes.writeUInt32LE(bytes.readUInt32LE(1152) & ~FLAG.EXPLICIT_UID_GID, 1152);
  assert.equal(uidOf(), process.geteuid?.());
});
