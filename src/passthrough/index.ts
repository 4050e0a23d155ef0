/**
 * A host directory as a file system for the guest.
 *
 *     guest nodeid ──► inodes: O_PATH descriptor ──┬─ statx, readlink, chown, xattr …    attr, lookup, xattr
 *                                                  ├─ + one name: openat2, mkdirat …     lookup, create
 *     guest fh ──────► handles: open descriptor ───┼─ preadv2/pwritev2, fsync …          data
 *                                                  └─ getdents64 through a buffer        dir, dir-streams
 *
 * Invariants
 * - No path is ever walked: every host call takes a descriptor of ours and at most one name below it (`share.ts` names
 *   the attack).
 * - An inode is counted before the reply that shows it; after the last FORGET its record and descriptor are gone.
 * - Tables live in the arena and speak of descriptors by number: whoever has both serves the same nodeids and handles.
 * - Objects are made as the caller, on this thread only, and the thread is itself again before the next host call.
 * - Only regular files and directories are opened. Devices, sockets and fifos are made and shown, never opened.
 * - Descriptors come out of one budget; beyond it a request answers ENFILE.
 * - A request allocates nothing. Host ENOSYS never passes (`passthrough.ts`), because the guest would remember it.
 */
export { DescriptorBudget } from './budget.ts';
export type { CachePolicy, PassthroughOptions } from './options.ts';
export { Passthrough, type PassthroughEnvironment, type PassthroughState } from './passthrough.ts';
