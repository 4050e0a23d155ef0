/** A guest in tests: fills a Request, calls one handler, reads the reply words. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as A from '../fuse/args.ts';
import { INIT } from '../fuse/flags.ts';
import { type Name, Request } from '../fuse/request.ts';
import { ATTR, ATTR_OUT, ENTRY_OUT, ENTRY_OUT_BYTES, OPEN_OUT } from '../fuse/wire/layout.ts';
import { Arena } from '../sys/arena.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { DescriptorBudget } from './budget.ts';
import type { PassthroughOptions } from './options.ts';
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

export interface Dirent {
  name: Buffer;
  ino: bigint;
  type: number;
  low: number;
  high: number;
  /** READDIRPLUS only; 0: no attributes. */
  node: number;
  attrFlags: number;
}

type Text = string | Uint8Array;

export class Guest {
  readonly request = new Request();
  readonly data = new NativeMemory(4 * 1024 * 1024);
  #used = NAMES_AT;

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

  #begin(node: number): Request {
    const { request } = this;
    request.nodeLow = node;
    request.nodeHigh = MEMBER;
    request.attempt = 0;
    request.replySpace = 1 << 20;
    request.reply.u32.fill(0xeeee_eeee, 0, 64);
    this.#used = NAMES_AT;
    return request;
  }

  #name(name: Name, text: Text): void {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text;
    name.at = this.#used;
    name.bytes = bytes.length;
    name.address = this.request.memory.putText(this.#used, bytes);
    this.#used += bytes.length + 1;
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

  #entry(result: number, word = Request.BODY_WORD): Entry | number {
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

  #handle(word: number): Handle {
    const { u32 } = this.request.reply;
    return { low: u32[word], high: u32[word + 1], flags: u32[word + OPEN_OUT.OPEN_FLAGS] };
  }

  lookup(dir: number, name: Text): Entry | number {
    const args = new A.NameArgs();
    this.#begin(dir);
    this.#name(args.name, name);
    return this.#entry(this.fs.lookup(this.request, args));
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
    const r = this.fs.getattr(this.#begin(node), args);
    return r < 0 ? r : this.attrAt(Request.BODY_WORD + ATTR_OUT.ATTR);
  }

  setattr(node: number, valid: number, fields: Partial<A.SetattrArgs>): Attr | number {
    const args = Object.assign(new A.SetattrArgs(), fields, { valid });
    const r = this.fs.setattr(this.#begin(node), args);
    return r < 0 ? r : this.attrAt(Request.BODY_WORD + ATTR_OUT.ATTR);
  }

  readlink(node: number): string | number {
    const r = this.fs.readlink(this.#begin(node));
    return r < 0 ? r : this.body(r).toString();
  }

  body(bytes: number): Buffer {
    return Buffer.from(this.request.reply.u8.slice(16, 16 + bytes));
  }

  symlink(dir: number, name: Text, target: Text): Entry | number {
    const args = new A.SymlinkArgs();
    this.#begin(dir);
    this.#name(args.name, name);
    this.#name(args.target, target);
    return this.#entry(this.fs.symlink(this.request, args));
  }

  mknod(dir: number, name: Text, mode: number, major = 0, minor = 0, umask = 0): Entry | number {
    const args = Object.assign(new A.MknodArgs(), { mode, rdevMajor: major, rdevMinor: minor, umask });
    this.#begin(dir);
    this.#name(args.name, name);
    return this.#entry(this.fs.mknod(this.request, args));
  }

  mkdir(dir: number, name: Text, mode = 0o755, umask = 0): Entry | number {
    const args = Object.assign(new A.MkdirArgs(), { mode, umask });
    this.#begin(dir);
    this.#name(args.name, name);
    return this.#entry(this.fs.mkdir(this.request, args));
  }

  create(dir: number, name: Text, flags: number, mode = 0o644, umask = 0): { entry: Entry; handle: Handle } | number {
    const args = Object.assign(new A.CreateArgs(), { flags, mode, umask });
    this.#begin(dir);
    this.#name(args.name, name);
    const r = this.fs.create(this.request, args);
    if (r < 0) return r;
    const handle = this.#handle(Request.BODY_WORD + ENTRY_OUT_BYTES / 4);
    return { entry: this.#entry(r) as Entry, handle };
  }

  link(node: number, dir: number, name: Text): Entry | number {
    const args = Object.assign(new A.LinkArgs(), { oldLow: node, oldHigh: MEMBER });
    this.#begin(dir);
    this.#name(args.name, name);
    return this.#entry(this.fs.link(this.request, args));
  }

  unlink(dir: number, name: Text): number {
    const args = new A.NameArgs();
    this.#begin(dir);
    this.#name(args.name, name);
    return this.fs.unlink(this.request, args);
  }

  rmdir(dir: number, name: Text): number {
    const args = new A.NameArgs();
    this.#begin(dir);
    this.#name(args.name, name);
    return this.fs.rmdir(this.request, args);
  }

  rename(dir: number, name: Text, newDir: number, newName: Text, flags = 0): number {
    const args = Object.assign(new A.RenameArgs(), { newDirLow: newDir, newDirHigh: MEMBER, flags });
    this.#begin(dir);
    this.#name(args.oldName, name);
    this.#name(args.newName, newName);
    return this.fs.rename(this.request, args);
  }

  open(node: number, flags: number, killSuidgid = false): Handle | number {
    const args = Object.assign(new A.OpenArgs(), { flags, killSuidgid });
    const r = this.fs.open(this.#begin(node), args);
    return r < 0 ? r : this.#handle(Request.BODY_WORD);
  }

  opendir(node: number): Handle | number {
    const r = this.fs.opendir(this.#begin(node), new A.OpenArgs());
    return r < 0 ? r : this.#handle(Request.BODY_WORD);
  }

  #lend(bytes: number): void {
    // Two segments with a hole between: bulk data is scattered in real guests.
    const first = bytes >> 1;
    const address = new Float64Array([this.data.address, this.data.address + 2 * 1024 * 1024]);
    this.request.data.set(address, new Uint32Array([first, bytes - first]), 0, 2, 0, bytes);
  }

  /** Data of the last read. */
  taken(bytes: number, size: number): Buffer {
    const first = size >> 1;
    const head = Math.min(bytes, first);
    const u8 = this.data.u8;
    return Buffer.concat([u8.slice(0, head), u8.slice(2 * 1024 * 1024, 2 * 1024 * 1024 + bytes - head)]);
  }

  /** The handler's own result: a count, -errno or PARKED. */
  rawRead(node: number, handle: Handle, offset: number, size: number): number {
    const args = Object.assign(new A.ReadArgs(), { fhLow: handle.low, fhHigh: handle.high, offset, size });
    this.#begin(node);
    this.#lend(size);
    return this.fs.read(this.request, args);
  }

  read(node: number, handle: Handle, offset: number, size: number): Buffer | number {
    const r = this.rawRead(node, handle, offset, size);
    return r < 0 ? r : this.taken(r, size);
  }

  write(node: number, handle: Handle, offset: number, text: Text, flags = 0, writeFlags = 0): number {
    const bytes = Buffer.from(text);
    const size = bytes.length;
    const args = Object.assign(new A.WriteArgs(), {
      fhLow: handle.low,
      fhHigh: handle.high,
      offset,
      size,
      flags,
      writeFlags,
    });
    this.#begin(node);
    this.#lend(size);
    this.data.u8.set(bytes.subarray(0, size >> 1), 0);
    this.data.u8.set(bytes.subarray(size >> 1), 2 * 1024 * 1024);
    return this.fs.write(this.request, args);
  }

  release(node: number, handle: Handle): number {
    const args = Object.assign(new A.ReleaseArgs(), { fhLow: handle.low, fhHigh: handle.high });
    return this.fs.release(this.#begin(node), args);
  }

  releasedir(node: number, handle: Handle): number {
    const args = Object.assign(new A.ReleaseArgs(), { fhLow: handle.low, fhHigh: handle.high });
    return this.fs.releasedir(this.#begin(node), args);
  }

  flush(node: number, handle: Handle): number {
    return this.fs.flush(
      this.#begin(node),
      Object.assign(new A.FlushArgs(), { fhLow: handle.low, fhHigh: handle.high }),
    );
  }

  fsync(node: number, handle: Handle, isDirectory = false): number {
    const args = Object.assign(new A.FsyncArgs(), { fhLow: handle.low, fhHigh: handle.high });
    const request = this.#begin(node);
    return isDirectory ? this.fs.fsyncdir(request, args) : this.fs.fsync(request, args);
  }

  syncfs(node: number): number {
    return this.fs.syncfs(this.#begin(node));
  }

  /** One READDIR or READDIRPLUS. */
  readdir(node: number, handle: Handle, low: number, high: number, size: number, plus = false): Dirent[] | number {
    const args = Object.assign(new A.ReadArgs(), {
      fhLow: handle.low,
      fhHigh: handle.high,
      offsetLow: low,
      offsetHigh: high,
      offset: -1,
      size,
    });
    this.#begin(node);
    const r = plus ? this.fs.readdirplus(this.request, args) : this.fs.readdir(this.request, args);
    if (r < 0) return r;
    const { u8, u32, view } = this.request.reply;
    const found: Dirent[] = [];
    const head = plus ? ENTRY_OUT_BYTES : 0;
    for (let at = 16; at < 16 + r; ) {
      const d = at + head;
      const bytes = view.getUint32(d + 16, true);
      found.push({
        name: Buffer.from(u8.slice(d + 24, d + 24 + bytes)),
        ino: view.getBigUint64(d, true),
        low: view.getUint32(d + 8, true),
        high: view.getUint32(d + 12, true),
        type: view.getUint32(d + 20, true),
        node: plus ? u32[at >> 2] : 0,
        attrFlags: plus ? u32[(at >> 2) + ENTRY_OUT.ATTR + ATTR.FLAGS] : 0,
      });
      at += head + ((24 + bytes + 7) & ~7);
    }
    return found;
  }

  /** A whole directory, page by page. */
  list(node: number, plus = false, size = 4096): Dirent[] {
    const handle = this.opendir(node);
    if (typeof handle === 'number') throw new Error(`opendir: ${handle}`);
    const all: Dirent[] = [];
    let low = 0;
    let high = 0;
    for (;;) {
      const page = this.readdir(node, handle, low, high, size, plus);
      if (typeof page === 'number') throw new Error(`readdir: ${page}`);
      if (page.length === 0) break;
      all.push(...page);
      ({ low, high } = page[page.length - 1]);
    }
    this.releasedir(node, handle);
    return all;
  }

  statfs(node: number): Uint32Array | number {
    const r = this.fs.statfs(this.#begin(node));
    return r < 0 ? r : this.request.reply.u32.slice(Request.BODY_WORD, Request.BODY_WORD + 20);
  }

  setxattr(node: number, name: Text, value: Text, flags = 0): number {
    const args = Object.assign(new A.SetxattrArgs(), { flags });
    const bytes = Buffer.from(value);
    this.#begin(node);
    this.#name(args.name, name);
    args.valueAddress = this.request.memory.putText(this.#used, bytes);
    args.valueBytes = bytes.length;
    return this.fs.setxattr(this.request, args);
  }

  getxattr(node: number, name: Text, size = 4096): Buffer | number {
    const args = Object.assign(new A.GetxattrArgs(), { size });
    this.#begin(node);
    this.#name(args.name, name);
    const r = this.fs.getxattr(this.request, args);
    return r < 0 ? r : this.body(r);
  }

  listxattr(node: number, size = 4096): Buffer | number {
    const r = this.fs.listxattr(this.#begin(node), Object.assign(new A.ListxattrArgs(), { size }));
    return r < 0 ? r : this.body(r);
  }

  removexattr(node: number, name: Text): number {
    const args = new A.NameArgs();
    this.#begin(node);
    this.#name(args.name, name);
    return this.fs.removexattr(this.request, args);
  }

  fallocate(node: number, handle: Handle, mode: number, offset: number, length: number): number {
    const args = Object.assign(new A.FallocateArgs(), { fhLow: handle.low, fhHigh: handle.high, mode, offset, length });
    return this.fs.fallocate(this.#begin(node), args);
  }

  lseek(node: number, handle: Handle, offset: number, whence: number): number {
    const args = Object.assign(new A.LseekArgs(), { fhLow: handle.low, fhHigh: handle.high, offset, whence });
    const r = this.fs.lseek(this.#begin(node), args);
    return r < 0 ? r : Number(this.request.reply.view.getBigUint64(16, true));
  }

  copy(
    node: number,
    from: Handle,
    offsetIn: number,
    to: { node: number; handle: Handle },
    offsetOut: number,
    length: number,
  ): number {
    const args = Object.assign(new A.CopyFileRangeArgs(), {
      fhInLow: from.low,
      fhInHigh: from.high,
      offsetIn,
      nodeOutLow: to.node,
      nodeOutHigh: MEMBER,
      fhOutLow: to.handle.low,
      fhOutHigh: to.handle.high,
      offsetOut,
      length,
    });
    return this.fs.copyFileRange(this.#begin(node), args);
  }

  access(node: number, mask: number): number {
    return this.fs.access(this.#begin(node), Object.assign(new A.AccessArgs(), { mask }));
  }
}

export interface Fixture {
  /** The shared directory. */
  dir: string;
  /** A directory beside it that no guest may ever reach. */
  outside: string;
  arena: Arena;
  budget: DescriptorBudget;
  fs: Passthrough;
  guest: Guest;
}

/** A share of a fresh directory, gone when `use` returns. Fails when a descriptor was left open. */
export function withShare(
  options: Partial<PassthroughOptions>,
  use: (fixture: Fixture) => void,
  parent = tmpdir(),
): void {
  const base = mkdtempSync(join(parent, 'passthrough-'));
  try {
    withShareAt(base, options, use);
  } finally {
    rmSync(base, { recursive: true, force: true });
  }
}

export function withShareAt(base: string, options: Partial<PassthroughOptions>, use: (fixture: Fixture) => void): void {
  const dir = mkdtempSync(join(base, 'share-'));
  const outside = mkdtempSync(join(base, 'outside-'));
  const arena = Arena.create('passthrough-test');
  const budget = new DescriptorBudget(10_000);
  const before = openDescriptors();
  const fs = new Passthrough({ source: dir, ...options }, { arena, tables: 'p', budget });
  try {
    use({ dir, outside, arena, budget, fs, guest: new Guest(fs) });
    fs.destroy();
    const after = openDescriptors();
    if (after !== before || budget.used !== 0)
      throw new Error(`descriptors: ${before} before, ${after} after, ${budget.used} in the budget`);
  } finally {
    fs.destroy();
    arena.close();
  }
}

export function openDescriptors(): number {
  return readdirSync('/proc/self/fd').length;
}

/** The entry, or an error that shows the errno. */
export function ok<T>(value: T | number): T {
  if (typeof value === 'number') throw new Error(`answered ${value}`);
  return value;
}

/** For tests that make files of other users, devices, mounts or trusted attributes. */
export const needsRoot = { skip: process.getuid?.() === 0 ? false : 'needs root: run as root, or in a user namespace' };
