/** First half of the test guest: how requests are filled and replies read, and everything about names and attributes. */
import * as A from '../fuse/args.ts';
import { INIT } from '../fuse/flags.ts';
import { type Name, Request } from '../fuse/request.ts';
import { ATTR, ATTR_OUT, ENTRY_OUT, ENTRY_OUT_BYTES, OPEN_OUT } from '../fuse/wire/layout.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { Passthrough } from './passthrough.ts';

/** Upper word of all nodeids here: the member number a union would give. */
export const MEMBER = 7;
const NAMES_AT = 64;

export interface Attr {
  ino: bigint;
  size: number;
  blocks: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdev: number;
  flags: number;
  atime: number;
  mtime: number;
  atimeNsec: number;
  mtimeNsec: number;
}

export interface Entry {
  node: number;
  high: number;
  entryValid: number;
  attrValid: number;
  attr: Attr;
}

export interface Handle {
  low: number;
  high: number;
  flags: number;
}

export type Text = string | Uint8Array;

export class NameGuest {
  readonly request = new Request();
  readonly data = new NativeMemory(4 * 1024 * 1024);
  used = NAMES_AT;

  constructor(public fs: Passthrough) {
    this.request.negotiated.minor = 38;
    this.request.negotiated.flags = INIT.SUBMOUNTS | INIT.HANDLE_KILLPRIV_V2 | INIT.SETXATTR_EXT;
    this.as(0, 0);
  }

  /** The user later requests come from. */
  as(uid: number, gid: number, groups: number[] = []): this {
    this.request.uid = uid;
    this.request.gid = gid;
    this.request.groupCount = groups.length;
    this.request.groupsAddress = this.request.memory.address + 65536;
    groups.forEach((g, i) => {
      this.request.memory.u32[65536 / 4 + i] = g;
    });
    return this;
  }

  begin(node: number): Request {
    const { request } = this;
    request.nodeLow = node;
    request.nodeHigh = MEMBER;
    request.attempt = 0;
    request.replySpace = 1 << 20;
    request.reply.u32.fill(0xeeee_eeee, 0, 64);
    this.used = NAMES_AT;
    return request;
  }

  putName(name: Name, text: Text): void {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    name.at = this.used;
    name.bytes = bytes.length;
    name.address = this.request.memory.putText(this.used, bytes);
    this.used += bytes.length + 1;
  }

  attrAt(word: number): Attr {
    const { u32, view } = this.request.reply;
    const at = word * 4;
    const u64 = (w: number): bigint => view.getBigUint64(at + w * 4, true);
    return {
      ino: u64(ATTR.INO),
      size: Number(u64(ATTR.SIZE)),
      blocks: Number(u64(ATTR.BLOCKS)),
      mode: u32[word + ATTR.MODE],
      nlink: u32[word + ATTR.NLINK],
      uid: u32[word + ATTR.UID],
      gid: u32[word + ATTR.GID],
      rdev: u32[word + ATTR.RDEV],
      flags: u32[word + ATTR.FLAGS],
      atime: Number(u64(ATTR.ATIME)),
      mtime: Number(u64(ATTR.MTIME)),
      atimeNsec: u32[word + ATTR.ATIMENSEC],
      mtimeNsec: u32[word + ATTR.MTIMENSEC],
    };
  }

  entryOf(result: number, word = Request.BODY_WORD): Entry | number {
    if (result < 0) return result;
    const { u32 } = this.request.reply;
    return {
      node: u32[word + ENTRY_OUT.NODEID],
      high: u32[word + ENTRY_OUT.NODEID + 1],
      entryValid: u32[word + ENTRY_OUT.ENTRY_VALID],
      attrValid: u32[word + ENTRY_OUT.ATTR_VALID],
      attr: this.attrAt(word + ENTRY_OUT.ATTR),
    };
  }

  handleAt(word: number): Handle {
    const { u32 } = this.request.reply;
    return { low: u32[word], high: u32[word + 1], flags: u32[word + OPEN_OUT.OPEN_FLAGS] };
  }

  lookup(dir: number, name: Text): Entry | number {
    const args = new A.NameArgs();
    this.begin(dir);
    this.putName(args.name, name);
    return this.entryOf(this.fs.lookup(this.request, args));
  }

