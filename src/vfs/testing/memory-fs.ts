/**
 * A small, complete, writable file system in memory: the test double behind unions, sessions and transports.
 *
 * It behaves as a member has to (counts lookups, never reuses numbers, closes on destroy) and can be told to park. It
 * is plain JavaScript objects: allocation per request and everything else the real members must not do.
 */
import type * as A from '../../fuse/args.ts';
import type { Result } from '../../fuse/file-system.ts';
import { FATTR, S } from '../../fuse/flags.ts';
import { type Name, PARKED, REPLY_BODY_BYTES_MAX, RESUME, Request } from '../../fuse/request.ts';
import { ENTRY_OUT_BYTES, LSEEK_OUT_BYTES, STATFS_OUT, STATFS_OUT_BYTES } from '../../fuse/wire/layout.ts';
import { direntBytes, encodeRdev, putU64 } from '../../fuse/wire/out.ts';
import { errno } from '../../sys/errno.ts';
import { FALLOC, SEEK } from '../../sys/io.ts';
import { O, RENAME } from '../../sys/path.ts';
import { XATTR_CREATE, XATTR_REPLACE } from '../../sys/xattr.ts';
import type { Member } from '../mounts.ts';
import { isDir, type MemoryFsState, MemoryNodes, type Node, ROOT, resize, touch } from './memory-nodes.ts';
import {
  attrOut,
  bytesOf,
  bytesOut,
  dataIn,
  dataOut,
  entryOut,
  openOut,
  recordOut,
  sizedOut,
  text,
} from './memory-reply.ts';

export type { MemoryFsState } from './memory-nodes.ts';

const BODY = Request.BODY_WORD;

export class MemoryFs implements Member {
  /** While true, READs and FSYNCs park; `tickets` has what they wait under. READs run again, FSYNCs finish. */
  park = false;
  readonly tickets: number[] = [];
  destroyed = false;
  resets = 0;
  readonly #nodes: MemoryNodes;

  /**
   * @param validMs time-out of entries and attributes
   * @param saved what `dump` gave
   */
  constructor(
    readonly validMs = 60_000,
    saved: MemoryFsState | null = null,
  ) {
    this.#nodes = new MemoryNodes(saved);
  }

  dump(): MemoryFsState {
    return this.#nodes.dump();
  }

  /** All nodes, for tests that look behind the requests. */
  get nodes(): ReadonlyMap<number, Node> {
    return this.#nodes.byId;
  }

  /** Puts a file at `path` ('/a/b', directories are made) without any request. */
  addFile(path: string, content: string | Uint8Array, mode = 0o644): void {
    const names = path.split('/').filter((name) => name !== '');
    const last = names.pop() as string;
    let dir = this.#nodes.must(ROOT);
    for (const name of names) {
      const entry = dir.entries.get(name);
      dir = entry === undefined ? this.#nodes.enter(dir, name, S.IFDIR | 0o755, 0, 0) : this.#nodes.must(entry.node);
    }
    this.#nodes.enter(dir, last, S.IFREG | mode, 0, 0).data = Buffer.from(content as string);
  }

