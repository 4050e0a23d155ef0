/**
 * Encryption of blobs (rafs-format 3.12): AES-128-XTS by OpenSSL. Every stored chunk, every batch, the chunk table and
 * its header are one data unit each, all starting from the blob's IV. Key and IV stand in clear in the bootstrap:
 * secrecy comes from whoever encrypts that.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { storageError } from '../errors.ts';
import { FEATURE } from '../tables/blob-layout.ts';
import type { BlobInfo } from '../types.ts';

/** Number in blob entries (rafs-format 0.4). */
export const CIPHER_AES_128_XTS = 1;
const ALGORITHM = 'aes-128-xts';
const KEY_BYTES = 32;
const IV_BYTES = 16;
/** XTS takes no less; shorter data is extended to PADDED_BYTES and marked. */
const UNIT_BYTES_MIN = 16;
const PADDED_BYTES = 18;
const PAD_MARK = [0x78, 0x90] as const;

export interface BlobCipher {
  /** One unit as stored. */
  encrypt(plain: Uint8Array): Buffer;
  /**
   * The plain bytes of a unit.
   * @param plainBytes their length where it is known: 18 bytes that look padded are then told from padded ones
   * @throws DECODE for a unit of fewer than 16 bytes
   */
  decrypt(stored: Uint8Array, plainBytes?: number): Buffer;
}

/** The blob's cipher, or null when it is not encrypted. @throws BLOB_META for contradictions and for a useless key */
export function cipherOf(info: BlobInfo): BlobCipher | null {
  const isEncrypted = (info.features & FEATURE.ENCRYPTED) !== 0;
  const refuse = (rule: string) => storageError('BLOB_META', { blobId: info.id, rule });
  if (isEncrypted !== (info.cipher !== 0)) throw refuse('encryption named by only one of features and cipher');
  if (!isEncrypted) return null;
  if (info.cipher !== CIPHER_AES_128_XTS) throw refuse(`cipher ${info.cipher}`);
  const key = Buffer.from(info.extra.subarray(0, KEY_BYTES));
  const iv = Buffer.from(info.extra.subarray(KEY_BYTES, KEY_BYTES + IV_BYTES));
  if (iv.length !== IV_BYTES) throw refuse('key or IV missing');
  if (key.subarray(0, KEY_BYTES / 2).equals(key.subarray(KEY_BYTES / 2))) throw refuse('halves of the key are equal');
  return {
    encrypt: (plain) => createCipheriv(ALGORITHM, key, iv).update(padded(plain)),
    decrypt(stored, plainBytes) {
      if (stored.length < UNIT_BYTES_MIN) {
        const why = `an encrypted unit has at least ${UNIT_BYTES_MIN} bytes`;
        const sizes = { compressedBytes: stored.length, uncompressedBytes: plainBytes ?? stored.length };
        throw storageError('DECODE', { compressor: ALGORITHM, ...sizes, why });
      }
      const plain = createDecipheriv(ALGORITHM, key, iv).update(stored);
      return plainBytes === PADDED_BYTES ? plain : unpadded(plain);
    },
  };
}

function padded(plain: Uint8Array): Uint8Array {
  if (plain.length >= UNIT_BYTES_MIN) return plain;
  const missing = UNIT_BYTES_MIN - plain.length;
  return Buffer.concat([plain, Buffer.alloc(missing, missing), Buffer.from(PAD_MARK)]);
}

function unpadded(plain: Buffer): Buffer {
  const isMarked = plain.length === PADDED_BYTES && plain[16] === PAD_MARK[0] && plain[17] === PAD_MARK[1];
  const missing = plain[UNIT_BYTES_MIN - 1];
  return isMarked && missing < UNIT_BYTES_MIN ? plain.subarray(0, UNIT_BYTES_MIN - missing) : plain;
}
