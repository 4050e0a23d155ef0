/**
 * `nydusd-ts/<id>.blob.boot`, ours: which bits of a chunk map nobody may believe in this boot of the machine.
 *
 * Data and bits reach the disk in any order, so after a power cut a set bit may stand for zeros. Whoever of us opens a blob
 * first in a new boot writes down which bits are set then: suspects, until their chunk was checked or fetched again. Bits
 * set later count at once, whoever sets them. No marker beside a map is as one of another boot: nobody vouches for it.
 * A suspect that is cleared and comes back (two processes, one byte) costs one more check.
 */
import { closeSync, constants, openSync, readFileSync, readSync, renameSync, writeFileSync, writeSync } from 'node:fs';
import { discard, FILE_MODE, temporaryName } from './cache-names.ts';

/** Of the text; behind it, if there are suspects, their bits as in a chunk map. */
const HEADER_BYTES = 64;

let headerOfBoot: Buffer | null = null;

function header(): Buffer {
  if (headerOfBoot === null) {
    headerOfBoot = Buffer.alloc(HEADER_BYTES);
    headerOfBoot.write(`nydusd boot ${readFileSync('/proc/sys/kernel/random/boot_id', 'latin1')}`, 'latin1');
  }
  return headerOfBoot;
}

export class BootMarker {
  /** @param fd the file, owned; -1 = there is none, or nothing in it to change */
  private constructor(
    private fd: number,
    private readonly suspects: Uint8Array | null,
  ) {}

  /** The marker of this boot; null when there is none that fits. */
  static read(path: string, chunkCount: number, isWritable: boolean): BootMarker | null {
    let fd = -1;
    try {
      fd = openSync(path, isWritable ? constants.O_RDWR : constants.O_RDONLY);
      const bytes = readFileSync(fd);
      const bits = bytes.subarray(HEADER_BYTES);
      if (!bytes.subarray(0, HEADER_BYTES).equals(header())) return null;
      if (bits.length === 0) return new BootMarker(-1, null);
      if (bits.length !== bitBytes(chunkCount)) return null;
      const marker = new BootMarker(isWritable ? fd : -1, new Uint8Array(bits));
      if (isWritable) fd = -1;
      return marker;
    } catch {
      return null;
    } finally {
      if (fd >= 0) closeSync(fd);
    }
  }

  /** Writes down that these bits are suspects; where that is impossible they are for this process alone. */
  static start(path: string, suspects: Uint8Array): BootMarker {
    const isClean = suspects.every((byte) => byte === 0);
    const temporary = temporaryName(path);
    try {
      writeFileSync(temporary, isClean ? header() : Buffer.concat([header(), suspects]), {
        flag: 'wx',
        mode: FILE_MODE,
      });
      const fd = isClean ? -1 : openSync(temporary, constants.O_RDWR);
      renameSync(temporary, path);
      return new BootMarker(fd, isClean ? null : suspects);
    } catch {
      discard(temporary);
      return new BootMarker(-1, suspects);
    }
  }

  /** For a directory that takes no marker. */
  static unwritten(suspects: Uint8Array): BootMarker {
    return new BootMarker(-1, suspects);
  }

  get hasSuspects(): boolean {
    return this.suspects !== null;
  }

  /** Suspects among the eight chunks of a byte of the map. */
  suspectsOf(byte: number): number {
    return this.suspects?.[byte] ?? 0;
  }

  /** Looks again: other processes may have cleared some of these eight. */
  refresh(byte: number): void {
    if (this.fd < 0 || this.suspectsOf(byte) === 0) return;
    const now = Buffer.alloc(1);
    if (readSync(this.fd, now, 0, 1, HEADER_BYTES + byte) === 1) this.suspects![byte]! &= now[0]!;
  }

  /** The chunk's bytes are known to be right. */
  clear(chunk: number): void {
    const byte = chunk >> 3;
    const mask = 0x80 >> (chunk & 7);
    if ((this.suspectsOf(byte) & mask) === 0) return;
    this.refresh(byte);
    this.suspects![byte]! &= 0xff ^ mask;
    if (this.fd >= 0) writeSync(this.fd, this.suspects!, byte, 1, HEADER_BYTES + byte);
  }

  close(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
  }
}

function bitBytes(chunkCount: number): number {
  return Math.ceil(chunkCount / 8);
}
