/** Blobs as plain files: `dir/<blob id>`, then the alternative directories; or one named file for every id. */
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Backend } from '../backend.ts';
import type { LocalfsConfig } from '../config/config.ts';
import { storageError } from '../errors.ts';
import { newFileGate, readFileRange, unlessAborted } from './file-range.ts';

/** Files kept open; images have few blobs, and one open is 40 µs. */
const OPEN_FILES_MAX = 32;

export function openLocalfs(config: LocalfsConfig): Backend {
  const where = config.blobFile !== '' ? config.blobFile : config.dir;
  const files = new Map<string, Promise<FileHandle>>();
  const gate = newFileGate();
  /** Whoever waits may go; an opening, which others may wait for, goes on. */
  const lasting = new AbortController().signal;

  function fileOf(blobId: string): Promise<FileHandle> {
    const known = files.get(blobId);
    if (known !== undefined) return known;
    const opening = gate.run(lasting, () => openFirst(blobId, pathsOf(config, blobId), where));
    files.set(blobId, opening);
    // A failure is not remembered: the file may be put there any time.
    opening.catch(() => files.delete(blobId));
    if (files.size > OPEN_FILES_MAX) closeOldest();
    return opening;
  }

  function closeOldest(): void {
    for (const id of files.keys()) {
      forget(id);
      return;
    }
  }

  /** The next read opens what is there by then: a file that was mended may be another one of the same name. */
  function forget(blobId: string): void {
    const file = files.get(blobId);
    files.delete(blobId);
    if (file !== undefined) closeQuietly(file);
  }

  function forgetAll(): void {
    for (const id of files.keys()) forget(id);
  }

  return {
    kind: 'localfs',
    where,
    async read(blobId, offset, bytes, signal, sink) {
      const { buffer, gotBytes } = await unlessAborted(signal, fileOf(blobId))
        .then((file) => readFileRange(gate, file, offset, bytes, sink, signal))
        .catch((error: unknown) => {
          signal.throwIfAborted();
          forget(blobId);
          throw readError(blobId, where, error);
        });
      signal.throwIfAborted();
      if (gotBytes === bytes) return buffer;
      forget(blobId);
      throw storageError('BLOB_SHORT', { blobId, where, offset, wantedBytes: bytes, gotBytes });
    },
    async size(blobId) {
      try {
        return (await (await fileOf(blobId)).stat()).size;
      } catch (error) {
        throw readError(blobId, where, error);
      }
    },
    doubt: forgetAll,
    close: forgetAll,
  };
}

function pathsOf(config: LocalfsConfig, blobId: string): string[] {
  if (config.blobFile !== '') return [config.blobFile];
  return [config.dir, ...config.altDirs].map((dir) => join(dir, blobId));
}

/** A directory that cannot be looked into is passed over as one that has not got the blob. @throws why it was, if none has */
async function openFirst(blobId: string, paths: string[], where: string): Promise<FileHandle> {
  let fault: unknown = null;
  for (const path of paths) {
    try {
      return await open(path, 'r');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') fault ??= error;
    }
  }
  throw fault ?? storageError('BLOB_NOT_FOUND', { blobId, where });
}

function readError(blobId: string, where: string, error: unknown): unknown {
  if (error instanceof Error && 'facts' in error) return error;
  return storageError('BLOB_READ', { blobId, where, errno: (error as NodeJS.ErrnoException).code ?? 'unknown' }, error);
}

function closeQuietly(file: Promise<FileHandle>): void {
  file.then((handle) => handle.close()).catch(() => {});
}
