/**
 * Which chunks of a blob are in its cache file: the bitmap `<id>.blob.data.chunk_map` of rafs-format 6.2, shared with
 * other processes of ours and with nydusd.
 *
 * The file is never mapped: another process may truncate it, and a SIGBUS ends Node. A private copy answers the device
 * thread; a bit missing there is looked up in the file again, since another daemon may have set it. A bit is written
 * only after the chunk's data, under a lock against other processes of ours; nydusd sets bits by compare-and-swap in
 * its mapping without a lock, so that one of its bits may get lost: the chunk is fetched again then.
 */
import { closeSync, fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { tryLock, unlock } from '../sys/lock.ts';

const MAGIC = 0x424d_4150;
const VERSION = 1;
const MAGIC_2 = 0x434d_4150;
const ALL_READY = 0x4d4d_4150;
const HEADER_BYTES = 4096;
/** Bytes of the header that are used: magic, version, second magic, all-ready word. */
const HEADER_FIELDS_BYTES = 16;
const ALL_READY_AT = 12;

/** The lock on a map byte is held for one pread and one pwrite: a holder that takes longer is stopped or dying. */
const BYTE_LOCK_TRIES = 200;
const BYTE_LOCK_PAUSE_MS = 1;

/** Length of the map file of a blob with this many chunks. */
export function chunkMapBytes(chunkCount: number): number {
  return HEADER_BYTES + Math.ceil(chunkCount / 8);
}

/** Private copy without a bit set. */
export function newReadyBits(chunkCount: number): SharedArrayBuffer {
  return new SharedArrayBuffer(Math.max(1, Math.ceil(chunkCount / 8)));
}

/** What is wrong with an existing map file; null when it can be used. An empty file is one that is being created. */
export function checkChunkMap(fd: number, chunkCount: number): string | null {
  const bytes = fstatSync(fd).size;
  if (bytes === 0) return null;
  if (bytes !== chunkMapBytes(chunkCount)) return `${bytes} bytes instead of ${chunkMapBytes(chunkCount)}`;
  const header = Buffer.alloc(HEADER_FIELDS_BYTES);
  readSync(fd, header, 0, HEADER_FIELDS_BYTES, 0);
  if (header.every((byte) => byte === 0)) return null;
  if (header.readUInt32LE(0) !== MAGIC || header.readUInt32LE(8) !== MAGIC_2) return 'wrong magic';
  return header.readUInt32LE(4) === VERSION ? null : `version ${header.readUInt32LE(4)}`;
}

/** Gives an empty or all-zero file its length and header; leaves others alone. */
export function initChunkMap(fd: number, chunkCount: number): void {
  if (fstatSync(fd).size === 0) ftruncateSync(fd, chunkMapBytes(chunkCount));
  const header = Buffer.alloc(HEADER_FIELDS_BYTES);
  readSync(fd, header, 0, HEADER_FIELDS_BYTES, 0);
  if (!header.every((byte) => byte === 0)) return;
  header.writeUInt32LE(MAGIC, 0);
  header.writeUInt32LE(VERSION, 4);
  header.writeUInt32LE(MAGIC_2, 8);
  writeSync(fd, header, 0, HEADER_FIELDS_BYTES, 0);
}

export class ChunkMap {
  private readonly bits: Uint8Array;

  /**
   * @param fd the map file, checked; owned by this object. Writable only if `isWritable`
   * @param ready private copy shared with the device thread, `newReadyBits(chunkCount)`
   */
  constructor(
    private fd: number,
    private readonly isWritable: boolean,
    readonly ready: SharedArrayBuffer,
    readonly chunkCount: number,
  ) {
    this.bits = new Uint8Array(ready);
    this.loadAll();
  }

  isReady(chunk: number): boolean {
    return (Atomics.load(this.bits, chunk >> 3) & maskOf(chunk)) !== 0;
  }

  /** Reads the file's bytes for chunks first..last again: other processes may have set bits. */
  refresh(first: number, last: number): void {
    if (this.fd >= 0) this.load(first >> 3, (last >> 3) + 1);
  }

  /**
   * Marks a chunk ready, in the file and then in the private copy. Its data must be written before.
   * @throws the system error of a write that failed; the bit is not set then
   */
  async markReady(chunk: number): Promise<void> {
    if (this.fd >= 0) await this.markInFile(chunk);
    Atomics.or(this.bits, chunk >> 3, maskOf(chunk));
  }

  private async markInFile(chunk: number): Promise<void> {
    const at = HEADER_BYTES + (chunk >> 3);
    const isLocked = await this.lockByte(at);
    try {
      const byte = Buffer.alloc(1);
      readSync(this.fd, byte, 0, 1, at);
      byte[0] = byte[0] | maskOf(chunk);
      writeSync(this.fd, byte, 0, 1, at);
    } finally {
      if (isLocked) unlock(this.fd, at, 1);
    }
  }

  /** Chunks ready in the private copy. */
  countReady(): number {
    let count = 0;
    for (const byte of this.bits) count += BITS_IN[byte] ?? 0;
    return count;
  }

  close(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
  }

  /** Without the lock after all tries: at worst a bit of another process is lost, and its chunk fetched again. */
  private async lockByte(at: number): Promise<boolean> {
    for (let tries = 0; tries < BYTE_LOCK_TRIES; tries++) {
      if (tryLock(this.fd, at, 1) === 0) return true;
      await sleep(BYTE_LOCK_PAUSE_MS);
    }
    return false;
  }

  private loadAll(): void {
    if (this.fd < 0) return;
    const word = Buffer.alloc(4);
    readSync(this.fd, word, 0, 4, ALL_READY_AT);
    if (word.readUInt32LE(0) === ALL_READY) {
      for (let byte = 0; byte < this.bits.length; byte++) Atomics.store(this.bits, byte, this.usedBits(byte));
      return;
    }
    this.load(0, Math.ceil(this.chunkCount / 8));
    // Spares the next opener the count, as nydusd does it.
    if (this.isWritable && this.chunkCount > 0 && this.countReady() === this.chunkCount) {
      word.writeUInt32LE(ALL_READY, 0);
      writeSync(this.fd, word, 0, 4, ALL_READY_AT);
    }
  }

  private load(from: number, to: number): void {
    const bytes = Buffer.alloc(to - from);
    const got = readSync(this.fd, bytes, 0, bytes.length, HEADER_BYTES + from);
    for (let i = 0; i < got; i++) {
      const set = (bytes[i] ?? 0) & this.usedBits(from + i);
      if (set !== 0) Atomics.or(this.bits, from + i, set);
    }
  }

  /** Mask of the bits of a byte that belong to chunks; the file's spare bits mean nothing. */
  private usedBits(byte: number): number {
    const chunks = Math.min(8, this.chunkCount - byte * 8);
    return chunks <= 0 ? 0 : (0xff << (8 - chunks)) & 0xff;
  }
}

/** Most significant bit first. */
function maskOf(chunk: number): number {
  return 0x80 >> (chunk & 7);
}

const BITS_IN = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll('0', '').length);
