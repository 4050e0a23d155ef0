/**
 * What a file system gives the session. Implemented by the union (`src/vfs`), and by each member below it
 * (`src/passthrough`, `src/rafs`).
 *
 * A handler runs to completion on the device thread, synchronously. It returns
 * - the bytes of reply body it wrote to `request.reply` from word `Request.BODY_WORD` on (`read`: bytes put into
 *   `request.data`; `write`: the bytes taken), or
 * - -errno (-1..-511), or
 * - PARKED, after `request.parking.park`.
 * It never throws on purpose (the session answers EIO and logs if it does), returns no Promise, allocates nothing.
 *
 * A member reads its own node number from `request.nodeLow` and writes entries whose nodeid has `request.nodeHigh` in
 * the upper word (`wire/out.ts` does). `Result` is a plain number so that nothing is boxed.
 */
import type * as A from './args.ts';
import type { Request } from './request.ts';

export type Result = number;

export interface FileSystem {
  /** entry_out; counts one lookup. -ENOENT, or an entry with nodeid 0 for a cached negative. */
  lookup(request: Request, args: A.NameArgs): Result;
  /** Takes back `nlookup` lookups of node {low, high}. No reply; unknown nodes are ignored. */
  forget(nodeLow: number, nodeHigh: number, nlookup: number): void;
  /** attr_out. */
  getattr(request: Request, args: A.GetattrArgs): Result;
  /** attr_out. */
  setattr(request: Request, args: A.SetattrArgs): Result;
  /** Target bytes. */
  readlink(request: Request): Result;
  /** The creating calls: entry_out, counted as a lookup; made as request.uid/gid. */
  symlink(request: Request, args: A.SymlinkArgs): Result;
  mknod(request: Request, args: A.MknodArgs): Result;
  mkdir(request: Request, args: A.MkdirArgs): Result;
  link(request: Request, args: A.LinkArgs): Result;
  /** entry_out then open_out. */
  create(request: Request, args: A.CreateArgs): Result;
  unlink(request: Request, args: A.NameArgs): Result;
  rmdir(request: Request, args: A.NameArgs): Result;
  rename(request: Request, args: A.RenameArgs): Result;
  /** open_out. */
  open(request: Request, args: A.OpenArgs): Result;
  read(request: Request, args: A.ReadArgs): Result;
  /** Returns the bytes written; the session makes the write_out. */
  write(request: Request, args: A.WriteArgs): Result;
  release(request: Request, args: A.ReleaseArgs): Result;
  flush(request: Request, args: A.FlushArgs): Result;
  fsync(request: Request, args: A.FsyncArgs): Result;
  /** open_out. */
  opendir(request: Request, args: A.OpenArgs): Result;
  /** Records up to args.size bytes; 0 at the end. */
  readdir(request: Request, args: A.ReadArgs): Result;
  readdirplus(request: Request, args: A.ReadArgs): Result;
  releasedir(request: Request, args: A.ReleaseArgs): Result;
  fsyncdir(request: Request, args: A.FsyncArgs): Result;
  /** statfs_out. */
  statfs(request: Request): Result;
  setxattr(request: Request, args: A.SetxattrArgs): Result;
  /** args.size 0: getxattr_out with the size; else the value. */
  getxattr(request: Request, args: A.GetxattrArgs): Result;
  listxattr(request: Request, args: A.ListxattrArgs): Result;
  removexattr(request: Request, args: A.NameArgs): Result;
  fallocate(request: Request, args: A.FallocateArgs): Result;
  /** lseek_out. */
  lseek(request: Request, args: A.LseekArgs): Result;
  copyFileRange(request: Request, args: A.CopyFileRangeArgs): Result;
  syncfs(request: Request): Result;
  access(request: Request, args: A.AccessArgs): Result;
  /** The guest sent INIT (again): handles and lookup counts of the old session are void, mounts stay. */
  reset(): void;
  /** The file system goes away for good: every descriptor is closed. */
  destroy(): void;
}
