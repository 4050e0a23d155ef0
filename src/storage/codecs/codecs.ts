/**
 * Compressors of chunks and chunk tables (rafs-format 0.4, 3.2), one entry per algorithm.
 *
 * All are native code. The libraries cost 3 to 6 MB of RSS and 3 to 10 ms each, so they are loaded by the first
 * chunk that needs them, never on import.
 */
import { createRequire } from 'node:module';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { storageError } from '../errors.ts';
import type { Compressor } from '../types.ts';
import { gunzipUpTo } from './inflate.ts';

export interface Codec {
  /** Number in blob entries and chunk tables (rafs-format 0.4). */
  readonly id: number;
  /** Loads its library, as the first chunk would. */
  load(): void;
  /** Compresses `bytes` as the builder stores a chunk. The result may be longer than the input. */
  compress(bytes: Uint8Array): Buffer;
  /** As `compress`, into `output`, which has room for `compressedBytesMax(bytes.length)`. @returns bytes written */
  compressInto(output: Uint8Array, bytes: Uint8Array): number;
  /**
   * Decodes `bytes`, which must give exactly `uncompressedBytes`; never allocates or writes more than that. `none`
   * gives the same memory back.
   * @throws DECODE when it gives less, more, or is not valid at all.
   */
  decompress(bytes: Uint8Array, uncompressedBytes: number): Buffer;
  /** As `decompress`, but holds the event loop for at most one slice (TURN_BYTES_MAX) at a time. */
  decompressAsync(bytes: Uint8Array, uncompressedBytes: number): Promise<Buffer>;
}

/**
 * Output bytes decoded in one turn of the event loop: zstd gives 1 MiB in 0.9 to 1.4 ms, so 4 MiB stay below the
 * 10 ms a turn of the main thread may last.
 */
const TURN_BYTES_MAX = 4 << 20;

/** Output of one step of a stream. */
const PIECE_BYTES = 1 << 20;

/** Levels the reference builder uses. */
const ZSTD_LEVEL = 3;
const GZIP_LEVEL = 6;

/** Largest decoded size anything in an image may claim: 16 MiB chunks, and a chunk table of 24 << 24 bytes. */
export const DECODED_BYTES_MAX = 24 * (1 << 24);

const require = createRequire(import.meta.url);

const zlib = once(() => require('node:zlib') as typeof import('node:zlib'));
const lz4 = once(() => require('lz4-napi') as typeof import('lz4-napi'));
const zstd = once(() => {
  const binding = require('zstd-napi/binding.js') as typeof import('zstd-napi/binding.js');
  return { binding, cctx: new binding.CCtx(), dctx: new binding.DCtx() };
});

export const CODECS: Record<Compressor, Codec> = {
  none: {
    id: 0,
    load: () => {},
    compress: (bytes) => Buffer.from(bytes),
    compressInto: (output, bytes) => put(output, bytes),
    decompress: (bytes, size) => exactly('none', bytes, asBuffer(bytes), size),
    decompressAsync: async (bytes, size) => exactly('none', bytes, asBuffer(bytes), size),
  },
  lz4_block: {
    id: 1,
    load: () => void lz4(),
    compress: compressLz4,
    compressInto: (output, bytes) => put(output, compressLz4(bytes)),
    decompress: (bytes, size) =>
      exactly(
        'lz4_block',
        bytes,
        attempt('lz4_block', bytes, size, () => lz4().uncompressSync(prefixed(bytes, size))),
        size,
      ),
    decompressAsync: decompressLz4Async,
  },
  gzip: {
    id: 2,
    load: () => void zlib(),
    compress: compressGzip,
    compressInto: (output, bytes) => put(output, compressGzip(bytes)),
    decompress: decompressGzip,
    decompressAsync: decompressGzipAsync,
  },
  zstd: {
    id: 3,
    load: () => void zstd(),
    compress: compressZstd,
    compressInto: (output, bytes) => zstd().cctx.compress(output, bytes, ZSTD_LEVEL),
    decompress: decompressZstd,
    decompressAsync: decompressZstdAsync,
  },
};

