/**
 * A bootstrap inside its data blob (rafs-format 3.8, 3.9; checks 9.34, 9.35), found from the blob's end and copied to a
 * file of its own, so that readers need not know where it came from.
 *
 *     … | image.boot, raw or zstd | tar header | [TOC | tar header]
 */
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, writeSync } from 'node:fs';
import { codeOf, explain } from '../common/app-error.ts';
import { CODECS } from '../storage/codecs/codecs.ts';
import {
  decodeTarHeader,
  decodeToc,
  PART,
  TAR_HEADER_BYTES,
  TOC_BYTES_MAX,
  TOC_FLAG,
} from '../storage/tables/blob-toc.ts';
import { anonymousFile, readAt } from './bootstrap-file.ts';
import { atByte } from './broken.ts';
import { detectFile } from './detect.ts';
import { rafsError } from './errors.ts';
import { BOOTSTRAP_BYTES_MAX } from './flags.ts';

const COPY_BYTES = 1 << 20;
/** zstd is undone in memory, at once: about 2 million inodes. A bomb costs no more than this. */
const ZSTD_BYTES_MAX = 256 << 20;

interface Part {
  offset: number;
  storedBytes: number;
  bytes: number;
  zstd: boolean;
  /** SHA-256 of the uncompressed content; null = not given. */
  digest: Buffer | null;
}

/**
 * Copies the bootstrap at the end of a blob to an anonymous file and returns its descriptor.
 * @throws NOT_AN_IMAGE, BROKEN, TRUNCATED, OPEN
 */
export function extractBootstrap(fd: number, path: string): number {
  const part = findPart(fd, path);
  if (part.bytes > BOOTSTRAP_BYTES_MAX) throw broken(path, part.offset, `bootstrap of ${part.bytes} bytes`);
  const inner = anonymousFile(path);
  try {
    if (part.zstd) copyZstd(fd, path, part, inner);
    else copyRaw(fd, path, part, inner);
    // Once: what comes out of a blob is a bootstrap, never a blob again.
    const { format } = detectFile(inner, path);
    if (format !== 'v5' && format !== 'v6') {
      throw rafsError('NOT_AN_IMAGE', { path, found: 'a data blob whose bootstrap is none' });
    }
    return inner;
  } catch (error) {
    closeSync(inner);
    throw error;
  }
}

function findPart(fd: number, path: string): Part {
  const fileBytes = fstatSync(fd).size;
  const end = fileBytes - TAR_HEADER_BYTES;
  const last = decodeTarHeader(readAt(fd, path, end, TAR_HEADER_BYTES));
  if (last?.name === PART.BOOTSTRAP) {
    if (last.size > end) throw broken(path, end, `bootstrap of ${last.size} bytes in a smaller blob`);
    return { offset: end - last.size, storedBytes: last.size, bytes: last.size, zstd: false, digest: null };
  }
  const tocBytes = (last?.size ?? 0) + TAR_HEADER_BYTES;
  if (tocBytes > Math.min(TOC_BYTES_MAX, fileBytes)) throw broken(path, end, `TOC of ${tocBytes} bytes`);
  const tocAt = fileBytes - tocBytes;
  const bytes = readAt(fd, path, tocAt, tocBytes);
  const toc = inFile(path, tocAt, () => decodeToc(bytes, fileBytes));
  const entry = toc.find(({ name }) => name === PART.BOOTSTRAP);
  if (entry === undefined) throw rafsError('NOT_AN_IMAGE', { path, found: 'a data blob without a bootstrap' });
  const { flags, offset, storedSize, uncompressedSize, digest } = entry;
  const zstd = flags === TOC_FLAG.ZSTD;
  if (flags === TOC_FLAG.LZ4 || (!zstd && storedSize !== uncompressedSize)) {
    throw broken(path, tocAt, `TOC entry of the bootstrap: flags ${flags}, sizes`);
  }
  return { offset, storedBytes: storedSize, bytes: uncompressedSize, zstd, digest };
}

function copyZstd(fd: number, path: string, part: Part, to: number): void {
  if (part.bytes > ZSTD_BYTES_MAX || part.storedBytes > ZSTD_BYTES_MAX) {
    throw broken(path, part.offset, `compressed bootstrap of ${part.bytes} bytes`);
  }
  const stored = readAt(fd, path, part.offset, part.storedBytes);
  const bytes = inFile(path, part.offset, () => CODECS.zstd.decompress(stored, part.bytes));
  checkDigest(path, part, createHash('sha256').update(bytes).digest());
  put(to, path, bytes);
}

function copyRaw(fd: number, path: string, part: Part, to: number): void {
  const hash = part.digest === null ? null : createHash('sha256');
  for (let done = 0; done < part.bytes; done += COPY_BYTES) {
    const piece = readAt(fd, path, part.offset + done, Math.min(COPY_BYTES, part.bytes - done));
    hash?.update(piece);
    put(to, path, piece);
  }
  if (hash !== null) checkDigest(path, part, hash.digest());
}

function checkDigest(path: string, part: Part, digest: Buffer): void {
  if (part.digest?.equals(digest) === false) throw broken(path, part.offset, 'digest of the bootstrap in the TOC');
}

function put(fd: number, path: string, bytes: Buffer): void {
  try {
    for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
  } catch (error) {
    throw rafsError('OPEN', { path, why: `its bootstrap cannot be copied: ${codeOf(error)}` }, error);
  }
}

function broken(path: string, offset: number, rule: string): Error {
  return rafsError('BROKEN', { path, rule: atByte(offset, rule) });
}

/** Runs `decode`; what it says against the bytes at `offset` is said of the file. */
function inFile<T>(path: string, offset: number, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    throw broken(path, offset, explain(error));
  }
}
