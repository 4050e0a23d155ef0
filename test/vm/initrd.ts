/**
 * Writes an initial root file system: a cpio archive in the "newc" form the kernel unpacks (magic 070701, thirteen
 * 8-digit hexadecimal fields, name, content, each padded to 4 bytes).
 */
import { readFileSync } from 'node:fs';

const S_IFREG = 0o100000;
const S_IFDIR = 0o040000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
const TRAILER = 'TRAILER!!!';

/** Collects entries in the order they are unpacked; parents are made on demand. */
export class Initrd {
  readonly #parts: Buffer[] = [];
  readonly #seen = new Set<string>();
  #ino = 1;

  /** Adds `content` (bytes or text) at `path` (no leading slash needed). */
  file(path: string, content: Uint8Array | string, mode = 0o644): this {
    return this.#entry(path, S_IFREG | mode, Buffer.from(content as Uint8Array), 0, 0);
  }

  /** Adds a copy of the host file `source` at `path`. @throws as `readFileSync`. */
  copy(source: string, path: string, mode = 0o755): this {
    return this.file(path, readFileSync(source), mode);
  }

  symlink(path: string, target: string): this {
    return this.#entry(path, S_IFLNK | 0o777, Buffer.from(target), 0, 0);
  }

  charDevice(path: string, major: number, minor: number): this {
    return this.#entry(path, S_IFCHR | 0o600, Buffer.alloc(0), major, minor);
  }

  directory(path: string): this {
    const clean = path.replace(/^\/+|\/+$/g, '');
    return clean === '' ? this : this.#entry(clean, S_IFDIR | 0o755, Buffer.alloc(0), 0, 0);
  }

  /** The archive, not compressed: unpacking is quicker than decompressing under software emulation. */
  bytes(): Buffer {
    return Buffer.concat([...this.#parts, record(0, TRAILER, 0, Buffer.alloc(0), 0, 0)]);
  }

  #entry(path: string, mode: number, content: Buffer, major: number, minor: number): this {
    const name = path.replace(/^\/+/, '');
    if (this.#seen.has(name)) {
      if ((mode & S_IFDIR) === S_IFDIR) return this;
      throw new Error(`two initrd entries are called ${name}`);
    }
    const slash = name.lastIndexOf('/');
    if (slash > 0) this.directory(name.slice(0, slash));
    this.#seen.add(name);
    this.#parts.push(record(this.#ino++, name, mode, content, major, minor));
    return this;
  }
}

function record(ino: number, name: string, mode: number, content: Buffer, major: number, minor: number): Buffer {
  const nameBytes = Buffer.from(`${name}\0`);
  const fields = [ino, mode, 0, 0, 1, 0, content.length, 0, 0, major, minor, nameBytes.length, 0];
  const head = Buffer.from(`070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`);
  return Buffer.concat([padded(Buffer.concat([head, nameBytes])), padded(content)]);
}

function padded(bytes: Buffer): Buffer {
  const missing = (4 - (bytes.length % 4)) % 4;
  return missing === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(missing)]);
}
