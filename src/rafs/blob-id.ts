/** Names of blobs: what a blob table may call them, and which object is meant (rafs-format 0.5, 3.11). */
import { basename } from 'node:path';
import { FEATURE } from '../storage/tables/blob-layout.ts';

/** Ids become file names and URLs: no path tricks, no control bytes, not empty. */
export function blobIdLegal(id: string): boolean {
  return /^[\x21-\x7e]+$/.test(id) && !id.includes('/') && !id.includes('\\') && id !== '.' && id !== '..';
}

/**
 * The id to fetch. It is the stored one but for blobs that hold their bootstrap, whose hash was not known when that
 * was written: they are named after the file.
 * @param path of the bootstrap, or of the blob it was extracted from
 * @param extracted the bootstrap came out of a blob: old entries in it are named after the file, too
 */
export function objectId(id: string, features: number, path: string, extracted: boolean): string {
  const inline = (features & FEATURE.INLINED_FS_META) !== 0;
  const elsewhere = (features & (FEATURE.SEPARATE | FEATURE.EXTERNAL)) !== 0;
  const old = extracted && (features & FEATURE.CAP_TAR_TOC) === 0;
  return (inline && !elsewhere) || old ? fileNameStem(path) : id;
}

/** Base name without any extension. */
export function fileNameStem(path: string): string {
  return basename(path).replace(/\..*$/, '');
}
