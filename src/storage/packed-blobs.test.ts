/** Batch, zran and encrypted blobs whose bytes or tables are wrong: the fixtures, damaged in every field. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { SILENT } from '../common/log.ts';
import { freshDir, isReady, localConfig } from './cache/cache.testing.ts';
import { cipherOf } from './codecs/cipher.ts';
import { CODECS, compressorOf } from './codecs/codecs.ts';
import { DIGESTS } from './codecs/digests.ts';
import { BLOBS_DIR, blobBytes, blobTable, chunkDigests } from './fixtures.testing.ts';
import { BlobStore } from './store.ts';
import { CONTEXT_BYTES } from './tables/blob-contexts.ts';
import { CCT_HEADER_BYTES, CHUNK_FLAG, type ChunkInfo, decodeChunkInfo } from './tables/blob-layout.ts';
import { BlobMeta } from './tables/blob-meta.ts';
import type { BlobInfo, WantedChunk } from './types.ts';

const stores: BlobStore[] = [];
after(() => Promise.all(stores.map((store) => store.close())));

function newStore(): BlobStore {
  const store = new BlobStore(SILENT);
  stores.push(store);
  return store;
}

/** A fixture's blob entry, the object that holds its chunk table, and that table, decoded. */
function fixture(name: string) {
  const [info] = blobTable(name);
  const metaId = name.startsWith('zran') ? Buffer.from(info.extra.subarray(0, 32)).toString('hex') : info.id;
  const stored = blobBytes(metaId).subarray(info.ciOffset);
  const cipher = cipherOf(info);
  const plain = (bytes: Buffer) => (cipher === null ? bytes : cipher.decrypt(bytes));
  const packed = plain(stored.subarray(0, info.ciCompressedSize));
  const table = CODECS[compressorOf(info.ciCompressor) ?? 'none'].decompress(packed, info.ciUncompressedSize);
  const header = plain(stored.subarray(info.ciCompressedSize, info.ciCompressedSize + CCT_HEADER_BYTES));
  const wanted: WantedChunk[] = Array.from({ length: info.chunkCount }, (_, chunkIndex) => {
    const { uncompressedOffset, uncompressedSize } = decodeChunkInfo(table, chunkIndex * 24, info.features);
    return { chunkIndex, uncompressedOffset, bytes: uncompressedSize };
  });
  const infos = wanted.map(({ chunkIndex }) => decodeChunkInfo(table, chunkIndex * 24, info.features));
  const isPacked = ({ flags }: ChunkInfo) => (flags & (CHUNK_FLAG.BATCH | CHUNK_FLAG.ZRAN)) !== 0;
  /** A chunk whose neighbour is stored with it, if the blob has one. */
  const isWith = (a: ChunkInfo, b: ChunkInfo) => isPacked(a) && isPacked(b) && a.high === b.high;
  const together = infos.findIndex((chunk, i) => i > 0 && isWith(chunk, infos[i - 1]));
  return { info, metaId, table, header, wanted, member: together, digests: chunkDigests(name, 0) };
}

const NAMES = ['v6-batch', 'v6-encrypt', 'zran-v6'];

