/** Forms of inodes that current builders do not write, but images may have; laid by hand into a valid bootstrap. */
import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { EntryRecord, InodeRecord, Span } from '../metadata.ts';
import { PAGE_BYTES, PageCache } from '../page-cache.ts';
import { writeSyntheticImage } from '../synthetic.testing.ts';
import {
  encodeInode,
  LAYOUT,
  newInode,
  packDevice,
  S_IFBLK,
  S_IFDIR,
  S_IFLNK,
  S_IFREG,
  XATTR_AREA_BYTES_MAX,
} from './inode-layout.ts';
import { V6Metadata } from './reader.ts';
import { readGeometry } from './superblock.ts';
import { V6XattrCursor } from './xattr.ts';

const dir = mkdtempSync(join(tmpdir(), 'v6-reader-'));
const path = join(dir, 'image.boot');
writeSyntheticImage(path, 2, 3000);
const valid = readFileSync(path);
const META = valid.readUInt32LE(1024 + 40) * 4096;
/** The chunk table is nothing but zeros: room for inodes made by hand. */
const SPARE = Number(valid.readBigUInt64LE(1152 + 24));
const nidAt = (offset: number) => (offset - META) / 32;
const opened: number[] = [];
after(() => {
  for (const fd of opened) closeSync(fd);
  rmSync(dir, { recursive: true });
});

/** The synthetic image after `patch`, through a cache of two pages. */
function image(patch: (bytes: Buffer, view: DataView) => void = () => {}): V6Metadata {
  const bytes = Buffer.from(valid);
  patch(bytes, new DataView(bytes.buffer, bytes.byteOffset, bytes.length));
  writeFileSync(path, bytes);
  const fd = openSync(path, 'r');
  opened.push(fd);
  const geometry = readGeometry(new DataView(bytes.buffer, bytes.byteOffset, PAGE_BYTES), bytes.length);
  assert.ok(typeof geometry !== 'string', String(geometry));
  return new V6Metadata(new PageCache(2 * PAGE_BYTES), fd, geometry);
}

function load(metadata: V6Metadata, offset: number): InodeRecord {
  const inode = new InodeRecord();
  assert.equal(metadata.load(nidAt(offset), inode), 0, metadata.broken);
  return inode;
}

test('a compact inode has 16-bit ids, no mtime, and its index array right behind it', () => {
  const metadata = image((bytes) => {
    bytes.writeUInt16LE(LAYOUT.CHUNK_BASED << 1, SPARE);
    bytes.writeUInt16LE(S_IFREG | 0o640, SPARE + 4);
    bytes.writeUInt16LE(2, SPARE + 6);
    bytes.writeUInt32LE(4000, SPARE + 8);
    bytes.writeUInt32LE(0x28, SPARE + 16);
    bytes.writeUInt16LE(65535, SPARE + 24);
    bytes.writeUInt16LE(7, SPARE + 26);
    bytes.writeUInt32LE(0x0001_0000, SPARE + 32);
    bytes.writeUInt32LE(3, SPARE + 36);
  });
  const inode = load(metadata, SPARE);
  assert.deepEqual(
    [inode.mode, inode.nlink, inode.size, inode.uid, inode.gid, inode.mtime, inode.bytes],
    [S_IFREG | 0o640, 2, 4000, 65535, 7, 0, 32],
  );
  const chunk = { blob: 9, index: 9, offset: 9 };
  assert.equal(metadata.chunk(inode, 0, chunk), 0);
  assert.deepEqual(chunk, { blob: 0, index: 0, offset: 3 * 4096 });
});

test('an inode that crosses a page border is read whole', () => {
  const at = SPARE + PAGE_BYTES - 32;
  const made = {
    ...newInode(),
    mode: S_IFBLK | 0o600,
    nlink: 3,
    u: packDevice(259, 70_000),
    uid: 2 ** 32 - 2,
    mtimeNs: 5,
  };
  const metadata = image((_, view) => encodeInode(view, at, { ...made, mtime: -14_182_940 }));
  const inode = load(metadata, at);
  assert.deepEqual([inode.mode, inode.nlink, inode.u, inode.uid], [made.mode, 3, made.u, made.uid]);
  assert.deepEqual([inode.mtime, inode.mtimeNs], [-14_182_940, 5]);
});

describe('symlinks', () => {
  const target = 'x/'.repeat(1000);
  const link = { ...newInode(), mode: S_IFLNK | 0o777, nlink: 1, size: target.length };
  const read = (metadata: V6Metadata) => {
    const span = new Span();
    assert.equal(metadata.target(load(metadata, SPARE), span), 0);
    return Buffer.from(span.u8.subarray(span.at, span.at + span.bytes)).toString();
  };
  test('inline', () => {
    const metadata = image((bytes, view) => {
      encodeInode(view, SPARE, { ...link, layout: LAYOUT.FLAT_INLINE, u: 0xffff_fff0 });
      bytes.write(target, SPARE + 64);
    });
    assert.equal(read(metadata), target);
  });
  test('in a block of their own', () => {
    const metadata = image((bytes, view) => {
      encodeInode(view, SPARE, { ...link, layout: LAYOUT.FLAT_PLAIN, u: SPARE / 4096 + 2 });
      bytes.write(target, SPARE + 2 * 4096);
    });
    assert.equal(read(metadata), target);
  });
});

