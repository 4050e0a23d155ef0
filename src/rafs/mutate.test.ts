import { readFileSync } from 'node:fs';
import { bootPath } from './fixture-blobs.testing.ts';
import { mutateSuite } from './mutate.suite.ts';

const SEEDS = 60;

for (const name of ['v6-zstd-blake3-4k', 'v6-dict', 'v6-2.2']) {
  const bytes = readFileSync(bootPath(name));
  const meta = bytes.readUInt32LE(1024 + 40) * 4096;
  const chunkTable = Number(bytes.readBigUInt64LE(1152 + 24));
  mutateSuite(
    name,
    bytes,
    [
      { what: 'superblocks and device slots', from: 1024, to: 1536, flips: 1 },
      { what: 'blob table', from: 4096, to: 4608, flips: 1 },
      { what: 'a few bytes of inodes and directories', from: meta + 4096, to: chunkTable, flips: 30 },
      { what: 'many bytes of inodes and directories', from: meta + 4096, to: chunkTable, flips: 1500 },
      { what: 'the root and what follows it', from: meta + 4096, to: meta + 4096 + 1024, flips: 4 },
      { what: 'chunk table', from: chunkTable, to: bytes.length, flips: 200 },
    ],
    SEEDS,
  );
}