for (const name of NAMES) {
  const { info, metaId, wanted, member, digests } = fixture(name);
  test(`${name}: flipped data is never served with validation on, and heals without a new mount`, async () => {
    const dir = freshDir();
    if (metaId !== info.id) writeFileSync(join(dir, metaId), blobBytes(metaId));
    const good = blobBytes(info.id);
    const end = metaId === info.id ? info.ciOffset : good.length;
    const bad = Buffer.from(good);
    for (let at = 1000; at < end; at += 9973) bad[at] ^= 0x20;
    writeFileSync(join(dir, info.id), bad);
    const store = newStore();
    const handle = store.openBlob(info, digests, localConfig(freshDir(), dir, { digest_validate: true }));
    const results = await Promise.allSettled(wanted.map((chunk) => store.fetch(handle.handle, [chunk])));
    const failed = results.filter(({ status }) => status === 'rejected').length;
    assert.ok(failed > 0, 'nothing was damaged');
    const data = () => readFileSync(`/proc/self/fd/${handle.dataFd}`);
    const isRight = ({ chunkIndex, uncompressedOffset, bytes }: WantedChunk, cache: Buffer) =>
      DIGESTS[info.digester]
        .digest(cache.subarray(uncompressedOffset, uncompressedOffset + bytes))
        .equals(digests(chunkIndex) ?? Buffer.alloc(0));
    const before = data();
    for (const chunk of wanted.filter(({ chunkIndex }) => isReady(handle, chunkIndex))) {
      assert.ok(isRight(chunk, before), `chunk ${chunk.chunkIndex}`);
    }
    writeFileSync(join(dir, info.id), good);
    await store.fetch(handle.handle, wanted);
    const after = data();
    for (const chunk of wanted) assert.ok(isRight(chunk, after), `chunk ${chunk.chunkIndex}`);
  });
  test(`${name}: one cold chunk brings its whole unit, and nobody fetches it again`, async () => {
    const store = newStore();
    const handle = store.openBlob(info, digests, localConfig(freshDir(), BLOBS_DIR, { amplify_io: 0 }));
    await store.fetch(handle.handle, [wanted[Math.max(0, member)]]);
    const { requests } = store.stats;
    assert.equal(requests, 2, 'table and unit');
    const came = wanted.filter(({ chunkIndex }) => isReady(handle, chunkIndex));
    assert.ok(member < 0 ? came.length === 1 : came.length > 1, `${came.length} chunks`);
    await store.fetch(handle.handle, came);
    assert.equal(store.stats.requests, requests);
  });
}

