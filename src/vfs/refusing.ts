/**
 * A file system that answers every request with one errno: for nodes of members that are gone (ESTALE), and as the
 * ground the pseudo file system stands on (EROFS). Giving back (FORGET, RELEASE) always succeeds: a guest that is told
 * otherwise could do nothing about it.
 */
import type * as A from '../fuse/args.ts';
import type { FileSystem, Result } from '../fuse/file-system.ts';
import type { Request } from '../fuse/request.ts';

export class Refusing implements FileSystem {
  /** @param code the answer, -errno */
  constructor(protected readonly code: Result) {}

  lookup(_request: Request, _args: A.NameArgs): Result {
    return this.code;
  }
  getattr(_request: Request, _args: A.GetattrArgs): Result {
    return this.code;
  }
  setattr(_request: Request, _args: A.SetattrArgs): Result {
    return this.code;
  }
  readlink(_request: Request): Result {
    return this.code;
  }
  symlink(_request: Request, _args: A.SymlinkArgs): Result {
    return this.code;
  }
  mknod(_request: Request, _args: A.MknodArgs): Result {
    return this.code;
  }
  mkdir(_request: Request, _args: A.MkdirArgs): Result {
    return this.code;
  }
  link(_request: Request, _args: A.LinkArgs): Result {
    return this.code;
  }
  create(_request: Request, _args: A.CreateArgs): Result {
    return this.code;
  }
  unlink(_request: Request, _args: A.NameArgs): Result {
    return this.code;
  }
  rmdir(_request: Request, _args: A.NameArgs): Result {
    return this.code;
  }
  rename(_request: Request, _args: A.RenameArgs): Result {
    return this.code;
  }
  open(_request: Request, _args: A.OpenArgs): Result {
    return this.code;
  }
  read(_request: Request, _args: A.ReadArgs): Result {
    return this.code;
  }
  write(_request: Request, _args: A.WriteArgs): Result {
    return this.code;
  }
  flush(_request: Request, _args: A.FlushArgs): Result {
    return this.code;
  }
  fsync(_request: Request, _args: A.FsyncArgs): Result {
    return this.code;
  }
  opendir(_request: Request, _args: A.OpenArgs): Result {
    return this.code;
  }
  readdir(_request: Request, _args: A.ReadArgs): Result {
    return this.code;
  }
  readdirplus(_request: Request, _args: A.ReadArgs): Result {
    return this.code;
  }
  fsyncdir(_request: Request, _args: A.FsyncArgs): Result {
    return this.code;
  }
  statfs(_request: Request): Result {
    return this.code;
  }
  setxattr(_request: Request, _args: A.SetxattrArgs): Result {
    return this.code;
  }
  getxattr(_request: Request, _args: A.GetxattrArgs): Result {
    return this.code;
  }
  listxattr(_request: Request, _args: A.ListxattrArgs): Result {
    return this.code;
  }
  removexattr(_request: Request, _args: A.NameArgs): Result {
    return this.code;
  }
  fallocate(_request: Request, _args: A.FallocateArgs): Result {
    return this.code;
  }
  lseek(_request: Request, _args: A.LseekArgs): Result {
    return this.code;
  }
  copyFileRange(_request: Request, _args: A.CopyFileRangeArgs): Result {
    return this.code;
  }
  syncfs(_request: Request): Result {
    return this.code;
  }
  access(_request: Request, _args: A.AccessArgs): Result {
    return this.code;
  }
  release(_request: Request, _args: A.ReleaseArgs): Result {
    return 0;
  }
  releasedir(_request: Request, _args: A.ReleaseArgs): Result {
    return 0;
  }
  forget(_nodeLow: number, _nodeHigh: number, _nlookup: number): void {}
  reset(): void {}
  destroy(): void {}
}
