/** `nydusctl cache`: looks into a cache directory and takes blobs out of it, with or without daemons that use it. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, defineErrors } from '../common/app-error.ts';
import { type CacheContents, type CachedBlob, isEmptyHanded, readCacheDir } from '../storage/cache/cache-dir.ts';
import { evictBlob, isBlobInUse } from '../storage/cache/cache-evict.ts';
import { makeRoom } from '../storage/cache/cache-keeper.ts';
import { MARKS_DEFAULT } from '../storage/cache/cache-limits.ts';
import { usageError } from './fail.ts';

interface Facts {
  NO_DIRECTORY: { dir: string; why: string };
  NO_BLOB: { dir: string; blobId: string };
  IN_USE: { blobIds: string };
}

const cacheError = defineErrors<Facts>({
  NO_DIRECTORY: { retryable: false, say: ({ dir, why }) => `${dir} cannot be looked into: ${why}` },
  NO_BLOB: { retryable: false, say: ({ dir, blobId }) => `${dir} has no blob ${blobId}` },
  IN_USE: { retryable: true, say: ({ blobIds }) => `in use, not removed: ${blobIds}; unmount the images first` },
});

export interface CacheRequest {
  action: string;
  blobIds: readonly string[];
  dir: string;
  isDry: boolean;
  /** Of the whole directory; null = whatever it holds. */
  quotaBytes: number | null;
  isAll: boolean;
  isRaw: boolean;
  print: (text: string) => void;
}

const misuse = (text: string) => usageError('USAGE', { command: 'nydusctl', text });

type Action = (request: CacheRequest, contents: CacheContents) => Promise<void> | void;

const ACTIONS: Readonly<Record<string, Action>> = { ls: list, gc: collect, rm: remove };

/** @throws USAGE; NO_DIRECTORY, NO_BLOB, IN_USE, and system errors of a directory that cannot be changed */
export async function cache(request: CacheRequest): Promise<void> {
  const { action, dir } = request;
  if (!Object.hasOwn(ACTIONS, action))
    throw misuse(`what to do with a cache is one of ${Object.keys(ACTIONS).join(', ')}`);
  if (request.blobIds.length > 0 && action !== 'rm') throw misuse(`cache ${action} takes no blobs`);
  if (request.isDry && action !== 'gc') throw misuse('--dry-run is for cache gc');
  if (request.quotaBytes !== null && action !== 'gc') throw misuse('--quota is for cache gc');
  if (request.isAll && action !== 'rm') throw misuse('--all is for cache rm');
  const found = await stat(dir).catch((error: unknown) => {
    throw cacheError('NO_DIRECTORY', { dir, why: codeOf(error) });
  });
  if (!found.isDirectory()) throw cacheError('NO_DIRECTORY', { dir, why: 'it is no directory' });
  await ACTIONS[action]!(request, await readCacheDir(dir));
}

function list({ dir, isRaw, print }: CacheRequest, { blobs, bytes }: CacheContents): void {
  const rows = blobs.filter((blob) => !isEmptyHanded(blob)).map((blob) => rowOf(dir, blob));
  if (isRaw) {
    print(`${JSON.stringify({ blobs: rows, bytes })}\n`);
    return;
  }
  const table = rows.map((row) => [
    row.blob_id,
    sizeText(row.bytes),
    sizeText(row.length),
    row.compressed ? 'compressed' : '',
    row.used_at.slice(0, 19),
    row.in_use ? 'in use' : '',
  ]);
  print(tableText([['BLOB', 'ON DISK', 'LENGTH', 'FORM', 'USED (UTC)', 'STATE'], ...table]));
  print(`${rows.length} blobs, ${sizeText(bytes)}\n`);
}

function rowOf(dir: string, blob: CachedBlob) {
  return {
    blob_id: blob.blobId,
    bytes: blob.bytes,
    length: blob.lengthBytes,
    compressed: blob.files.has('raw'),
    used_at: new Date(blob.usedAtMs).toISOString(),
    in_use: isBlobInUse(dir, blob.blobId),
  };
}

/** Leftovers always; unused blobs, the longest unused first, as far as the quota demands. */
async function collect({ dir, isDry, quotaBytes, isRaw, print }: CacheRequest, contents: CacheContents): Promise<void> {
  const empty = contents.blobs.filter(isEmptyHanded).map(({ blobId }) => blobId);
  const leftovers = contents.leftovers.map(({ name }) => name);
  const limits = {
    quotaBytes: quotaBytes ?? 0,
    quota: { ...MARKS_DEFAULT, run: 0, cull: 0, stop: 0 },
    blocks: null,
    inodes: null,
  };
  const freed = await makeRoom(dir, limits, contents, isDry);
  for (const blobId of empty) {
    const isGone = isDry ? !isBlobInUse(dir, blobId) : evictBlob(dir, blobId);
    if (isGone && !freed.blobIds.includes(blobId)) leftovers.push(`${blobId}.*`);
  }
  if (isRaw) {
    const { blobIds: blobs, bytes, usedBytes } = freed;
    print(`${JSON.stringify({ dry_run: isDry, blobs, leftovers, freed_bytes: bytes, bytes: usedBytes })}\n`);
    return;
  }
  const verb = isDry ? 'would remove' : 'removed';
  for (const name of leftovers) print(`${verb} leftover ${join(dir, name)}\n`);
  for (const blobId of freed.blobIds) print(`${verb} blob ${blobId}\n`);
  print(`${verb} ${freed.blobIds.length} blobs and ${leftovers.length} leftovers, ${sizeText(freed.bytes)}; `);
  print(`${sizeText(freed.usedBytes)} ${isDry ? 'would be' : 'are'} left\n`);
}

function remove({ dir, blobIds, isAll, print }: CacheRequest, { blobs }: CacheContents): void {
  if (isAll === blobIds.length > 0) throw misuse('cache rm takes the ids of blobs, or --all');
  const known = new Set(blobs.map(({ blobId }) => blobId));
  for (const blobId of blobIds) if (!known.has(blobId)) throw cacheError('NO_BLOB', { dir, blobId });
  const inUse: string[] = [];
  for (const blobId of isAll ? known : blobIds) {
    if (evictBlob(dir, blobId)) print(`removed blob ${blobId}\n`);
    else inUse.push(blobId);
  }
  if (inUse.length > 0) throw cacheError('IN_USE', { blobIds: inUse.join(', ') });
}

const UNITS = ['', 'K', 'M', 'G', 'T'];

/** `500M` → bytes; null when it is no size. */
export function parseSize(text: string): number | null {
  const match = /^(\d{1,12})([KMGT]?)$/.exec(text);
  return match === null ? null : Number(match[1]) * 1024 ** UNITS.indexOf(match[2]!);
}

function sizeText(bytes: number): string {
  const power = bytes < 1024 ? 0 : Math.min(UNITS.length - 1, Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 1024 ** power).toFixed(power === 0 ? 0 : 1)} ${UNITS[power]}B`;
}

function tableText(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, i) => cell.padEnd(widths[i]!))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}
