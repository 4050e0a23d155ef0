/**
 * A guest for tests: fills the Request as the session would, calls the handlers of a `Rafs`, reads the replies, and
 * completes parked reads. Data goes through several odd segments, as a guest's pages do.
 */
import * as A from '../fuse/args.ts';
import { type Name, PARKED, type Parking, Request } from '../fuse/request.ts';
import { readInto } from '../fuse/segments.ts';
import { ATTR, ATTR_OUT, DIRENT_BYTES, DIRENT_OUT, ENTRY_OUT, ENTRY_OUT_BYTES } from '../fuse/wire/layout.ts';
import { direntBytes } from '../fuse/wire/out.ts';
import type { WantedChunk } from '../storage/types.ts';
import { errno } from '../sys/errno.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import type { Rafs } from './file-system.ts';

export const NODE_HIGH = 7;
const NAME_AT = 64;
const DATA_BYTES = 1024 * 1024;

export interface Attributes {
  ino: number;
  size: number;
  blocks: number;
  mtime: number;
  mtimeNs: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdev: number;
}

export interface Listed {
  name: Buffer;
  ino: number;
  type: number;
  cookie: number;
  /** READDIRPLUS only: nodeid, 0 = look it up. */
  node: number;
  attributes: Attributes | null;
}

export interface Fetch {
  ticket: number;
  handle: number;
  chunks: WantedChunk[];
}

export class Guest {
  readonly request = new Request();
  /** Fetches asked for and not yet looked at. */
  readonly fetches: Fetch[] = [];
  private readonly memory = new NativeMemory(DATA_BYTES + 4096);
  private tickets = 0;
  refuseParking = false;
  /** Reads given to the kernel because their pages were not in memory. */
  slowReads = 0;

  constructor(private readonly rafs: () => Rafs) {
    const parking: Parking = {
      park: () => (this.refuseParking ? 0 : ++this.tickets),
      unpark: () => void this.tickets--,
    };
    this.request.parking = parking;
    this.request.io = {
      fsync: () => -errno.EOPNOTSUPP,
      syncfs: () => -errno.EOPNOTSUPP,
      read: (fd, data, bytes, offset) => {
        this.slowReads++;
        return readInto(data, 0, bytes, fd, offset, 0) < 0 ? -errno.EOPNOTSUPP : 0;
      },
    };
    this.request.nodeHigh = NODE_HIGH;
    this.request.replySpace = 128 * 1024;
  }

  /** Passed to `Rafs` as its fetch. */
  readonly fetch = (ticket: number, handle: number, chunks: WantedChunk[]): void => {
    this.fetches.push({ ticket, handle, chunks });
  };

  private at(node: number): Request {
    this.request.nodeLow = node;
    this.request.attempt = 0;
    return this.request;
  }

  name(into: Name, name: Buffer | string): void {
    const bytes = Buffer.from(name);
    this.request.memory.u8.set(bytes, NAME_AT);
    this.request.memory.u8[NAME_AT + bytes.length] = 0;
    into.at = NAME_AT;
    into.bytes = bytes.length;
    into.address = this.request.memory.address + NAME_AT;
  }

  get words(): Uint32Array {
    return this.request.reply.u32;
  }

  /** Entry of a name: nodeid low and attributes, nodeid 0 for a cached negative, or the -errno. */
  lookup(dir: number, name: Buffer | string): { node: number; attributes: Attributes } | number {
    const args = new A.NameArgs();
    const request = this.at(dir);
    this.name(args.name, name);
    const result = this.rafs().lookup(request, args);
    if (result < 0) return result;
    const word = Request.BODY_WORD;
    return { node: this.words[word + ENTRY_OUT.NODEID], attributes: this.attributes(word + ENTRY_OUT.ATTR) };
  }

  getattr(node: number): Attributes | number {
    const result = this.rafs().getattr(this.at(node));
    return result < 0 ? result : this.attributes(Request.BODY_WORD + ATTR_OUT.ATTR);
  }

  readlink(node: number): Buffer | number {
    const result = this.rafs().readlink(this.at(node));
    return result < 0 ? result : this.body(result);
  }

  /** Entries from `cookie` on in calls of `size` bytes, about `max`; or the -errno of the first failing call. */
  list(dir: number, plus: boolean, size = 4096, cookie = 0, max = Infinity): Listed[] | number {
    const entries: Listed[] = [];
    for (let at = cookie; ; ) {
      const args = new A.ReadArgs();
      args.offset = args.offsetLow = at;
      args.size = size;
      const request = this.at(dir);
      const result = plus ? this.rafs().readdirplus(request, args) : this.rafs().readdir(request, args);
      if (result < 0) return result;
      if (result === 0 || entries.length > max) return entries;
      entries.push(...this.dirents(result, plus));
      at = entries[entries.length - 1].cookie;
    }
  }

