/**
 * What becomes of the requests a daemon had taken from /dev/fuse and not answered when it died (kata-contract 4.6).
 *
 *     kernel ── request ──► daemon, dies          the kernel waits for an answer, for ever
 *            ◄─ RESEND ──── successor             Linux >= 6.9: all of them come again, bit 63 of unique set
 *
 * There is no way to ask an older kernel; then they are lost, and so are their callers, which not even SIGKILL ends.
 */
import { INIT2 } from './flags.ts';
import type { Negotiated } from './request.ts';

/** `--failover-policy`: serve such requests again, fail them, or leave them alone. */
export const FAILOVER_POLICIES = ['resend', 'flush', 'none'] as const;
export type FailoverPolicy = (typeof FAILOVER_POLICIES)[number];

/** FUSE_UNIQUE_RESEND, in the upper word of unique. */
export const RESENT_HIGH = 0x8000_0000;

const LOST = 'not answered when the daemon dies hang, and so do their callers until the connection is aborted';

const LOSSES: Record<FailoverPolicy, string | null> = {
  resend: null,
  flush: '--failover-policy flush: requests not answered when the daemon dies fail with EIO in its successor',
  none: `--failover-policy none: requests ${LOST}`,
};

export function canResend({ flags2 }: Negotiated): boolean {
  return (flags2 & INIT2.HAS_RESEND) !== 0;
}

/** What a crash will cost, as a warning; null when nothing. */
export function lossOf(policy: FailoverPolicy, negotiated: Negotiated): string | null {
  if (canResend(negotiated)) return LOSSES[policy];
  return `this kernel cannot send requests again (FUSE_NOTIFY_RESEND, Linux 6.9): those ${LOST}`;
}
