/**
 * The digest tree of a v5 image (rafs-format 1.11), checked as it is walked: a directory before the first name in it is
 * looked up or listed, a file before its first chunk is read, a symlink before its target is shown. Each is checked once.
 *
 *     directory = H(digests of its children)   file = H(digests of its chunks)   symlink = H(target)   else H()
 *
 * Only made when validation is on, which may cost: a directory of 10,000 names takes some ms, once, and what is
 * remembered is one bit an inode.
 */
import { DIGESTS, type DigestAlgorithm } from '../../storage/codecs/digests.ts';
import { CHUNK_ENTRY, CHUNK_ENTRY_BYTES } from '../chunk-entry.ts';
import { digesterOf } from '../flags.ts';
import { InodeRecord, Span } from '../metadata.ts';
import { S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from '../v6/inode-layout.ts';
import type { V5Image } from './image.ts';
import { chunksAt, loadInode, symlinkTarget } from './inode.ts';
import { INODE, SYMLINK_BYTES_MAX } from './layout.ts';

const DIGEST_BYTES = 32;
/** Digests hashed at a time. */
const BATCH = 128;

export class DigestTree {
  private readonly checked: Uint8Array;
  private readonly algorithm: DigestAlgorithm;
  private readonly batch = new Uint8Array(BATCH * DIGEST_BYTES);
  private readonly scratch = new Uint8Array(SYMLINK_BYTES_MAX);
  private readonly span = new Span();
  private readonly first = new InodeRecord();

  constructor(private readonly image: V5Image) {
    this.checked = new Uint8Array((image.entries >> 3) + 1);
    this.algorithm = DIGESTS[digesterOf(image.geometry.flags)];
  }

  /** Checks what the loaded inode's digest covers: 0 or -EIO. */
  check(inode: InodeRecord): number {
    const bit = 1 << (inode.node & 7);
    if ((this.checked[inode.node >> 3] & bit) !== 0) return 0;
    const hashed = this.hash(inode);
    if (typeof hashed === 'number') return hashed;
    const read = this.image.copy(inode.offset + INODE.DIGEST, DIGEST_BYTES, this.batch, 0);
    if (read < 0) return read;
    if (hashed.compare(this.batch, 0, DIGEST_BYTES) !== 0) return this.image.refuse('digest of what it holds');
    this.checked[inode.node >> 3] |= bit;
    return 0;
  }

  private hash(inode: InodeRecord): Buffer | number {
    const digest = this.algorithm.shared();
    const type = inode.mode & S_IFMT;
    if (type === S_IFLNK) {
      const found = symlinkTarget(this.image, inode, this.scratch, this.span);
      const { u8, at, bytes } = this.span;
      if (found < 0) return found;
      digest.update(u8.slice(at, at + bytes));
      return digest.digest();
    }
    const count = type === S_IFDIR || type === S_IFREG ? inode.count : 0;
    const chunks = chunksAt(inode);
    for (let from = 0; from < count; from += BATCH) {
      const to = Math.min(count, from + BATCH);
      for (let i = from; i < to; i++) {
        const at = type === S_IFREG ? chunks + i * CHUNK_ENTRY_BYTES + CHUNK_ENTRY.DIGEST : this.childAt(inode, i);
        if (at < 0) return at;
        const read = this.image.copy(at, DIGEST_BYTES, this.batch, (i - from) * DIGEST_BYTES);
        if (read < 0) return read;
      }
      // A copy: the hash may keep what it is given until it is asked.
      digest.update(this.batch.slice(0, (to - from) * DIGEST_BYTES));
    }
    return digest.digest();
  }

  /** File offset of a child's digest. Names of a hard link must carry the digest of the inode that is served for them. */
  private childAt(dir: InodeRecord, position: number): number {
    const { image, first } = this;
    const index = dir.first + position;
    const offset = image.recordAt(index);
    if (offset < 0) return offset;
    const at = image.locate(offset + INODE.INO);
    if (at < 0) return at;
    const { u32 } = image.cache.memory;
    const node = u32[at >> 2];
    if (node === index || u32[(at >> 2) + 1] !== 0) return offset + INODE.DIGEST;
    const loaded = loadInode(image, node, first);
    if (loaded < 0) return image.refuse(`directory: entry ${index} is a second name of nothing`);
    return this.sameDigest(offset, first.offset) ? offset + INODE.DIGEST : image.refuse(`digest of entry ${index}`);
  }

  private sameDigest(a: number, b: number): boolean {
    const digests = new Uint8Array(2 * DIGEST_BYTES);
    if (this.image.copy(a, DIGEST_BYTES, digests, 0) < 0) return false;
    if (this.image.copy(b, DIGEST_BYTES, digests, DIGEST_BYTES) < 0) return false;
    return Buffer.compare(digests.subarray(0, DIGEST_BYTES), digests.subarray(DIGEST_BYTES)) === 0;
  }
}