  private dirents(bytes: number, plus: boolean): Listed[] {
    const entries: Listed[] = [];
    const start = Request.BODY_WORD * 4;
    for (let at = start; at < start + bytes; ) {
      const word = (plus ? at + ENTRY_OUT_BYTES : at) >> 2;
      const nameBytes = this.words[word + DIRENT_OUT.NAMELEN];
      const nameAt = word * 4 + DIRENT_BYTES;
      const node = plus ? this.words[(at >> 2) + ENTRY_OUT.NODEID] : 0;
      entries.push({
        name: Buffer.from(this.request.reply.u8.subarray(nameAt, nameAt + nameBytes)),
        ino: this.words[word + DIRENT_OUT.INO],
        type: this.words[word + DIRENT_OUT.TYPE],
        cookie: this.words[word + DIRENT_OUT.OFF],
        node,
        attributes: node === 0 ? null : this.attributes((at >> 2) + ENTRY_OUT.ATTR),
      });
      at = word * 4 + direntBytes(nameBytes);
    }
    return entries;
  }

  /** One READ; parked ones are completed by `complete` (which fetches) and run again. Data, or the -errno. */
  read(node: number, offset: number, size: number, complete: (fetch: Fetch) => void): Buffer | number {
    const args = this.startRead(node, offset, size);
    for (;;) {
      const step = this.tryRead(args);
      if (!isFetch(step)) return step;
      complete(step);
    }
  }

  /** As `read` with a fetch that takes its time; the caller reads nothing else meanwhile. */
  async readLazily(
    node: number,
    offset: number,
    size: number,
    complete: (fetch: Fetch) => Promise<void>,
  ): Promise<Buffer | number> {
    const args = this.startRead(node, offset, size);
    for (;;) {
      const step = this.tryRead(args);
      if (!isFetch(step)) return step;
      await complete(step);
    }
  }

  private startRead(node: number, offset: number, size: number): A.ReadArgs {
    const args = new A.ReadArgs();
    args.offset = offset;
    args.size = size;
    this.at(node);
    this.lend(size);
    return args;
  }

  private tryRead(args: A.ReadArgs): Buffer | number | Fetch {
    const result = this.rafs().read(this.request, args);
    if (result !== PARKED) return result < 0 ? result : this.taken(result);
    const fetch = this.fetches.pop();
    if (fetch === undefined && this.slowReads > 0) {
      this.request.attempt++;
      return this.tryRead(args);
    }
    if (fetch === undefined || fetch.ticket !== this.tickets) throw new Error('parked without a fetch');
    this.request.attempt++;
    return fetch;
  }

  /** Makes request.data of `size` bytes out of three pieces with gaps between them. */
  lend(size: number): void {
    this.memory.u8.fill(0xee);
    const cut1 = Math.floor(size / 3);
    const cut2 = Math.floor(size / 2);
    const address = Float64Array.of(0, 64, 128).map((gap, i) => this.memory.address + gap + [0, cut1, cut2][i]);
    const length = Uint32Array.of(cut1, cut2 - cut1, size - cut2);
    this.request.data.set(address, length, 0, 3, 0, size);
  }

  private taken(bytes: number): Buffer {
    const { data } = this.request;
    const pieces: Buffer[] = [];
    for (let i = 0; i < 3; i++) {
      const at = data.address[i] - this.memory.address;
      pieces.push(Buffer.from(this.memory.u8.subarray(at, at + data.length[i])));
    }
    return Buffer.concat(pieces).subarray(0, bytes);
  }

  getxattr(node: number, name: string, size = 65536): Buffer | number {
    const args = new A.GetxattrArgs();
    args.size = size;
    const request = this.at(node);
    this.name(args.name, name);
    const result = this.rafs().getxattr(request, args);
    if (result < 0) return result;
    return size === 0 ? this.words[Request.BODY_WORD] : this.body(result);
  }

  listxattr(node: number, size = 65536): string[] | number {
    const args = new A.ListxattrArgs();
    args.size = size;
    const result = this.rafs().listxattr(this.at(node), args);
    if (result < 0) return result;
    if (size === 0) return this.words[Request.BODY_WORD];
    return this.body(result).toString('latin1').split('\0').slice(0, -1);
  }

  body(bytes: number): Buffer {
    const at = Request.BODY_WORD * 4;
    return Buffer.from(this.request.reply.u8.subarray(at, at + bytes));
  }

  private attributes(at: number): Attributes {
    const { words } = this;
    const u64 = (field: number) => words[at + field] + words[at + field + 1] * 2 ** 32;
    return {
      ino: u64(ATTR.INO),
      size: u64(ATTR.SIZE),
      blocks: u64(ATTR.BLOCKS),
      mtime: words[at + ATTR.MTIME] + (words[at + ATTR.MTIME + 1] | 0) * 2 ** 32,
      mtimeNs: words[at + ATTR.MTIMENSEC],
      mode: words[at + ATTR.MODE],
      nlink: words[at + ATTR.NLINK],
      uid: words[at + ATTR.UID],
      gid: words[at + ATTR.GID],
      rdev: words[at + ATTR.RDEV],
    };
  }
}

function isFetch(step: Buffer | number | Fetch): step is Fetch {
  return typeof step === 'object' && 'ticket' in step;
}
