/**
 * Messages between the main thread and a device thread, both ways over one MessagePort.
 *
 * The device thread sleeps in a native wait, so main posts and then writes the wake-up eventfd; main's own event loop
 * is woken by the port itself. Counters never travel here: they live in a SharedArrayBuffer (`stats.ts`).
 */
import type { LogLevel } from '../common/log.ts';
import type { FailoverPolicy } from '../fuse/resend.ts';
import type { SessionState } from '../fuse/session-state.ts';
import type { WantedChunk } from '../storage/types.ts';
import type { MemberSpec } from '../vfs/spec.ts';
import type { UnionState } from '../vfs/state.ts';

export type { CachePolicy } from '../passthrough/index.ts';
export type { MemberSpec, PassthroughSpec, RafsSpec } from '../vfs/spec.ts';
export type { LogLevel };

/** How requests reach the device thread. */
export type TransportSpec =
  | {
      kind: 'virtiofs';
      /** Path to listen on, or null when `fd` is given. Bound by main before the worker starts: `fd`. */
      sock: string | null;
      /** A listening or already connected socket; who passed it says which. */
      fd: number;
      fdIs: 'listening' | 'connected';
      /** Tag of the config space; null = CONFIG is not offered (QEMU and Cloud Hypervisor set the tag themselves). */
      tag: string | null;
      /** Request queues reported; hiprio is extra. */
      requestQueues: number;
    }
  | {
      kind: 'fuse';
      /** Directory to mount on, absolute. */
      mountpoint: string;
      readOnly: boolean;
      /** It is mounted already: nothing is served before `restore` and `take-over`. */
      succeeds: boolean;
      /** What a successor does with unanswered requests; null without a supervisor to keep anything for one. */
      failover: FailoverPolicy | null;
    };

/** What a successor's device thread goes on with; plain data, and JSON but for the bytes. */
export interface SavedDevice {
  session: SessionState;
  /** Members without their specs: descriptors do not travel. */
  union: UnionState;
  /** `dumpArena`. */
  arena: Uint8Array;
}

/** workerData of the device thread. */
export interface DeviceThreadData {
  transport: TransportSpec;
  /** eventfd main writes after posting. */
  wakeFd: number;
  logLevel: LogLevel;
  stats: SharedArrayBuffer;
}

export type ToDevice =
  /** Mount `member` at `path` ('/' or '/a/b'); answered. `files`: where its files are counted (`file-stats.ts`). */
  | { type: 'mount'; id: number; path: string; member: MemberSpec; files: SharedArrayBuffer | null }
  /** Replace what is mounted at `path`: open files keep the old one, lookups see the new; answered. */
  | { type: 'remount'; id: number; path: string; member: MemberSpec; files: SharedArrayBuffer | null }
  /** Answered at once, also while reads are parked there (those get an error). */
  | { type: 'umount'; id: number; path: string }
  /** A fetch asked for with `ticket` ended: 0, or -errno. */
  | { type: 'fetched'; ticket: number; result: number }
  /** A slow syscall done by main (where io_uring is refused) ended: its result, or -errno. */
  | { type: 'io'; ticket: number; result: number }
  | { type: 'log-level'; level: LogLevel }
  /** Answered by the next turn of the loop: a sign of life. */
  | { type: 'ping'; id: number }
  /** Write down what a successor needs (/dev/fuse only); answered with `saved`. */
  | { type: 'save'; id: number }
  /**
   * Go on with what a predecessor saved, on its descriptor of /dev/fuse; `files` as in `mount`, one for each saved
   * mount. After an error nothing of it is kept.
   */
  | { type: 'restore'; id: number; fd: number; saved: SavedDevice; files: (SharedArrayBuffer | null)[] }
  /** Serve what was restored. */
  | { type: 'take-over'; id: number }
  /** Unmount (/dev/fuse; or leave the mount to a successor), close sockets, answer, and leave the loop for good. */
  | { type: 'stop'; id: number; leaveMount: boolean };

export type FromDevice =
  /** The transport works: listening, or mounted. */
  | { type: 'ready' }
  /** The transport cannot work; the daemon reports and exits. */
  | { type: 'failed'; message: string }
  /**
   * To a mount, remount, umount or stop. After an error main keeps the bootstrap descriptor and the blobs. `blobs` are
   * handles that the device thread will not touch again: main closes them. `member`: the id under which requests of
   * what was mounted are counted.
   */
  | {
      type: 'answer';
      id: number;
      error: { errno: number; message: string } | null;
      blobs?: number[];
      member?: number;
      /** Of `save`: the descriptor of /dev/fuse, still the device thread's, and the rest. */
      saved?: { fd: number; device: SavedDevice };
      /** Of `restore`: the bootstraps as they are open now, one for each saved mount; those that were sent are closed. */
      bootstrapFds?: number[];
    }
  /** As `blobs` of an answer, later: the last open file of a removed member was closed. */
  | { type: 'released'; blobs: number[] }
  /** Bring these chunks into the cache and answer with `fetched`. */
  | { type: 'fetch'; ticket: number; blob: number; chunks: WantedChunk[] }
  /** Sync a descriptor on behalf of the device thread and answer with `io`. */
  | { type: 'io'; ticket: number; op: 'fsync' | 'fdatasync' | 'syncfs'; fd: number }
  | { type: 'log'; level: LogLevel; text: string }
  /** Somebody else unmounted what was mounted through /dev/fuse: nothing comes any more. */
  | { type: 'unmounted' }
  /** A VMM connected or left; for logs and `GET /daemon`. */
  | { type: 'session'; connected: boolean };
