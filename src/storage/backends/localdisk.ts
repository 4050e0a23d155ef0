/**
 * Blobs in the partitions of a disk, or of a file that holds one (kata-contract 3.6). GPT has 36 characters for a name,
 * a blob id has 64: a partition's id is its name with its GUID's 32 hex digits behind it; partitions of the type "basic
 * data" are of an older kind, whose name alone is the first 32 characters of the id.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { codeOf } from '../../common/app-error.ts';
import type { Backend } from '../backend.ts';
import type { LocaldiskConfig } from '../config/config.ts';
import { storageError } from '../errors.ts';
import { newFileGate, readFileRange, unlessAborted } from './file-range.ts';
import { BASIC_DATA, type Partition, readGpt } from './gpt.ts';

/** Characters of a blob id in the older kind. */
const SHORT_ID_CHARS = 32;

/** Read beyond the end of a partition: what lies there is another blob's. */
const NOTHING = { buffer: Buffer.alloc(0), gotBytes: 0 };

interface Disk {
  file: FileHandle;
  blobs: Map<string, Partition>;
}

export function openLocaldisk(config: LocaldiskConfig): Backend {
  const where = config.devicePath;
  let opening: Promise<Disk> | null = null;
  const gate = newFileGate();

  /** The table is read once; one that cannot be read is tried again by the next read. */
  function disk(): Promise<Disk> {
    opening ??= openDisk(where).catch((error: unknown) => {
      opening = null;
      throw error;
    });
    return opening;
  }

  async function find(blobId: string): Promise<{ file: FileHandle; partition: Partition }> {
    const { file, blobs } = await disk();
    const partition = blobs.get(blobId) ?? blobs.get(blobId.slice(0, SHORT_ID_CHARS));
    if (partition === undefined) throw storageError('BLOB_NOT_FOUND', { blobId, where });
    return { file, partition };
  }

  return {
    kind: 'localdisk',
    where,
    async read(blobId, offset, bytes, signal, sink) {
      const { file, partition } = await unlessAborted(signal, find(blobId));
      const isInside = offset + bytes <= partition.bytes;
      const { buffer, gotBytes } = isInside
        ? await readFileRange(gate, file, partition.offset + offset, bytes, sink, signal).catch((error: unknown) => {
            signal.throwIfAborted();
            throw storageError('BLOB_READ', { blobId, where, errno: codeOf(error) }, error);
          })
        : NOTHING;
      signal.throwIfAborted();
      if (gotBytes < bytes) throw storageError('BLOB_SHORT', { blobId, where, offset, wantedBytes: bytes, gotBytes });
      return buffer;
    },
    async size(blobId) {
      return (await find(blobId)).partition.bytes;
    },
    close() {
      opening?.then(({ file }) => file.close()).catch(() => {});
    },
  };
}

async function openDisk(path: string): Promise<Disk> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, 'r');
    const blobs = new Map<string, Partition>();
    for (const partition of await readGpt(file)) {
      const id = partition.type === BASIC_DATA ? partition.name : partition.name + partition.guid;
      if (blobs.has(id)) throw storageError('DISK', { path, rule: `two partitions hold blob ${id}` });
      blobs.set(id, partition);
    }
    return { file, blobs };
  } catch (error) {
    await file?.close();
    if (error instanceof Error && 'facts' in error) throw error;
    throw storageError('DISK', { path, rule: error instanceof Error ? error.message : String(error) }, error);
  }
}
