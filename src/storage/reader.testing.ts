/**
 * A process of its own that reads every chunk of a blob through a store, for the tests of several processes:
 * `node --import tsx reader.testing.ts '<JSON>'`. Prints one line of JSON: its counters.
 */
import assert from 'node:assert/strict';
import { readSync } from 'node:fs';
import { SILENT } from '../common/log.ts';
import { parseConfig } from './config/config.ts';
import { blobTable, chunkDigests, expectedChunks, wantAll } from './fixtures.testing.ts';
import { BlobStore } from './store.ts';

export interface ReaderTask {
  image: string;
  config: string;
  /** Readers at once, each over all chunks from another start. */
  readers: number;
  /** Chunks per read. */
  chunksPerRead: number;
}

async function run(task: ReaderTask): Promise<void> {
  const [info] = blobTable(task.image);
  const chunks = expectedChunks(info);
  const store = new BlobStore(SILENT);
  const handle = store.openBlob(info, chunkDigests(task.image, 0), parseConfig(task.config));
  const reader = async (number: number) => {
    const start = Math.floor((number * chunks.length) / task.readers);
    for (let i = 0; i < chunks.length; i += task.chunksPerRead) {
      const part = Array.from({ length: task.chunksPerRead }, (_, j) => chunks[(start + i + j) % chunks.length]);
      await store.fetch(handle.handle, wantAll([...new Set(part)]));
      for (const chunk of part) {
        const bytes = Buffer.alloc(chunk.bytes.length);
        readSync(handle.dataFd, bytes, 0, bytes.length, chunk.uncompressedOffset);
        assert.ok(bytes.equals(chunk.bytes), `chunk ${chunk.index}`);
      }
    }
  };
  await Promise.all(Array.from({ length: task.readers }, (_, number) => reader(number)));
  console.log(JSON.stringify(store.stats));
  await store.close();
}

await run(JSON.parse(process.argv[2] ?? '{}') as ReaderTask);
