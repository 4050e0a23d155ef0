import { defineErrors } from '../common/app-error.ts';
import { errnoText } from '../sys/errno.ts';

interface Facts {
  SOCKET_PATH: { path: string; bytes: number };
  SOCKET_BUSY: { path: string };
  SOCKET_NOT_A_SOCKET: { path: string };
  SOCKET_BIND: { path: string; reason: string };
  TRANSPORT: { reason: string };
  DEVICE_GONE: { reason: string };
  DEVICE: { errno: number; text: string };
  MOUNT_EXISTS: { path: string };
  MOUNT_UNKNOWN: { path: string };
  MOUNT_PATH: { path: string; reason: string };
  MOUNT_FAILED: { path: string; source: string; reason: string };
  WORK_DIR: { path: string };
  OVERLAY: { mountpoint: string; reason: string };
  OVERLAY_HERE: { path: string };
  MOUNT_NOT_RAFS: { path: string };
  FS_TYPE: { fsType: string };
  PREFETCH_LIST: { reason: string };
  PREFETCH_TRACE: { reason: string };
  NOT_READY: { state: string };
  WRONG_STATE: { event: string; state: string };
  UNSUPPORTED: { what: string };
  NO_COUNTER: { id: string };
  LOG_LEVEL: { level: string };
  CONFIG_KEY: { key: string };
  NO_SUPERVISOR: { event: string };
  SUPERVISOR: { path: string; step: string; reason: string };
  STATE: { reason: string };
}

/** Errors of the daemon: life cycle, sockets, mounts. `src/api` maps the codes to HTTP. */
export const daemonError = defineErrors<Facts>({
  SOCKET_PATH: {
    retryable: false,
    say: ({ path, bytes }) =>
      `${path}: a Unix socket path has at most 107 bytes, this one ${bytes}; use a shorter or a relative path`,
  },
  SOCKET_BUSY: {
    retryable: false,
    say: ({ path }) => `${path} is in use: a process answers on it. Stop that process or choose another path`,
  },
  SOCKET_NOT_A_SOCKET: {
    retryable: false,
    say: ({ path }) => `${path} exists and is no socket, so it was not removed. Choose another path`,
  },
  SOCKET_BIND: { retryable: false, say: ({ path, reason }) => `cannot listen on ${path}: ${reason}` },
  TRANSPORT: { retryable: false, say: ({ reason }) => reason },
  DEVICE_GONE: { retryable: false, say: ({ reason }) => `no answer from the device thread: ${reason}` },
  DEVICE: { retryable: false, say: ({ errno, text }) => (text === '' ? errnoText(errno) : text) },
  MOUNT_EXISTS: { retryable: false, say: ({ path }) => `something is mounted at ${path} already; unmount it first` },
  MOUNT_UNKNOWN: { retryable: false, say: ({ path }) => `nothing is mounted at ${path}` },
  MOUNT_PATH: { retryable: false, say: ({ path, reason }) => `mount point ${JSON.stringify(path)}: ${reason}` },
  MOUNT_FAILED: { retryable: false, say: ({ path, source, reason }) => `cannot mount ${source} at ${path}: ${reason}` },
  WORK_DIR: { retryable: false, say: ({ path }) => `the cache's work_dir ${path} is no directory` },
  OVERLAY: {
    retryable: false,
    say: ({ mountpoint, reason }) => `cannot mount the writable overlay on ${mountpoint}: ${reason}`,
  },
  OVERLAY_HERE: {
    retryable: false,
    say: ({ path }) =>
      `a writable overlay is for the image that a fuse daemon is started with, at /, not for ${path}; leave it out`,
  },
  MOUNT_NOT_RAFS: { retryable: false, say: ({ path }) => `${path} is no RAFS mount, only those can be remounted` },
  FS_TYPE: {
    retryable: false,
    say: ({ fsType }) => `only 'rafs' and 'passthrough_fs' are supported, but ${fsType} was specified`,
  },
  PREFETCH_LIST: { retryable: false, say: ({ reason }) => `invalid prefetch file list: ${reason}` },
  PREFETCH_TRACE: { retryable: false, say: ({ reason }) => `invalid prefetch trace: ${reason}` },
  NOT_READY: { retryable: true, say: ({ state }) => `the daemon is ${state}, not RUNNING yet` },
  WRONG_STATE: { retryable: false, say: ({ event, state }) => `event ${event} makes no sense in state ${state}` },
  UNSUPPORTED: { retryable: false, say: ({ what }) => `${what} is not supported` },
  NO_COUNTER: { retryable: false, say: ({ id }) => `no metrics for ${JSON.stringify(id)}` },
  LOG_LEVEL: { retryable: false, say: ({ level }) => `unknown log level ${JSON.stringify(level)}` },
  CONFIG_KEY: { retryable: false, say: ({ key }) => `unknown configuration key ${JSON.stringify(key)}` },
  NO_SUPERVISOR: { retryable: false, say: ({ event }) => `${event} needs a daemon started with --supervisor <PATH>` },
  SUPERVISOR: { retryable: true, say: ({ path, step, reason }) => `supervisor ${path}: ${step}: ${reason}` },
  STATE: { retryable: false, say: ({ reason }) => `the saved state cannot be used: ${reason}` },
});
