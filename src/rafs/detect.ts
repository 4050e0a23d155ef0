/**
 * Which format a file is (rafs-format 0.5), and why one is refused. Formats and variants that are known but not built
 * are named slots here: the error says what was found.
 */
import { FEATURE } from '../storage/blob-layout.ts';
import { decodeTarHeader, PART, TAR_HEADER_BYTES } from '../storage/blob-toc.ts';
import type { BlobInfo } from '../storage/types.ts';
import { rafsError } from './errors.ts';
import { FLAG } from './flags.ts';
import { COMPAT_RAFS_V6, EROFS_MAGIC, EXT, EXT_SUPERBLOCK_OFFSET, SB, SUPERBLOCK_OFFSET } from './v6/layout.ts';

const RAFS_MAGIC = 0x5241_4653;
const V5_SUPERBLOCK_BYTES = 8192;
const VERSION = { V4: 0x400, V5: 0x500 } as const;

/** A file's format. `built` formats can be opened; the others are refused with `found` in the message. */
export type Detected =
  | { format: 'v6'; built: true }
  | { format: 'v5' | 'v4' | 'inline'; built: false; found: string }
  | { format: 'unknown'; found: string };

/**
 * Tells the format from a file's ends.
 * @param head the first 4096 bytes, or fewer for a shorter file
 * @param tail the last 512 bytes, or fewer
 */
export function detect(head: Uint8Array, tail: Uint8Array): Detected {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const u32 = (at: number) => (at + 4 <= head.length ? view.getUint32(at, true) : 0);
  if (u32(0) === RAFS_MAGIC) return detectRafs(u32(4), u32(8));
  if (u32(SUPERBLOCK_OFFSET + SB.MAGIC) === EROFS_MAGIC) {
    if ((u32(SUPERBLOCK_OFFSET + SB.COMPAT) & COMPAT_RAFS_V6) !== 0) return { format: 'v6', built: true };
    return { format: 'unknown', found: 'a plain EROFS image without the RAFS v6 mark' };
  }
  const last = decodeTarHeader(Buffer.from(tail.buffer, tail.byteOffset, tail.byteLength));
  if (last?.name === PART.BOOTSTRAP || last?.name === PART.TOC) {
    return { format: 'inline', built: false, found: 'a bootstrap inside its data blob' };
  }
  if (last !== null)
    return { format: 'unknown', found: `a data blob (it ends with part ${JSON.stringify(last.name)})` };
  return { format: 'unknown', found: head.length === 0 ? 'an empty file' : 'a file of another format' };
}

function detectRafs(version: number, superblockBytes: number): Detected {
  if (version === VERSION.V4) return { format: 'v4', built: false, found: 'RAFS v4' };
  if (version !== VERSION.V5) return { format: 'unknown', found: `RAFS of unknown version 0x${version.toString(16)}` };
  if (superblockBytes !== V5_SUPERBLOCK_BYTES) {
    return { format: 'unknown', found: 'RAFS of a development version before 0.1' };
  }
  return { format: 'v5', built: false, found: 'RAFS v5' };
}

/** Image-wide flags of variants that are slots. */
const FLAG_SLOTS: readonly (readonly [bit: number, found: string])[] = [
  [FLAG.TARFS_MODE, 'a tarfs image'],
  [FLAG.ENCRYPTION_AES_128_XTS, 'an encrypted image'],
];

/** Blob features of variants that are slots. */
const FEATURE_SLOTS: readonly (readonly [bit: number, found: string])[] = [
  [FEATURE.TARFS, 'a tarfs blob'],
  [FEATURE.ZRAN, 'a zran blob (data in the original tar.gz)'],
  [FEATURE.BATCH, 'a blob with batched chunks'],
  [FEATURE.ENCRYPTED, 'an encrypted blob'],
  [FEATURE.EXTERNAL, 'an external blob'],
  [FEATURE.SEPARATE, 'a blob whose chunk table lies in a separate object'],
  [FEATURE.IS_CHUNKDICT_GENERATED, 'a generated chunk dictionary'],
];

/**
 * The variant of a v6 superblock that is not built, or null. Looked at before validation, since variants bend its rules.
 * @param head the first 4096 bytes of a v6 bootstrap
 */
export function imageSlot(head: Uint8Array): string | null {
  if (head.length < EXT_SUPERBLOCK_OFFSET + 8) return null;
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  const flags = view.getUint32(EXT_SUPERBLOCK_OFFSET + EXT.FLAGS, true);
  return FLAG_SLOTS.find(([bit]) => (flags & bit) !== 0)?.[1] ?? null;
}

/** The compressor that is not built, or null. Asked after `blobSlot`: zran images have this flag too, and say more. */
export function compressorSlot(flags: number): string | null {
  return (flags & FLAG.COMPRESSION_GZIP) !== 0 ? 'compressor gzip' : null;
}

/** The variant of one blob that is not built, or null. */
export function blobSlot(blob: BlobInfo): string | null {
  const slot = FEATURE_SLOTS.find(([bit]) => (blob.features & bit) !== 0);
  if (slot !== undefined) return slot[1];
  return blob.compressor === 'gzip' ? 'compressor gzip' : null;
}

/** @throws NOT_BUILT or NOT_AN_IMAGE unless the file is a v6 bootstrap of a kind that is built */
export function requireV6(path: string, head: Uint8Array, tail: Uint8Array): void {
  const detected = detect(head, tail);
  if (detected.format === 'unknown') throw rafsError('NOT_AN_IMAGE', { path, found: detected.found });
  if (!detected.built) throw rafsError('NOT_BUILT', { path, found: detected.found });
  const slot = imageSlot(head);
  if (slot !== null) throw rafsError('NOT_BUILT', { path, found: slot });
}

/** Bytes that `detect` wants from the end of a file. */
export const TAIL_BYTES = TAR_HEADER_BYTES;
