/**
 * INIT negotiation as a pure function (protocols 4.4): what the guest offers and what we want, in; the reply, out.
 *
 * The flags are valid for every member the union has or may get later, because a guest negotiates once per mount:
 * no NO_OPEN_SUPPORT (a writable member may be added), no WRITEBACK_CACHE (the host changes shared directories), no
 * POSIX_LOCKS or FLOCK_LOCKS (a blocked lock cannot be interrupted on virtio-fs).
 */
import { errno } from '../sys/errno.ts';
import type { InitArgs } from './args.ts';
import { INIT, INIT2 } from './flags.ts';

export const FUSE_MAJOR = 7;
/** Newest minor implemented (Linux 6.18). */
export const FUSE_MINOR_MAX = 45;
/** Oldest minor served: Linux 5.4 has 31, but 27 is where today's structure sizes begin. */
export const FUSE_MINOR_MIN = 27;

/** Bytes per WRITE; also bounds reads through max_pages. 1 MiB is what both peers use and the guest's default ceiling. */
export const MAX_WRITE_BYTES = 1024 * 1024;
/** max_pages for 4 KiB guest pages; a guest with larger pages applies it to its own size. */
export const MAX_PAGES = MAX_WRITE_BYTES / 4096;
/** Background requests (readahead, writeback) the guest may have in flight; its default of 12 starves a queue of 128. */
export const MAX_BACKGROUND = 1024;
export const CONGESTION_THRESHOLD = (MAX_BACKGROUND * 3) / 4;

const WANTED =
  INIT.ASYNC_READ |
  INIT.ATOMIC_O_TRUNC |
  INIT.BIG_WRITES |
  INIT.HAS_IOCTL_DIR |
  INIT.AUTO_INVAL_DATA |
  INIT.DO_READDIRPLUS |
  INIT.READDIRPLUS_AUTO |
  INIT.ASYNC_DIO |
  INIT.PARALLEL_DIROPS |
  INIT.MAX_PAGES |
  INIT.CACHE_SYMLINKS |
  INIT.SUBMOUNTS |
  INIT.HANDLE_KILLPRIV_V2 |
  INIT.SETXATTR_EXT |
  INIT.INIT_EXT;
const WANTED2 = INIT2.CREATE_SUPP_GROUP;

const YEAR_MS = 365 * 24 * 3600 * 1000;
/** What is mounted at the root of a guest's device can change. */
const ROOT_ATTR_MS = 1000;

/** What differs between transports. */
export interface InitPolicy {
  /** ALLOW_IDMAP needs default_permissions, which every virtio-fs mount and our own /dev/fuse mount have. */
  allowIdmap: boolean;
  /** SUBMOUNTS makes automounts: on the host they would outlive our umount, so /dev/fuse goes without. */
  submounts: boolean;
  /**
   * How long the attributes of the mount's own root are trusted, in ms. Who waits for a dead daemon's mount stats it (the
   * snapshotter does, before it starts a successor): on /dev/fuse the kernel has to know them by itself then.
   */
  rootAttrMs: number;
  /** HAS_RESEND: only /dev/fuse can be asked for it (resend.ts). */
  resend: boolean;
}

export const VIRTIOFS_POLICY: InitPolicy = {
  allowIdmap: true,
  submounts: true,
  rootAttrMs: ROOT_ATTR_MS,
  resend: false,
};
export const DEV_FUSE_POLICY: InitPolicy = {
  allowIdmap: false,
  submounts: false,
  rootAttrMs: YEAR_MS,
  resend: true,
};

export interface InitReply {
  /** 0 or -errno; the fields below count only with 0. */
  result: number;
  /** True when the guest will send a second INIT with our major: nothing is negotiated yet. */
  again: boolean;
  minor: number;
  flags: number;
  flags2: number;
  maxReadahead: number;
  maxWriteBytes: number;
}

/** Answers an INIT. Pure; `args` as decoded, policy of the transport. */
export function negotiate(args: InitArgs, policy: InitPolicy): InitReply {
  const reply: InitReply = {
    result: 0,
    again: false,
    minor: FUSE_MINOR_MAX,
    flags: 0,
    flags2: 0,
    maxReadahead: args.maxReadahead,
    maxWriteBytes: MAX_WRITE_BYTES,
  };
  if (args.major > FUSE_MAJOR) {
    reply.again = true;
    return reply;
  }
  if (args.major < FUSE_MAJOR || args.minor < FUSE_MINOR_MIN) {
    reply.result = -errno.EPROTO;
    return reply;
  }
  reply.minor = Math.min(args.minor, FUSE_MINOR_MAX);
  reply.flags = (args.flags & WANTED) >>> 0;
  if (!policy.submounts) reply.flags = (reply.flags & ~INIT.SUBMOUNTS) >>> 0;
  if ((reply.flags & INIT.INIT_EXT) !== 0) {
    const idmap = policy.allowIdmap ? INIT2.ALLOW_IDMAP : 0;
    const resend = policy.resend ? INIT2.HAS_RESEND : 0;
    reply.flags2 = args.flags2 & (WANTED2 | idmap | resend);
  }
  return reply;
}

/** Writes init_out (64 bytes) at word `at`. */
export function putInitOut(words: Uint32Array, at: number, reply: InitReply): void {
  words.fill(0, at, at + 16);
  words[at] = FUSE_MAJOR;
  words[at + 1] = reply.minor;
  if (reply.again) return;
  words[at + 2] = reply.maxReadahead;
  words[at + 3] = reply.flags;
  words[at + 4] = MAX_BACKGROUND | (CONGESTION_THRESHOLD << 16);
  words[at + 5] = reply.maxWriteBytes;
  words[at + 6] = 1; // time_gran in ns
  words[at + 7] = MAX_PAGES; // map_alignment, the upper half, only with DAX
  words[at + 8] = reply.flags2;
}
