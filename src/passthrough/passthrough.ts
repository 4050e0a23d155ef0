/** The file system the union mounts: every handler of the interface, and the life of a share. */
import type * as A from '../fuse/args.ts';
import type { FileSystem, Result } from '../fuse/file-system.ts';
import type { Request } from '../fuse/request.ts';
import type { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import * as attr from './attr.ts';
import type { DescriptorBudget } from './budget.ts';
import * as make from './create.ts';
import * as data from './data.ts';
import * as dir from './dir.ts';
import { shareError } from './errors.ts';
import { HandleTable, KIND } from './handles.ts';
import { InodeTable, ROOT_ID } from './inodes.ts';
import * as entries from './lookup.ts';
import { MountTable } from './mounts.ts';
import { PASSTHROUGH_DEFAULTS, type PassthroughOptions } from './options.ts';
import { Share } from './share.ts';
import * as xattr from './xattr.ts';

/** What another process needs besides the arena and the descriptors. Plain JSON. */
export interface PassthroughState {
  version: number;
  options: PassthroughOptions;
  /** Name prefix of the tables in the arena. */
  tables: string;
}

const STATE_VERSION = 1;

/** What a share is opened with. */
export interface PassthroughEnvironment {
  arena: Arena;
  /** Name prefix of its tables, unique in the arena: `passthrough.<member id>`. */
  tables: string;
  /** Shared by all passthrough members of the daemon. */
  budget: DescriptorBudget;
}

export class Passthrough implements FileSystem {
  /** Lower word of the root's nodeid. */
  static readonly ROOT_ID = ROOT_ID;
  readonly options: PassthroughOptions;
  readonly #share: Share;
  readonly #environment: PassthroughEnvironment;
  #destroyed = false;

  /**
   * Opens the shared directory. On the thread that will serve it, whose umask becomes its own.
   * @throws SHARE_OPEN, SHARE_NO_OPENAT2, SHARE_NO_PROC, SHARE_NO_DESCRIPTORS; ARENA_FULL, ARENA_LAYOUT
   */
  constructor(
    options: Partial<PassthroughOptions> & Pick<PassthroughOptions, 'source'>,
    environment: PassthroughEnvironment,
    existing = false,
  ) {
    this.options = { ...PASSTHROUGH_DEFAULTS, ...options };
    this.#environment = environment;
    const { arena, tables, budget } = environment;
    if (!existing && arena.numberOf(`${tables}.inodes`) >= 0)
      throw shareError('SHARE_STATE', { reason: `the arena has tables called ${tables} already` });
    try {
      this.#share = new Share(this.options, arena, tables, budget, existing);
    } catch (error) {
      if (!existing) removeTables(arena, tables);
      throw error;
    }
  }

  /** Everything of this share that is not in the arena. Its descriptors are `descriptors()`. */
  dump(): PassthroughState {
    return { version: STATE_VERSION, options: this.options, tables: this.#environment.tables };
  }

  /**
   * Goes on where the Passthrough behind `state` stopped, on its arena: the same nodeids and handles.
   * @param renumber tells the number a descriptor has here, when they were sent from another process
   * @throws SHARE_STATE when state and arena do not fit; as the constructor
   */
  static load(
    state: PassthroughState,
    arena: Arena,
    budget: DescriptorBudget,
    renumber?: (fd: number) => number,
  ): Passthrough {
    if (state.version !== STATE_VERSION)
      throw shareError('SHARE_STATE', { reason: `version ${state.version}, this one is ${STATE_VERSION}` });
    if (arena.numberOf(`${state.tables}.inodes`) < 0)
      throw shareError('SHARE_STATE', { reason: `the arena has no tables called ${state.tables}` });
    const loaded = new Passthrough(state.options, { arena, tables: state.tables, budget }, true);
    if (renumber !== undefined) loaded.#share.renumber(renumber);
    for (let i = loaded.descriptors().length; i > 0; i--) budget.take();
    return loaded;
  }

  /** Descriptors the tables hold, to be sent along with the arena. */
  descriptors(): number[] {
    return this.#share.descriptors();
  }

  /** Lets go of a share that was handed over: nothing is closed but what is not in the tables. */
  abandon(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    for (let i = this.#share.descriptors().length; i > 0; i--) this.#share.budget.give();
    this.#share.letGo();
  }

  /** Inodes known to the guest besides the root; open files and directories; host mounts in use. For metrics and tests. */
  get inodeCount(): number {
    return this.#share.inodes.known;
  }

  get handleCount(): number {
    return this.#share.handles.count;
  }

  get mountCount(): number {
    return this.#share.mounts.count;
  }

  /** False when objects cannot be made as the caller, for want of privilege: worth a log line. */
  get actsAsCaller(): boolean {
    return this.#share.credentials.switches;
  }

  lookup(request: Request, args: A.NameArgs): Result {
    return answer(entries.lookup(this.#share, request, args));
  }

  forget(nodeLow: number, _nodeHigh: number, nlookup: number): void {
    this.#share.inodes.forget(nodeLow, nlookup);
  }

  getattr(request: Request, args: A.GetattrArgs): Result {
    return answer(attr.getattr(this.#share, request, args));
  }

  setattr(request: Request, args: A.SetattrArgs): Result {
    return answer(attr.setattr(this.#share, request, args));
  }

  readlink(request: Request): Result {
    return answer(entries.readlink(this.#share, request));
  }

  symlink(request: Request, args: A.SymlinkArgs): Result {
    return answer(make.symlink(this.#share, request, args));
  }

  mknod(request: Request, args: A.MknodArgs): Result {
    return answer(make.mknod(this.#share, request, args));
  }

  mkdir(request: Request, args: A.MkdirArgs): Result {
    return answer(make.mkdir(this.#share, request, args));
  }

  link(request: Request, args: A.LinkArgs): Result {
    return answer(make.link(this.#share, request, args));
  }

  create(request: Request, args: A.CreateArgs): Result {
    return answer(make.create(this.#share, request, args));
  }

  unlink(request: Request, args: A.NameArgs): Result {
    return answer(make.remove(this.#share, request, args, false));
  }

  rmdir(request: Request, args: A.NameArgs): Result {
    return answer(make.remove(this.#share, request, args, true));
  }

  rename(request: Request, args: A.RenameArgs): Result {
    return answer(make.rename(this.#share, request, args));
  }

  open(request: Request, args: A.OpenArgs): Result {
    return answer(data.open(this.#share, request, args));
  }

  read(request: Request, args: A.ReadArgs): Result {
    return answer(data.read(this.#share, request, args));
  }

  write(request: Request, args: A.WriteArgs): Result {
    return answer(data.write(this.#share, request, args));
  }

  release(request: Request, args: A.ReleaseArgs): Result {
    return data.release(this.#share, request, args, KIND.FILE);
  }

  flush(request: Request, args: A.FlushArgs): Result {
    return answer(data.flush(this.#share, request, args));
  }

  fsync(request: Request, args: A.FsyncArgs): Result {
    return answer(data.fsync(this.#share, request, args, KIND.FILE));
  }

  opendir(request: Request, args: A.OpenArgs): Result {
    return answer(dir.opendir(this.#share, request, args));
  }

  readdir(request: Request, args: A.ReadArgs): Result {
    return answer(dir.readdir(this.#share, request, args, false));
  }

  readdirplus(request: Request, args: A.ReadArgs): Result {
    return answer(dir.readdir(this.#share, request, args, true));
  }

  releasedir(request: Request, args: A.ReleaseArgs): Result {
    return data.release(this.#share, request, args, KIND.DIRECTORY);
  }

  fsyncdir(request: Request, args: A.FsyncArgs): Result {
    return answer(data.fsync(this.#share, request, args, KIND.DIRECTORY));
  }

  statfs(request: Request): Result {
    return answer(attr.statfs(this.#share, request));
  }

  setxattr(request: Request, args: A.SetxattrArgs): Result {
    return answer(xattr.setxattr(this.#share, request, args));
  }

  getxattr(request: Request, args: A.GetxattrArgs): Result {
    return answer(xattr.getxattr(this.#share, request, args));
  }

  listxattr(request: Request, args: A.ListxattrArgs): Result {
    return answer(xattr.listxattr(this.#share, request, args));
  }

  removexattr(request: Request, args: A.NameArgs): Result {
    return answer(xattr.removexattr(this.#share, request, args));
  }

  fallocate(request: Request, args: A.FallocateArgs): Result {
    return answer(data.fallocate(this.#share, request, args));
  }

  lseek(request: Request, args: A.LseekArgs): Result {
    return answer(data.lseek(this.#share, request, args));
  }

  copyFileRange(request: Request, args: A.CopyFileRangeArgs): Result {
    return answer(data.copyFileRange(this.#share, request, args));
  }

  syncfs(request: Request): Result {
    return answer(data.syncfs(this.#share, request));
  }

  access(request: Request, args: A.AccessArgs): Result {
    return answer(attr.access(this.#share, request, args));
  }

  reset(): void {
    this.#share.reset();
  }

  destroy(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    this.#share.close();
    removeTables(this.#environment.arena, this.#environment.tables);
  }
}

/**
 * A guest remembers ENOSYS for its whole mount, other members included, so a host file system's never passes; and the
 * descriptors that ran out are ours, not those of the guest's process.
 */
function answer(result: Result): Result {
  if (result === -errno.ENOSYS) return -errno.EOPNOTSUPP;
  return result === -errno.EMFILE ? -errno.ENFILE : result;
}

function removeTables(arena: Arena, tables: string): void {
  for (const names of [HandleTable.tableNames(tables), InodeTable.tableNames(tables), MountTable.tableNames(tables)]) {
    for (const name of names) arena.remove(name);
  }
}
