/**
 * Which format a file is (rafs-format 0.5), and why one is refused. Formats and variants that are known but not built
 * are named slots here: the error says what was found.
 */
import { fstatSync } from 'node:fs';
import { decodeTarHeader, PART, TAR_HEADER_BYTES } from '../storage/tables/blob-toc.ts';
import { readAt } from './bootstrap-file.ts';
import { rafsError } from './errors.ts';
import { HEAD_BYTES } from './geometry.ts';
import { RAFS_MAGIC, SUPERBLOCK_BYTES, VERSION_V5 } from './v5/layout.ts';
import { COMPAT_RAFS_V6, EROFS_MAGIC, SB, SUPERBLOCK_OFFSET } from './v6/layout.ts';

const VERSION_V4 = 0x400;
/** Bytes that `detect` wants from the end of a file. */
const TAIL_BYTES = TAR_HEADER_BYTES;

/** A file's format. `built` formats can be opened; the others are refused with `found` in the message. */
export type Detected =
  | { format: 'v5' | 'v6' | 'inline'; built: true }
  | { format: 'v4'; built: false; found: string }
  | { format: 'unknown'; found: string };

/**
 * Tells the format from a file's ends.
 * @param head the first 4096 bytes, or fewer for a shorter file
 * @param tail the last 512 bytes, or fewer
 */
export function detect(head: Uint8Array, tail: Uint8Array): Detected {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const u32 = (at: number) => (at + 4 <= head.length ? view.getUint32(at, true) : 0);
  const last = decodeTarHeader(Buffer.from(tail.buffer, tail.byteOffset, tail.byteLength));
  // The end first: a blob without data begins with its bootstrap.
  if (last?.name === PART.BOOTSTRAP || last?.name === PART.TOC) return { format: 'inline', built: true };
  if (u32(0) === RAFS_MAGIC) return detectRafs(u32(4), u32(8));
  if (u32(SUPERBLOCK_OFFSET + SB.MAGIC) === EROFS_MAGIC) {
    if ((u32(SUPERBLOCK_OFFSET + SB.COMPAT) & COMPAT_RAFS_V6) !== 0) return { format: 'v6', built: true };
    return { format: 'unknown', found: 'a plain EROFS image without the RAFS v6 mark' };
  }
  if (last !== null)
    return { format: 'unknown', found: `a data blob (it ends with part ${JSON.stringify(last.name)})` };
  return { format: 'unknown', found: head.length === 0 ? 'an empty file' : 'a file of another format' };
}

function detectRafs(version: number, superblockBytes: number): Detected {
  if (version === VERSION_V4) return { format: 'v4', built: false, found: 'RAFS v4' };
  if (version !== VERSION_V5) return { format: 'unknown', found: `RAFS of unknown version 0x${version.toString(16)}` };
  if (superblockBytes !== SUPERBLOCK_BYTES) {
    return { format: 'unknown', found: 'RAFS of a development version before 0.1' };
  }
  return { format: 'v5', built: true };
}

/**
 * Tells the format of an open file. @throws NOT_BUILT or NOT_AN_IMAGE unless it is a v5 or v6 bootstrap, or a blob that
 * holds one.
 */
export function detectFile(fd: number, path: string): Detected & { built: true } {
  const fileBytes = fstatSync(fd).size;
  const tailBytes = Math.min(TAIL_BYTES, fileBytes);
  const head = readAt(fd, path, 0, Math.min(HEAD_BYTES, fileBytes));
  const detected = detect(head, readAt(fd, path, fileBytes - tailBytes, tailBytes));
  if (detected.format === 'unknown') throw rafsError('NOT_AN_IMAGE', { path, found: detected.found });
  if (!detected.built) throw rafsError('NOT_BUILT', { path, found: detected.found });
  return detected;
}