  /** Looks a path of `/`-separated names up and returns the last entry. */
  walk(path: string, from = Passthrough.ROOT_ID): Entry {
    let node = from;
    let entry: Entry | number = -1;
    for (const name of path.split('/')) {
      entry = this.lookup(node, name);
      if (typeof entry === 'number') throw new Error(`lookup of ${name} in ${path}: ${entry}`);
      node = entry.node;
    }
    return entry as Entry;
  }

  forget(node: number, count = 1): void {
    this.fs.forget(node, MEMBER, count);
  }

  getattr(node: number, handle?: Handle): Attr | number {
    const args = new A.GetattrArgs();
    args.hasFh = handle !== undefined;
    args.fhLow = handle?.low ?? 0;
    args.fhHigh = handle?.high ?? 0;
    const r = this.fs.getattr(this.begin(node), args);
    return r < 0 ? r : this.attrAt(Request.BODY_WORD + ATTR_OUT.ATTR);
  }

  setattr(node: number, valid: number, fields: Partial<A.SetattrArgs>): Attr | number {
    const args = Object.assign(new A.SetattrArgs(), fields, { valid });
    const r = this.fs.setattr(this.begin(node), args);
    return r < 0 ? r : this.attrAt(Request.BODY_WORD + ATTR_OUT.ATTR);
  }

  readlink(node: number): string | number {
    const r = this.fs.readlink(this.begin(node));
    return r < 0 ? r : this.body(r).toString();
  }

  body(bytes: number): Buffer {
    return Buffer.from(this.request.reply.u8.slice(16, 16 + bytes));
  }

  symlink(dir: number, name: Text, target: Text): Entry | number {
    const args = new A.SymlinkArgs();
    this.begin(dir);
    this.putName(args.name, name);
    this.putName(args.target, target);
    return this.entryOf(this.fs.symlink(this.request, args));
  }

  mknod(dir: number, name: Text, mode: number, major = 0, minor = 0, umask = 0): Entry | number {
    const args = Object.assign(new A.MknodArgs(), { mode, rdevMajor: major, rdevMinor: minor, umask });
    this.begin(dir);
    this.putName(args.name, name);
    return this.entryOf(this.fs.mknod(this.request, args));
  }

  mkdir(dir: number, name: Text, mode = 0o755, umask = 0): Entry | number {
    const args = Object.assign(new A.MkdirArgs(), { mode, umask });
    this.begin(dir);
    this.putName(args.name, name);
    return this.entryOf(this.fs.mkdir(this.request, args));
  }

  create(dir: number, name: Text, flags: number, mode = 0o644, umask = 0): { entry: Entry; handle: Handle } | number {
    const args = Object.assign(new A.CreateArgs(), { flags, mode, umask });
    this.begin(dir);
    this.putName(args.name, name);
    const r = this.fs.create(this.request, args);
    if (r < 0) return r;
    const handle = this.handleAt(Request.BODY_WORD + ENTRY_OUT_BYTES / 4);
    return { entry: this.entryOf(r) as Entry, handle };
  }

  link(node: number, dir: number, name: Text): Entry | number {
    const args = Object.assign(new A.LinkArgs(), { oldLow: node, oldHigh: MEMBER });
    this.begin(dir);
    this.putName(args.name, name);
    return this.entryOf(this.fs.link(this.request, args));
  }

  unlink(dir: number, name: Text): number {
    const args = new A.NameArgs();
    this.begin(dir);
    this.putName(args.name, name);
    return this.fs.unlink(this.request, args);
  }

  rmdir(dir: number, name: Text): number {
    const args = new A.NameArgs();
    this.begin(dir);
    this.putName(args.name, name);
    return this.fs.rmdir(this.request, args);
  }

  rename(dir: number, name: Text, newDir: number, newName: Text, flags = 0): number {
    const args = Object.assign(new A.RenameArgs(), { newDirLow: newDir, newDirHigh: MEMBER, flags });
    this.begin(dir);
    this.putName(args.oldName, name);
    this.putName(args.newName, newName);
    return this.fs.rename(this.request, args);
  }
}