describe('xattrs', () => {
  /** An area of `bytes` with one big user xattr and an ACL, behind an inode that ends where a page ends. */
  const at = SPARE + PAGE_BYTES - 64;
  const entry = (kind: number, suffix: string, value: Buffer) => {
    const bytes = Buffer.alloc((4 + suffix.length + value.length + 3) & ~3);
    bytes.writeUInt8(suffix.length, 0);
    bytes.writeUInt8(kind, 1);
    bytes.writeUInt16LE(value.length, 2);
    bytes.write(suffix, 4);
    value.copy(bytes, 4 + suffix.length);
    return bytes;
  };
  const big = Buffer.from(Array.from({ length: 65_535 }, (_, i) => i % 251));
  const area = Buffer.concat([
    Buffer.alloc(12),
    entry(1, 'big', big),
    entry(9, 'unknown', Buffer.from('skipped')),
    entry(2, '', Buffer.from([2, 0, 0, 0])),
    entry(4, 'overlay.opaque', Buffer.from('y')),
    entry(6, 'capability', Buffer.alloc(20, 1)),
  ]);

  function read(metadata: V6Metadata): Map<string, Buffer> | number {
    const span = new Span();
    const result = metadata.xattrs(load(metadata, at), span);
    if (result < 0) return result;
    const found = new Map<string, Buffer>();
    const cursor = new V6XattrCursor();
    cursor.start(span);
    for (let step = cursor.next(); step !== 0; step = cursor.next()) {
      if (step < 0) return step;
      const name = Buffer.alloc(cursor.nameBytes);
      cursor.copyName(name, 0);
      assert.ok(cursor.matches(name, 0, name.length));
      found.set(name.toString(), Buffer.from(cursor.u8.subarray(cursor.valueAt, cursor.valueAt + cursor.valueBytes)));
    }
    return found;
  }

  test('of every kind, across many pages; unknown kinds are skipped', () => {
    const metadata = image((bytes, view) => {
      encodeInode(view, at, {
        ...newInode(),
        mode: S_IFREG,
        nlink: 1,
        layout: LAYOUT.CHUNK_BASED,
        u: 0x28,
        xattrBytes: area.length,
      });
      area.copy(bytes, at + 64);
    });
    const found = read(metadata);
    assert.ok(typeof found !== 'number');
    assert.deepEqual(
      [...found.keys()],
      ['user.big', 'system.posix_acl_access', 'trusted.overlay.opaque', 'security.capability'],
    );
    assert.deepEqual(found.get('user.big'), big);
    assert.deepEqual(found.get('trusted.overlay.opaque'), Buffer.from('y'));
  });

  test('an area of the largest size is bounded', () => {
    const metadata = image((_, view) => {
      const xattrBytes = XATTR_AREA_BYTES_MAX;
      encodeInode(view, at, {
        ...newInode(),
        mode: S_IFREG,
        nlink: 1,
        layout: LAYOUT.CHUNK_BASED,
        u: 0x28,
        xattrBytes,
      });
    });
    const found = read(metadata);
    // Zeros are entries of kind 0 with nothing in them: all skipped.
    assert.ok(typeof found !== 'number' && found.size === 0);
  });
});

test('every name of a directory of many blocks is found, its neighbours are not', () => {
  const metadata = image();
  const root = new InodeRecord();
  const sub = new InodeRecord();
  const entry = new EntryRecord();
  assert.equal(metadata.load(metadata.root, root), 0);
  const find = (parent: InodeRecord, name: string) =>
    metadata.find(parent, Buffer.from(name), 0, Buffer.byteLength(name), entry);
  assert.equal(find(root, 'd000001'), 0);
  assert.equal(metadata.load(entry.node, sub), 0);
  assert.ok(sub.size > 10 * 4096 && (sub.mode & S_IFDIR) !== 0);
  for (let i = 0; i < 3000; i++) {
    const name = `f${String(i).padStart(6, '0')}`;
    assert.equal(find(sub, name), 0, name);
    assert.equal(find(sub, `${name}x`), -2);
    assert.equal(find(sub, name.slice(0, -1)), -2);
  }
  for (const name of ['!', '-', '.', '..', '...', 'a', 'f', 'f999999', '\xff', 'f0'.repeat(100)]) {
    assert.equal(find(sub, name), name === '.' || name === '..' ? 0 : -2, name);
  }
});

test('names before "." in byte order are found too', () => {
  // 2.9: "!", "+" and "-" stand before "." and "..".
  const names = ['!a', '+b', '-c', '.', '..', 'z'];
  const metadata = image((bytes, view) => {
    const data = Buffer.alloc(names.length * 12 + names.join('').length);
    let at = names.length * 12;
    names.forEach((name, i) => {
      data.writeUInt32LE(nidAt(SPARE), i * 12);
      data.writeUInt16LE(at, i * 12 + 8);
      data.writeUInt8(2, i * 12 + 10);
      at += data.write(name, at);
    });
    const inline = { ...newInode(), mode: S_IFDIR, nlink: 2, layout: LAYOUT.FLAT_INLINE, size: data.length };
    encodeInode(view, SPARE, inline);
    data.copy(bytes, SPARE + 64);
  });
  const inode = load(metadata, SPARE);
  const entry = new EntryRecord();
  for (const name of names) assert.equal(metadata.find(inode, Buffer.from(name), 0, name.length, entry), 0, name);
  const listed: string[] = [];
  for (let cookie = 0; metadata.entryAt(inode, cookie, entry) === 1; cookie = entry.nextCookie) {
    listed.push(Buffer.from(metadata.nameBytes.subarray(entry.nameAt, entry.nameAt + entry.nameBytes)).toString());
  }
  assert.deepEqual(listed, names);
});
