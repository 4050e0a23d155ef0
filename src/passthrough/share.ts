/**
 * What the operations of one share have in common: its tables, the scratch of statx, and the few steps that every
 * operation is made of. One share belongs to one thread.
 */
import { S } from '../fuse/flags.ts';
import type { Request } from '../fuse/request.ts';
import type { Arena } from '../sys/arena.ts';
import { errno } from '../sys/errno.ts';
import { close } from '../sys/io.ts';
import { NativeMemory } from '../sys/native-memory.ts';
import { AT, EMPTY_NAME, O, openat, openat2, openPath, RESOLVE } from '../sys/path.ts';
import { STATX, STATX_BYTES, STATX_MASK, statx } from '../sys/stat.ts';
import type { DescriptorBudget } from './budget.ts';
import { threadCredentials } from './credentials.ts';
import { directoryStreams } from './dir-streams.ts';
import { shareError } from './errors.ts';
import { HandleTable } from './handles.ts';
import { InodeTable, ROOT_ID } from './inodes.ts';
import { MountTable } from './mounts.ts';
import { CACHE_RULES, type CacheRule, type PassthroughOptions } from './options.ts';
import { fdName } from './proc-path.ts';

/**
 * How every name is resolved. The attack: a guest (or anybody who may write to the share) puts a symbolic link, or moves
 * a directory out of the share, just when the daemon walks a path, and the daemon opens a host file of the attacker's
 * choice. There is no path here: one name below a descriptor. The decoder refuses '/', "." and ".."; should one come
 * through, BENEATH refuses to leave the directory, and links (also those of /proc) are opened themselves, never followed.
 * NO_XDEV is not among them: host mounts below the share belong to it.
 */
const BELOW = RESOLVE.BENEATH | RESOLVE.NO_MAGICLINKS | RESOLVE.NO_SYMLINKS;

const STAT_FLAGS = AT.SYMLINK_NOFOLLOW | AT.NO_AUTOMOUNT; // a guest's `ls` must not make the host mount things
const PATH_FLAGS = O.PATH | O.NOFOLLOW | O.CLOEXEC;

const stat = new NativeMemory(4096);

export class Share {
  readonly mounts: MountTable;
  readonly inodes: InodeTable;
  readonly handles: HandleTable;
  readonly credentials = threadCredentials();
  readonly streams = directoryStreams();
  readonly rule: CacheRule;
  /** Result of the last statx on this thread. */
  readonly stat = stat;
  /** Descriptor of /proc/self/fd. */
  readonly procFd: number;
  readonly #mask: number;

  /**
   * Opens the tables `prefix` in `arena`; a new share gets its root from `options.source`.
   * @throws SHARE_*; ARENA_*
   */
  constructor(
    readonly options: PassthroughOptions,
    arena: Arena,
    prefix: string,
    readonly budget: DescriptorBudget,
    existing: boolean,
  ) {
    this.rule = CACHE_RULES[options.cache];
    this.mounts = new MountTable(arena, prefix, budget);
    this.inodes = new InodeTable(arena, prefix, this.mounts, budget);
    this.handles = new HandleTable(arena, prefix, this.mounts, budget);
    this.procFd = openPath('/proc/self/fd', O.PATH | O.DIRECTORY | O.CLOEXEC);
    if (this.procFd < 0) throw shareError('SHARE_NO_PROC', { errno: this.procFd });
    this.#mask = STATX_MASK.BASIC_STATS | this.#mountIdMask();
    if (existing) {
      this.recover();
      if (this.inodes.slotOf(ROOT_ID) < 0) throw this.#fail(shareError('SHARE_STATE', { reason: 'it has no root' }));
    } else this.#openRoot();
  }

  #openRoot(): void {
    const { source } = this.options;
    const fd = openPath(source, O.PATH | O.DIRECTORY | O.CLOEXEC);
    if (fd < 0) throw this.#fail(shareError('SHARE_OPEN', { source, errno: fd }));
    const probe = openat2(fd, this.#dot(), O.PATH | O.CLOEXEC, 0, BELOW);
    if (probe < 0) {
      close(fd);
      throw this.#fail(shareError('SHARE_NO_OPENAT2', { errno: probe }));
    }
    close(probe);
    const done = this.statFd(fd);
    const root = done < 0 ? done : this.inodes.adopt(fd, this.stat.u32);
    if (root < 0) throw this.#fail(shareError('SHARE_NO_DESCRIPTORS', { limit: this.budget.limit }));
  }