  lookup(request: Request, args: A.NameArgs): Result {
    const dir = this.#nodes.dir(request.nodeLow);
    if (typeof dir === 'number') return dir;
    const entry = dir.entries.get(text(request, args.name));
    return entry === undefined ? -errno.ENOENT : entryOut(request, this.#nodes.must(entry.node), this.validMs);
  }

  forget(nodeLow: number, _nodeHigh: number, nlookup: number): void {
    const node = this.#nodes.byId.get(nodeLow);
    if (node === undefined) return;
    node.lookups = Math.max(0, node.lookups - nlookup);
    this.#nodes.drop(node);
  }

  getattr(request: Request, _args: A.GetattrArgs): Result {
    const node = this.#nodes.byId.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    return attrOut(request, node, this.validMs);
  }

  setattr(request: Request, args: A.SetattrArgs): Result {
    const node = this.#nodes.byId.get(request.nodeLow);
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
    const node = this.#nodes.byId.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    if ((node.mode & S.IFMT) !== S.IFLNK) return -errno.EINVAL;
    return bytesOut(request, node.data);
  }

  symlink(request: Request, args: A.SymlinkArgs): Result {
    const node = this.#create(request, args.name, S.IFLNK | 0o777);
    if (typeof node === 'number') return node;
    node.data = bytesOf(request, args.target);
    return entryOut(request, node, this.validMs);
  }

  mknod(request: Request, args: A.MknodArgs): Result {
    const node = this.#create(request, args.name, args.mode & ~args.umask);
    if (typeof node === 'number') return node;
    node.rdev = encodeRdev(args.rdevMajor, args.rdevMinor);
    return entryOut(request, node, this.validMs);
  }

  mkdir(request: Request, args: A.MkdirArgs): Result {
    const node = this.#create(request, args.name, S.IFDIR | (args.mode & 0o7777 & ~args.umask));
    return typeof node === 'number' ? node : entryOut(request, node, this.validMs);
  }

  link(request: Request, args: A.LinkArgs): Result {
    const dir = this.#nodes.dir(request.nodeLow);
    const node = this.#nodes.byId.get(args.oldLow);
    if (typeof dir === 'number') return dir;
    if (node === undefined) return -errno.ESTALE;
    if (isDir(node)) return -errno.EPERM;
    const name = text(request, args.name);
    if (dir.entries.has(name)) return -errno.EEXIST;
    this.#nodes.name(dir, name, node);
    node.nlink++;
    return entryOut(request, node, this.validMs);
  }

  create(request: Request, args: A.CreateArgs): Result {
    const dir = this.#nodes.dir(request.nodeLow);
    if (typeof dir === 'number') return dir;
    const there = dir.entries.get(text(request, args.name));
    if (there !== undefined && (args.flags & O.EXCL) !== 0) return -errno.EEXIST;
    const node =
      there === undefined
        ? this.#create(request, args.name, S.IFREG | (args.mode & 0o7777 & ~args.umask))
        : this.#nodes.must(there.node);
    if (typeof node === 'number') return node;
    if (isDir(node)) return -errno.EISDIR;
    if (args.flags & O.TRUNC) resize(node, 0);
    const bytes = entryOut(request, node, this.validMs);
    return bytes + openOut(request, this.#nodes.open(node), bytes);
  }

  unlink(request: Request, args: A.NameArgs): Result {
    return this.#remove(request, args.name, false);
  }

  rmdir(request: Request, args: A.NameArgs): Result {
    return this.#remove(request, args.name, true);
  }

  rename(request: Request, args: A.RenameArgs): Result {
    const from = this.#nodes.dir(request.nodeLow);
    const to = this.#nodes.byId.get(args.newDirLow);
    if (typeof from === 'number') return from;
    if (to === undefined) return -errno.ESTALE;
    if (!isDir(to)) return -errno.ENOTDIR;
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
      this.#nodes.must(source.node).parent = to.id;
      this.#nodes.must(target.node).parent = from.id;
      return 0;
    }
    if (target?.node === source.node) return 0;
    if (target !== undefined) {
      const gone = this.#nodes.must(target.node);
      if (gone.entries.size > 0) return -errno.ENOTEMPTY;
      this.#nodes.unlink(to, newName, gone);
    }
    from.entries.delete(oldName);
    const moved = this.#nodes.must(source.node);
    this.#nodes.name(to, newName, moved);
    if (isDir(moved)) {
      from.nlink--;
      to.nlink++;
    }
    moved.parent = to.id;
    if (args.flags & RENAME.WHITEOUT) this.#nodes.enter(from, oldName, S.IFCHR, request.uid, request.gid);
    return 0;
  }

  open(request: Request, args: A.OpenArgs): Result {
    const node = this.#nodes.byId.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    if (isDir(node)) return -errno.EISDIR;
    if (args.flags & O.TRUNC) resize(node, 0);
    return openOut(request, this.#nodes.open(node), 0);
  }

  read(request: Request, args: A.ReadArgs): Result {
    const node = this.#nodes.opened(args.fhLow);
    if (node === null) return -errno.EBADF;
    if (this.park && request.attempt === 0) return this.#park(request, RESUME.RERUN);
    return dataOut(request, node.data.subarray(args.offset, args.offset + args.size));
  }

  write(request: Request, args: A.WriteArgs): Result {
    const node = this.#nodes.opened(args.fhLow);
    if (node === null) return -errno.EBADF;
    const bytes = dataIn(request, args.size);
    const offset = args.flags & O.APPEND ? node.data.length : args.offset;
    if (offset + bytes.length > node.data.length) resize(node, offset + bytes.length);
    bytes.copy(node.data, offset);
    touch(node);
    return bytes.length;
  }

  release(_request: Request, args: A.ReleaseArgs): Result {
    this.#nodes.close(args.fhLow);
    return 0;
  }

  flush(_request: Request, _args: A.FlushArgs): Result {
    return 0;
  }

  fsync(request: Request, args: A.FsyncArgs): Result {
    if (this.#nodes.opened(args.fhLow) === null) return -errno.EBADF;
    return this.park ? this.#park(request, RESUME.FINISH) : 0;
  }

  opendir(request: Request, _args: A.OpenArgs): Result {
    const dir = this.#nodes.dir(request.nodeLow);
    if (typeof dir === 'number') return dir;
    return openOut(request, this.#nodes.open(dir), 0);
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
    const node = this.#nodes.byId.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    const name = text(request, args.name);
    if (args.flags & XATTR_CREATE && node.xattrs.has(name)) return -errno.EEXIST;
    if (args.flags & XATTR_REPLACE && !node.xattrs.has(name)) return -errno.ENODATA;
    const at = args.valueAddress - request.memory.address;
    node.xattrs.set(name, Buffer.from(request.memory.u8.subarray(at, at + args.valueBytes)));
    return 0;
  }

  getxattr(request: Request, args: A.GetxattrArgs): Result {
    const value = this.#nodes.byId.get(request.nodeLow)?.xattrs.get(text(request, args.name));
    return value === undefined ? -errno.ENODATA : sizedOut(request, value, args.size);
  }

  listxattr(request: Request, args: A.ListxattrArgs): Result {
    const node = this.#nodes.byId.get(request.nodeLow);
    if (node === undefined) return -errno.ESTALE;
    const names = [...node.xattrs.keys()].map((name) => `${name}\0`).join('');
    return sizedOut(request, Buffer.from(names, 'latin1'), args.size);
  }

  removexattr(request: Request, args: A.NameArgs): Result {
    return this.#nodes.byId.get(request.nodeLow)?.xattrs.delete(text(request, args.name)) ? 0 : -errno.ENODATA;
  }

  fallocate(_request: Request, args: A.FallocateArgs): Result {
    const node = this.#nodes.opened(args.fhLow);
    if (node === null) return -errno.EBADF;
    const end = args.offset + args.length;
    if ((args.mode & FALLOC.KEEP_SIZE) === 0 && end > node.data.length) resize(node, end);
    if (args.mode & (FALLOC.PUNCH_HOLE | FALLOC.ZERO_RANGE)) node.data.fill(0, args.offset, end);
    return 0;
  }

  lseek(request: Request, args: A.LseekArgs): Result {
    const node = this.#nodes.opened(args.fhLow);
    if (node === null) return -errno.EBADF;
    if (args.offset >= node.data.length) return -errno.ENXIO;
    putU64(request.reply.u32, BODY, args.whence === SEEK.HOLE ? node.data.length : args.offset);
    return LSEEK_OUT_BYTES;
  }

  copyFileRange(_request: Request, args: A.CopyFileRangeArgs): Result {
    const from = this.#nodes.opened(args.fhInLow);
    const to = this.#nodes.opened(args.fhOutLow);
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
    this.#nodes.reset();
  }

  destroy(): void {
    this.destroyed = true;
    this.#nodes.clear();
  }

  #park(request: Request, resume: number): Result {
    const ticket = request.parking.park(resume, false);
    if (ticket === 0) return -errno.EBUSY;
    this.tickets.push(ticket);
    return PARKED;
  }

  #create(request: Request, name: Name, mode: number): Node | number {
    const dir = this.#nodes.dir(request.nodeLow);
    if (typeof dir === 'number') return dir;
    if (dir.entries.has(text(request, name))) return -errno.EEXIST;
    return this.#nodes.enter(dir, text(request, name), mode, request.uid, request.gid);
  }

  #remove(request: Request, name: Name, directory: boolean): Result {
    const dir = this.#nodes.dir(request.nodeLow);
    if (typeof dir === 'number') return dir;
    const entry = dir.entries.get(text(request, name));
    if (entry === undefined) return -errno.ENOENT;
    const node = this.#nodes.must(entry.node);
    if (isDir(node) !== directory) return directory ? -errno.ENOTDIR : -errno.EISDIR;
    if (node.entries.size > 0) return -errno.ENOTEMPTY;
    this.#nodes.unlink(dir, text(request, name), node);
    return 0;
  }

  #list(request: Request, args: A.ReadArgs, plus: boolean): Result {
    const dir = this.#nodes.opened(args.fhLow);
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
      const record = (plus ? ENTRY_OUT_BYTES : 0) + direntBytes(bytes.length);
      if (at + record > room) return at === 0 ? -errno.EINVAL : at;
      at += recordOut(request, at, plus, this.#nodes.must(id), cookie, bytes, this.validMs);
    }
    return at;
  }
}
