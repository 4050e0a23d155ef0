/**
 * A small, complete, writable file system in memory: the test double behind unions, sessions and transports.
 *
 * It behaves as a member has to (counts lookups, never reuses numbers, closes on destroy) and can be told to park. It
 * is plain JavaScript objects: allocation per request and everything else the real members must not do.
 */
import type * as A from '../../fuse/args.ts';
import type { Result } from '../../fuse/file-system.ts';
import { direntType, FATTR, S } from '../../fuse/flags.ts';
import { type Name, PARKED, REPLY_BODY_BYTES_MAX, RESUME, Request } from '../../fuse/request.ts';
import { copyTo } from '../../fuse/segments.ts';
import {
  ATTR_OUT,
  ATTR_OUT_BYTES,
  ENTRY_OUT,
  ENTRY_OUT_BYTES,
  GETXATTR_OUT_BYTES,
  LSEEK_OUT_BYTES,
  OPEN_OUT,
  OPEN_OUT_BYTES,
  STATFS_OUT,
  STATFS_OUT_BYTES,
} from '../../fuse/wire/layout.ts';
import { direntBytes, encodeRdev, putAttr, putAttrHead, putDirent, putEntryHead, putU64 } from '../../fuse/wire/out.ts';
import { errno } from '../../sys/errno.ts';
import { copyMemory, FALLOC, SEEK } from '../../sys/io.ts';
import { NativeMemory } from '../../sys/native-memory.ts';
import { O, RENAME } from '../../sys/path.ts';
import { XATTR_CREATE, XATTR_REPLACE } from '../../sys/xattr.ts';
import type { Member } from '../mounts.ts';

const BODY = Request.BODY_WORD;
const ROOT = 1;
/** Copies between JS and native memory go through this. */
const scratch = new NativeMemory(1024 * 1024);

interface Node {
  id: number;
  mode: number;
  uid: number;
  gid: number;
  rdev: number;
  nlink: number;
  seconds: number;
  nsec: number;
  /** File content, or a symlink's target. */
  data: Buffer;
  /** Entries by name (one character per byte), each with a cookie of its own. */
  entries: Map<string, { node: number; cookie: number }>;
  parent: number;
  xattrs: Map<string, Buffer>;
  lookups: number;
  handles: number;
}

/** What `dump` gives and the constructor takes back. */
export interface MemoryFsState {
  nodes: Node[];
  handles: [fh: number, node: number][];
  next: [node: number, handle: number, cookie: number];
}

export class MemoryFs implements Member {
  readonly nodes = new Map<number, Node>();
  readonly handles = new Map<number, number>();
  /** While true, READs and FSYNCs park; `tickets` has what they wait under. READs run again, FSYNCs finish. */
  park = false;
  readonly tickets: number[] = [];
  destroyed = false;
  resets = 0;
  #nextNode = ROOT;
  #nextHandle = 1;
  #nextCookie = 1;

