/**
 * Everything that can go wrong with blobs, as codes. `retryable` is what `retry.ts` and the fetch path go by: true
 * when the same request may succeed later without anybody changing anything.
 *
 * Facts never hold credentials: URLs are named by their host and path, query strings are left out.
 */
import { codeOf, defineErrors } from '../common/app-error.ts';
import { errno } from '../sys/errno.ts';

interface Facts {
  CONFIG: { path: string; value: unknown; reason: string };
  UNSUPPORTED: { what: string; instead: string };
  DECODE: { compressor: string; compressedBytes: number; uncompressedBytes: number; why: string };
  UNIT: { blobId: string; chunk: number; offset: number; why: string };
  DIGEST: { blobId: string; chunk: number; offset: number; kind: string };
  BLOB_META: { blobId: string; rule: string };
  TOC: { rule: string };
  CHUNK: { blobId: string; chunk: number; rule: string };
  HTTP_CONNECT: { target: string; why: string };
  HTTP_TIMEOUT: { target: string; phase: 'connect' | 'headers' | 'body'; timeoutMs: number };
  HTTP_STATUS: { target: string; status: number };
  HTTP_BUSY: { target: string; status: number; retryAfterMs: number };
  HTTP_AUTH: { target: string; status: number; why: string };
  HTTP_BODY: { target: string; rule: string };
  BLOB_NOT_FOUND: { blobId: string; where: string };
  HTTP_NOT_FOUND: { blobId: string; where: string };
  BLOB_SHORT: { blobId: string; where: string; offset: number; wantedBytes: number; gotBytes: number };
  DISK: { path: string; rule: string };
  BLOB_READ: { blobId: string; where: string; errno: string };
  DEADLINE: { what: string; deadlineMs: number; attempts: number };
  NO_SPACE: { path: string };
  READ_ONLY: { path: string };
  CACHE_IO: { path: string; call: string; errno: string };
  CACHE_FILE: { path: string; rule: string };
  LOCK_BUSY: { path: string; timeoutMs: number };
  CLOSED: { blobId: string };
  GIVEN_UP: { blobId: string };
  UNCACHED: { path: string };
}

/** Constructor of this room's errors: `throw storageError('NO_SPACE', { path })`. */
export const storageError = defineErrors<Facts>({
  CONFIG: { retryable: false, say: (f) => `configuration member ${f.path}: ${f.reason} (value ${show(f.value)})` },
  UNSUPPORTED: { retryable: false, say: (f) => `${f.what} is not supported; ${f.instead}` },
  DECODE: {
    retryable: true,
    say: (f) =>
      `${f.compressor} data of ${f.compressedBytes} bytes does not decode to exactly ${f.uncompressedBytes} bytes: ${f.why}`,
  },
  UNIT: { retryable: true, say: (f) => `chunk ${f.chunk} of blob ${f.blobId}, byte ${f.offset}: ${f.why}` },
  DIGEST: {
    retryable: true,
    say: (f) => `chunk ${f.chunk} of blob ${f.blobId}, byte ${f.offset}: has a wrong ${f.kind}; not cached`,
  },
  BLOB_META: { retryable: false, say: (f) => `chunk table of blob ${f.blobId} is invalid: ${f.rule}` },
  TOC: { retryable: false, say: (f) => `table of contents is invalid: ${f.rule}` },
  CHUNK: { retryable: false, say: (f) => `chunk ${f.chunk} of blob ${f.blobId}: ${f.rule}` },
  HTTP_CONNECT: { retryable: true, say: (f) => `no connection to ${f.target}: ${f.why}` },
  HTTP_TIMEOUT: { retryable: true, say: (f) => `${f.target} did not deliver (${f.phase}) within ${f.timeoutMs} ms` },
  HTTP_STATUS: { retryable: false, say: (f) => `${f.target} answered status ${f.status}` },
  HTTP_BUSY: {
    retryable: true,
    say: (f) =>
      `${f.target} answered status ${f.status}${f.retryAfterMs > 0 ? `, retry after ${f.retryAfterMs} ms` : ''}`,
  },
  HTTP_AUTH: { retryable: false, say: (f) => `${f.target} refused access with status ${f.status}: ${f.why}` },
  HTTP_BODY: { retryable: true, say: (f) => `${f.target} answered a wrong body: ${f.rule}` },
  BLOB_NOT_FOUND: { retryable: false, say: (f) => `blob ${f.blobId} does not exist at ${f.where}` },
  // Registries behind a balancer lag behind each other: one says 404, the next one has it.
  HTTP_NOT_FOUND: { retryable: true, say: (f) => `blob ${f.blobId} does not exist at ${f.where}` },
  BLOB_SHORT: {
    retryable: true,
    say: (f) =>
      `blob ${f.blobId} at ${f.where} ends early: ${f.gotBytes} of ${f.wantedBytes} bytes at offset ${f.offset}`,
  },
  DISK: { retryable: false, say: (f) => `disk ${f.path} holds no blobs that can be found: ${f.rule}` },
  BLOB_READ: { retryable: true, say: (f) => `blob ${f.blobId} at ${f.where} cannot be read: ${f.errno}` },
  DEADLINE: {
    retryable: true,
    say: (f) => `${f.what}: given up after ${f.attempts} attempts within ${f.deadlineMs} ms; the next read tries again`,
  },
  NO_SPACE: { retryable: true, say: (f) => `no space left for ${f.path}; free space in the cache directory` },
  READ_ONLY: { retryable: true, say: (f) => `${f.path} is on a read-only file system; remount it writable` },
  CACHE_IO: { retryable: true, say: (f) => `${f.call} of cache file ${f.path} failed: ${f.errno}` },
  CACHE_FILE: { retryable: true, say: (f) => `cache file ${f.path} is unusable: ${f.rule}` },
  LOCK_BUSY: {
    retryable: true,
    say: (f) => `another process has held the lock on ${f.path} for ${f.timeoutMs} ms`,
  },
  GIVEN_UP: { retryable: true, say: (f) => `what was on its way of blob ${f.blobId} was given up` },
  UNCACHED: { retryable: true, say: (f) => `cache file ${f.path} takes nothing at present` },
  CLOSED: { retryable: false, say: (f) => `blob ${f.blobId} was closed while a fetch was under way` },
});

/** Values in messages are cut: a configuration of a megabyte does not belong in a log line. */
const SHOWN_CHARS_MAX = 120;

function show(value: unknown): string {
  const text = value === undefined ? 'missing' : (JSON.stringify(value) ?? String(value));
  return text.length > SHOWN_CHARS_MAX ? `${text.slice(0, SHOWN_CHARS_MAX)}…` : text;
}

/**
 * What a guest's read gets for a failed fetch: ESTALE when its image was unmounted meanwhile, EIO for everything else.
 * A full or read-only cache is our trouble: ENOSPC or EROFS from a read would only mislead.
 */
export function errnoOf(error: unknown): number {
  return codeOf(error) === 'CLOSED' ? errno.ESTALE : errno.EIO;
}
