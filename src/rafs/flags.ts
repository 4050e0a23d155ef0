/**
 * Image-wide settings that RAFS v5 and v6 share (rafs-format 0.2, 0.3): limits and the superblock flag word.
 * The flag word is handled as two u32; every defined bit lies in the low one.
 */
import type { Compressor, Digester } from '../storage/types.ts';

export const CHUNK_SIZE_DEFAULT = 0x10_0000;
export const CHUNK_SIZE_MIN = 0x1000;
export const CHUNK_SIZE_MAX = 0x100_0000;
export const BOOTSTRAP_BYTES_MAX = 0x8000_0000;
export const NAME_BYTES_MAX = 255;
/** Readers accept 1 << 24 chunks in a blob; writers never hand out index 0xffffff. */
export const BUILDER_CHUNKS_MAX = 0xff_ffff;

/** 0.3 */
export const FLAG = {
  COMPRESSION_NONE: 0x0000_0001,
  COMPRESSION_LZ4: 0x0000_0002,
  HASH_BLAKE3: 0x0000_0004,
  HASH_SHA256: 0x0000_0008,
  EXPLICIT_UID_GID: 0x0000_0010,
  HAS_XATTR: 0x0000_0020,
  COMPRESSION_GZIP: 0x0000_0040,
  COMPRESSION_ZSTD: 0x0000_0080,
  INLINED_CHUNK_DIGEST: 0x0000_0100,
  TARFS_MODE: 0x0000_0200,
  ENCRYPTION_NONE: 0x0100_0000,
  ENCRYPTION_AES_128_XTS: 0x0200_0000,
} as const;

/** Reserved bits that readers must accept and ignore. */
const FLAGS_COMPATIBLE = 0xfc00_0000;
const FLAGS_KNOWN = Object.values(FLAG).reduce((all, bit) => all | bit, 0);

/** True when no bit is set that could change the meaning of the image; `high` is the upper u32 of the word. */
export function flagsAccepted(low: number, high: number): boolean {
  return high === 0 && (low & ~(FLAGS_KNOWN | FLAGS_COMPATIBLE)) === 0;
}

export const COMPRESSOR_FLAG: Record<Compressor, number> = {
  none: FLAG.COMPRESSION_NONE,
  lz4_block: FLAG.COMPRESSION_LZ4,
  gzip: FLAG.COMPRESSION_GZIP,
  zstd: FLAG.COMPRESSION_ZSTD,
};
export const DIGESTER_FLAG: Record<Digester, number> = { blake3: FLAG.HASH_BLAKE3, sha256: FLAG.HASH_SHA256 };

/** Decoding precedence of 0.3: none, lz4, gzip, zstd, else lz4. */
export function compressorOf(flags: number): Compressor {
  for (const name of ['none', 'lz4_block', 'gzip', 'zstd'] as const) {
    if ((flags & COMPRESSOR_FLAG[name]) !== 0) return name;
  }
  return 'lz4_block';
}

/** Decoding precedence of 0.3: blake3, sha256, else blake3. */
export function digesterOf(flags: number): Digester {
  return (flags & FLAG.HASH_BLAKE3) === 0 && (flags & FLAG.HASH_SHA256) !== 0 ? 'sha256' : 'blake3';
}

/** v6 insists on exactly one compressor bit and one digest bit (9, item 15). */
export function singleAlgorithms(flags: number): boolean {
  const one = (bits: number[]) => bits.filter((bit) => (flags & bit) !== 0).length === 1;
  return one(Object.values(COMPRESSOR_FLAG)) && one(Object.values(DIGESTER_FLAG));
}

/** A power of two in 0x1000..0x1000000. */
export function chunkSizeLegal(size: number): boolean {
  return Number.isInteger(size) && size >= CHUNK_SIZE_MIN && size <= CHUNK_SIZE_MAX && (size & (size - 1)) === 0;
}
