/** Blobs as plain files: `dir/<blob id>`, then the alternative directories; or one named file for every id. */
import { type FileHandle, open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Backend } from '../backend.ts';
import type { LocalfsConfig } from '../config/config.ts';
import { storageError } from '../errors.ts';
import { newFileGate, readFileRange, unlessAborted } from './file-range.ts';

/** Files kept open; images have few blobs, and one open is 40 µs. */
const OPEN_FILES_MAX = 32;

/** A file and who reads it: it stays open for them, whoever does not want it any more. */
interface OpenFile {
  opening: Promise<FileHandle>;
  users: number;
  isForgotten: boolean;
}

export function openLocalfs(config: LocalfsConfig): Backend {
  const where = config.blobFile !== '' ? config.blobFile : config.dir;
  /** The longest unused first. */
  const files = new Map<string, OpenFile>();
  const gate = newFileGate();
  /** Whoever waits may go; an opening, which others may wait for, goes on. */
  const lasting = new AbortController().signal;

  function fileOf(blobId: string): OpenFile {
    const file = files.get(blobId) ?? openNew(blobId);
    files.delete(blobId);
    files.set(blobId, file);
    if (files.size > OPEN_FILES_MAX) forgetOldest();
    return file;
  }

  function openNew(blobId: string): OpenFile {
    const opening = gate.run(lasting, () => openFirst(blobId, pathsOf(config, blobId), where));
    const file = { opening, users: 0, isForgotten: false };
    // A failure is not remembered: the file may be put there any time.
    opening.catch(() => forget(blobId, file));
    return file;
  }

  function forgetOldest(): void {
    for (const [id, file] of files) {
      forget(id, file);
      return;
    }
  }

  /** The next read opens what is there by then: a file that was mended may be another one of the same name. */
  function forget(blobId: string, file: OpenFile): void {
    if (files.get(blobId) === file) files.delete(blobId);
    file.isForgotten = true;
    closeIfUnused(file);
  }

  function forgetAll(): void {
    for (const [id, file] of files) forget(id, file);
  }

  /** Runs `use` with the open file of a blob. What it throws makes the next one open it anew. */
  async function withFile<T>(blobId: string, signal: AbortSignal, use: (file: FileHandle) => Promise<T>): Promise<T> {
    const file = fileOf(blobId);
    file.users++;
    try {
      return await use(await unlessAborted(signal, file.opening));
    } catch (error) {
      signal.throwIfAborted();
      forget(blobId, file);
      throw readError(blobId, where, error);
    } finally {
      file.users--;
      closeIfUnused(file);
    }
  }

  return {
    kind: 'localfs',
    where,
    read(blobId, offset, bytes, signal, sink) {
      return withFile(blobId, signal, async (file) => {
        const { buffer, gotBytes } = await readFileRange(gate, file, offset, bytes, sink, signal);
        signal.throwIfAborted();
        if (gotBytes === bytes) return buffer;
        throw storageError('BLOB_SHORT', { blobId, where, offset, wantedBytes: bytes, gotBytes });
      });
    },
    size: (blobId, signal) => withFile(blobId, signal, async (file) => (await file.stat()).size),
    doubt: forgetAll,
    close: forgetAll,
  };
}

function closeIfUnused({ opening, users, isForgotten }: OpenFile): void {
  if (users === 0 && isForgotten) opening.then((handle) => handle.close()).catch(() => {});
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
