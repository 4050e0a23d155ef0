/**
 * The one file system a guest sees: pseudo directories, with members mounted on some of them.
 *
 *     request.nodeHigh   0 ──► pseudo directories     (root: the member on "/", if there is one)
 *                        n ──► member n, live or retired
 *                        ? ──► Refusing(ESTALE)
 *
 * Every handler finds its member, lets it answer, and corrects what only the union knows: lookups and handles are
 * counted, roots get short time-outs and the submount mark, inode numbers are mixed where the guest has no submounts.
 * A request costs one map look-up more than the member itself; nothing is allocated.
 */
import type * as A from '../fuse/args.ts';
import type { FileSystem, Result } from '../fuse/file-system.ts';
import { FOPEN } from '../fuse/flags.ts';
import { type Name, Request } from '../fuse/request.ts';
import { OPEN_OUT } from '../fuse/wire/layout.ts';
import { errno } from '../sys/errno.ts';
import { attributes, entry, mixed, rootEntry } from './corrections.ts';
import { last, rewrite } from './dirents.ts';
import { MountPoints } from './mount-points.ts';
import type { Mounted } from './mounts.ts';
import { PSEUDO, ROOT_LOCAL } from './node-ids.ts';
import { BARE } from './root-handles.ts';

const BODY = Request.BODY_WORD;
const FH = BODY + OPEN_OUT.FH;
/**
 * Upper word of the cookies of nested mounts in a member's root: the highest but one that is positive as an off_t, as
 * seekdir wants. ext4 hashes use it once in 2^31 entries, and only roots with mounts inside look for it.
 */
const NESTED_COOKIE_HIGH = 0x7fff_fffe;

export class Union extends MountPoints implements FileSystem {
  lookup(request: Request, args: A.NameArgs): Result {
    const mounted = this.find(request);
    const child = mounted.counted
      ? this.#nested(request, mounted, args.name)
      : request.nodeHigh === PSEUDO
        ? this.#pseudoChild(request, args.name)
        : -1;
    if (child >= 0) return this.#enter(request, child);
    return entry(request, mounted, mounted.fs.lookup(request, args));
  }

  forget(nodeLow: number, nodeHigh: number, nlookup: number): void {
    const mounted = this.mounts.get(nodeHigh);
    if (mounted === undefined) return;
    mounted.addLookups(-nlookup);
    if (nodeLow !== ROOT_LOCAL) mounted.fs.forget(nodeLow, nodeHigh, nlookup);
  }

  getattr(request: Request, args: A.GetattrArgs): Result {
    const mounted = this.find(request);
    return attributes(request, mounted, mounted.fs.getattr(request, args));
  }

  setattr(request: Request, args: A.SetattrArgs): Result {
    const mounted = this.find(request);
    return attributes(request, mounted, mounted.fs.setattr(request, args));
  }

  readlink(request: Request): Result {
    return this.find(request).fs.readlink(request);
  }

