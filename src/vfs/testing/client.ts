/**
 * Calls a FileSystem the way a session does, without a session: one Request, arguments filled in, the reply decoded to
 * plain objects. For tests of file systems; failures come back as -errno numbers.
 */
import * as A from '../../fuse/args.ts';
import type { FileSystem } from '../../fuse/file-system.ts';
import { INIT } from '../../fuse/flags.ts';
import { type Name, Request } from '../../fuse/request.ts';
import {
  ATTR,
  ATTR_OUT,
  DIRENT_BYTES,
  DIRENT_OUT,
  ENTRY_OUT,
  ENTRY_OUT_BYTES,
  IN_HEADER,
  IN_HEADER_BYTES,
  OPEN_OUT,
} from '../../fuse/wire/layout.ts';
import { direntBytes } from '../../fuse/wire/out.ts';
import { NativeMemory } from '../../sys/native-memory.ts';
import { O } from '../../sys/path.ts';

export interface NodeId {
  low: number;
  high: number;
}

export interface Attributes {
  /** As text `high:low`, since it may have 64 bits. */
  ino: string;
  size: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  flags: number;
  validMs: number;
}

export interface Entry extends Attributes {
  node: NodeId;
  entryValidMs: number;
}

export interface Handle {
  low: number;
  high: number;
  flags: number;
}

export interface Dirent {
  name: string;
  ino: string;
  type: number;
  cookie: { low: number; high: number };
  /** READDIRPLUS only. */
  node: NodeId | null;
  entryValidMs: number;
}

export const ROOT: NodeId = { low: 1, high: 0 };
const BODY = Request.BODY_WORD;
const NAMES_AT = IN_HEADER_BYTES + 256;
const WORD = 0x1_0000_0000;

export class FsClient {
  readonly request = new Request();
  readonly #data = new NativeMemory(1024 * 1024);
  #nameAt = NAMES_AT;