  /** @param validMs time-out of entries and attributes */
  constructor(
    readonly validMs = 60_000,
    saved: MemoryFsState | null = null,
  ) {
    if (saved === null) {
      this.#make(S.IFDIR | 0o755, 0, 0).nlink = 2;
      return;
    }
    for (const node of structuredClone(saved.nodes)) {
      node.data = Buffer.from(node.data);
      for (const [name, value] of node.xattrs) node.xattrs.set(name, Buffer.from(value));
      this.nodes.set(node.id, node);
    }
    for (const [fh, node] of saved.handles) this.handles.set(fh, node);
    [this.#nextNode, this.#nextHandle, this.#nextCookie] = saved.next;
  }

  dump(): MemoryFsState {
    return structuredClone({
      nodes: [...this.nodes.values()],
      handles: [...this.handles],
      next: [this.#nextNode, this.#nextHandle, this.#nextCookie] as MemoryFsState['next'],
    });
  }

  /** Puts a file at `path` ('/a/b', directories are made) without any request. */
  addFile(path: string, content: string | Uint8Array, mode = 0o644): void {
    const names = path.split('/').filter((name) => name !== '');
    const last = names.pop() as string;
    let dir = this.nodes.get(ROOT) as Node;
    for (const name of names) {
      const entry = dir.entries.get(name);
      dir = entry === undefined ? this.#enter(dir, name, S.IFDIR | 0o755, 0, 0) : this.#must(entry.node);
    }
    this.#enter(dir, last, S.IFREG | mode, 0, 0).data = Buffer.from(content as string);
  }

  lookup(request: Request, args: A.NameArgs): Result {
    const dir = this.#dir(request);
    if (typeof dir === 'number') return dir;
    const entry = dir.entries.get(text(request, args.name));
    return entry === undefined ? -errno.ENOENT : this.#entryOut(request, this.#must(entry.node));
  }

  forget(nodeLow: number, _nodeHigh: number, nlookup: number): void {
    const node = this.nodes.get(nodeLow);
    if (node === undefined) return;
    node.lookups = Math.max(0, node.lookups - nlookup);
    this.#drop(node);
  }

  getattr(request: Request, _args: A.GetattrArgs): Result {
    const node = this.nodes.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    putAttrHead(request.reply.u32, BODY, this.validMs);
    this.#attr(request.reply.u32, BODY + ATTR_OUT.ATTR, node);
    return ATTR_OUT_BYTES;
  }

  setattr(request: Request, args: A.SetattrArgs): Result {
    const node = this.nodes.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    if (args.valid & FATTR.MODE) node.mode = (node.mode & S.IFMT) | (args.mode & 0o7777);
    if (args.valid & FATTR.UID) node.uid = args.uid;
    if (args.valid & FATTR.GID) node.gid = args.gid;
    if (args.valid & FATTR.SIZE) resize(node, args.size);
    if (args.valid & FATTR.MTIME) {
      node.seconds = args.mtimeHigh * 0x1_0000_0000 + args.mtimeLow;
      node.nsec = args.mtimeNsec;
    }
    if (args.valid & FATTR.MTIME_NOW) touch(node);
    return this.getattr(request, undefined as never);
  }

  readlink(request: Request): Result {
    const node = this.nodes.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    if ((node.mode & S.IFMT) !== S.IFLNK) return -errno.EINVAL;
    return putBytes(request, node.data);
  }

  symlink(request: Request, args: A.SymlinkArgs): Result {
    const node = this.#create(request, args.name, S.IFLNK | 0o777);
    if (typeof node === 'number') return node;
    node.data = Buffer.from(bytesOf(request, args.target));
    return this.#entryOut(request, node);
  }

  mknod(request: Request, args: A.MknodArgs): Result {
    const node = this.#create(request, args.name, args.mode & ~args.umask);
    if (typeof node === 'number') return node;
    node.rdev = encodeRdev(args.rdevMajor, args.rdevMinor);
    return this.#entryOut(request, node);
  }

  mkdir(request: Request, args: A.MkdirArgs): Result {
    const node = this.#create(request, args.name, S.IFDIR | (args.mode & 0o7777 & ~args.umask));
    return typeof node === 'number' ? node : this.#entryOut(request, node);
  }

  link(request: Request, args: A.LinkArgs): Result {
    const dir = this.#dir(request);
    const node = this.nodes.get(args.oldLow);
    if (typeof dir === 'number') return dir;
    if (node === undefined) return -errno.ESTALE;
    if ((node.mode & S.IFMT) === S.IFDIR) return -errno.EPERM;
    const name = text(request, args.name);
    if (dir.entries.has(name)) return -errno.EEXIST;
    dir.entries.set(name, { node: node.id, cookie: this.#nextCookie++ });
    node.nlink++;
    return this.#entryOut(request, node);
  }

  create(request: Request, args: A.CreateArgs): Result {
    const dir = this.#dir(request);
    if (typeof dir === 'number') return dir;
    const there = dir.entries.get(text(request, args.name));
    if (there !== undefined && (args.flags & O.EXCL) !== 0) return -errno.EEXIST;
    const node =
      there === undefined
        ? this.#create(request, args.name, S.IFREG | (args.mode & 0o7777 & ~args.umask))
        : this.#must(there.node);
    if (typeof node === 'number') return node;
    if ((node.mode & S.IFMT) === S.IFDIR) return -errno.EISDIR;
    if (args.flags & O.TRUNC) resize(node, 0);
    this.#entryOut(request, node);
    this.#openOut(request, node, BODY + ENTRY_OUT_BYTES / 4);
    return ENTRY_OUT_BYTES + OPEN_OUT_BYTES;
  }

  unlink(request: Request, args: A.NameArgs): Result {
    return this.#remove(request, args.name, false);
  }

  rmdir(request: Request, args: A.NameArgs): Result {
    return this.#remove(request, args.name, true);
  }

  rename(request: Request, args: A.RenameArgs): Result {
    const from = this.#dir(request);
    const to = this.nodes.get(args.newDirLow);
    if (typeof from === 'number') return from;
    if (to === undefined) return -errno.ESTALE;
    if ((to.mode & S.IFMT) !== S.IFDIR) return -errno.ENOTDIR;
    const oldName = text(request, args.oldName);
    const newName = text(request, args.newName);
    const source = from.entries.get(oldName);
    const target = to.entries.get(newName);
    if (source === undefined) return -errno.ENOENT;
    if (target !== undefined && (args.flags & RENAME.NOREPLACE) !== 0) return -errno.EEXIST;
    if (args.flags & RENAME.EXCHANGE) {
      if (target === undefined) return -errno.ENOENT;
      to.entries.set(newName, source);
      from.entries.set(oldName, target);
      this.#must(source.node).parent = to.id;
      this.#must(target.node).parent = from.id;
      return 0;
    }
    if (target?.node === source.node) return 0;
    if (target !== undefined) {
      const gone = this.#must(target.node);
      if (gone.entries.size > 0) return -errno.ENOTEMPTY;
      this.#unlinkNode(to, newName, gone);
    }
    from.entries.delete(oldName);
    to.entries.set(newName, { node: source.node, cookie: this.#nextCookie++ });
    const moved = this.#must(source.node);
    if ((moved.mode & S.IFMT) === S.IFDIR) {
      from.nlink--;
      to.nlink++;
    }
    moved.parent = to.id;
    if (args.flags & RENAME.WHITEOUT) this.#enter(from, oldName, S.IFCHR, request.uid, request.gid);
    return 0;
  }

  open(request: Request, args: A.OpenArgs): Result {
    const node = this.nodes.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    if ((node.mode & S.IFMT) === S.IFDIR) return -errno.EISDIR;
    if (args.flags & O.TRUNC) resize(node, 0);
    this.#openOut(request, node, BODY);
    return OPEN_OUT_BYTES;
  }

  read(request: Request, args: A.ReadArgs): Result {
    const node = this.#handle(args.fhLow);
    if (node === null) return -errno.EBADF;
    if (this.park && request.attempt === 0) return this.#park(request, RESUME.RERUN);
    const bytes = node.data.subarray(args.offset, args.offset + args.size);
    for (let at = 0; at < bytes.length; at += scratch.bytes) {
      const piece = bytes.subarray(at, at + scratch.bytes);
      scratch.u8.set(piece);
      const n = copyTo(request.data, at, scratch.address, piece.length);
      if (n < 0) return n;
    }
    return bytes.length;
  }

  write(request: Request, args: A.WriteArgs): Result {
    const node = this.#handle(args.fhLow);
    if (node === null) return -errno.EBADF;
    const bytes = bytesOfSegments(request, args.size);
    const offset = args.flags & O.APPEND ? node.data.length : args.offset;
    if (offset + bytes.length > node.data.length) resize(node, offset + bytes.length);
    bytes.copy(node.data, offset);
    touch(node);
    return bytes.length;
  }

  release(_request: Request, args: A.ReleaseArgs): Result {
    const node = this.#handle(args.fhLow);
    this.handles.delete(args.fhLow);
    if (node === null) return 0;
    node.handles--;
    this.#drop(node);
    return 0;
  }

  flush(_request: Request, _args: A.FlushArgs): Result {
    return 0;
  }

  fsync(request: Request, args: A.FsyncArgs): Result {
    if (this.#handle(args.fhLow) === null) return -errno.EBADF;
    return this.park ? this.#park(request, RESUME.FINISH) : 0;
  }

  opendir(request: Request, _args: A.OpenArgs): Result {
    const dir = this.#dir(request);
    if (typeof dir === 'number') return dir;
    this.#openOut(request, dir, BODY);
    return OPEN_OUT_BYTES;
  }

  readdir(request: Request, args: A.ReadArgs): Result {
    return this.#list(request, args, false);
  }

  readdirplus(request: Request, args: A.ReadArgs): Result {
    return this.#list(request, args, true);
  }

  releasedir(request: Request, args: A.ReleaseArgs): Result {
    return this.release(request, args);
  }

  fsyncdir(_request: Request, _args: A.FsyncArgs): Result {
    return 0;
  }

  statfs(request: Request): Result {
    const words = request.reply.u32;
    words.fill(0, BODY, BODY + STATFS_OUT_BYTES / 4);
    words[BODY + STATFS_OUT.BSIZE] = words[BODY + STATFS_OUT.FRSIZE] = 4096;
    words[BODY + STATFS_OUT.NAMELEN] = 255;
    words[BODY + STATFS_OUT.FILES] = this.nodes.size;
    return STATFS_OUT_BYTES;
  }

  setxattr(request: Request, args: A.SetxattrArgs): Result {
    const node = this.nodes.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    const name = text(request, args.name);
    if (args.flags & XATTR_CREATE && node.xattrs.has(name)) return -errno.EEXIST;
    if (args.flags & XATTR_REPLACE && !node.xattrs.has(name)) return -errno.ENODATA;
    const at = args.valueAddress - request.memory.address;
    node.xattrs.set(name, Buffer.from(request.memory.u8.subarray(at, at + args.valueBytes)));
    return 0;
  }

  getxattr(request: Request, args: A.GetxattrArgs): Result {
    const value = this.nodes.get(request.nodeLow)?.xattrs.get(text(request, args.name));
    return value === undefined ? -errno.ENODATA : sized(request, value, args.size);
  }

  listxattr(request: Request, args: A.ListxattrArgs): Result {
    const node = this.nodes.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    const names = [...node.xattrs.keys()].map((name) => `${name}\0`).join('');
    return sized(request, Buffer.from(names, 'latin1'), args.size);
  }

  removexattr(request: Request, args: A.NameArgs): Result {
    return this.nodes.get(request.nodeLow)?.xattrs.delete(text(request, args.name)) ? 0 : -errno.ENODATA;
  }

  fallocate(_request: Request, args: A.FallocateArgs): Result {
    const node = this.#handle(args.fhLow);
    if (node === null) return -errno.EBADF;
    const end = args.offset + args.length;
    if ((args.mode & FALLOC.KEEP_SIZE) === 0 && end > node.data.length) resize(node, end);
    if (args.mode & (FALLOC.PUNCH_HOLE | FALLOC.ZERO_RANGE)) node.data.fill(0, args.offset, end);
    return 0;
  }

  lseek(request: Request, args: A.LseekArgs): Result {
    const node = this.#handle(args.fhLow);
    if (node === null) return -errno.EBADF;
    if (args.offset >= node.data.length) return -errno.ENXIO;
    putU64(request.reply.u32, BODY, args.whence === SEEK.HOLE ? node.data.length : args.offset);
    return LSEEK_OUT_BYTES;
  }

  copyFileRange(_request: Request, args: A.CopyFileRangeArgs): Result {
    const from = this.#handle(args.fhInLow);
    const to = this.#handle(args.fhOutLow);
    if (from === null || to === null) return -errno.EBADF;
    const bytes = Buffer.from(from.data.subarray(args.offsetIn, args.offsetIn + args.length));
    if (args.offsetOut + bytes.length > to.data.length) resize(to, args.offsetOut + bytes.length);
    bytes.copy(to.data, args.offsetOut);
    return bytes.length;
  }

  syncfs(_request: Request): Result {
    return 0;
  }

  access(_request: Request, _args: A.AccessArgs): Result {
    return 0;
  }

  reset(): void {
    this.resets++;
    this.handles.clear();
    for (const node of [...this.nodes.values()]) {
      node.lookups = node.handles = 0;
      this.#drop(node);
    }
  }

  destroy(): void {
    this.destroyed = true;
    this.handles.clear();
    this.nodes.clear();
  }

  #park(request: Request, resume: number): Result {
    const ticket = request.parking.park(resume, false);
    if (ticket === 0) return -errno.EBUSY;
    this.tickets.push(ticket);
    return PARKED;
  }

  #must(id: number): Node {
    return this.nodes.get(id) as Node;
  }

  #dir(request: Request): Node | number {
    const node = this.nodes.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    return (node.mode & S.IFMT) === S.IFDIR ? node : -errno.ENOTDIR;
  }

  #handle(fh: number): Node | null {
    return this.nodes.get(this.handles.get(fh) ?? 0) ?? null;
  }

  #make(mode: number, uid: number, gid: number): Node {
    const node: Node = {
      id: this.#nextNode++,
      mode,
      uid,
      gid,
      rdev: 0,
      nlink: 1,
      seconds: 0,
      nsec: 0,
      data: Buffer.alloc(0),
      entries: new Map(),
      parent: ROOT,
      xattrs: new Map(),
      lookups: 0,
      handles: 0,
    };
    touch(node);
    this.nodes.set(node.id, node);
    return node;
  }

  #enter(dir: Node, name: string, mode: number, uid: number, gid: number): Node {
    const node = this.#make(mode, uid, gid);
    node.parent = dir.id;
    if ((mode & S.IFMT) === S.IFDIR) {
      node.nlink = 2;
      dir.nlink++;
    }
    dir.entries.set(name, { node: node.id, cookie: this.#nextCookie++ });
    touch(dir);
    return node;
  }

  #create(request: Request, name: Name, mode: number): Node | number {
    const dir = this.#dir(request);
    if (typeof dir === 'number') return dir;
    if (dir.entries.has(text(request, name))) return -errno.EEXIST;
    return this.#enter(dir, text(request, name), mode, request.uid, request.gid);
  }

  #remove(request: Request, name: Name, directory: boolean): Result {
    const dir = this.#dir(request);
    if (typeof dir === 'number') return dir;
    const entry = dir.entries.get(text(request, name));
    if (entry === undefined) return -errno.ENOENT;
    const node = this.#must(entry.node);
    const isDir = (node.mode & S.IFMT) === S.IFDIR;
    if (isDir !== directory) return directory ? -errno.ENOTDIR : -errno.EISDIR;
    if (node.entries.size > 0) return -errno.ENOTEMPTY;
    this.#unlinkNode(dir, text(request, name), node);
    return 0;
  }

  #unlinkNode(dir: Node, name: string, node: Node): void {
    dir.entries.delete(name);
    const isDir = (node.mode & S.IFMT) === S.IFDIR;
    if (isDir) dir.nlink--;
    node.nlink -= isDir ? 2 : 1;
    touch(dir);
    this.#drop(node);
  }

