/** Positions of the arrays in metrics answers (kata-contract 4.5); for the daemon that fills them and tools that show them. */

/** `fop_hits`, `fop_errors`, `fop_cumulative_latency_total`. */
export const FOP_NAMES = [
  'getattr',
  'readlink',
  'open',
  'release',
  'read',
  'statfs',
  'getxattr',
  'listxattr',
  'opendir',
  'lookup',
  'readdir',
  'readdirplus',
  'access',
  'forget',
  'batch_forget',
] as const;

/** Names of the size buckets: below 1 KiB, from 1 KiB on … from 1 MiB on. */
export const SIZE_BUCKETS = ['<1K', '1K~', '4K~', '16K~', '64K~', '128K~', '512K~', '1M~'] as const;