/**
 * Decoders into memory of the caller's, which takes exactly the decoded bytes; null for algorithms that are only fast
 * enough on other threads. In one turn: not for chunks of many MiB. They throw DECODE as `decompress` does.
 */
export const DECODERS_INTO: Record<Compressor, ((bytes: Buffer, output: Buffer) => void) | null> = {
  none: (bytes, output) => void exactly('none', bytes, bytes, output.length).copy(output),
  lz4_block: (bytes, output) => void CODECS.lz4_block.decompress(bytes, output.length).copy(output),
  gzip: null,
  zstd: (bytes, output) => {
    const written = attempt('zstd', bytes, output.length, () => zstd().dctx.decompress(output, bytes));
    exactly('zstd', bytes, output.subarray(0, written), output.length);
  },
};

/** The compressor with this number in a blob entry, or null. */
export function compressorOf(id: number): Compressor | null {
  for (const [name, codec] of Object.entries(CODECS)) {
    if (codec.id === id) return name as Compressor;
  }
  return null;
}

/** The package frames its blocks with the decoded length as u32; chunks are raw blocks (rafs-format 3.2). */
const LZ4_PREFIX_BYTES = 4;

function prefixed(block: Uint8Array, uncompressedBytes: number): Buffer {
  checkSize('lz4_block', block, uncompressedBytes);
  const framed = Buffer.allocUnsafe(LZ4_PREFIX_BYTES + block.length);
  framed.writeUInt32LE(uncompressedBytes, 0);
  framed.set(block, LZ4_PREFIX_BYTES);
  return framed;
}

async function decompressLz4Async(bytes: Uint8Array, size: number): Promise<Buffer> {
  if (size <= TURN_BYTES_MAX) return CODECS.lz4_block.decompress(bytes, size);
  let output: Buffer;
  try {
    output = await lz4().uncompress(prefixed(bytes, size)); // on libuv's threads
  } catch (error) {
    throw decodeError('lz4_block', bytes, size, error);
  }
  return exactly('lz4_block', bytes, output, size);
}

function compressZstd(bytes: Uint8Array): Buffer {
  const output = Buffer.allocUnsafe(compressedBytesMax(bytes.length));
  return output.subarray(0, CODECS.zstd.compressInto(output, bytes));
}

function compressLz4(bytes: Uint8Array): Buffer {
  return lz4().compressSync(asBuffer(bytes)).subarray(LZ4_PREFIX_BYTES);
}

function compressGzip(bytes: Uint8Array): Buffer {
  return zlib().gzipSync(bytes, { level: GZIP_LEVEL });
}

/**
 * Bytes that `bytes` bytes of data, alone or in `pieces` pieces, are compressed to at most, by any of the algorithms:
 * zstd adds 1/256 and up to 64 bytes a piece, lz4 1/255 and 16, gzip less.
 */
export function compressedBytesMax(bytes: number, pieces = 1): number {
  return bytes + Math.ceil(bytes / 255) + 64 * pieces;
}

function put(output: Uint8Array, bytes: Uint8Array): number {
  output.set(bytes);
  return bytes.length;
}

function decompressZstd(bytes: Uint8Array, size: number): Buffer {
  checkSize('zstd', bytes, size);
  const output = Buffer.allocUnsafeSlow(size);
  const written = attempt('zstd', bytes, size, () => zstd().dctx.decompress(output, bytes));
  return exactly('zstd', bytes, output.subarray(0, written), size);
}