  /** Unique mount ids (Linux 6.8) where there are any, plain ones (5.8) otherwise: those may be used again after an umount, but not while an inode here holds the mount. */
  #mountIdMask(): number {
    for (const mask of [STATX_MASK.MNT_ID_UNIQUE, STATX_MASK.MNT_ID]) {
      const done = statx(this.procFd, EMPTY_NAME, AT.EMPTY_PATH, mask, this.stat.address);
      if (done === 0 && (this.stat.u32[STATX.MASK] & mask) !== 0) return mask;
    }
    return 0;
  }

  #dot(): number {
    return stat.putText(STATX_BYTES, '.');
  }

  #fail(error: Error): Error {
    close(this.procFd);
    return error;
  }

  /** statx of `name` below `dirFd`, a link itself, into `stat`. 0 or -errno. */
  statName(dirFd: number, name: number): number {
    return statx(dirFd, name, STAT_FLAGS, this.#mask, this.stat.address);
  }

  /** statx of a descriptor into `stat`. */
  statFd(fd: number): number {
    return statx(fd, EMPTY_NAME, AT.EMPTY_PATH, this.#mask, this.stat.address);
  }

  /**
   * Slot of the inode called `name` below `dirFd`, with its attributes in `stat`; or -errno. A known one costs one statx;
   * a new one is opened, and what was opened is asked again, since the name may mean another file by then.
   */
  resolve(dirFd: number, name: number): number {
    const found = this.statName(dirFd, name);
    if (found < 0) return found;
    const known = this.inodes.find(this.stat.u32);
    if (known >= 0) return this.#notRoot(known);
    if (!this.budget.room(1) || !this.inodes.room(1)) return -errno.ENFILE;
    const fd = openat2(dirFd, name, PATH_FLAGS, 0, BELOW);
    return fd < 0 ? fd : this.#notRootAdopted(fd);
  }

  /** A name never leads to the root of the share: only a file system that is broken or hostile says so. */
  #notRoot(slot: number): number {
    return this.inodes.id(slot) === ROOT_ID ? -errno.EIO : slot;
  }

  #notRootAdopted(fd: number): number {
    const slot = this.adopt(fd);
    return slot < 0 ? slot : this.#notRoot(slot);
  }

  /** Slot of the inode behind the O_PATH descriptor `fd`, which is taken over; its attributes in `stat`. */
  adopt(fd: number): number {
    const done = this.statFd(fd);
    if (done < 0) {
      close(fd);
      return done;
    }
    return this.inodes.adopt(fd, this.stat.u32);
  }

  /** The inode of an open descriptor of ours, which stays open: by a second O_PATH one, not by its name. */
  adoptOpened(opened: number): number {
    const fd = openat(this.procFd, fdName(opened), O.PATH | O.CLOEXEC, 0);
    return fd < 0 ? fd : this.adopt(fd);
  }

  /** Opens a name below a directory with openat2 within the limits of all lookups; for creating. */
  openBelow(dirFd: number, name: number, flags: number, mode: number): number {
    return openat2(dirFd, name, flags | O.NOFOLLOW | O.CLOEXEC, mode, BELOW);
  }

  /** Opens an inode for I/O. Never devices, sockets or fifos: opening one waits for a peer, or acts on host hardware. */
  reopen(slot: number, flags: number): number {
    const type = this.inodes.type(slot);
    if (type !== S.IFREG && type !== S.IFDIR) return -errno.EACCES;
    return openat(this.procFd, fdName(this.inodes.fd(slot)), flags | O.CLOEXEC | O.NOCTTY, 0);
  }

  /** True when the reply has room for `bytes` of body: asked before anything is done that the reply would have to tell. */
  fits(request: Request, bytes: number): boolean {
    return request.replySpace >= bytes;
  }

  /** A new session of the guest: handles and lookups are void. */
  reset(): void {
    this.handles.reset();
    this.inodes.reset();
  }

  /** Descriptors that the tables speak of. Cold path, as all below. */
  descriptors(): number[] {
    return [...this.inodes.descriptors(), ...this.handles.descriptors(), ...this.mounts.descriptors()];
  }

  renumber(number: (fd: number) => number): void {
    this.inodes.renumber(number);
    this.handles.renumber(number);
    this.mounts.renumber(number);
  }

  /** The last writer of the tables may have died in the middle of an operation. */
  recover(): void {
    this.mounts.recover();
    this.inodes.recover();
    this.handles.recover();
    this.mounts.dropUnreferenced();
  }

  close(): void {
    this.handles.close();
    this.inodes.close();
    this.letGo();
  }

  /** Gives back what is not in the tables. */
  letGo(): void {
    this.streams.forget(this.handles);
    close(this.procFd);
  }
}