  /** A node without name, lookups and handles is gone. */
  #drop(node: Node): void {
    if (node.nlink <= 0 && node.lookups === 0 && node.handles === 0) this.nodes.delete(node.id);
  }

  #attr(words: Uint32Array, at: number, node: Node): void {
    const { id, data, seconds, nsec, mode, nlink, uid, gid, rdev } = node;
    const blocks = Math.ceil(data.length / 512);
    putAttr(words, at, id, 0, data.length, blocks, seconds, nsec, mode, Math.max(0, nlink), uid, gid, rdev, 0);
  }

  #entryOut(request: Request, node: Node): Result {
    node.lookups++;
    putEntryHead(request.reply.u32, BODY, node.id, request.nodeHigh, this.validMs, this.validMs);
    this.#attr(request.reply.u32, BODY + ENTRY_OUT.ATTR, node);
    return ENTRY_OUT_BYTES;
  }

  #openOut(request: Request, node: Node, at: number): void {
    const fh = this.#nextHandle++;
    this.handles.set(fh, node.id);
    node.handles++;
    const words = request.reply.u32;
    words.fill(0, at, at + OPEN_OUT_BYTES / 4);
    words[at + OPEN_OUT.FH] = fh;
  }

  #list(request: Request, args: A.ReadArgs, plus: boolean): Result {
    const dir = this.#handle(args.fhLow);
    if (dir === null) return -errno.EBADF;
    const all: [name: string, node: number, cookie: number][] = [
      ['.', dir.id, 1],
      ['..', dir.parent, 2],
    ];
    for (const [name, entry] of dir.entries) all.push([name, entry.node, entry.cookie + 2]);
    const room = Math.min(args.size, REPLY_BODY_BYTES_MAX);
    let at = 0;
    for (const [name, id, cookie] of all) {
      if (cookie <= args.offsetLow) continue;
      const bytes = Buffer.from(name, 'latin1');
      const head = plus ? ENTRY_OUT_BYTES : 0;
      if (at + head + direntBytes(bytes.length) > room) return at === 0 ? -errno.EINVAL : at;
      at += this.#record(request, at, head, id, cookie, bytes);
    }
    return at;
  }

  #record(request: Request, at: number, head: number, id: number, cookie: number, name: Buffer): number {
    const { u32, u8 } = request.reply;
    const node = this.#must(id);
    const from = BODY * 4 + at;
    if (head > 0) {
      const dots = name.toString() === '.' || name.toString() === '..';
      if (!dots) node.lookups++;
      putEntryHead(u32, from >> 2, node.id, request.nodeHigh, this.validMs, this.validMs);
      this.#attr(u32, (from >> 2) + ENTRY_OUT.ATTR, node);
    }
    return head + putDirent(u32, u8, from + head, id, 0, cookie, 0, direntType(node.mode), name, 0, name.length);
  }
}