/** A frame of several turns is decoded as a stream with a context of its own, since other chunks run in between. */
async function decompressZstdAsync(bytes: Uint8Array, size: number): Promise<Buffer> {
  if (size <= TURN_BYTES_MAX) return decompressZstd(bytes, size);
  checkSize('zstd', bytes, size);
  const dctx = new (zstd().binding.DCtx)();
  const output = Buffer.allocUnsafeSlow(size);
  let produced = 0;
  let consumed = 0;
  for (;;) {
    const room = output.subarray(produced, Math.min(size, produced + TURN_BYTES_MAX));
    const rest = bytes.subarray(consumed);
    const [hint, made, used] = attempt('zstd', bytes, size, () => dctx.decompressStream(room, rest));
    produced += made;
    consumed += used;
    if (hint === 0) break;
    if (made === 0 && used === 0) {
      throw decodeError('zstd', bytes, size, new Error(`frame incomplete after ${produced} bytes, or longer`));
    }
    await nextTurn();
  }
  if (consumed !== bytes.length) {
    throw decodeError('zstd', bytes, size, new Error(`${bytes.length - consumed} bytes after the frame`));
  }
  return exactly('zstd', bytes, output.subarray(0, produced), size);
}

/**
 * A zstd frame that comes in pieces, decoded in pieces: for tables too large to sit in memory. What is given is valid
 * until the next piece is asked for.
 * @throws DECODE unless it gives exactly `size` bytes, and ends with them
 */
export async function* decompressZstdPieces(stored: AsyncIterable<Buffer>, size: number): AsyncGenerator<Buffer> {
  const dctx = new (zstd().binding.DCtx)();
  const room = Buffer.allocUnsafeSlow(PIECE_BYTES);
  const refuse = (why: string) => decodeError('zstd', room.subarray(0, 0), size, new Error(why));
  let produced = 0;
  let isEnd = false;
  for await (const piece of stored) {
    let consumed = 0;
    for (let isFull = false; consumed < piece.length || isFull; ) {
      if (isEnd) throw refuse('bytes after the frame');
      const rest = piece.subarray(consumed);
      const [hint, made, used] = attempt('zstd', piece, size, () => dctx.decompressStream(room, rest));
      produced += made;
      consumed += used;
      isEnd = hint === 0;
      isFull = made === room.length && !isEnd;
      if (produced > size) throw refuse('longer than that');
      if (made > 0) yield room.subarray(0, made);
    }
  }
  if (!isEnd || produced !== size) throw refuse(`got ${produced} bytes`);
}

/** What follows the wanted bytes is ignored: sizes of stargz chunks are estimates (rafs-format 3.2). */
async function decompressGzipAsync(bytes: Uint8Array, size: number): Promise<Buffer> {
  checkSize('gzip', bytes, size);
  let output: Buffer;
  try {
    output = await gunzipUpTo(bytes, size); // on libuv's threads
  } catch (error) {
    throw decodeError('gzip', bytes, size, error);
  }
  return exactly('gzip', bytes, output, size);
}

function decompressGzip(bytes: Uint8Array, size: number): Buffer {
  checkSize('gzip', bytes, size);
  const output = attempt('gzip', bytes, size, () => zlib().gunzipSync(bytes, { maxOutputLength: size }));
  return exactly('gzip', bytes, output, size);
}

function checkSize(compressor: Compressor, bytes: Uint8Array, size: number): void {
  if (!Number.isSafeInteger(size) || size < 1 || size > DECODED_BYTES_MAX) {
    throw decodeError(compressor, bytes, size, new RangeError(`decoded size not in 1..${DECODED_BYTES_MAX}`));
  }
}

function exactly(compressor: Compressor, bytes: Uint8Array, output: Buffer, size: number): Buffer {
  if (output.length !== size) throw decodeError(compressor, bytes, size, new Error(`got ${output.length} bytes`));
  return output;
}

function attempt<T>(compressor: Compressor, bytes: Uint8Array, size: number, run: () => T): T {
  try {
    return run();
  } catch (error) {
    throw decodeError(compressor, bytes, size, error);
  }
}

function decodeError(compressor: Compressor, bytes: Uint8Array, uncompressedBytes: number, cause: unknown) {
  const why = cause instanceof Error ? cause.message : String(cause);
  return storageError('DECODE', { compressor, compressedBytes: bytes.length, uncompressedBytes, why });
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function once<T extends object>(load: () => T): () => T {
  let value: T | null = null;
  return () => (value ??= load());
}
