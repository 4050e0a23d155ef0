/**
 * The file of `--log-file`, and what `--log-rotation-size` makes of it (kata-contract 3.1):
 *
 *     nydusd.log ── full ──► nydusd_r2026-08-03_08-00-01-000.log ── in the background ──► ….log.gz, the newest ten kept
 */
import { closeSync, constants, createReadStream, createWriteStream, fstatSync, openSync, renameSync } from 'node:fs';
import { readdir, unlink } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { codeOf } from '../common/app-error.ts';

/** As the reference daemon does. */
const KEPT = 10;
const MODE = 0o640;

export class LogFile {
  fd: number;
  private bytes: number;
  private packing: Promise<void> = Promise.resolve();
  private count = 0;

  /** @param bytesMax 0: never rotated. @throws what open throws */
  constructor(
    private readonly path: string,
    private readonly bytesMax: number,
    private readonly complain: (text: string) => void,
  ) {
    this.fd = this.open();
    this.bytes = fstatSync(this.fd).size;
  }

  /** A line of `bytes` was written. Afterwards `fd` may be another one. */
  wrote(bytes: number): void {
    this.bytes += bytes;
    if (this.bytesMax > 0 && this.bytes >= this.bytesMax) this.rotate();
  }

  private open(): number {
    return openSync(this.path, constants.O_APPEND | constants.O_CREAT | constants.O_WRONLY, MODE);
  }

  private rotate(): void {
    this.bytes = 0; // one that cannot be rotated is tried again after as many bytes
    const rotated = join(
      dirname(this.path),
      `${this.stem}${timeText(new Date())}-${String(this.count++ % 1000).padStart(3, '0')}${this.extension}`,
    );
    let isOurs: boolean;
    try {
      isOurs = putAside(this.path, rotated);
      const fd = this.open();
      closeSync(this.fd);
      this.fd = fd;
    } catch (error) {
      this.complain(`the log cannot be rotated: ${(error as Error).message}`);
      return;
    }
    if (!isOurs) return;
    this.packing = this.packing
      .then(() => this.pack(rotated))
      .catch((error: Error) => this.complain(`the rotated log cannot be compressed: ${error.message}`));
  }

  private async pack(path: string): Promise<void> {
    const [{ createGzip }, { pipeline }] = await Promise.all([import('node:zlib'), import('node:stream/promises')]);
    await pipeline(createReadStream(path), createGzip(), createWriteStream(`${path}.gz`, { mode: MODE }));
    await unlink(path);
    const dir = dirname(path);
    const ours = (await readdir(dir)).filter((name) => name.startsWith(this.stem) && name.endsWith('.gz')).sort();
    for (const name of ours.slice(0, -KEPT)) await unlink(join(dir, name));
  }

  private get extension(): string {
    return extname(this.path);
  }

  /** What the names of rotated files begin with. */
  private get stem(): string {
    return `${basename(this.path, this.extension)}_r`;
  }
}

/** False when somebody else has put it aside, or removed it. */
function putAside(path: string, rotated: string): boolean {
  try {
    renameSync(path, rotated);
    return true;
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
    return false;
  }
}

/** `2026-08-03_08-00-01`: the names sort by age. */
function timeText(date: Date): string {
  return date.toISOString().slice(0, 19).replace('T', '_').replaceAll(':', '-');
}
