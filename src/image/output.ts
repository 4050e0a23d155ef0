/**
 * A file that is written front to back and hashed on the way: no seeking, so that a fifo does as well. Small pieces are
 * gathered, because a 50,000-file tree has as many chunks of a few hundred bytes.
 */
import { createHash, type Hash } from 'node:crypto';
import { accessSync, closeSync, constants, openSync, renameSync, unlinkSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { codeOf } from '../common/app-error.ts';
import { imageError } from './errors.ts';

const GATHER_BYTES = 1 << 20;
/** Longer pieces are written as they come: a call costs less than copying this much. */
const DIRECT_BYTES_MIN = 1 << 16;

/** Where an output goes: a given path, or a directory in which it is named by its content (or a given name). */
export type Place = { path: string } | { dir: string };

/** Tells before a long build, not behind it, that the directory of an output is not there. @throws AppError OUTPUT */
export function checkPlace(place: Place): void {
  const [path, dir] = 'path' in place ? [place.path, dirname(place.path)] : [place.dir, place.dir];
  try {
    accessSync(`${dir}/`, constants.X_OK);
  } catch (error) {
    throw imageError('OUTPUT', { path, why: codeOf(error) }, error);
  }
}

export class OutputFile {
  /** Bytes written so far. */
  position = 0;
  readonly #place: Place;
  readonly #path: string;
  readonly #fd: number;
  readonly #hash: Hash = createHash('sha256');
  readonly #gather = Buffer.allocUnsafeSlow(GATHER_BYTES);
  #gathered = 0;
  #open = true;

  /** @throws AppError OUTPUT */
  constructor(place: Place) {
    this.#place = place;
    // In a directory it gets its name at the end; nobody may take a half-written file for a blob before.
    this.#path = 'path' in place ? place.path : join(place.dir, `.${process.pid}-${counter++}.partial`);
    this.#fd = this.#attempt(() => openSync(this.#path, 'w', 0o644));
  }

  write(bytes: Uint8Array): void {
    this.position += bytes.length;
    if (bytes.length >= DIRECT_BYTES_MIN) {
      this.#flush();
      this.#put(bytes);
      return;
    }
    for (let from = 0; from < bytes.length; ) {
      const part = bytes.subarray(from, from + GATHER_BYTES - this.#gathered);
      this.#gather.set(part, this.#gathered);
      this.#gathered += part.length;
      from += part.length;
      if (this.#gathered === GATHER_BYTES) this.#flush();
    }
  }

  /** SHA-256 of everything written so far. */
  digest(): Buffer {
    this.#flush();
    return this.#hash.copy().digest();
  }

  /** Ends the file; one placed in a directory is named `name`. @returns its path */
  finish(name: string): string {
    this.#flush();
    return this.#attempt(() => {
      this.#close();
      if ('path' in this.#place) return this.#path;
      const path = join(this.#place.dir, name);
      renameSync(this.#path, path);
      return path;
    });
  }

  /** Drops an unfinished file. A given path that others may be reading (a fifo) is closed only. */
  abandon(): void {
    if (!this.#open) return;
    this.#close();
    if ('dir' in this.#place) unlinkSync(this.#path);
  }

  #close(): void {
    this.#open = false;
    closeSync(this.#fd);
  }

  #flush(): void {
    if (this.#gathered === 0) return;
    this.#put(this.#gather.subarray(0, this.#gathered));
    this.#gathered = 0;
  }

  #put(bytes: Uint8Array): void {
    this.#hash.update(bytes);
    this.#attempt(() => {
      for (let done = 0; done < bytes.length; ) done += writeSync(this.#fd, bytes, done);
    });
  }

  #attempt<T>(run: () => T): T {
    try {
      return run();
    } catch (error) {
      throw imageError('OUTPUT', { path: this.#path, why: codeOf(error) }, error);
    }
  }
}

let counter = 0;