/** Opens the chunk table of `info` out of raw bytes; the error's message, or null. */
async function refusal(info: BlobInfo, table: Buffer, header: Buffer): Promise<string | null> {
  const raw = Buffer.from(header);
  raw.writeUInt32LE(0, 8);
  raw.writeBigUInt64LE(BigInt(table.length), 24);
  const plainInfo = { ...info, ciCompressor: 0, ciCompressedSize: table.length };
  const cipher = cipherOf(info);
  const sealed = (bytes: Buffer) => (cipher === null ? bytes : cipher.encrypt(bytes));
  const file = Buffer.concat([Buffer.alloc(info.ciOffset), sealed(table), sealed(raw)]);
  // The meta blob's digest is another test's.
  const extra = cipher === null ? Buffer.alloc(48) : info.extra;
  try {
    const read = async (offset: number, bytes: number) => file.subarray(offset, offset + bytes);
    (await BlobMeta.open({ ...plainInfo, extra }, join(freshDir(), 'meta'), read)).close();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

describe('tables of packed blobs that cannot be (rafs-format 9, items 28 to 32)', () => {
  const contexts = (info: BlobInfo) => info.chunkCount * 24;
  type Patch = (table: Buffer, header: Buffer, info: BlobInfo) => void;
  const cases: [string, string, Patch, RegExp][] = [
    ['28 more contexts than chunks', 'v6-batch', (_, h) => h.writeUInt32LE(137, 56), /137 contexts/],
    ['28 contexts elsewhere', 'v6-batch', (_, h) => h.writeBigUInt64LE(24n, 40), /contexts at 24/],
    ['28 contexts behind the table', 'v6-batch', (_, h) => h.writeUInt32LE(136, 56), /bytes for 136 contexts/],
    ['28 no room for the contexts', 'zran-v6', (_, h) => h.writeBigUInt64LE(1n, 48), /1 bytes for/],
    ['28 dictionaries behind the table', 'zran-v6', (_, h) => h.writeBigUInt64LE(66_000n, 48), /end behind the table/],
    ['28 contexts in a plain blob', 'v6-encrypt', (_, h) => h.writeUInt32LE(1, 56), /1 contexts in a blob without/],
    ['30 zran flag in a batch blob', 'v6-batch', (t) => t.writeUInt8(CHUNK_FLAG.ZRAN, 7), /flags its blob has not/],
    ['30 batch flag in a zran blob', 'zran-v6', (t) => t.writeUInt8(CHUNK_FLAG.BATCH, 7), /flags its blob has not/],
    ['30 both flags', 'zran-v6', (t) => t.writeUInt8(CHUNK_FLAG.BATCH | CHUNK_FLAG.ZRAN, 7), /flags its blob has not/],
    ['30 zran flag in an encrypted blob', 'v6-encrypt', (t) => t.writeUInt8(CHUNK_FLAG.ZRAN, 7), /flags its blob/],
    [
      '30 encrypted flag in a blob in clear',
      'v6-batch',
      (t) => t.writeUInt8(CHUNK_FLAG.ENCRYPTED, 7),
      /flags its blob/,
    ],
    ['30 no such context', 'zran-v6', (t) => t.writeUInt32LE(999, 20), /names context 999/],
    ['30 member behind its context', 'zran-v6', (t) => t.writeUInt32LE(0xffff_ffff, 16), /behind its context/],
    ['30 member longer than a chunk', 'zran-v6', (t) => t.writeUIntLE(0xff_ffff, 4, 3), /bytes long/],
    [
      '31 input behind the file',
      'zran-v6',
      (t, _, i) => t.writeBigUInt64LE(1n << 33n, contexts(i)),
      /behind the chunk/,
    ],
    ['31 senseless offset', 'zran-v6', (t, _, i) => t.writeBigUInt64LE(1n << 60n, contexts(i)), /behind the chunk/],
    ['31 input above the cap', 'zran-v6', (t, _, i) => t.writeUInt32LE(1 << 30, contexts(i) + 24), /takes 1073741824/],
    ['31 output above the cap', 'zran-v6', (t, _, i) => t.writeUInt32LE(1 << 30, contexts(i) + 28), /gives 1073741824/],
    ['31 eight bits', 'zran-v6', (t, _, i) => t.writeUInt8(8, contexts(i) + 37), /8 bits/],
    ['31 empty', 'zran-v6', (t, _, i) => t.writeUInt32LE(0, contexts(i) + 24), /is empty/],
    ['28 long dictionary', 'zran-v6', (t, _, i) => t.writeUInt32LE(32_769, contexts(i) + 32), /dictionary of 32769/],
    [
      '28 dictionary outside',
      'zran-v6',
      (t, _, i) => {
        t.writeBigUInt64LE(1n << 40n, contexts(i) + 16);
        t.writeUInt32LE(1, contexts(i) + 32);
      },
      /dictionary outside/,
    ],
    [
      '32 batch behind the data',
      'v6-batch',
      (t, _, i) => t.writeUInt32LE(1 << 30, contexts(i)),
      /behind the chunk data/,
    ],
    ['32 batch above the limit', 'v6-batch', (t, _, i) => t.writeUInt32LE(1 << 25, contexts(i) + 4), /bytes long/],
    [
      '32 member behind its batch',
      'v6-batch',
      (t, _, i) => t.writeUInt32LE(1, contexts(i) + 4),
      /behind its context 0/,
    ],
  ];
  for (const [id, name, patch, message] of cases) {
    test(id, async () => {
      const { info, table, header } = fixture(name);
      assert.equal(await refusal(info, table, header), null, 'the table itself is good');
      patch(table, header, info);
      assert.match((await refusal(info, table, header)) ?? 'accepted', message);
    });
  }
  for (const name of NAMES) {
    test(`${name}: random damage to the table is an error or a valid table, never a crash`, async () => {
      const { info, table, header } = fixture(name);
      const contextsEnd = contexts(info) + 10 * CONTEXT_BYTES;
      for (let round = 0; round < 300; round++) {
        const damaged = Buffer.from(table);
        damaged[(round * 7919) % Math.min(contextsEnd, table.length)] ^= 1 << (round % 8);
        const said = await refusal(info, damaged, header);
        if (said !== null) assert.match(said, /^BLOB_META/);
      }
    });
  }
  test('a meta blob with another digest is refused, and fetched again first', async () => {
    const { info, metaId } = fixture('zran-v6');
    const file = blobBytes(metaId);
    file[20] ^= 1;
    let calls = 0;
    const read = async (offset: number, bytes: number) => {
      calls++;
      return file.subarray(offset, offset + bytes);
    };
    await assert.rejects(BlobMeta.open(info, join(freshDir(), 'meta'), read), /another digest/);
    assert.equal(calls, 2);
  });
});
