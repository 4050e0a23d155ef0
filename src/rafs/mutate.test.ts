import { readFileSync } from 'node:fs';
import { bootPath } from './fixture-blobs.testing.ts';
import { mutateSuite } from './mutate.suite.ts';
import { EXTENDED_ENTRY_BYTES, SB, SUPERBLOCK_BYTES } from './v5/layout.ts';

const SEEDS = 60;

for (const name of ['v6-zstd-blake3-4k', 'v6-dict', 'v6-2.2', 'tarfs-v6']) {
  const bytes = readFileSync(bootPath(name));
  const meta = bytes.readUInt32LE(1024 + 40) * 2 ** bytes.readUInt8(1024 + 12);
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

for (const name of ['v5-zstd-blake3-4k', 'v5-parent']) {
  const bytes = readFileSync(bootPath(name));
  const extended = bytes.readUInt32LE(SB.EXTENDED_TABLE);
  const records = extended + bytes.readUInt32LE(SB.EXTENDED_ENTRIES) * EXTENDED_ENTRY_BYTES;
  mutateSuite(
    name,
    bytes,
    [
      { what: 'superblock', from: 0, to: 80, flips: 1 },
      { what: 'inode table', from: SUPERBLOCK_BYTES, to: bytes.readUInt32LE(SB.BLOB_TABLE), flips: 10 },
      { what: 'blob tables', from: bytes.readUInt32LE(SB.BLOB_TABLE), to: records, flips: 1 },
      { what: 'a few bytes of records', from: records, to: bytes.length, flips: 30 },
      { what: 'many bytes of records', from: records, to: bytes.length, flips: 1500 },
      { what: 'the root and what follows it', from: records, to: records + 1024, flips: 4 },
    ],
    SEEDS,
  );
}

for (const name of ['inline-v5', 'inline-v6']) {
  const bytes = readFileSync(bootPath(name));
  const tail = [{ what: 'end of the blob', from: bytes.length - 2048, to: bytes.length, flips: 2 }];
  mutateSuite(name, bytes, tail, SEEDS);
}