  constructor(
    readonly fs: FileSystem,
    submounts = true,
  ) {
    const flags = submounts ? INIT.SUBMOUNTS : 0;
    this.request.negotiated = { minor: 38, flags, flags2: 0, maxWriteBytes: this.#data.bytes };
  }

  /** Makes the request one for `node`, as decoding its header would. */
  on(node: NodeId): Request {
    const { request } = this;
    request.nodeLow = request.memory.u32[IN_HEADER.NODEID] = node.low;
    request.nodeHigh = request.memory.u32[IN_HEADER.NODEID + 1] = node.high;
    request.attempt = 0;
    request.bytes = 80;
    request.replySpace = 64 * 1024;
    this.#nameAt = NAMES_AT;
    return request;
  }

  setName(name: Name, text: string): void {
    const { memory } = this.request;
    const bytes = Buffer.from(text, 'latin1');
    name.at = this.#nameAt;
    name.bytes = bytes.length;
    name.address = memory.putText(name.at, bytes);
    this.#nameAt += bytes.length + 1;
  }

  lookup(parent: NodeId, name: string): Entry | number {
    const args = new A.NameArgs();
    const request = this.on(parent);
    this.setName(args.name, name);
    return this.#entry(this.fs.lookup(request, args));
  }

  /** Looks a whole path up from the root, forgetting what it passes. */
  walk(path: string): Entry | number {
    let at: Entry | number = -2;
    let node = ROOT;
    for (const name of path.split('/').filter((part) => part !== '')) {
      at = this.lookup(node, name);
      if (node !== ROOT) this.fs.forget(node.low, node.high, 1);
      if (typeof at === 'number') return at;
      node = at.node;
    }
    return at;
  }

  getattr(node: NodeId): Attributes | number {
    const n = this.fs.getattr(this.on(node), new A.GetattrArgs());
    return n < 0 ? n : this.#attributes(BODY + ATTR_OUT.ATTR, BODY + ATTR_OUT.ATTR_VALID, BODY + 2);
  }

  mkdir(parent: NodeId, name: string): Entry | number {
    const args = new A.MkdirArgs();
    args.mode = 0o755;
    const request = this.on(parent);
    this.setName(args.name, name);
    return this.#entry(this.fs.mkdir(request, args));
  }

  create(parent: NodeId, name: string, mode = 0o644): { entry: Entry; handle: Handle } | number {
    const args = new A.CreateArgs();
    args.flags = O.RDWR;
    args.mode = mode;
    const request = this.on(parent);
    this.setName(args.name, name);
    const entry = this.#entry(this.fs.create(request, args));
    return typeof entry === 'number' ? entry : { entry, handle: this.#handle(BODY + ENTRY_OUT_BYTES / 4) };
  }

  link(node: NodeId, parent: NodeId, name: string): Entry | number {
    const args = new A.LinkArgs();
    args.oldLow = node.low;
    args.oldHigh = node.high;
    const request = this.on(parent);
    this.setName(args.name, name);
    return this.#entry(this.fs.link(request, args));
  }

  rename(from: NodeId, oldName: string, to: NodeId, newName: string, flags = 0): number {
    const args = new A.RenameArgs();
    args.newDirLow = to.low;
    args.newDirHigh = to.high;
    args.flags = flags;
    const request = this.on(from);
    this.setName(args.oldName, oldName);
    this.setName(args.newName, newName);
    return this.fs.rename(request, args);
  }

  unlink(parent: NodeId, name: string): number {
    const args = new A.NameArgs();
    const request = this.on(parent);
    this.setName(args.name, name);
    return this.fs.unlink(request, args);
  }

  rmdir(parent: NodeId, name: string): number {
    const args = new A.NameArgs();
    const request = this.on(parent);
    this.setName(args.name, name);
    return this.fs.rmdir(request, args);
  }

  open(node: NodeId, flags = 0): Handle | number {
    const args = new A.OpenArgs();
    args.flags = flags;
    const n = this.fs.open(this.on(node), args);
    return n < 0 ? n : this.#handle(BODY);
  }

  opendir(node: NodeId): Handle | number {
    const n = this.fs.opendir(this.on(node), new A.OpenArgs());
    return n < 0 ? n : this.#handle(BODY);
  }

  /** File bytes as text; -errno or PARKED as a number. `attempt` 1: again, after it was parked. */
  read(node: NodeId, handle: Handle, offset = 0, size = 4096, attempt = 0): string | number {
    const args = new A.ReadArgs();
    args.fhLow = handle.low;
    args.fhHigh = handle.high;
    args.offset = args.offsetLow = offset;
    args.size = size;
    const request = this.on(node);
    request.attempt = attempt;
    request.data.set(new Float64Array([this.#data.address]), new Uint32Array([size]), 0, 1, 0, size);
    const n = this.fs.read(request, args);
    return n < 0 ? n : Buffer.from(this.#data.u8.subarray(0, n)).toString('latin1');
  }

  write(node: NodeId, handle: Handle, text: string, offset = 0): number {
    const args = new A.WriteArgs();
    const bytes = Buffer.from(text, 'latin1');
    args.fhLow = handle.low;
    args.fhHigh = handle.high;
    args.offset = offset;
    args.size = bytes.length;
    this.#data.u8.set(bytes);
    const request = this.on(node);
    request.data.set(new Float64Array([this.#data.address]), new Uint32Array([bytes.length]), 0, 1, 0, bytes.length);
    return this.fs.write(request, args);
  }

  release(node: NodeId, handle: Handle): number {
    return this.fs.release(this.on(node), this.#releaseArgs(handle));
  }

  releasedir(node: NodeId, handle: Handle): number {
    return this.fs.releasedir(this.on(node), this.#releaseArgs(handle));
  }

  forget(node: NodeId, nlookup = 1): void {
    this.fs.forget(node.low, node.high, nlookup);
  }

  /** One READDIR or READDIRPLUS from `cookie` on. */
  readdir(
    node: NodeId,
    handle: Handle,
    plus = false,
    size = 4096,
    cookie: Dirent['cookie'] = { low: 0, high: 0 },
  ): Dirent[] | number {
    const args = new A.ReadArgs();
    args.fhLow = handle.low;
    args.fhHigh = handle.high;
    args.offsetLow = cookie.low;
    args.offsetHigh = cookie.high;
    args.offset = cookie.high > 0x1f_ffff ? -1 : cookie.high * WORD + cookie.low;
    args.size = size;
    const request = this.on(node);
    const n = plus ? this.fs.readdirplus(request, args) : this.fs.readdir(request, args);
    return n < 0 ? n : this.#dirents(n, plus);
  }

  /** Opens, reads to the end in replies of `size` bytes, and releases a directory. */
  list(node: NodeId, plus = false, size = 4096): Dirent[] | number {
    const handle = this.opendir(node);
    if (typeof handle === 'number') return handle;
    const all: Dirent[] = [];
    let cookie: Dirent['cookie'] = { low: 0, high: 0 };
    for (;;) {
      const some = this.readdir(node, handle, plus, size, cookie);
      if (typeof some === 'number') return some;
      const end = some.at(-1);
      if (end === undefined) break;
      all.push(...some);
      cookie = end.cookie;
    }
    this.releasedir(node, handle);
    return all;
  }

  #releaseArgs(handle: Handle): A.ReleaseArgs {
    const args = new A.ReleaseArgs();
    args.fhLow = handle.low;
    args.fhHigh = handle.high;
    return args;
  }

  #entry(n: number): Entry | number {
    if (n < 0) return n;
    const words = this.request.reply.u32;
    const attributes = this.#attributes(BODY + ENTRY_OUT.ATTR, BODY + ENTRY_OUT.ATTR_VALID, BODY + 9);
    const seconds = words[BODY + ENTRY_OUT.ENTRY_VALID] + words[BODY + ENTRY_OUT.ENTRY_VALID + 1] * WORD;
    return {
      ...attributes,
      node: { low: words[BODY], high: words[BODY + 1] },
      entryValidMs: seconds * 1000 + words[BODY + ENTRY_OUT.ENTRY_VALID_NSEC] / 1e6,
    };
  }

  #attributes(at: number, validAt: number, validNsecAt: number): Attributes {
    const words = this.request.reply.u32;
    return {
      ino: `${words[at + ATTR.INO + 1].toString(16)}:${words[at + ATTR.INO]}`,
      size: words[at + ATTR.SIZE] + words[at + ATTR.SIZE + 1] * WORD,
      mode: words[at + ATTR.MODE],
      nlink: words[at + ATTR.NLINK],
      uid: words[at + ATTR.UID],
      gid: words[at + ATTR.GID],
      flags: words[at + ATTR.FLAGS],
      validMs: (words[validAt] + words[validAt + 1] * WORD) * 1000 + words[validNsecAt] / 1e6,
    };
  }

  #handle(at: number): Handle {
    const words = this.request.reply.u32;
    return { low: words[at + OPEN_OUT.FH], high: words[at + OPEN_OUT.FH + 1], flags: words[at + OPEN_OUT.OPEN_FLAGS] };
  }

  #dirents(bytes: number, plus: boolean): Dirent[] {
    const { u32, u8 } = this.request.reply;
    const head = plus ? ENTRY_OUT_BYTES : 0;
    const all: Dirent[] = [];
    for (let at = BODY * 4; at < BODY * 4 + bytes; ) {
      const word = (at + head) >> 2;
      const nameBytes = u32[word + DIRENT_OUT.NAMELEN];
      const nameAt = at + head + DIRENT_BYTES;
      all.push({
        name: Buffer.from(u8.subarray(nameAt, nameAt + nameBytes)).toString('latin1'),
        ino: `${u32[word + DIRENT_OUT.INO + 1].toString(16)}:${u32[word + DIRENT_OUT.INO]}`,
        type: u32[word + DIRENT_OUT.TYPE],
        cookie: { low: u32[word + DIRENT_OUT.OFF], high: u32[word + DIRENT_OUT.OFF + 1] },
        node: plus ? { low: u32[at >> 2], high: u32[(at >> 2) + 1] } : null,
        entryValidMs: plus ? u32[(at >> 2) + ENTRY_OUT.ENTRY_VALID] * 1000 : 0,
      });
      at += head + direntBytes(nameBytes);
    }
    return all;
  }
}
