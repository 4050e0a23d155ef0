/** Fixtures of the rules: images in memory, where their parts lie, and tables of their blobs written anew. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { InodeRecord } from '../../src/rafs/metadata.ts';
import { type Placed, placedRecords } from '../../src/rafs/v5/synthetic.testing.ts';
import { BLOB } from '../../src/rafs/v6/blob-table-layout.ts';
import { ImageWalker } from '../../src/rafs/walk.ts';
import { CODECS, compressorOf } from '../../src/storage/codecs/codecs.ts';
import { DIGESTS } from '../../src/storage/codecs/digests.ts';
import { BLOBS_DIR, FIXTURES, parseBlobTable } from '../../src/storage/fixtures.testing.ts';
import { CCT_HEADER_BYTES, FEATURE } from '../../src/storage/tables/blob-layout.ts';
import type { BlobInfo } from '../../src/storage/types.ts';

/** An image that may be damaged; `save` writes it. */
export class Damaged {
  boot: Buffer;
  /** By id; the images of blobs that hold their bootstrap are that one file. */
  readonly blobs = new Map<string, Buffer>();
  private readonly path: string;

  constructor(readonly name: string) {
    const isInline = name.startsWith('inline');
    this.path = join(FIXTURES, 'images/boot', `${name}.${isInline ? 'blob' : 'boot'}`);
    this.boot = Buffer.from(readFileSync(this.path));
    if (isInline) return;
    const row = readFileSync(join(FIXTURES, 'images/cases.tsv'), 'utf8')
      .split('\n')
      .map((line) => line.split('\t'))
      .find(([first]) => first === name);
    for (const id of (row?.[3] ?? '').split(/[ ,]+/)) this.blobs.set(id, readFileSync(join(BLOBS_DIR, id)));
    if (name.startsWith('zran')) this.blobs.set(this.metaId, readFileSync(join(BLOBS_DIR, this.metaId)));
  }

  /** Paths of the bootstrap and of the directory with its blobs. */
  save(dir: string): { boot: string; blobDir: string } {
    const blobDir = join(dir, 'blobs');
    mkdirSync(blobDir);
    const boot = join(dir, this.path.split('/').pop()!);
    writeFileSync(boot, this.boot);
    for (const [id, bytes] of this.blobs) writeFileSync(join(blobDir, id), bytes);
    if (this.name.startsWith('inline')) writeFileSync(join(blobDir, this.name), this.boot);
    return { boot, blobDir };
  }

  /** First blob entry of a v6 image. */
  get info(): BlobInfo {
    return parseBlobTable(this.boot)[0];
  }

  private get metaId(): string {
    return Buffer.from(this.info.extra.subarray(0, 32)).toString('hex');
  }

  /** File offset of the first blob entry. */
  get entryAt(): number {
    return Number(this.boot.readBigUInt64LE(1152 + 8));
  }

  /** v6: the inode of a path. */
  inode(path: string): InodeRecord {
    return walked(this.name).get(path) ?? assert.fail(`${this.name} has no ${path}`);
  }

  /** v5: the record of a path. */
  record(path: string): Placed {
    return placedRecords(this.boot).get(path) ?? assert.fail(`${this.name} has no ${path}`);
  }

  /** v6: file offset of the directory entry `name` of `path`, whose data is inline. */
  dirent(path: string, name: string): number {
    const { offset, bytes, xattrBytes, size } = this.inode(path);
    const start = offset + bytes + xattrBytes;
    const data = this.boot.subarray(start, start + size);
    const count = data.readUInt16LE(8) / 12;
    for (let i = 0; i < count; i++) {
      const end = i + 1 < count ? data.readUInt16LE(i * 12 + 20) : size;
      if (data.toString('latin1', data.readUInt16LE(i * 12 + 8), end) === name) return start + i * 12;
    }
    return assert.fail(`${path} has no inline ${name}`);
  }

  /**
   * Chunk table and header changed by `patch` and stored raw: at the end of the blob, or as another meta blob. `packed`
   * is stored instead of the table where it is given.
   */
  table(patch: (table: Buffer, header: Buffer) => void, packed?: { compressor: number; bytes: Buffer }): void {
    const { info } = this;
    const isSeparate = (info.features & FEATURE.SEPARATE) !== 0;
    const holder = isSeparate ? this.metaId : info.id;
    const file = this.blobs.get(holder)!;
    const stored = file.subarray(info.ciOffset, info.ciOffset + info.ciCompressedSize);
    const raw = CODECS[compressorOf(info.ciCompressor) ?? 'none'].decompress(stored, info.ciUncompressedSize);
    const table = Buffer.from(raw);
    const headerAt = info.ciOffset + info.ciCompressedSize;
    const header = Buffer.from(file.subarray(headerAt, headerAt + CCT_HEADER_BYTES));
    const bytes = packed?.bytes ?? table;
    const ciOffset = isSeparate ? 0 : file.length;
    for (const [buffer, compressor, offset, size] of [
      [header, 8, 16, 24],
      [
        this.boot,
        this.entryAt + BLOB.CI_COMPRESSOR,
        this.entryAt + BLOB.CI_OFFSET,
        this.entryAt + BLOB.CI_COMPRESSED_SIZE,
      ],
    ] as const) {
      buffer.writeUInt32LE(packed?.compressor ?? 0, compressor);
      buffer.writeBigUInt64LE(BigInt(ciOffset), offset);
      buffer.writeBigUInt64LE(BigInt(bytes.length), size);
    }
    patch(table, header);
    const written = Buffer.concat([isSeparate ? Buffer.alloc(0) : file, bytes, header]);
    if (!isSeparate) {
      this.blobs.set(holder, written);
      this.boot.writeBigUInt64LE(BigInt(written.length), this.entryAt + BLOB.COMPRESSED_SIZE);
      return;
    }
    this.blobs.delete(holder);
    DIGESTS.sha256.digest(written).copy(this.boot, this.entryAt + BLOB.EXTRA);
    this.boot.writeBigUInt64LE(BigInt(written.length), this.entryAt + BLOB.EXTRA + 32);
    this.blobs.set(this.metaId, written);
  }
}

const inodes = new Map<string, Map<string, InodeRecord>>();

export function walked(name: string): Map<string, InodeRecord> {
  let known = inodes.get(name);
  if (known === undefined) {
    const walker = new ImageWalker(join(FIXTURES, 'images/boot', `${name}.boot`));
    known = new Map([...walker.walk()].map(({ path, inode }) => [path.toString('latin1'), { ...inode }]));
    walker.close();
    inodes.set(name, known);
  }
  return known;
}