  symlink(request: Request, args: A.SymlinkArgs): Result {
    const mounted = this.find(request);
    if (this.#nested(request, mounted, args.name) >= 0) return -errno.EEXIST;
    return entry(request, mounted, mounted.fs.symlink(request, args));
  }

  mknod(request: Request, args: A.MknodArgs): Result {
    const mounted = this.find(request);
    if (this.#nested(request, mounted, args.name) >= 0) return -errno.EEXIST;
    return entry(request, mounted, mounted.fs.mknod(request, args));
  }

  mkdir(request: Request, args: A.MkdirArgs): Result {
    const mounted = this.find(request);
    if (this.#nested(request, mounted, args.name) >= 0) return -errno.EEXIST;
    return entry(request, mounted, mounted.fs.mkdir(request, args));
  }

  link(request: Request, args: A.LinkArgs): Result {
    const mounted = this.find(request);
    if (mounted.counted && this.memberOf(args.oldLow, args.oldHigh) !== mounted.id) return -errno.EXDEV;
    if (this.#nested(request, mounted, args.name) >= 0) return -errno.EEXIST;
    args.oldHigh = mounted.id;
    return entry(request, mounted, mounted.fs.link(request, args));
  }

  create(request: Request, args: A.CreateArgs): Result {
    const mounted = this.find(request);
    // A directory is in the way, as open(2) of an existing one with O_CREAT says.
    if (this.#nested(request, mounted, args.name) >= 0) return -errno.EISDIR;
    const n = entry(request, mounted, mounted.fs.create(request, args));
    if (n > 0) mounted.addHandles(1);
    return n;
  }

  unlink(request: Request, args: A.NameArgs): Result {
    const mounted = this.find(request);
    if (this.#nested(request, mounted, args.name) >= 0) return -errno.EBUSY;
    return mounted.fs.unlink(request, args);
  }

  rmdir(request: Request, args: A.NameArgs): Result {
    const mounted = this.find(request);
    if (this.#nested(request, mounted, args.name) >= 0) return -errno.EBUSY;
    return mounted.fs.rmdir(request, args);
  }

  rename(request: Request, args: A.RenameArgs): Result {
    const mounted = this.find(request);
    if (!mounted.counted) return mounted.fs.rename(request, args);
    if (this.memberOf(args.newDirLow, args.newDirHigh) !== mounted.id) return -errno.EXDEV;
    args.newDirHigh = mounted.id;
    if (this.#nested(request, mounted, args.oldName) >= 0) return -errno.EBUSY;
    if (args.newDirLow === ROOT_LOCAL && this.#nestedIn(request, mounted, args.newName) >= 0) return -errno.EBUSY;
    return mounted.fs.rename(request, args);
  }

  open(request: Request, args: A.OpenArgs): Result {
    const mounted = this.find(request);
    const n = mounted.fs.open(request, args);
    if (n > 0) mounted.addHandles(1);
    return n;
  }

  read(request: Request, args: A.ReadArgs): Result {
    return this.find(request).fs.read(request, args);
  }

  write(request: Request, args: A.WriteArgs): Result {
    return this.find(request).fs.write(request, args);
  }

  release(request: Request, args: A.ReleaseArgs): Result {
    const mounted = this.find(request);
    mounted.addHandles(-1);
    return mounted.fs.release(request, args);
  }

  flush(request: Request, args: A.FlushArgs): Result {
    return this.find(request).fs.flush(request, args);
  }

  fsync(request: Request, args: A.FsyncArgs): Result {
    return this.find(request).fs.fsync(request, args);
  }

  /**
   * A member's root may get mounts inside, and nodeid 1 another member, while the guest has it open: it may not cache
   * such a listing, and a handle on nodeid 1 is one of ours that remembers its member.
   */
  opendir(request: Request, args: A.OpenArgs): Result {
    const mounted = this.find(request);
    if (!mounted.counted || request.nodeLow !== ROOT_LOCAL) {
      const n = mounted.fs.opendir(request, args);
      if (n > 0) mounted.addHandles(1);
      return n;
    }
    const ours = mounted.path === '/' ? this.rootHandles.reserve() : 0;
    if (ours < 0) return -errno.ENFILE;
    const n = mounted.fs.opendir(request, args);
    if (n <= 0) {
      if (mounted.path === '/') this.rootHandles.free(ours);
      return n;
    }
    mounted.addHandles(1);
    const words = request.reply.u32;
    words[BODY + OPEN_OUT.OPEN_FLAGS] &= ~(FOPEN.CACHE_DIR | FOPEN.KEEP_CACHE);
    if (mounted.path !== '/') return n;
    if (words[FH] === 0 && words[FH + 1] === 0) {
      this.rootHandles.free(ours);
      words[FH] = BARE;
      words[FH + 1] = mounted.id;
    } else {
      this.rootHandles.set(ours, mounted.id, words[FH], words[FH + 1]);
      words[FH] = ours;
      words[FH + 1] = this.rootHandles.number(ours);
    }
    return n;
  }

  readdir(request: Request, args: A.ReadArgs): Result {
    return this.#list(request, args, false);
  }

  readdirplus(request: Request, args: A.ReadArgs): Result {
    return this.#list(request, args, true);
  }

  releasedir(request: Request, args: A.ReleaseArgs): Result {
    const onRoot = request.nodeLow === ROOT_LOCAL && request.nodeHigh === PSEUDO;
    const ours = onRoot ? this.rootHandles.find(args.fhLow, args.fhHigh) : -1;
    const mounted = this.findByHandle(request, args);
    if (ours >= 0) this.rootHandles.free(ours);
    mounted.addHandles(-1);
    return mounted.fs.releasedir(request, args);
  }

  fsyncdir(request: Request, args: A.FsyncArgs): Result {
    return this.findByHandle(request, args).fs.fsyncdir(request, args);
  }

  statfs(request: Request): Result {
    return this.find(request).fs.statfs(request);
  }

  setxattr(request: Request, args: A.SetxattrArgs): Result {
    return this.find(request).fs.setxattr(request, args);
  }

  getxattr(request: Request, args: A.GetxattrArgs): Result {
    return this.find(request).fs.getxattr(request, args);
  }

  listxattr(request: Request, args: A.ListxattrArgs): Result {
    return this.find(request).fs.listxattr(request, args);
  }

  removexattr(request: Request, args: A.NameArgs): Result {
    return this.find(request).fs.removexattr(request, args);
  }

  fallocate(request: Request, args: A.FallocateArgs): Result {
    return this.find(request).fs.fallocate(request, args);
  }

  lseek(request: Request, args: A.LseekArgs): Result {
    return this.find(request).fs.lseek(request, args);
  }

  copyFileRange(request: Request, args: A.CopyFileRangeArgs): Result {
    const mounted = this.find(request);
    if (mounted.counted && args.nodeOutHigh !== mounted.id) return -errno.EXDEV;
    return mounted.fs.copyFileRange(request, args);
  }

  syncfs(request: Request): Result {
    return this.find(request).fs.syncfs(request);
  }

  access(request: Request, args: A.AccessArgs): Result {
    return this.find(request).fs.access(request, args);
  }

  /** Slot of the pseudo child `name` of the pseudo directory asked, -1 for none. */
  #pseudoChild(request: Request, name: Name): number {
    const slot = this.tree.slotOf(request.nodeLow);
    return slot < 0 ? -1 : this.tree.child(slot, request.memory.u8, name.at, name.bytes);
  }

  /** Slot of the pseudo directory that covers `name` in the directory asked: only a member's root has any. */
  #nested(request: Request, mounted: Mounted, name: Name): number {
    return request.nodeLow === ROOT_LOCAL ? this.#nestedIn(request, mounted, name) : -1;
  }

  #nestedIn(request: Request, mounted: Mounted, name: Name): number {
    if (mounted.pseudo < 0 || this.tree.children(mounted.pseudo) === 0) return -1;
    return this.tree.child(mounted.pseudo, request.memory.u8, name.at, name.bytes);
  }

  /** entry_out of a pseudo directory, or of the root of what is mounted on it. */
  #enter(request: Request, slot: number): Result {
    const mounted = this.mounts.get(this.tree.member(slot));
    return mounted === undefined ? this.pseudo.entry(request, slot) : rootEntry(request, mounted);
  }

  #list(request: Request, args: A.ReadArgs, plus: boolean): Result {
    const mounted = this.findByHandle(request, args);
    if (!mounted.counted) return plus ? mounted.fs.readdirplus(request, args) : mounted.fs.readdir(request, args);
    const mix = mixed(request, mounted);
    const over = request.nodeLow === ROOT_LOCAL && mounted.pseudo >= 0 ? mounted.pseudo : -1;
    if (over >= 0 && this.tree.children(over) > 0) return this.#merged(request, args, plus, mounted, mix, over);
    const n = plus ? mounted.fs.readdirplus(request, args) : mounted.fs.readdir(request, args);
    return n > 0 && (plus || mix !== 0) ? rewrite(request, n, mounted, plus, mix, this.tree, -1) : n;
  }

  /** A member's root with mounts inside: the member's entries less the covered names, then the mounts. */
  #merged(request: Request, args: A.ReadArgs, plus: boolean, mounted: Mounted, mix: number, over: number): Result {
    if (args.offsetHigh === NESTED_COOKIE_HIGH) {
      return this.pseudo.children(request, args, plus, over, args.offsetLow - 1, NESTED_COOKIE_HIGH, 0);
    }
    for (;;) {
      const n = plus ? mounted.fs.readdirplus(request, args) : mounted.fs.readdir(request, args);
      if (n < 0) return n;
      if (n === 0) return this.pseudo.children(request, args, plus, over, 0, NESTED_COOKIE_HIGH, 0);
      const left = rewrite(request, n, mounted, plus, mix, this.tree, over);
      if (left > 0) return left;
      // Everything in this reply was covered; an empty reply would mean the end.
      args.offsetLow = last.low;
      args.offsetHigh = last.high;
      args.offset = last.high > 0x1f_ffff ? -1 : last.high * 0x1_0000_0000 + last.low;
    }
  }
}
