/**
 * Is there a file system on our mount point already, and what of it? A mount outlives the daemon that served it: while
 * somebody else holds its descriptor (a supervisor) every access hangs, afterwards every access is ENOTCONN.
 */
import { lstatSync, readlinkSync, realpathSync } from 'node:fs';
import { opendir, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { codeOf } from '../../common/app-error.ts';
import type { Logger } from '../../common/log.ts';
import { mountPoints } from '../../common/mount-points.ts';
import { errnoText } from '../../sys/errno.ts';
import { MNT_DETACH, umount } from '../../sys/mount.ts';
import { answers } from '../sockets.ts';

/** A living daemon has answered by then, and the kernel mostly answers in its place. */
const STAT_MS_MAX = 500;
/** Symbolic links after each other, as the kernel counts them. */
const LINKS_MAX = 40;
/** Mounts of dead daemons on top of each other. */
const DEAD_MOUNTS_MAX = 64;

/** A daemon like us was here and died: its API socket is left, nobody answers on it, and its mount is there. */
export async function predecessorDied(mountpoint: string, apisock: string): Promise<boolean> {
  if (mountedType(mountpoint) === null) return false;
  try {
    if (!lstatSync(apisock).isSocket()) return false;
  } catch {
    return false;
  }
  return !(await answers(apisock));
}

/** Detaches what dead daemons left on `mountpoint`. A mount that answers, or hangs, stays: ours goes on top of it. */
export async function detachDead(mountpoint: string, log: Logger): Promise<void> {
  for (let i = 0; i < DEAD_MOUNTS_MAX; i++) {
    const type = mountedType(mountpoint);
    if (type === null) return;
    const late = sleep(STAT_MS_MAX, 'late', { ref: false });
    const code = await Promise.race([look(mountpoint, type).then(() => 'alive', codeOf), late]);
    if (code !== 'ENOTCONN') {
      log.warn(`${mountpoint} has a file system already (${code}), the new one goes on top of it`);
      return;
    }
    const done = umount(mountpoint, MNT_DETACH);
    if (done < 0) {
      log.warn(`cannot detach the dead file system on ${mountpoint}: ${errnoText(done)}`);
      return;
    }
    log.warn(`${mountpoint}: the file system of a dead daemon was detached`);
  }
}

/** The root of a writable overlay answers stat although what lies below it is dead. */
async function look(mountpoint: string, type: string): Promise<void> {
  await stat(mountpoint);
  if (type !== 'overlay') return;
  const directory = await opendir(mountpoint, { bufferSize: 1 });
  await directory.read().finally(() => directory.close());
}

/** Type of what is mounted there last; null: nothing. Looks into mountinfo only: the mount point itself may hang. */
function mountedType(mountpoint: string): string | null {
  const real = realPath(mountpoint);
  return mountPoints().findLast(({ path }) => path === real)?.type ?? null;
}

/** The path that mountinfo has. readlink asks nobody behind a mount, as stat would. */
function realPath(mountpoint: string): string {
  let path = mountpoint;
  for (let i = 0; i < LINKS_MAX; i++) {
    path = join(realpathSync(dirname(path)), basename(path));
    try {
      path = resolve(dirname(path), readlinkSync(path));
    } catch {
      return path; // no link
    }
  }
  return path;
}
