/** Errors of starting a passthrough; requests answer -errno. */
import { defineErrors } from '../common/app-error.ts';
import { errnoText } from '../sys/errno.ts';

interface Facts {
  SHARE_OPEN: { source: string; errno: number };
  SHARE_NO_OPENAT2: { errno: number };
  SHARE_NO_PROC: { errno: number };
  SHARE_NO_DESCRIPTORS: { limit: number };
  SHARE_STATE: { reason: string };
}

export const shareError = defineErrors<Facts>({
  SHARE_OPEN: {
    retryable: true,
    say: (f) => `shared directory ${f.source} cannot be opened: ${errnoText(f.errno)}`,
  },
  SHARE_NO_OPENAT2: {
    retryable: false,
    say: (f) =>
      `this system refuses openat2 (${errnoText(f.errno)}), without which a guest could walk out of the shared directory; ` +
      'run Linux 5.6 or later and allow openat2 in the seccomp profile',
  },
  SHARE_NO_PROC: {
    retryable: false,
    say: (f) => `/proc/self/fd cannot be opened (${errnoText(f.errno)}); mount /proc for the daemon`,
  },
  SHARE_NO_DESCRIPTORS: {
    retryable: true,
    say: (f) => `none of the ${f.limit} descriptors a passthrough may hold is left for its root; raise RLIMIT_NOFILE`,
  },
  SHARE_STATE: { retryable: false, say: (f) => `saved tables of a passthrough cannot be used: ${f.reason}` },
});
