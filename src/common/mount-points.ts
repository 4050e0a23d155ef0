/** What is mounted where, as this process sees it. Comes from the kernel's own memory: no file system is asked. */
import { readFileSync } from 'node:fs';

export interface MountPoint {
  path: string;
  /** `ext4`, `nfs4`, `fuse.sshfs` */
  type: string;
}

/** In the order they were mounted: of two with the same path the last covers the other. */
export function mountPoints(): MountPoint[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => ({
      path: unescaped(line.split(' ')[4] ?? ''),
      type: line.split(' - ')[1]?.split(' ')[0] ?? '',
    }));
}

/** The innermost of `points` that the absolute `path`, which has no symbolic links, lies on or below. */
export function mountPointOf(path: string, points: readonly MountPoint[]): string {
  let innermost = '/';
  for (const { path: point } of points) {
    if (point.length > innermost.length && (path === point || path.startsWith(`${point}/`))) innermost = point;
  }
  return innermost;
}

/** mountinfo writes space, tab, newline and backslash as three octal digits. */
function unescaped(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));
}
