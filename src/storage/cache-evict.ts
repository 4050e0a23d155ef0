/**
 * Cache files that no process has open: ours are seen by their files, nydusd's too, since the kernel grants a write lease
 * only on files nobody else has open. While the leases are held nobody can open them.
 */
import { closeSync, constants } from 'node:fs';
import { takeLease } from '../sys/lease.ts';
import { openIfThere } from './cache-names.ts';

const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;

/** Runs `use` while nobody has any of these files open or can open them; false when somebody has. */
export function withUnused(paths: readonly string[], use: () => void): boolean {
  const held: number[] = [];
  try {
    for (const path of paths) {
      const fd = openIfThere(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
      if (fd < 0) continue;
      held.push(fd);
      if (takeLease(fd) !== 0) return false;
    }
    use();
    return true;
  } finally {
    // Closing gives the leases back.
    for (const fd of held) closeSync(fd);
  }
}
