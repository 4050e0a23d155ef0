/**
 * Which chunks of a blob are in its cache file: the bitmap `<id>.blob.data.chunk_map` of rafs-format 6.2, shared with
 * other processes of ours and with nydusd.
 *
 * The file is never mapped: another process may truncate it, and a SIGBUS ends Node. A private copy answers the device
 * thread; a bit missing there is looked up in the file again, since another daemon may have set it. A bit is written
 * only after the chunk's data, under a lock against other processes of ours; nydusd sets bits by compare-and-swap in
 * its mapping without a lock, so that one of its bits may get lost: the chunk is fetched again then.
 *
 * A bit in the file that does not count here, because its boot is over or this process checks what others cached, is
 * unproven: `accept` it when the chunk was found right, `refute` it when wrong.
 */
import { closeSync, fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { tryLock, unlock } from '../../sys/lock.ts';
import type { BootMarker } from './boot-marker.ts';

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

/** Bytes of a map that are locked and written at once. */
const MARKED_BYTES_MAX = 64;

/** The file's bits, all of them when its all-ready word is set. */
export function mapBits(fd: number, chunkCount: number): Uint8Array {
  const bits = Buffer.alloc(Math.ceil(chunkCount / 8));
  if (isAllReady(fd)) return bits.fill(0xff);
  readSync(fd, bits, 0, bits.length, HEADER_BYTES);
  return bits;
}

function isAllReady(fd: number): boolean {
  const word = Buffer.alloc(4);
  return readSync(fd, word, 0, 4, ALL_READY_AT) === 4 && word.readUInt32LE(0) === ALL_READY;
}

/** Which of the file's bits count without a look at their chunk. */
export interface Trust {
  /** The device thread reads what the bits stand for. Otherwise none counts by itself. */
  isDirect: boolean;
  trustsOthers: boolean;
  /** Owned. */
  marker: BootMarker;
}

export class ChunkMap {
  private readonly bits: Uint8Array;
  private isClosed = false;

  /**
   * @param fd the map file, checked; owned by this object. Writable only if `isWritable`
   * @param ready private copy shared with the device thread, `newReadyBits(chunkCount)`
   */
  constructor(
    private fd: number,
    private readonly isWritable: boolean,
    readonly ready: SharedArrayBuffer,
    readonly chunkCount: number,
    private readonly trust: Trust | null = null,
  ) {
    this.bits = new Uint8Array(ready);
    this.loadAll();
  }

  isReady(chunk: number): boolean {
    return (Atomics.load(this.bits, chunk >> 3) & maskOf(chunk)) !== 0;
  }

  /** Reads the file's bytes for chunks first..last again: other processes may have set bits. */
  refresh(first: number, last: number): void {
    if (this.fd < 0) return;
    for (let byte = first >> 3; byte <= last >> 3; byte++) this.trust?.marker.refresh(byte);
    this.load(first >> 3, (last >> 3) + 1);
  }

  /** The file has the bit, which does not count here yet. */
  isUnproven(chunk: number): boolean {
    const isAllTrusted = this.trust === null || (this.trust.trustsOthers && !this.trust.marker.hasSuspects);
    if (this.fd < 0 || isAllTrusted || this.isReady(chunk)) return false;
    const byte = Buffer.alloc(1);
    readSync(this.fd, byte, 0, 1, HEADER_BYTES + (chunk >> 3));
    return (byte[0]! & maskOf(chunk)) !== 0;
  }

  /** Its bit is from an earlier boot. */
  isSuspect(chunk: number): boolean {
    return ((this.trust?.marker.suspectsOf(chunk >> 3) ?? 0) & maskOf(chunk)) !== 0;
  }

  /** The chunk was found as it should be. Once closed, another map may speak through the same private copy. */
  accept(chunk: number): void {
    if (this.isClosed) return;
    this.trust?.marker.clear(chunk);
    if (this.trust?.isDirect !== false) Atomics.or(this.bits, chunk >> 3, maskOf(chunk));
  }

  /** The chunk was found wrong: nobody may believe the bit, whoever set it. */
  async refute(chunk: number): Promise<void> {
    if (this.fd < 0 || !this.isWritable) return;
    if (isAllReady(this.fd)) writeSync(this.fd, Buffer.alloc(4), 0, 4, ALL_READY_AT);
    await this.changeInFile(chunk >> 3, 1, (bytes) => {
      bytes[0] &= 0xff ^ maskOf(chunk);
    });
  }

  /**
   * Marks a chunk ready, in the file and then in the private copy. Its data must be written before.
   * @throws the system error of a write that failed; the bit is not set then
   */
  async markReady(chunk: number): Promise<void> {
    await this.markAllReady([chunk]);
  }

  /** As `markReady` for each; neighbours cost as much as one. */
  async markAllReady(chunks: readonly number[]): Promise<void> {
    const inOrder = [...chunks].sort((a, b) => a - b);
    for (let i = 0; i < inOrder.length; ) {
      const first = inOrder[i] >> 3;
      let count = 1;
      while (i + count < inOrder.length && (inOrder[i + count] >> 3) - first < MARKED_BYTES_MAX) count++;
      const some = inOrder.slice(i, i + count);
      if (this.fd >= 0) {
        await this.changeInFile(first, (some[count - 1] >> 3) - first + 1, (bytes) => {
          for (const chunk of some) bytes[(chunk >> 3) - first] |= maskOf(chunk);
        });
      }
      for (const chunk of some) this.accept(chunk);
      i += count;
    }
  }

  /** Changes `count` bytes of the file's bits from byte `first` on, under their lock. */
  private async changeInFile(first: number, count: number, change: (bytes: Buffer) => void): Promise<void> {
    const at = HEADER_BYTES + first;
    const isLocked = await this.lockBytes(at, count);
    try {
      const bytes = Buffer.alloc(count);
      readSync(this.fd, bytes, 0, count, at);
      change(bytes);
      writeSync(this.fd, bytes, 0, count, at);
    } finally {
      if (isLocked) unlock(this.fd, at, count);
    }
  }

  /** Chunks ready in the private copy. */
  countReady(): number {
    return bitsIn(this.bits);
  }

  /** Chunks that the cache has, also those that nobody here has checked yet; not those of an earlier boot. */
  countCached(): number {
    if (this.fd < 0) return this.countReady();
    const bits = mapBits(this.fd, this.chunkCount);
    for (let byte = 0; byte < bits.length; byte++) {
      bits[byte]! &= this.usedBits(byte) & ~(this.trust?.marker.suspectsOf(byte) ?? 0);
    }
    return bitsIn(bits);
  }

  close(): void {
    this.isClosed = true;
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
    this.trust?.marker.close();
  }

  /** Without the lock after all tries: at worst a bit of another process is lost, and its chunk fetched again. */
  private async lockBytes(at: number, count: number): Promise<boolean> {
    for (let tries = 0; tries < BYTE_LOCK_TRIES; tries++) {
      if (tryLock(this.fd, at, count) === 0) return true;
      await sleep(BYTE_LOCK_PAUSE_MS);
    }
    return false;
  }

  private loadAll(): void {
    if (this.fd < 0) return;
    this.believe(mapBits(this.fd, this.chunkCount), 0);
    if (isAllReady(this.fd)) return;
    // Spares the next opener the count, as nydusd does it.
    if (this.isWritable && this.chunkCount > 0 && this.countReady() === this.chunkCount) {
      const word = Buffer.alloc(4);
      word.writeUInt32LE(ALL_READY, 0);
      writeSync(this.fd, word, 0, 4, ALL_READY_AT);
    }
  }

  private load(from: number, to: number): void {
    const bytes = Buffer.alloc(to - from);
    const got = readSync(this.fd, bytes, 0, bytes.length, HEADER_BYTES + from);
    this.believe(bytes.subarray(0, got), from);
  }

  /** Takes over what counts of the file's bytes `from`… */
  private believe(bytes: Uint8Array, from: number): void {
    if (this.trust?.trustsOthers === false) return;
    for (let i = 0; i < bytes.length; i++) {
      const doubted = this.trust?.marker.suspectsOf(from + i) ?? 0;
      const set = bytes[i]! & this.usedBits(from + i) & ~doubted;
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

function bitsIn(bytes: Uint8Array): number {
  let count = 0;
  for (const byte of bytes) count += BITS_IN[byte] ?? 0;
  return count;
}

const BITS_IN = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll('0', '').length);
