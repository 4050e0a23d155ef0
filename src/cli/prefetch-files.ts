/** The file behind `--prefetch-files` (kata-contract 3.1): a path a line, or an access trace (rafs-format 4.7). */
import { closeSync, openSync, readSync } from 'node:fs';
import type { Logger } from '../common/log.ts';
import { parseTraceText } from '../daemon/access-trace.ts';
import type { MountRequest } from '../daemon/mounts.ts';

/** As a mount request's body: 100,000 paths have 6 MiB. */
const FILE_BYTES_MAX = 8 << 20;
const STDIN = 0;

/**
 * Relative paths are left out with a line that counts them.
 * @param file `-` = standard input, read to its end
 * @throws system errors, and PREFETCH_TRACE for what looks like a trace and is none
 */
export function readPrefetchLists(file: string, log: Logger): Pick<MountRequest, 'prefetchFiles' | 'prefetchTrace'> {
  const text = readAll(file);
  if (/^\s*\{/.test(text)) return { prefetchFiles: null, prefetchTrace: parseTraceText(text) };
  const paths = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
  const prefetchFiles = paths.filter((path) => path.startsWith('/'));
  const relative = paths.length - prefetchFiles.length;
  if (relative > 0) log.warn(`--prefetch-files ${file}: ${relative} relative paths are left out`);
  return { prefetchFiles, prefetchTrace: null };
}

function readAll(file: string): string {
  const fd = file === '-' ? STDIN : openSync(file, 'r');
  try {
    const buffer = Buffer.allocUnsafeSlow(FILE_BYTES_MAX + 1);
    let bytes = 0;
    for (let got = -1; got !== 0 && bytes <= FILE_BYTES_MAX; bytes += got) {
      got = readSync(fd, buffer, bytes, buffer.length - bytes, null);
    }
    if (bytes > FILE_BYTES_MAX) throw new Error(`longer than ${FILE_BYTES_MAX} bytes`);
    return buffer.toString('utf8', 0, bytes);
  } finally {
    if (fd !== STDIN) closeSync(fd);
  }
}
