import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { S } from '../fuse/flags.ts';
import { FileChunks } from './file-chunks.ts';
import { bootPath } from './fixture-blobs.testing.ts';
import type { InodeRecord } from './metadata.ts';
import { openImage } from './open-image.ts';
import { CHUNK_INDEX, CHUNK_INDEX_BYTES, chunkIndexOffset, EXTENDED } from './v6/inode-layout.ts';
import { ImageWalker } from './walk.ts';

const NAME = 'v6-zstd-sha256-4k';
const PATH = '/big/multi-chunk';

const dir = mkdtempSync(join(tmpdir(), 'file-chunks-'));
after(() => rmSync(dir, { recursive: true }));

const boot = readFileSync(bootPath(NAME));
const inodes = new Map<string, InodeRecord>();
const walker = new ImageWalker(bootPath(NAME));
for (const { path, inode } of walker.walk()) inodes.set(path.toString('latin1'), { ...inode });
walker.close();

function inode(path: string): InodeRecord {
  return inodes.get(path) ?? assert.fail(`${path} is not in the fixture`);
}

const indexesAt = ({ offset, bytes, xattrBytes }: InodeRecord) => chunkIndexOffset(offset, bytes, xattrBytes);

/** What comes of `path` in an image of these bytes. */
function below(bytes: Buffer, path: string) {
  const file = join(dir, 'boot');
  writeFileSync(file, bytes);
  const image = openImage(file);
  const files = FileChunks.open(image.fd, file, image.geometry, image.blobs);
  try {
    return [...files.below(files.nodeAt(path) ?? 0)];
  } finally {
    files.close();
    image.close();
    closeSync(image.fd);
  }
}

test('chunks that do not decode are a pause each: a long file of them does not hold up its caller', () => {
  const bytes = Buffer.from(boot);
  const file = inode(PATH);
  const count = Math.ceil(file.size / walker.metadata.chunkSize);
  for (let k = 0; k < count; k++) bytes[indexesAt(file) + k * CHUNK_INDEX_BYTES + CHUNK_INDEX.DEVICE] = 0;
  assert.ok(count > 3);
  assert.deepEqual(below(bytes, PATH), Array(count).fill(null));
});

test('files that share one long list of chunks give no more than the bootstrap has room for', () => {
  const bytes = Buffer.from(boot);
  const files = [...inodes].filter(([path, { mode }]) => path.startsWith('/many/') && (mode & S.IFMT) === S.IFREG);
  for (const [, file] of files) {
    const indexes = Math.floor((bytes.length - indexesAt(file)) / CHUNK_INDEX_BYTES);
    bytes.writeUInt32LE(indexes * walker.metadata.chunkSize, file.offset + EXTENDED.SIZE);
  }
  assert.ok(files.length > 10);
  const most = bytes.length / CHUNK_INDEX_BYTES + inodes.size;
  assert.ok(below(bytes, '/many').length <= most);
});

test('names of one file give its chunks once', () => {
  const links = [...inodes].filter(([, { mode, nlink }]) => (mode & S.IFMT) === S.IFREG && nlink > 1);
  const [path, file] = links[0];
  const above = path.slice(0, path.lastIndexOf('/'));
  const wanted = below(boot, above).filter((chunk) => chunk !== null);
  assert.ok(links.filter(([other, { node }]) => node === file.node && other.startsWith(above)).length > 1);
  const list = below(boot, path);
  const same = wanted.filter(({ wanted: { chunkIndex } }) => chunkIndex === list[0]?.wanted.chunkIndex);
  assert.equal(same.length, 1);
});
