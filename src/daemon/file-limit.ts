/** RLIMIT_NOFILE (kata-contract 3.1): every inode a guest knows may cost a descriptor. */
import { readFileSync } from 'node:fs';
import type { Logger } from '../common/log.ts';
import { errnoText } from '../sys/errno.ts';
import { fileLimit, setFileLimit } from '../sys/process.ts';

/** What the rest of the host keeps. */
const FILE_MAX_RESERVE = 16_384;

/**
 * Raises soft and hard limit to `wanted`, or as far as the kernel lets us.
 * @param asked the user named the number: then falling short is worth a warning
 */
export function applyFileLimit(wanted: number, asked: boolean, log: Logger): void {
  const now = fileLimit();
  if (typeof now === 'number') {
    log.warn(`cannot read the limit of open files: ${errnoText(now)}`);
    return;
  }
  const target = Math.min(wanted, Math.max(now.soft, systemMaximum() - FILE_MAX_RESERVE));
  if (target === now.soft) return;
  if (setFileLimit(target, Math.max(target, now.hard)) === 0) return;
  const capped = Math.min(target, now.hard);
  const done = setFileLimit(capped, now.hard);
  if (done < 0) log.warn(`cannot set the limit of open files to ${capped}: ${errnoText(done)}`);
  else if (asked) log.warn(`limit of open files is ${capped}: ${wanted} is above the hard limit`);
}

function systemMaximum(): number {
  const value = Number(readFileSync('/proc/sys/fs/file-max', 'utf8'));
  return Number.isSafeInteger(value) ? value : Number.POSITIVE_INFINITY;
}
