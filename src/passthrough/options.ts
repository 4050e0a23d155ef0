/**
 * What can be set for a shared directory. Names are those of virtiofsd (protocols 5.1) where it has one, so that its
 * users find them; kata-contract 1.17 says what nydusd sets.
 */
import { FOPEN } from '../fuse/flags.ts';

export type CachePolicy = 'never' | 'metadata' | 'auto' | 'always';

export interface PassthroughOptions {
  /** The shared directory on the host. */
  source: string;
  cache: CachePolicy;
  /** Every mutation answers EROFS. */
  readOnly: boolean;
  /** Off: all xattr calls answer EOPNOTSUPP (never ENOSYS: the guest would remember it for RAFS too). */
  xattr: boolean;
  /** Directories on another host mount carry the SUBMOUNT flag, so that the guest sees their own st_dev. */
  announceSubmounts: boolean;
  /** O_DIRECT of the guest reaches the host open. Off, because guest buffers need not have the alignment a device wants. */
  allowDirectIo: boolean;
  /** O_NOATIME of the guest reaches the host open. */
  preserveNoatime: boolean;
}

export const PASSTHROUGH_DEFAULTS: Omit<PassthroughOptions, 'source'> = {
  cache: 'auto',
  readOnly: false,
  xattr: true,
  announceSubmounts: true,
  allowDirectIo: false,
  preserveNoatime: false,
};

/** What a cache policy means on the wire. */
export interface CacheRule {
  readonly entryValidMs: number;
  readonly attrValidMs: number;
  /** FOPEN bits of open files and directories. */
  readonly fileFlags: number;
  readonly dirFlags: number;
  /** False: READDIRPLUS carries names only, because what it says would be stale on arrival. */
  readonly plus: boolean;
}

const DAY_MS = 86_400_000;
// Direct writes of one file run one after the other on our thread anyway, so the guest may send them in parallel.
const DIRECT = FOPEN.DIRECT_IO | FOPEN.PARALLEL_DIRECT_WRITES;

/** protocols 5.4. */
export const CACHE_RULES: { readonly [P in CachePolicy]: CacheRule } = {
  never: { entryValidMs: 0, attrValidMs: 0, fileFlags: DIRECT, dirFlags: 0, plus: false },
  metadata: {
    entryValidMs: DAY_MS,
    attrValidMs: DAY_MS,
    fileFlags: DIRECT,
    dirFlags: FOPEN.KEEP_CACHE | FOPEN.CACHE_DIR,
    plus: true,
  },
  auto: { entryValidMs: 1000, attrValidMs: 1000, fileFlags: 0, dirFlags: 0, plus: true },
  always: {
    entryValidMs: DAY_MS,
    attrValidMs: DAY_MS,
    fileFlags: FOPEN.KEEP_CACHE,
    dirFlags: FOPEN.KEEP_CACHE | FOPEN.CACHE_DIR,
    plus: true,
  },
};

/** Inodes known at a time: the highest nr_open a distribution sets; the descriptor budget ends it sooner. */
export const INODES_MAX = 2 ** 20;
/** Open files and directories at a time, by the same reason. */
export const HANDLES_MAX = 2 ** 20;
/** Host mounts seen below one share: the kernel's own limit for a mount namespace (fs.mount-max) is 100,000. */
export const MOUNTS_MAX = 2 ** 17;