function touch(node: Node): void {
  const now = Date.now();
  node.seconds = Math.floor(now / 1000);
  node.nsec = (now % 1000) * 1e6;
}

function resize(node: Node, bytes: number): void {
  const data = Buffer.alloc(bytes);
  node.data.copy(data);
  node.data = data;
}

function bytesOf(request: Request, name: Name): Uint8Array {
  return request.memory.u8.subarray(name.at, name.at + name.bytes);
}

function text(request: Request, name: Name): string {
  return Buffer.from(bytesOf(request, name)).toString('latin1');
}

function putBytes(request: Request, bytes: Uint8Array): number {
  request.reply.u8.set(bytes, BODY * 4);
  return bytes.length;
}

/** An xattr answer: its size when `size` is 0, else the bytes if they fit. */
function sized(request: Request, bytes: Buffer, size: number): number {
  if (size !== 0) return bytes.length > size ? -errno.ERANGE : putBytes(request, bytes);
  request.reply.u32[BODY] = bytes.length;
  request.reply.u32[BODY + 1] = 0;
  return GETXATTR_OUT_BYTES;
}

function bytesOfSegments(request: Request, size: number): Buffer {
  const { address, length, first, end } = request.data;
  let { skip } = request.data;
  const parts: Buffer[] = [];
  for (let i = first, left = size; i < end && left > 0; i++, skip = 0) {
    for (let at = skip; at < length[i] && left > 0; ) {
      const n = Math.min(scratch.bytes, length[i] - at, left);
      copyMemory(scratch.address, address[i] + at, n);
      parts.push(Buffer.from(scratch.u8.subarray(0, n)));
      at += n;
      left -= n;
    }
  }
  return Buffer.concat(parts);
}
